"""Synthetic heads: against rays marched through the ellipsoids, and that four factors are seen; 3D Faces files."""

import contextlib
import pickle

import numpy as np
import pytest
from optional import torch

from tcvae_ref.checks import InputError
from tcvae_ref.data import ByteImages, FactorDataset, faces, read_faces, write_npz
from tcvae_ref.data import heads as module
from tcvae_ref.data.byte_arrays import map_bytes
from tcvae_ref.data.heads import GRIDS, Ellipsoids, ellipsoids, head_grid, heads, light, shade, surface, traits, turn

CENTRES = (np.arange(64) + 0.5) / 32 - 1


def one(centre=(0.0, 0.0, 0.0), radii=(0.5, 0.3, 0.4), albedo=1.0):
    return Ellipsoids(np.array([centre]), np.array([radii]), np.array([albedo]))


class TestSurface:
    @pytest.mark.parametrize("n", [0, 1, 7])
    def test_depth_against_a_march_along_the_rays(self, n):
        """At some pixels the soft maximum of the first depths, each found by bisection on |R^T (p - c) / radii| = 1.

        Pixels that an ellipsoid's outline passes next to are left out: half a pixel of it is drawn beyond.
        """
        head, R = ellipsoids(traits(n)), turn(0.9 - 0.5 * n, 0.3)
        seen = surface(head, R)
        rng = np.random.default_rng(n)
        inside = np.argwhere(seen.cover == 1)
        tested = 0
        for r, c in inside[rng.choice(len(inside), 60, replace=False)]:
            x, y = CENTRES[c], -CENTRES[r]
            shapes = list(zip(head.centres, head.radii, strict=True))
            depths = [march(x, y, R @ centre, R, radii) for centre, radii in shapes]
            near = [march(x, y, R @ centre, R, radii + 0.04) for centre, radii in shapes]
            hit = np.array([z for z in depths if z is not None])
            if sum(z is not None for z in near) > len(hit):
                continue
            tested += 1
            joint = np.log(np.sum(np.exp(module.SHARPNESS * hit))) / module.SHARPNESS
            assert seen.depth[r, c] == pytest.approx(joint, abs=2e-3)
            assert hit.max() - 1e-3 <= seen.depth[r, c] <= hit.max() + np.log(len(hit)) / module.SHARPNESS + 1e-3
        assert tested >= 12

    def test_a_sphere_does_not_turn(self):
        ball = one(radii=(0.6, 0.6, 0.6))
        still, turned = surface(ball, np.eye(3)), surface(ball, turn(0.7, -0.4))
        for a, b in zip(still, turned, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        x, y = np.meshgrid(CENTRES, -CENTRES)
        inside = still.cover == 1
        np.testing.assert_allclose(still.depth[inside], np.sqrt(0.36 - (x**2 + y**2)[inside]), atol=1e-4)

    def test_the_cover_is_the_area_of_the_outline(self):
        cover = surface(one(), np.eye(3)).cover
        assert cover.sum() / 32**2 == pytest.approx(np.pi * 0.5 * 0.3, rel=0.01)
        assert np.mean((cover > 0) & (cover < 1)) > 0.01  # antialiased

    def test_what_is_nearer_hides_what_is_farther(self):
        behind, before = one(albedo=0.2), one((0.0, 0.0, 0.5), (0.2, 0.2, 0.2), 0.9)
        both = Ellipsoids(*(np.concatenate(pair) for pair in zip(behind, before, strict=True)))
        seen = surface(both, np.eye(3))
        assert seen.albedo[32, 32] == pytest.approx(0.9, abs=1e-3)
        assert seen.albedo[32, 32 + 12] == pytest.approx(0.2, abs=1e-3)


def march(x, y, centre, rotation, radii):
    """First z at which the ray down from z = 2 meets a turned ellipsoid: found by fine steps, then bisected."""

    def value(z):
        points = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
        return np.sum(((points - centre) @ rotation / radii) ** 2, axis=-1) - 1

    walk = np.linspace(2, -2, 4001)
    values = value(walk)
    if values.min() > 0:
        return None
    first = int(np.argmax(values <= 0))
    low, high = walk[first], walk[first - 1]
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) <= 0 else (low, middle)
    return low


