"""dSprites, re-rendered: against a point-in-polygon test, against the real images where they are at hand; files."""

import contextlib
import dataclasses
import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import naive
import numpy as np
import pytest

from tcvae_ref.checks import InputError
from tcvae_ref.data import FACTORS, GRIDS, FactorGrid, PackedImages, fidelity, grid, read_npz, render, write_npz
from tcvae_ref.data.dsprites import outline, render_plane
from tcvae_ref.data.factors import Factor
from tcvae_ref.files import NpzReader

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "dsprites"


def pixels(words):
    """(..., 64) words to (..., 64, 64) pixels."""
    return np.unpackbits(words.astype(">u8").view(np.uint8).reshape(*words.shape, 8), axis=-1)


def data_set(sizes=(1, 3, 8, 8, 8)):
    return render(grid(sizes))


class TestRendering:
    @pytest.mark.parametrize("shape", [0, 1, 2])
    def test_against_a_point_in_polygon_test(self, shape):
        """Every pixel of some sprites at real-valued factors, with the same vertices and the rule spelled out."""
        rng = np.random.default_rng(shape)
        for _ in range(3):
            scale, theta, X, Y = rng.uniform(0.5, 1), rng.uniform(0, 7), rng.random(1), rng.random(1)
            u, v = outline(shape).T
            x = 16 + 32 * X[0] + scale * (np.cos(theta) * u + np.sin(theta) * v)
            y = 16 + 32 * Y[0] + scale * (-np.sin(theta) * u + np.cos(theta) * v)
            polygon = list(
                zip(np.rint(256 * x).astype(int).tolist(), np.rint(256 * y).astype(int).tolist(), strict=True)
            )
            expected = [[naive.pixel_on(256 * c + 128, 256 * r + 128, polygon) for c in range(64)] for r in range(64)]
            np.testing.assert_array_equal(pixels(render_plane(shape, scale, theta, X, Y))[0, 0], expected)

    def test_edges_belong_to_the_left_and_the_top(self):
        """A square whose edges run through pixel centres: in on the left and top edge, out on the right and bottom."""
        u = 4.5 / 9.6  # half side 4.5 pixels, centred on a pixel centre at (24.5, 24.5)
        centre = np.array([8.5 / 32])
        image = pixels(render_plane(0, u, 0.0, centre, centre))[0, 0]
        rows, columns = np.nonzero(image)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 28, 20, 28)

    def test_position_orientation_and_scale_do_what_they_say(self):
        centre = np.array([0.5])
        right = pixels(render_plane(2, 0.7, 0.0, np.array([0.0, 1.0]), centre))
        assert np.nonzero(right[1, 0])[1].mean() - np.nonzero(right[0, 0])[1].mean() == pytest.approx(32, abs=0.2)
        down = pixels(render_plane(2, 0.7, 0.0, centre, np.array([0.0, 1.0])))
        assert np.nonzero(down[0, 1])[0].mean() - np.nonzero(down[0, 0])[0].mean() == pytest.approx(32, abs=0.2)
        small, large = (pixels(render_plane(0, s, 0.0, centre, centre)).sum() for s in (0.5, 1.0))
        assert large / small == pytest.approx(4, rel=0.1)
        # A quarter turn counter-clockwise: the heart's tip, at the bottom, comes to lie on the right.
        heart, turned = (pixels(render_plane(2, 1.0, t, centre, centre))[0, 0] for t in (0.0, np.pi / 2))
        rows = np.flatnonzero(heart.any(axis=1))
        assert heart[rows[-2]].sum() < 5 < heart[rows[1]].sum()
        np.testing.assert_allclose(np.rot90(heart).sum(), turned.sum(), rtol=0.03)
        assert (np.rot90(heart) != turned).mean() < 0.02

    def test_orientation_0_and_39_are_the_same_picture(self):
        centre = np.array([0.3])
        for shape in range(3):
            first, last = (render_plane(shape, 0.9, t, centre, centre) for t in (0.0, 2 * np.pi))
            np.testing.assert_array_equal(first, last)

    def test_every_sprite_stays_within_rows_and_columns_3_to_60(self):
        """Corner positions of all 720 sprites of the full grid."""
        ends = np.array([0.0, 1.0])
        union = np.zeros((64, 64), dtype=bool)
        for shape in range(3):
            for scale in FACTORS[1].values:
                for theta in FACTORS[2].values:
                    union |= pixels(render_plane(shape, scale, theta, ends, ends)).any(axis=(0, 1))
        assert union[3:61, 3:61].any()
        union[3:61, 3:61] = False
        assert not union.any()


