"""Representations of any model: what is read out of an npz, and every file that is refused, by what it says."""

import math
import pickle
import zipfile

import numpy as np
import pytest

from tcvae_ref.checks import InputError
from tcvae_ref.data import grid, render
from tcvae_ref.representations import Representation, of_data, read

N, D, K = 12, 3, 2


def arrays(**changes):
    """A file that is as it should be, but for the changes; None leaves an array out."""
    rng = np.random.default_rng(0)
    whole = {
        "mu": rng.standard_normal((N, D)),
        "log_var": rng.uniform(-2, 0, (N, D)),
        "factors": np.indices((3, 4)).reshape(2, -1).T.copy(),
        **changes,
    }
    return {name: array for name, array in whole.items() if array is not None}


@pytest.fixture
def save(tmp_path):
    def save(**changes):
        path = tmp_path / "model.npz"
        np.savez(path, **arrays(**changes))
        return path

    return save


class TestReading:
    def test_posteriors_and_factors(self, save):
        of = read(save())
        np.testing.assert_array_equal(of.mu, arrays()["mu"])
        np.testing.assert_array_equal(of.log_var, arrays()["log_var"])
        np.testing.assert_array_equal(of.classes, arrays()["factors"])
        assert (of.name, of.factors, of.weights, len(of)) == ("model.npz", ("factor_0", "factor_1"), None, N)

    def test_codes_alone(self, save):
        of = read(save(codes=np.arange(N * D).reshape(N, D), mu=None, log_var=None))
        assert of.log_var is None
        assert of.mu.dtype == np.float64
        np.testing.assert_array_equal(of.mu.ravel(), np.arange(N * D))

    @pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
    def test_floats_of_any_width_and_order(self, save, dtype):
        small = {name: arrays()[name].astype(dtype) for name in ("mu", "log_var")}
        of = read(save(**small))
        np.testing.assert_array_equal(of.mu, small["mu"].astype(float))
        assert of.log_var.dtype == np.dtype(float)

    @pytest.mark.parametrize("dtype", ["int64", "uint8", "int32", "float32", "float64"])
    def test_whole_numbers_of_any_kind(self, save, dtype):
        of = read(save(factors=(10 * arrays()["factors"]).astype(dtype)))
        assert of.classes.dtype == np.int64
        np.testing.assert_array_equal(of.classes, 10 * arrays()["factors"])

    def test_names_and_weights(self, save):
        of = read(save(factor_names=["size", "Höhe"], weights=np.arange(N)))
        assert of.factors == ("size", "Höhe")
        np.testing.assert_array_equal(of.weights, np.arange(N))
        assert read(save(factor_names=np.array([b"a", b"b"]))).factors == ("a", "b")

    def test_other_arrays_are_left_alone(self, save):
        assert len(read(save(epoch=np.array(3), images=np.zeros((N, 4))))) == N

    def test_of_a_data_set_at_hand(self):
        data = render(grid((1, 2, 1, 3, 2)))
        of = of_data(data, np.zeros((12, 2)), np.zeros((12, 2)))
        assert of.factors == ("shape", "scale", "orientation", "posX", "posY")
        assert of.varying() == ["scale", "posX", "posY"]
        assert of.classes.dtype == np.int64