class TestShading:
    def test_lambert_on_a_sphere(self):
        radius, lights = 0.7, light(np.array([-0.8, 0.0, 1.1]))
        seen = surface(one(radii=(radius,) * 3, albedo=0.8), np.eye(3))
        images = shade(seen, lights).reshape(-1, 64, 64)
        x, y = np.meshgrid(CENTRES, -CENTRES)
        inner = x**2 + y**2 < (0.85 * radius) ** 2  # central differences are worse where the sphere turns away
        normal = np.stack([x, y, np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0))]) / radius
        for image, towards in zip(images, lights, strict=True):
            cosine = np.maximum(np.tensordot(towards, normal, 1), 0)
            wanted = 255 * 0.8 * (module.AMBIENT + (1 - module.AMBIENT) * cosine)
            assert np.abs(image - wanted)[inner].max() < 3.0
        assert (images[:, 0, 0] == 0).all()

    def test_lights_are_unit_vectors_from_left_to_right(self):
        lights = light(np.array([-1.0, 0.0, 1.0]))
        np.testing.assert_allclose(np.linalg.norm(lights, axis=1), 1)
        assert lights[0, 0] < 0 == lights[1, 0] < lights[2, 0]
        assert (lights[:, 1] > 0).all()


class TestFactors:
    def test_a_mirrored_head_under_a_mirrored_light_is_the_mirror_image(self):
        data = heads((2, 3, 2, 3))
        images = data.images.rows.reshape(2, 3, 2, 3, 64, 64).astype(int)
        mirrored = images[:, ::-1, :, ::-1, :, ::-1]
        assert np.abs(images - mirrored).max() <= 2

    def test_turning_right_moves_the_nose_right_and_nodding_up_moves_it_up(self):
        nose = np.array([0.0, 0.0, 1.0])
        assert (turn(0.5, 0.0) @ nose)[0] > 0.4
        assert (turn(0.0, 0.5) @ nose)[1] > 0.4
        np.testing.assert_allclose(turn(0.5, 0.3) @ turn(0.5, 0.3).T, np.eye(3), atol=1e-12)

    def test_every_factor_changes_the_picture(self):
        """Any two images of the grid differ visibly: in one pixel of a hundred by 8 of 255 at least."""
        data = heads((5, 4, 3, 3))
        rows = data.images.rows.astype(int)
        for n in range(len(data)):
            differing = np.mean(np.abs(rows - rows[n]) >= 8, axis=1)
            assert np.sum(differing < 0.01) == 1

    def test_fifty_identities_and_none_leaves_the_picture(self):
        faces = heads((50, 1, 1, 1)).images.rows.astype(float)
        distance = np.sqrt(np.mean((faces[:, None] - faces[None]) ** 2, axis=2)) + 1e9 * np.eye(50)
        assert distance.min() > 5
        turned = heads((50, 3, 3, 1)).images.rows.reshape(-1, 64, 64)
        assert turned[:, :, [0, -1]].max() == 0
        assert turned[:, 0].max() == 0
        for low, high, name in ((*module.TRAITS[name], name) for name in module.TRAITS):
            values = [traits(n)[name] for n in range(50)]
            assert low <= min(values) < low + 0.1 * (high - low), name
            assert high >= max(values) > high - 0.1 * (high - low), name

    def test_lights_share_the_geometry_and_a_grid_within_a_grid_is_the_same(self):
        few, many = heads((2, 3, 1, 3)), heads((3, 3, 1, 5))
        a = few.images.rows.reshape(2, 3, 3, 4096)
        b = many.images.rows.reshape(3, 3, 5, 4096)[:2, :, ::2]
        np.testing.assert_array_equal(a, b)


