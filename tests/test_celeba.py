"""CelebA and folders of pictures: files made here, the resizing against loops, caches, damage; their figures."""

import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image, ImageOps

from tcvae_ref import figures
from tcvae_ref.checks import InputError
from tcvae_ref.cli import main
from tcvae_ref.data import Factor, FactorDataset, byte_arrays, image_folder, read_celeba, read_folder
from tcvae_ref.data.celeba import LAYOUTS, read_attributes
from tcvae_ref.training import DataSource, Run, load_source
from tcvae_ref.training.run import digest

ATTRIBUTES = ["Bald", "Smiling", "5_o_Clock_Shadow"]
VALUES = np.array([[-1, 1, -1], [1, 1, -1], [-1, -1, 1], [1, -1, 1]])
NAMES = [f"{n:06}.jpg" for n in range(1, 5)]


def picture(seed, width=178, height=218):
    """A smooth colour picture, which JPEG changes little."""
    phase = np.random.default_rng(seed).uniform(0, 6, (3, 2))
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 31 + a) * np.cos(y / 23 + b) for a, b in phase]
    return np.rint(127.5 + 110 * np.stack(waves, axis=-1)).astype(np.uint8)


def celeba(root, layout=0):
    pictures, attributes = (root / part for part in LAYOUTS[layout])
    pictures.mkdir(parents=True)
    attributes.parent.mkdir(exist_ok=True)
    for n, name in enumerate(NAMES):
        Image.fromarray(picture(n)).save(pictures / name, quality=98, subsampling=0)
    if attributes.suffix == ".csv":
        lines = [",".join(["image_id", *ATTRIBUTES])]
        lines += [",".join([name, *map(str, row)]) for name, row in zip(NAMES, VALUES, strict=True)]
    else:
        lines = [str(len(NAMES)), " ".join(ATTRIBUTES)]
        lines += ["  ".join([name, *(f"{v:2}" for v in row)]) for name, row in zip(NAMES, VALUES, strict=True)]
    attributes.write_text("\n".join(lines) + "\n")
    return pictures, attributes