class TestGrids:
    def test_sizes(self):
        assert {name: len(grid(name)) for name in GRIDS} == {
            "hearts": 1536,
            "tiny": 192,
            "small": 5760,
            "medium": 46_080,
            "full": 737_280,
        }

    def test_a_sub_grid_takes_the_original_values(self):
        shape, scale, orientation, posX, posY = grid("medium").factors
        np.testing.assert_array_equal(shape.values, [1, 2, 3])
        np.testing.assert_array_equal(scale.values, FACTORS[1].values)
        np.testing.assert_array_equal(orientation.values, FACTORS[2].values[::4])
        np.testing.assert_array_equal(posX.values, FACTORS[3].values[::2])
        np.testing.assert_array_equal(posY.values, FACTORS[4].values[::2])
        assert grid("hearts").factors[0].values == [3]

    def test_a_finer_grid_spaces_new_values_over_the_same_range(self):
        _, scale, orientation, posX, _ = grid((1, 9, 80, 64, 1)).factors
        assert (scale.size, scale.values[0], scale.values[-1]) == (9, 0.5, 1.0)
        assert orientation.values[-1] < 2 * np.pi
        assert posX.size == 64

    def test_images_are_in_c_order_of_their_classes(self):
        data = data_set((2, 2, 3, 4, 5))
        n = 1 * 60 + 2 * 20 + 3 * 5 + 4 + 0 * 120
        np.testing.assert_array_equal(data.classes[n], [0, 1, 2, 3, 4])
        shape, scale, theta, X, Y = data.values()[n]
        image = render_plane(int(shape) - 1, scale, theta, np.array([X]), np.array([Y]))
        np.testing.assert_array_equal(data.images.take([n], "uint8").reshape(64, 64), pixels(image)[0, 0])

    @pytest.mark.parametrize("bad", ["heart", (1, 2, 3), (4, 1, 1, 1, 1), (1, 0, 1, 1, 1)])
    def test_refusals(self, bad):
        with pytest.raises(InputError, match="dSprites grid"):
            grid(bad)

    def test_the_nearest_name_is_suggested(self):
        with pytest.raises(InputError, match="did you mean 'medium'"):
            grid("medum")

    def test_cut_off_sprites_are_refused(self):
        factors = list(grid("tiny").factors)
        factors[1] = Factor("scale", np.array([1.5]))
        with pytest.raises(InputError, match=r"scale takes the value 1\.5; allowed are"):
            render(FactorGrid(tuple(factors)))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("shape", 7),
            ("shape", 1.5),
            ("scale", 0),
            ("scale", np.nan),
            ("orientation", np.inf),
            ("posX", -0.1),
            ("posY", 40),
        ],
    )
    def test_values_no_sprite_is_drawn_at(self, name, value):
        factors = [f._replace(values=np.array([value], float)) if f.name == name else f for f in grid("tiny").factors]
        with pytest.raises(InputError, match=f"{name} takes the value"):
            render(FactorGrid(tuple(factors)))

    def test_axes_longer_than_classes_can_count(self):
        with pytest.raises(InputError, match="at most 65536"):
            grid((1, 1, 1, 70_000, 1))


class TestPackedImages:
    def test_one_bit_per_pixel(self):
        data = data_set()
        assert data.images.nbytes == len(data) * 512
        assert data.images.take(slice(0, 2)).dtype == np.float32
        assert set(np.unique(data.images.take([5]))) == {0.0, 1.0}

    def test_refusal(self):
        with pytest.raises(InputError, match="packbits"):
            PackedImages(np.zeros((3, 511), np.uint8), (64, 64))