class TestGrid:
    def test_the_order_of_the_images_and_the_values(self):
        calls = []
        data = heads("tiny", progress=lambda *call: calls.append(call))
        assert data.sizes == GRIDS["tiny"]
        assert [f.name for f in data.factors] == ["identity", "azimuth", "elevation", "lighting"]
        assert calls[-1] == (len(data), len(data))
        assert len(calls) == 20
        n = np.ravel_multi_index((2, 3, 1, 2), data.sizes)
        identity, azimuth, elevation, lighting = data.values()[n]
        alone = shade(surface(ellipsoids(traits(int(identity))), turn(azimuth, elevation)), light(np.array([lighting])))
        np.testing.assert_array_equal(data.images.rows[n], alone[0])
        assert GRIDS["full"] == (50, 21, 11, 11)
        assert head_grid((1, 1, 1, 1)).factors[1].values == pytest.approx(0)

    @pytest.mark.parametrize("sizes", ["tinny", (1, 2, 3), (1, 2, 3, 0), (2**16, 2**16, 1, 1)])
    def test_refused(self, sizes):
        with pytest.raises(InputError, match=r"tiny|identity|elevation|lighting|number of images"):
            heads(sizes)


class TestByteImages:
    def test_channels_stay_in_their_order(self):
        pictures = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
        images = ByteImages(pictures.reshape(2, -1), (3, 4, 5))
        assert (images.pixels, images.nbytes, len(images)) == (60, 120, 2)
        assert images.take([1]).dtype == np.float32
        np.testing.assert_array_equal(images.take(slice(0, 2), "float64").reshape(pictures.shape), pictures / 255)

    @pytest.mark.parametrize("shape", [(4, 15), (2, 5, 6), (60,), (3, 4, 5, 1)])
    def test_refused(self, shape):
        rows = np.zeros((2, 60), np.uint8)
        with pytest.raises(InputError, match="ByteImages"):
            ByteImages(rows if shape != (4, 15) else rows.astype(np.int8), shape)

    def test_data_without_factors_and_wrong_weights(self, tmp_path):
        images = ByteImages(np.zeros((3, 4096), np.uint8), (64, 64))
        none = np.empty((3, 0), np.uint16)
        data = FactorDataset("plain", images, (), none)
        assert data.values().shape == (3, 0)
        assert data.sizes == ()
        for weights in ([1.0], [0.5, 0.5, 0.5], [2.0, -1.0, 0.0], [np.nan, 0.5, 0.5]):
            with pytest.raises(InputError, match="weights"):
                FactorDataset("plain", images, (), none, np.array(weights))
        with pytest.raises(InputError, match="classes"):
            FactorDataset("plain", images, (), none[:2])
        with pytest.raises(InputError, match="binary"):
            write_npz(tmp_path / "grey.npz", data)


FACES = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 2, 8, 8), dtype=np.uint8)