def triangle_resized(image, size):
    """Antialiased bilinear resizing, written out: each output pixel a triangle of half-width `scale` over the input."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0)
        scale = max(image.shape[0] / size, 1)
        centre = (np.arange(size) + 0.5) * image.shape[0] / size
        distance = np.abs(np.arange(image.shape[0]) + 0.5 - centre[:, None]) / scale
        weight = np.maximum(1 - distance, 0)
        image = np.tensordot(weight / weight.sum(axis=1, keepdims=True), image, 1)
        image = np.moveaxis(image, 0, axis)
    return image


class TestCelebA:
    @pytest.mark.parametrize("layout", [0, 1, 2])
    @pytest.mark.parametrize("inside", ["", "celeba"])
    def test_layouts(self, tmp_path, layout, inside):
        celeba(tmp_path / inside, layout)
        calls = []
        data = read_celeba(tmp_path, progress=lambda *call: calls.append(call))
        assert data.images.shape == (3, 64, 64)
        assert [factor.name for factor in data.factors] == ATTRIBUTES
        np.testing.assert_array_equal(data.values(), (VALUES + 1) / 2)
        assert calls == [(4, 4)]

    @pytest.mark.parametrize(("crop", "size"), [(148, 64), (None, 64), (100, 32), (178, 48)])
    def test_the_numbers(self, tmp_path, crop, size):
        celeba(tmp_path)
        data = read_celeba(tmp_path, crop, size)
        top, left = (0, 0) if crop is None else ((218 - crop) // 2, (178 - crop) // 2)
        for n in range(4):
            whole = picture(n).astype(float)
            cut = whole if crop is None else whole[top : top + crop, left : left + crop]
            wanted = np.moveaxis(triangle_resized(cut, size), -1, 0) / 255
            ours = data.images.take([n], "float64").reshape(3, size, size)
            assert np.abs(ours - wanted).max() < 0.02  # what JPEG and rounding change

    def test_limit(self, tmp_path):
        pictures, _ = celeba(tmp_path)
        (pictures / NAMES[3]).unlink()
        assert len(read_celeba(tmp_path, limit=3)) == 3
        with pytest.raises(InputError, match=rf"1 of 4 pictures.*{NAMES[3]}"):
            read_celeba(tmp_path)

    def test_nothing_and_packed_pictures(self, tmp_path):
        with pytest.raises(InputError, match=r"list_attr_celeba\.csv"):
            read_celeba(tmp_path)
        (tmp_path / "Img").mkdir()
        (tmp_path / "Img" / "img_align_celeba.zip").write_bytes(b"")
        with pytest.raises(InputError, match=r"img_align_celeba\.zip: is packed"):
            read_celeba(tmp_path)

    @pytest.mark.parametrize("inside", ["", "celeba", "CelebA"])
    @pytest.mark.parametrize("layout", [0, 1, 2])
    def test_packed_pictures_in_every_place(self, tmp_path, inside, layout):
        pictures, attributes = celeba(tmp_path / inside, layout)
        pictures.rename(tmp_path / "elsewhere")
        packed = pictures.with_name("img_align_celeba.zip")
        packed.write_bytes(b"")
        with pytest.raises(InputError, match=f"{packed}: is packed"):
            read_celeba(tmp_path)
        (tmp_path / "elsewhere").rename(pictures)
        attributes.rename(tmp_path / "list.txt")
        with pytest.raises(InputError, match=f"its list of attributes is not; download {attributes}$") as refusal:
            read_celeba(tmp_path)
        assert "is packed" not in str(refusal.value)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (NAMES[1], "../000002.jpg"),
            (NAMES[1], "/etc/000002.jpg"),
            (NAMES[1], NAMES[0]),
            ("-1", "-2"),
            ("Bald", ""),
            ("Bald", "Smiling"),
            ("Bald", "\udcff"),
        ],
    )
    @pytest.mark.parametrize("layout", [0, 2])
    def test_damaged_lists(self, tmp_path, old, new, layout):
        _, attributes = celeba(tmp_path, layout)
        text = attributes.read_text().replace(old.strip() if layout else old, new, 1)
        attributes.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match="list_attr_celeba"):
            read_celeba(tmp_path)
        attributes.write_bytes(attributes.read_bytes()[:3])
        with pytest.raises(InputError, match="list_attr_celeba"):
            read_celeba(tmp_path)

    @pytest.mark.parametrize(
        ("layout", "old", "new", "said"),
        [
            (0, "   1", "", "'000001.jpg' has 2 values; 3 are needed"),
            (2, ",1", "", "'000001.jpg' has 2 values; 3 are needed"),
            (2, ",1", ",", "'000001.jpg' has the value ''; each must be -1 or 1"),
            (2, ",1", ",1,1", "'000001.jpg' has 4 values"),
            (0, "   1", " 2", "'000001.jpg' has the value '2'"),
        ],
    )
    def test_a_missing_or_a_wrong_value(self, tmp_path, layout, old, new, said):
        _, attributes = celeba(tmp_path, layout)
        text = attributes.read_text()
        assert old in text
        attributes.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=said):
            read_celeba(tmp_path)

    def test_a_list_of_another_length_than_it_declares(self, tmp_path):
        _, attributes = celeba(tmp_path)
        lines = attributes.read_text().splitlines(keepends=True)
        attributes.write_text("".join(lines[:-1]))
        with pytest.raises(InputError, match="declares 4 pictures and lists 3"):
            read_celeba(tmp_path)
        assert len(read_celeba(tmp_path, limit=3)) == 3
        with pytest.raises(InputError, match="declares 4 pictures and lists 3"):
            read_celeba(tmp_path, limit=4)
        for first, said in (("3\n", "declares 3 pictures and lists 4"), ("four\n", "begins with 'four'"), ("\n", "''")):
            attributes.write_text("".join([first, *lines[1:]]))
            with pytest.raises(InputError, match=said):
                read_celeba(tmp_path)

    def test_a_long_list_in_little_memory(self, tmp_path):
        """As long as a tenth of the official one: 0.8 MB of numbers, whose words and their lists take 37."""
        N, K = 20_000, 40
        names = " ".join(f"attribute{k}" for k in range(K))
        rows = "".join(f"{n:06}.jpg" + ("  1 -1" * (K // 2)) + "\n" for n in range(N))
        (tmp_path / "list.txt").write_text(f"{N}\n{names}\n{rows}")
        _, files, classes = read_attributes(tmp_path / "list.txt", N)
        assert len(files) == N
        np.testing.assert_array_equal(classes, np.tile([1, 0], (N, K // 2)))
        code = (
            "import pathlib, sys, tracemalloc; from tcvae_ref.data.celeba import read_attributes; tracemalloc.start(); "
            "read_attributes(pathlib.Path(sys.argv[1]), int(sys.argv[2])); print(tracemalloc.get_traced_memory()[1])"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "list.txt"), str(N)]  # no other test's threads beside it
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert peak < 10e6  # files' names are 2 MB, classes 2 MB


class TestSource:
    """What a `DataSource` says is cropped, wherever it is written."""

    def test_the_crop_that_is_usual_and_none(self, tmp_path):
        celeba(tmp_path)
        for crop, same in ((None, 148), (148, 148), (0, None), (100, 100)):
            ours = load_source(DataSource(celeba=str(tmp_path), crop=crop)).images.rows
            np.testing.assert_array_equal(ours, read_celeba(tmp_path, crop=same).images.rows)
        for crop, same in ((None, None), (0, None), (100, 100)):
            ours = load_source(DataSource(folder=str(tmp_path), crop=crop)).images.rows
            np.testing.assert_array_equal(ours, read_folder(tmp_path, crop=same).images.rows)
        with pytest.raises(InputError, match="crop=-1"):
            DataSource(celeba="/a", crop=-1).checked()

    def test_the_cache_is_no_part_of_it(self, tmp_path, monkeypatch):
        celeba(tmp_path)
        sources = [DataSource(celeba=str(tmp_path)), DataSource(folder=str(tmp_path), crop=64, limit=3)]
        plain = [load_source(source) for source in sources]
        for source in sources:
            load_source(source, cache=tmp_path / "cache")
        monkeypatch.setattr(Image, "open", None)
        for source, data in zip(sources, plain, strict=True):
            kept = load_source(source, cache=tmp_path / "cache")
            np.testing.assert_array_equal(kept.images.rows, data.images.rows)
            assert isinstance(kept.images.rows, np.memmap)
        assert len(load_source(DataSource("tiny"), cache=tmp_path / "cache")) > 0

    def test_on_the_command_line(self, tmp_path, monkeypatch, capsys):
        celeba(tmp_path)
        small = ["--latent", "2", "--encoder", "4", "--decoder", "4", "--batch", "2", "--epochs", "1"]
        small += ["--kernels", "numpy"]

        def train(*words):
            return main(["train", *map(str, words), "--kernels", "numpy"])

        images = ["--celeba", tmp_path, "--cache", tmp_path / "cache"]
        assert train("--out", tmp_path / "usual", *images, *small) == 0
        assert Run.open(tmp_path / "usual").source == DataSource(celeba=str(tmp_path))
        assert train("--out", tmp_path / "whole", *images, "--crop", 0, *small) == 0
        assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
        monkeypatch.setattr(Image, "open", None)
        cached = ["--cache", tmp_path / "cache"]
        assert train("--resume", tmp_path / "usual", *cached, "--epochs", 2, "--crop", 148) == 0
        assert train("--resume", tmp_path / "whole", *cached, "--epochs", 2, "--crop", 0) == 0
        assert main(["data", "show", *map(str, images), "--out", str(tmp_path / "a.png")]) == 0
        assert train("--resume", tmp_path / "usual", *cached, "--crop", 0) == 2
        assert "--crop 0 does not fit this run, which has 148" in capsys.readouterr().err
        assert train("--out", tmp_path / "grid", "--grid", "tiny", *cached) == 2
        assert "is for celeba and folder; leave it out for grid" in capsys.readouterr().err
        assert not (tmp_path / "grid").exists()
        for command in ("evaluate", "figures"):
            assert main([command, str(tmp_path / "usual"), *map(str, cached)]) == 0


class TestPictures:
    def test_damaged_pictures_are_named(self, tmp_path):
        pictures, _ = celeba(tmp_path)
        whole = (pictures / NAMES[2]).read_bytes()
        for damaged in (whole[:-200], whole[: len(whole) // 2], whole[:20], b"", b"no picture"):
            (pictures / NAMES[2]).write_bytes(damaged)
            with pytest.raises(InputError, match=NAMES[2]):
                read_celeba(tmp_path)
            with pytest.raises(InputError, match=NAMES[2]):
                read_celeba(tmp_path, cache=tmp_path / "cache")
            assert os.listdir(tmp_path / "cache") == [".lock"]

    def test_a_crop_beyond_the_picture(self, tmp_path):
        celeba(tmp_path)
        with pytest.raises(InputError, match=rf"{NAMES[0]}.*178 x 218.*crop=200"):
            read_celeba(tmp_path, crop=200)

    def test_folders_of_any_kind_of_picture(self, tmp_path):
        (tmp_path / "b").mkdir()
        grey = picture(0)[..., 0]
        Image.fromarray(grey).save(tmp_path / "b" / "1.png")
        Image.fromarray(picture(1)).convert("P").save(tmp_path / "a.gif")
        Image.fromarray(picture(2)).convert("RGBA").save(tmp_path / "c.PNG")
        Image.fromarray(grey).save(tmp_path / "d.tiff")
        (tmp_path / "notes.txt").write_text("not a picture")
        data = read_folder(tmp_path, size=16)
        assert (len(data), data.images.shape, data.factors) == (4, (3, 16, 16), ())
        assert data.classes.shape == (4, 0)
        b, c = data.images.take([1, 2], "float64").reshape(2, 3, 16, 16)
        assert (b[0] == b[1]).all()
        assert np.abs(c - np.moveaxis(triangle_resized(picture(2).astype(float), 16), -1, 0) / 255).max() < 0.005
        one = read_folder(tmp_path, size=16, channels=1, limit=2)
        assert (len(one), one.images.shape) == (2, (16, 16))
        np.testing.assert_allclose(one.images.take([1], "float64").reshape(16, 16), b[0])

    def test_a_turned_picture_is_put_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        Image.fromarray(np.rot90(picture(0))).save(tmp_path / "turned.png", exif=exif)
        Image.fromarray(picture(0)).save(tmp_path / "upright.png")
        turned, upright = read_folder(tmp_path).images.rows
        np.testing.assert_array_equal(turned, upright)

    @pytest.mark.parametrize("orientation", range(10))
    def test_every_orientation_is_turned_as_pillow_does(self, tmp_path, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(picture(0, 60, 40)).save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as opened:
            ImageOps.exif_transpose(opened).save(tmp_path / "b.png", exif=Image.Exif())
        ours, theirs = read_folder(tmp_path, size=32).images.rows
        np.testing.assert_array_equal(ours, theirs)
        Image.fromarray(picture(0, 60, 40)).save(tmp_path / "a.png")
        assert (ours != read_folder(tmp_path, size=32).images.rows[0]).any() == (1 < orientation < 9)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_damaged_metadata_of_whole_pixels(self, tmp_path):
        image = Image.fromarray(picture(0))
        image.save(tmp_path / "a.jpg")
        wanted = read_folder(tmp_path).images.rows[0]
        for damaged in (b"garbage", b"II*\0\x08\0\0\0\xff\xff\x12\x01", b"II*\0\xff\xff\xff\0", b""):
            image.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + damaged)
            np.testing.assert_array_equal(read_folder(tmp_path).images.rows[0], wanted)

    def test_transparency_and_links_to_folders(self, tmp_path):
        folder, beside = tmp_path / "pictures", tmp_path / "beside"
        folder.mkdir()
        beside.mkdir()
        half = np.concatenate([picture(0), np.full((218, 178, 1), 9, np.uint8)], axis=2)
        Image.fromarray(half).save(folder / "a.png")
        Image.fromarray(picture(0)).save(beside / "b.png")
        (folder / "b.png").symlink_to(beside / "b.png")
        (folder / "linked").symlink_to(beside)
        a, b = read_folder(folder).images.rows
        np.testing.assert_array_equal(a, b)

    def test_of_16_bits_in_colour_the_upper_ones_are_taken(self, tmp_path):
        def chunk(kind, content):
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        rows = np.random.default_rng(0).integers(2**16, size=(8, 8, 3), dtype=np.uint16)
        content = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
        (tmp_path / "deep.png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(content))
            + chunk(b"IEND", b"")
        )
        ours = read_folder(tmp_path, size=8).images.rows.reshape(3, 8, 8)
        np.testing.assert_array_equal(ours, np.moveaxis(rows >> 8, -1, 0))

    def test_what_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="no pictures"):
            read_folder(tmp_path)
        with pytest.raises(InputError, match="not a folder"):
            read_folder(tmp_path / "none")
        Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "deep.png")
        with pytest.raises(InputError, match=r"deep\.png.*8 bits"):
            read_folder(tmp_path)
        for wrong in ({"size": 0}, {"channels": 2}, {"crop": 0}, {"limit": 0}):
            with pytest.raises(InputError, match=next(iter(wrong))):
                read_folder(tmp_path, **wrong)

    @pytest.mark.parametrize("limit", [30_000, 3000])
    @pytest.mark.parametrize("action", ["error", "ignore"])
    def test_a_picture_of_too_many_pixels(self, tmp_path, monkeypatch, limit, action):
        """Pillow warns beyond its limit and raises beyond twice that; here both are refused, whatever the filters."""
        Image.fromarray(picture(0)).save(tmp_path / "large.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(InputError, match=rf"large\.png: has more than {limit:,} pixels.*smaller, or raise"):
                read_folder(tmp_path)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
            assert len(read_folder(tmp_path)) == 1

    def test_filters_of_warnings_are_left_alone(self, tmp_path):
        """A palette with transparency is read without a warning; the caller's own warnings stay warnings meanwhile."""
        paletted = Image.fromarray(picture(0)).convert("P")
        paletted.save(tmp_path / "a.png", transparency=bytes([0, 100]) + bytes([255]) * 254)
        paletted.save(tmp_path / "b.png", transparency=3)
        paletted.save(tmp_path / "c.png")
        code = (
            "import sys, warnings; from pathlib import Path; from tcvae_ref.data import read_folder\n"
            "before = list(warnings.filters)\n"
            "def progress(done, total):\n"
            "    assert warnings.filters == before\n"
            "    warnings.warn('of the caller')\n"
            "for channels in (1, 3):\n"
            "    a, b, c = read_folder(Path(sys.argv[1]), channels=channels, progress=progress).images.rows\n"
            "    assert (a == b).all() and (a == c).all() and a.any()\n"
            "assert warnings.filters == before\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert "of the caller" in done.stderr
        assert "Palette" not in done.stderr

    def test_blocks_are_of_bytes(self, tmp_path, monkeypatch):
        celeba(tmp_path)
        for block, calls in ((3 * 32 * 32, [1, 2, 3, 4]), (2 * 3 * 32 * 32, [2, 4]), (1, [1, 2, 3, 4]), (2**26, [4])):
            monkeypatch.setattr(image_folder, "_BLOCK", block)
            seen = []
            read_celeba(tmp_path, size=32, progress=lambda done, total, seen=seen: seen.append(done))
            assert seen == calls


class TestCache:
    def test_it_is_used_and_equal(self, tmp_path, monkeypatch):
        pictures, _ = celeba(tmp_path)
        plain = read_celeba(tmp_path)
        first = read_celeba(tmp_path, cache=tmp_path / "cache")
        monkeypatch.setattr(Image, "open", None)  # nothing can be decoded from here on
        again = read_celeba(tmp_path, cache=tmp_path / "cache")
        for data in (first, again):
            np.testing.assert_array_equal(data.images.rows, plain.images.rows)
        assert isinstance(again.images.rows, np.memmap)
        assert not again.images.rows.flags.writeable
        for other in ({"crop": 140}, {"size": 32}, {"limit": 3}):
            with pytest.raises(InputError):
                read_celeba(tmp_path, cache=tmp_path / "cache", **other)
        state = (pictures / NAMES[0]).stat()
        whole = (pictures / NAMES[0]).read_bytes()
        (pictures / NAMES[0]).write_bytes(whole + b"\0")  # of another size, at the same time
        os.utime(pictures / NAMES[0], ns=(state.st_atime_ns, state.st_mtime_ns))
        with pytest.raises(InputError):
            read_celeba(tmp_path, cache=tmp_path / "cache")
        (pictures / NAMES[0]).write_bytes(whole)
        os.utime(pictures / NAMES[0], ns=(state.st_atime_ns, state.st_mtime_ns))
        read_celeba(tmp_path, cache=tmp_path / "cache")
        os.utime(pictures / NAMES[0], (1, 1))
        with pytest.raises(InputError):
            read_celeba(tmp_path, cache=tmp_path / "cache")

    def test_a_damaged_one_is_made_again(self, tmp_path):
        celeba(tmp_path)
        plain = read_celeba(tmp_path, cache=tmp_path / "cache").images.rows.copy()
        (kept,) = (tmp_path / "cache").glob("*.npy")
        whole = kept.read_bytes()
        for damaged in (whole[:-1], whole[:50], b"", whole + b"x", whole[:60] + b"9" + whole[61:]):
            kept.write_bytes(damaged)
            np.testing.assert_array_equal(read_celeba(tmp_path, cache=tmp_path / "cache").images.rows, plain)
            assert kept.read_bytes() == whole

    def test_its_bytes_are_read_once_for_the_checksum_and_for_the_run(self, tmp_path, monkeypatch):
        celeba(tmp_path)
        cache, calls = tmp_path / "cache", []
        first = read_celeba(tmp_path, cache=cache)
        plain = first.images.rows.copy()
        monkeypatch.setattr(byte_arrays, "_BLOCK", 2 * first.images.pixels)
        again = read_celeba(tmp_path, cache=cache, progress=lambda *call: calls.append(call))
        assert calls == [(2, 4), (4, 4)]
        assert digest(again) == digest(read_celeba(tmp_path)) == digest(first)
        assert digest(again) == digest(again), "the hash that is kept is not used up"
        monkeypatch.setattr(again.images, "rows", None)
        assert digest(again) == digest(first)
        (kept,) = cache.glob("*.npy")
        content = bytearray(kept.read_bytes())
        content[200] ^= 1
        kept.write_bytes(content)
        np.testing.assert_array_equal(read_celeba(tmp_path, cache=cache).images.rows, plain)

    def test_two_processes_make_it_once_and_clear_what_a_killed_one_left(self, tmp_path):
        celeba(tmp_path)
        cache = tmp_path / "cache"
        read_celeba(tmp_path, cache=cache)
        (kept,) = cache.glob("*.npy")
        kept.rename(cache / f".{kept.name}.1.partial")
        code = (
            "import sys; from pathlib import Path; from tcvae_ref.data import image_folder, read_celeba; made = []\n"
            "one = image_folder.prepare; image_folder.prepare = lambda *which: made.append(which) or one(*which)\n"
            "read_celeba(Path(sys.argv[1]), cache=Path(sys.argv[2]))\n"
            "print(len(made))"
        )
        arguments = [sys.executable, "-c", code, str(tmp_path), str(cache)]
        both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["0", "4"]
        assert sorted(path.name for path in cache.iterdir()) == [".lock", kept.name]


class TestFigures:
    def colours(self, tmp_path):
        for name, colour in [("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))]:
            Image.new("RGB", (30, 30), colour).save(tmp_path / f"{name}.png")
        return read_folder(tmp_path, size=8)

    def drawn(self, figure, tmp_path):
        figures.save(figure, tmp_path / "figure.png")
        return imread(tmp_path / "figure.png")[..., :3].reshape(-1, 3)

    def test_strips_show_colours(self, tmp_path):
        data = self.colours(tmp_path)
        mosaic = figures.mosaic(data, [0, 1, 2])
        pixels = self.drawn(mosaic, tmp_path)
        for colour in np.eye(3):
            assert np.all(pixels == colour, axis=1).any()
        strip = mosaic.axes[0].get_images()[0].get_array()
        np.testing.assert_array_equal(strip[4, [4, 13, 22]], np.eye(3))

    def test_traversals_and_reconstructions_of_any_model(self, tmp_path):
        """A model whose latent 0 is red and whose latent 1 is blue."""
        data = self.colours(tmp_path)
        mu = np.array([[-3.0, 0.0], [0.0, 0.0], [3.0, 0.1]])

        def decode(z):
            assert z.dtype == np.float32
            logits = np.stack([4 * z[:, 0], 0 * z[:, 0], 4 * z[:, 1]], axis=1)
            return np.repeat(logits, 64, axis=1)

        figure = figures.traversals(decode, data, mu, 1, np.array([2.0, 0.1]), steps=5)
        strip = figure.axes[0].get_images()[0].get_array()
        assert strip.shape == (8, 5 * 9 - 1, 3)
        red = strip[0, 4::9]
        assert red[0, 0] < 0.01
        assert red[-1, 0] > 0.99
        np.testing.assert_allclose(red[:, 1:], 0.5)
        self.drawn(figure, tmp_path)
        strips = [axis.get_images()[0].get_array() for axis in figures.reconstructions(decode, data, mu, [0, 2]).axes]
        np.testing.assert_array_equal(strips[0][0, [0, 9]], np.eye(3)[[0, 2]])
        assert strips[1][0, 0, 0] < 0.01 < 0.99 < strips[1][0, 9, 0]

    def test_factors_under_their_weights_and_at_most_twelve(self, tmp_path):
        rng = np.random.default_rng(0)
        data = self.colours(tmp_path)
        classes = np.array([[0] * 40, [1] * 40, [1] * 40], np.uint16)
        factors = tuple(Factor(f"f{k}", np.arange(2.0)) for k in range(40))
        weighted = FactorDataset("weighted", data.images, factors, classes, np.array([0.2, 0.6, 0.2]))
        mu = np.array([[0.0], [1.0], [5.0]])
        figure = figures.latents_against_factors(mu, weighted, rng.random(1))
        assert len(figure.axes) == 12
        np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.0, 2.0])
        with pytest.raises(InputError, match="no factor"):
            figures.latents_against_factors(mu, data, rng.random(1))

    def test_curves_of_a_history_with_more_columns(self):
        figure = figures.training_curves(np.arange(35.0).reshape(5, 7), "mss")
        assert len(figure.axes) == 6