class TestFiles:
    def test_what_is_written_is_read(self, tmp_path):
        data, path = data_set(), tmp_path / "sprites.npz"
        write_npz(path, data)
        back = read_npz(path)
        np.testing.assert_array_equal(back.images.rows, data.images.rows)
        np.testing.assert_array_equal(back.classes, data.classes)
        assert [f.name for f in back.factors] == [f.name for f in data.factors]
        with np.load(path, allow_pickle=False) as plain:
            assert plain["imgs"].shape == (len(data), 64, 64)
        assert fidelity(back).share == 1.0

    def official(self, path, N=4, **replaced):
        """A file of the official form, with its pickled metadata."""
        rng = np.random.default_rng(0)
        arrays = {
            "imgs": rng.integers(0, 2, (N, 64, 64)).astype(np.uint8),
            "latents_classes": np.stack([np.zeros(N, int)] * 4 + [np.arange(N) % 2, np.arange(N)], axis=1),
            "latents_values": np.stack([np.ones(N)] * 4 + [np.arange(N) % 2 / 1, np.arange(N) / N], axis=1),
            "metadata": np.array({"a": 1}, dtype=object),
            **replaced,
        }
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    def test_the_pickle_is_never_touched(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        path = self.official(tmp_path / "a.npz", metadata=np.array(Bomb(), dtype=object))
        data = read_npz(path)
        assert [f.name for f in data.factors] == ["color", "shape", "scale", "orientation", "posX", "posY"]
        assert not (tmp_path / "exploded").exists()
        with NpzReader(path) as archive, pytest.raises(InputError, match="metadata is a pickle, which is never loaded"):
            archive.array("metadata")
        assert pickle.loads(pickle.dumps(0)) == 0  # the test would see an unpickling
        with pytest.raises(InputError, match="imgs is a pickle"):
            read_npz(self.official(tmp_path / "b.npz", imgs=np.array(Bomb(), dtype=object)))
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize(
        ("replaced", "match"),
        [
            ({"imgs": None}, "imgs is missing"),
            ({"latents_values": None}, "latents_values is missing"),
            ({"imgs": np.full((4, 64, 64), 7, np.uint8)}, "image 0 has a pixel of 7"),
            ({"imgs": np.zeros((4, 64, 64))}, "imgs is float64"),
            ({"imgs": np.zeros((4, 3, 3), np.uint8)}, "multiple of 8"),
            ({"imgs": np.zeros((5, 64, 64), np.uint8)}, "5 images, latents_classes"),
            ({"latents_values": np.full((4, 6), np.nan)}, "holds nan or infinity"),
            ({"latents_values": np.full((4, 6), np.longdouble(10) ** 400)}, "holds nan or infinity"),
            ({"latents_classes": np.zeros((4, 6))}, "latents_classes must be integers"),
            ({"latents_values": np.arange(24.0).reshape(4, 6)}, "several values"),
            ({"latents_values": np.full((4, 6), "a")}, "finite real numbers"),
            ({"latents_values": np.full((4, 6), 1j)}, "finite real numbers"),
        ],
    )
    def test_foreign_files(self, tmp_path, replaced, match):
        with pytest.raises(InputError, match=match):
            read_npz(self.official(tmp_path / "a.npz", **replaced))

    def test_empty_truncated_and_damaged_files(self, tmp_path):
        whole = self.official(tmp_path / "whole.npz").read_bytes()
        path = tmp_path / "bad.npz"
        for content in (b"", b"not a zip", whole[:100], whole[: len(whole) // 2], whole[:-30]):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"bad\.npz"):
                read_npz(path)
        for place in range(whole.index(b"latents_values.npy") - 30, whole.index(b"latents_values.npy") + 160):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
            with contextlib.suppress(InputError):  # an error of its own, or no harm: never another exception
                read_npz(path)
        place = whole.index(b"latents_values.npy") + 250
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"bad\.npz"):
            read_npz(path)
        with pytest.raises(FileNotFoundError):
            read_npz(tmp_path / "nowhere.npz")

    def test_a_header_that_promises_too_much_allocates_nothing(self, tmp_path):
        header = io.BytesIO()
        declared = {"descr": "|u1", "fortran_order": False, "shape": (2**28, 64, 64)}
        np.lib.format.write_array_header_1_0(header, declared)
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("imgs", "latents_classes", "latents_values"):
                archive.writestr(f"{name}.npy", header.getvalue())
        with pytest.raises(InputError, match="declares"):
            read_npz(path)

    def test_what_a_small_archive_cannot_hold_is_not_made_room_for(self, tmp_path):
        """Sizes in its directory as the header has them, and a few bytes on the disk."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**18, 64, 64)})
        path, member = tmp_path / "lie.npz", zipfile.ZipInfo("imgs.npy")
        member.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, header.getvalue())
            archive.writestr("latents_classes.npy", header.getvalue())
            archive.writestr("latents_values.npy", header.getvalue())
            archive.getinfo("imgs.npy").file_size = len(header.getvalue()) + 2**30
        with pytest.raises(InputError, match="bytes there are cannot hold them"):
            read_npz(path)

    def test_a_header_without_end_is_not_read(self, tmp_path):
        path = tmp_path / "long.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("imgs", "latents_classes", "latents_values"):
                archive.writestr(f"{name}.npy", b"\x93NUMPY\2\0" + (2**31).to_bytes(4, "little") + bytes(2**24))
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="its header has 2,147,483,648 bytes"):
                read_npz(path)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()

    def test_fidelity_counts_pixels_and_refuses_other_data(self, tmp_path):
        data = data_set((3, 1, 1, 2, 2))
        data.images.rows[0, 100] ^= 0b11
        data.images.rows[11, 7] ^= 0b1
        result = fidelity(data)
        assert (result.images, result.identical, result.differing_pixels) == (12, 10, {1: 1, 2: 1})
        assert result.by_shape == {"square": 0.75, "ellipse": 1.0, "heart": 0.75}
        with pytest.raises(InputError, match="dSprites has"):
            fidelity(dataclasses.replace(data, factors=data.factors[:4], classes=data.classes[:, :4]))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real dSprites images are not at {REAL}")
class TestRealImages:
    @pytest.mark.parametrize(("name", "images"), [("dsprites_downsampled", 46_080), ("dsprites_subset", 20_000)])
    def test_fidelity(self, name, images):
        result = fidelity(read_npz(REAL / f"{name}.npz"))
        assert result.images == images
        assert result.share >= 0.999

    def test_the_medium_grid_is_the_real_sub_grid(self):
        real, ours = read_npz(REAL / "dsprites_downsampled.npz"), render(grid("medium"))
        np.testing.assert_array_equal(real.classes, ours.classes)
        np.testing.assert_allclose(real.values(), ours.values(), atol=1e-12)