class TestFaces:
    @pytest.mark.parametrize("kind", ["npy", "npz", "pth"])
    def test_reads(self, tmp_path, kind):
        path = tmp_path / f"faces.{kind}"
        if kind == "npy":
            np.save(path, FACES)
        elif kind == "npz":
            np.savez_compressed(path, anything=FACES)
        else:
            torch.save(torch.from_numpy(FACES), path)
        data = read_faces(path)
        assert data.sizes == (2, 3, 2, 2)
        n = np.ravel_multi_index((1, 2, 0, 1), data.sizes)
        assert data.classes[n].tolist() == [1, 2, 0, 1]
        np.testing.assert_array_equal(data.images.take([n], "float64").reshape(8, 8), FACES[1, 2, 0, 1] / 255)

    @pytest.mark.parametrize("kind", ["npy", "npz", "pth"])
    def test_reads_the_flat_form(self, tmp_path, kind, monkeypatch):
        """One axis for the four factors, of the paper's sizes; here of fewer."""
        monkeypatch.setattr(faces, "SIZES", FACES.shape[:4])
        path, flat = tmp_path / f"faces.{kind}", FACES.reshape(24, 8, 8)
        if kind == "pth":
            torch.save(torch.from_numpy(flat), path)
        else:
            (np.save if kind == "npy" else np.savez)(path, flat)
        data = read_faces(path)
        assert data.sizes == FACES.shape[:4]
        n = np.ravel_multi_index((1, 2, 0, 1), data.sizes)
        assert data.classes[n].tolist() == [1, 2, 0, 1]
        np.testing.assert_array_equal(data.images.take([n], "float64").reshape(8, 8), FACES[1, 2, 0, 1] / 255)
        np.save(tmp_path / "short.npy", flat[1:])
        with pytest.raises(InputError, match=r"holds uint8 \(23, 8, 8\).*2 x 3 x 2 x 2"):
            read_faces(tmp_path / "short.npy")

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_tensors_without_values_or_of_many_shapes(self, tmp_path):
        torch.save(torch.empty(FACES.shape, dtype=torch.uint8, device="meta"), tmp_path / "meta.pth")
        parts = [torch.zeros(n, dtype=torch.uint8) for n in (2, 3)]
        for name, layout in (("strided", torch.strided), ("jagged", torch.jagged)):
            torch.save(torch.nested.nested_tensor(parts, layout=layout), tmp_path / f"{name}.pth")
        for name, said in (("meta", "without values"), ("strided", "dense tensor"), ("jagged", "dense tensor")):
            with pytest.raises(InputError, match=rf"{name}\.pth: holds a .*{said}"):
                read_faces(tmp_path / f"{name}.pth")

    @pytest.mark.parametrize("shape", [(1,) * 70 + (24,), (True, 1, 24)])
    def test_shapes_that_no_array_has(self, tmp_path, shape):
        with open(tmp_path / "odd.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.write(bytes(24))
        with pytest.raises(InputError, match=rf"odd\.npy: declares a shape of {len(shape)} axes"):
            map_bytes(tmp_path / "odd.npy")

    def test_progress_counts_images(self, tmp_path):
        np.savez(tmp_path / "faces.npz", FACES)
        calls = []
        read_faces(tmp_path / "faces.npz", progress=lambda *call: calls.append(call))
        assert calls[-1] == (24, 24)

    @pytest.mark.parametrize("wrong", [FACES.astype(np.float32), FACES[0], FACES[:, :0]])
    @pytest.mark.parametrize("kind", ["npy", "npz", "pth"])
    def test_other_arrays_are_refused(self, tmp_path, wrong, kind):
        path = tmp_path / f"faces.{kind}"
        if kind == "pth":
            torch.save(torch.from_numpy(wrong), path)
        else:
            (np.save if kind == "npy" else np.savez)(path, wrong)
        with pytest.raises(InputError, match=r"faces\.np|faces\.pth"):
            read_faces(path)

    def test_hostile_files_are_refused(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (open, (str(tmp_path / "exploded"), "w"))

        files = {name: tmp_path / f"{name}" for name in ("pickle.npy", "pickle.pth", "huge.npy", "huge.pth", "two.npz")}
        np.save(files["pickle.npy"], np.array([Bomb()]), allow_pickle=True)
        files["pickle.pth"].write_bytes(pickle.dumps(Bomb()))
        with open(files["huge.npy"], "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (50, 21, 11, 11, 640, 640)}
            np.lib.format.write_array_header_1_0(file, header)
        torch.save(torch.zeros(1, dtype=torch.uint8).expand(50, 21, 11, 11, 640, 640), files["huge.pth"])
        np.savez(files["two.npz"], a=FACES, b=FACES)
        for name, path in files.items():
            with pytest.raises(InputError, match=name.replace(".", r"\.")):
                read_faces(path)
        assert not (tmp_path / "exploded").exists()

    def test_damaged_and_missing(self, tmp_path):
        np.save(tmp_path / "faces.npy", FACES)
        whole = (tmp_path / "faces.npy").read_bytes()
        rng = np.random.default_rng(0)
        for cut in [0, 5, 60, 127, len(whole) - 1]:
            (tmp_path / "cut.npy").write_bytes(whole[:cut])
            with pytest.raises(InputError, match="cut"):
                read_faces(tmp_path / "cut.npy")
        for _ in range(50):
            flipped = bytearray(whole)
            flipped[rng.integers(0, 128)] ^= 1 << rng.integers(0, 8)
            (tmp_path / "flipped.npy").write_bytes(flipped)
            with contextlib.suppress(InputError):
                assert len(read_faces(tmp_path / "flipped.npy")) == 24
        (tmp_path / "faces.txt").write_text("")
        for name, kind in [
            ("none.npy", OSError),
            ("none.pth", OSError),
            ("none.npz", OSError),
            ("faces.txt", InputError),
        ]:
            with pytest.raises(kind):
                read_faces(tmp_path / name)
        (tmp_path / "folder.npy").mkdir()
        with pytest.raises(InputError, match="folder"):
            read_faces(tmp_path / "folder.npy")