class TestFactors:
    of = Representation(
        "x", np.zeros((4, 2)), None, np.array([[0, 1, 5], [0, 2, 5], [0, 1, 6], [0, 1, 6]]), tuple("abc")
    )

    def test_which_vary(self):
        assert self.of.varying() == ["b", "c"]
        weights = np.array([1.0, 0.0, 1.0, 1.0])
        weighted = Representation("x", self.of.mu, None, self.of.classes, self.of.factors, weights)
        assert weighted.varying() == ["c"]

    def test_some_of_them(self):
        some = self.of.of(self.of.columns(["c", "b"]))
        assert some.factors == ("c", "b")
        np.testing.assert_array_equal(some.classes, self.of.classes[:, [2, 1]])

    @pytest.mark.parametrize(
        ("wanted", "match"),
        [
            (["a"], "factor='a' is unknown; choose one of b, c"),
            (["b", "b"], "each factor once"),
            ([], "of a, b, c, b, c varies in x"),
        ],
    )
    def test_mistakes(self, wanted, match):
        with pytest.raises(InputError, match=match):
            self.of.columns(wanted)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"mu": None}, "holds factors, log_var; mu is missing"),
            ({"log_var": None}, "log_var is missing; or save mu as codes"),
            ({"log_var": None, "logvar": np.zeros((N, D))}, "log_var is missing; is it 'logvar'? rename it"),
            ({"mu": None, "log_var": None}, "mu and log_var are missing"),
            ({"mu": None, "log_var": None, "mean": np.zeros(3)}, "mu and log_var are missing"),
            ({"codes": np.zeros((N, D))}, "leave out codes, or mu and log_var"),
            ({"mu": None, "codes": np.zeros((N, D))}, "leave out codes, or mu and log_var"),
            ({"factors": None}, "factors (N, K), the class of each factor of each input, is missing"),
            ({"factors": None, "factor": np.zeros((N, 1))}, "is missing; is it 'factor'? rename it"),
            ({"mu": np.zeros(N)}, f"mu has shape ({N},); (N, D) is needed"),
            ({"mu": np.zeros((0, D))}, "mu has shape (0, 3)"),
            ({"log_var": np.zeros((N, D + 1))}, f"mu has shape ({N}, 3) and log_var ({N}, 4)"),
            (
                {"log_var": np.full((N, D), -np.inf)},
                "log_var has 36 nan or infinite of 36 entries, the first at (0, 0)",
            ),
            ({"mu": np.full((N, D), np.longdouble(10) ** 400)}, "mu has 36 nan or infinite of 36 entries"),
            ({"mu": np.full((N, D), 1j)}, "mu is complex128; real numbers are needed"),
            ({"mu": np.full((N, D), "a")}, "mu is <U1; real numbers"),
            ({"mu": np.array([[object()]])}, "mu is a pickle, which is never loaded"),
            (
                {"factors": np.zeros(N, int)},
                f"factors has shape ({N},); (N, K) with N={N}, as the codes, is needed: factors[:, None]",
            ),
            ({"factors": np.zeros((N + 1, 2), int)}, f"factors has shape ({N + 1}, 2); (N, K) with N={N}"),
            ({"factors": np.zeros((N, 0), int)}, "factors has shape (12, 0)"),
            ({"factors": np.full((N, 2), "a")}, "factors is <U1; whole numbers are needed"),
            ({"factors": np.eye(N, 2) * 0.25}, "factors holds 0.25 in row 0, column 0; whole numbers"),
            ({"factors": np.full((N, 2), np.nan)}, "factors holds nan in row 0, column 0"),
            ({"factors": np.full((N, 2), 1e300)}, "factors holds 1e+300 in row 0"),
            ({"factors": np.full((N, 2), 2**64 - 1, np.uint64)}, "factors holds 1.84467e+19 in row 0"),
            ({"factor_names": ["a"]}, "factor_names is <U1 (1,); K=2 strings are needed"),
            ({"factor_names": np.arange(2)}, "factor_names is int64 (2,); K=2 strings"),
            ({"factor_names": ["a", "a"]}, "each must differ"),
            ({"factor_names": ["a", "b,c"]}, "without commas"),
            ({"factor_names": ["a", " "]}, "none empty"),
            ({"factor_names": ["a", "b\nc"]}, "are 'a', 'b\\nc'; each must differ, of printable characters"),
            ({"factor_names": np.frombuffer(b"\xff" * 8, "<U1")}, "factor_names is damaged"),
            ({"weights": np.ones(N + 1)}, f"weights has shape ({N + 1},); ({N},) is needed"),
            ({"weights": -np.ones(N)}, "lies in [-1, -1]"),
            ({"weights": np.zeros(N)}, "each must be at least 0 and one above"),
            ({"weights": np.zeros(0)}, "weights has shape (0,)"),
        ],
    )
    def test_names_the_array_and_what_is_needed(self, save, changes, match):
        path = save(**changes)
        with pytest.raises(InputError) as refusal:
            read(path)
        assert match in str(refusal.value)
        assert str(refusal.value).startswith(f"{path}: ")

    def test_no_pickle_is_loaded(self, save, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (open, (str(tmp_path / "exploded"), "w"))

        path = save(factor_names=np.array([Bomb(), Bomb()], dtype=object))
        assert b"exploded" in pickle.dumps(Bomb())
        with pytest.raises(InputError, match="factor_names is a pickle"):
            read(path)
        assert not (tmp_path / "exploded").exists()

    def test_damaged_files(self, save):
        path = save()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="not a complete npz archive"):
            read(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
        with pytest.raises(InputError, match=r"holds a\.txt; mu and log_var are missing"):
            read(path)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.npz")


def test_float32_posteriors_keep_their_digits(save):
    mu = np.full((N, D), math.pi, np.float32)
    assert read(save(mu=mu, log_var=mu)).mu[0, 0] == float(np.float32(math.pi))
