"""Every check at the edge of what it allows: the last value allowed passes, the first beyond is refused in one line."""

import math
import types

import numpy as np
import pytest
from autograd import grad

from tcvae_ref import checks, log_standard_normal
from tcvae_ref.checks import InputError, InputTypeError

TWO = np.zeros((2, 3))
SHAPE_ONLY, DTYPE_ONLY = types.SimpleNamespace(shape=(2, 3)), types.SimpleNamespace(dtype=np.dtype("float64"))


def refused(check, *arguments, error=InputError, **named):
    """The complaint, one line that begins with the place."""
    with pytest.raises(error) as caught:
        check("here", *arguments, **named)
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    return message


class TestArrays:
    @pytest.mark.parametrize("thing", [[[0.0]], 1.0, SHAPE_ONLY, DTYPE_ONLY])
    def test_no_array(self, thing):
        assert "an array is needed" in refused(checks.arrays, a=thing, error=InputTypeError)

    @pytest.mark.parametrize("dtypes", [("float16",), ("int64",), ("float64", "float32"), ("float64", "int64")])
    def test_dtypes(self, dtypes):
        arrays = {f"a{k}": np.zeros(2, dtype) for k, dtype in enumerate(dtypes)}
        assert ", ".join(dtypes[-1:]) in refused(checks.arrays, **arrays, error=InputTypeError)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_what_is_not_finite_is_counted_and_the_first_named(self, dtype):
        a = np.array([[0.0, 1.0], [np.inf, np.nan]], dtype)
        checks.arrays("here", a=a[:1], b=a[:1])
        assert "2 nan or infinite of 4 entries, the first at (1, 0)" in refused(checks.arrays, a=a)

    @pytest.mark.parametrize("shapes", [[(2, 3), (2, 1)], [(0, 3)], [(2, 0)], [(3,)], [(1, 2, 3)]])
    def test_shapes_of_matrices(self, shapes):
        assert "nothing is broadcast" in refused(
            checks.matrices, **{f"a{k}": np.zeros(s) for k, s in enumerate(shapes)}
        )
        checks.matrices("here", a=np.zeros((1, 1)), b=np.zeros((1, 1)))

    def test_vectors(self):
        checks.vectors("here", a=np.zeros(1), b=np.ones(1))
        for a, b in ((np.zeros(2), np.zeros(1)), (np.zeros(0), np.zeros(0)), (TWO, TWO)):
            refused(checks.vectors, a=a, b=b)

    def test_samples_and_posteriors(self):
        checks.samples_and_posteriors("here", np.zeros((5, 3)), TWO, TWO)
        for z, mu, log_var in ((np.zeros((5, 2)), TWO, TWO), (TWO, TWO, np.zeros((3, 3))), (TWO, TWO, TWO + 1401)):
            refused(checks.samples_and_posteriors, z, mu, log_var)

    @pytest.mark.parametrize(("dtype", "most"), [("float64", 1400.0), ("float32", 170.0)])
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_log_variances(self, dtype, most, sign):
        a = np.array([[0.0, sign * most], [1.0, 0.0]], dtype)
        checks.log_variances("here", a=a)
        assert np.isfinite(1.0 / np.exp(np.abs(0.5 * a))).all()
        a[0, 1] = np.nextafter(a[0, 1], sign * np.inf, dtype=dtype)
        assert f"reaches {sign * most:g}" in refused(checks.log_variances, a=a)

    def test_labels(self):
        for dtype in ("int64", "uint8"):
            checks.labels("here", "kinds", np.zeros((2, 3), dtype), 2)
        integers = np.zeros((2, 3), int)
        for array, rows in (
            *((integers, 3), (integers[0], 3), (integers[None], 1), (TWO, 2), (integers > 0, 2), ([[0]], 1)),
            *((DTYPE_ONLY, 2), (SHAPE_ONLY, 2), (types.SimpleNamespace(dtype=np.dtype(int)), 2)),
        ):
            assert f"integers (N, K) with N={rows}" in refused(checks.labels, "kinds", array, rows)
        checks.labels("here", "kinds", integers, 2, 3)
        for columns in (2, 4):
            assert f"with N=2, K={columns}" in refused(checks.labels, "kinds", integers, 2, columns)

    def test_one_per_row(self):
        checks.one_per_row("here", 3, a=np.zeros(3))
        for a in (np.zeros(2), np.zeros((3, 1)), np.array([0.0, np.nan, 0.0])):
            refused(checks.one_per_row, 3, a=a)

    def test_unit_interval(self):
        checks.unit_interval("here", x=np.array([0.0, 1.0]))
        for beyond in (np.nextafter(0.0, -1.0), np.nextafter(1.0, 2.0)):
            refused(checks.unit_interval, x=np.array([0.5, beyond]))


class TestNumbers:
    def test_whole_numbers(self):
        for value in (2, 5, np.int8(3), np.uint64(5)):
            number = checks.whole_number("here", "n", value, 2, 5)
            assert (type(number), number) == (int, int(value))
        assert checks.whole_number("here", "n", 10**30, 0) == 10**30
        assert "at least 2" in refused(checks.whole_number, "n", 1, 2, 5)
        assert "at most 5" in refused(checks.whole_number, "n", 6, 2, 5)
        for value in (2.0, True, "2", None, np.float64(2), np.zeros(2)):
            refused(checks.whole_number, "n", value, 0, error=InputTypeError)

    def test_real_numbers(self):
        for value in (0, 0.0, np.float32(0.5), np.int64(3), 1e308):
            number = checks.real_number("here", "x", value, 0.0)
            assert (type(number), number) == (float, float(value))
        tiny = math.ulp(0.0)
        assert checks.real_number("here", "x", tiny, 0.0, above=True) == tiny
        assert checks.real_number("here", "x", -1e308) == -1e308
        assert "finite and above 0" in refused(checks.real_number, "x", 0.0, 0.0, above=True)
        assert "finite and at least 0" in refused(checks.real_number, "x", -tiny, 0.0)
        for value in (math.nan, math.inf, -math.inf, 10**400):
            assert refused(checks.real_number, "x", value).endswith("it must be finite")
        for value in ("1", None, True, np.bool_(True), 1j):
            refused(checks.real_number, "x", value, error=InputTypeError)

    def test_batches_and_data_sets(self):
        assert checks.batch_without_replacement("here", 2, 2) == (2, 2)
        assert "at least 1" in refused(checks.batch_without_replacement, 0, 2)
        assert "M >= 2" in refused(checks.batch_without_replacement, 1, 2)
        assert "exceeds dataset_size=2" in refused(checks.batch_without_replacement, 3, 2)
        assert "at least 1" in refused(checks.batch_without_replacement, 2, 0)
        assert checks.whole_data_set("here", 1, 1) == 1
        assert "at least 1" in refused(checks.whole_data_set, 1, 0)
        for other in (2, 4):
            assert "needs all of them" in refused(checks.whole_data_set, 3, other)

    def test_options(self):
        assert checks.option("here", "kind", "exact", ("exact", "mss")) == "exact"
        assert "did you mean 'exact'?" in refused(checks.option, "kind", "exat", ("exact", "mss"))
        assert "did you mean" not in refused(checks.option, "kind", "zzz", ("exact", "mss"))
        assert "did you mean" in refused(checks.option, "kind", "abcxy", ("abcde", "mss"))  # alike by 0.6
        assert "did you mean" not in refused(checks.option, "kind", "abwxyz", ("abcdef",))  # by 0.33


def test_derivatives_of_what_has_only_a_first():
    """Boxes of one differentiation are opened; an outer one's, or two differentiations at once, are refused."""

    def opened(*values):
        return checks.differentiated_once("here", *values)

    def inner(x, y):
        assert opened(x, 2.0, x) == [1.0, 2.0, 1.0]
        with pytest.raises(InputError, match="second derivative"):
            opened(x, y)
        return x * y

    assert opened(1.0, 2.0) == [1.0, 2.0]
    assert grad(lambda y: grad(inner)(1.0, y))(3.0) == 1.0


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_matrix_is_refused():
    """Its ** and * are matrix products: a square one would give other numbers in silence."""
    z = np.matrix(np.ones((2, 2)))
    with pytest.raises(
        InputError, match=r"log_standard_normal: z is a numpy\.matrix; an array is needed: numpy\.asarray"
    ):
        log_standard_normal(z)


def test_messages_of_two_thousand_characters_are_shown_whole():
    assert checks.one_line("x" * 2000) == "x" * 2000
    assert checks.one_line("a" * 1500 + "b" * 6 + "c" * 495) == "a" * 1500 + " ... " + "c" * 495


def test_numbers_of_128_bits_are_shown_whole():
    assert f"{2**128 - 1}" in refused(checks.whole_number, "n", 2**128 - 1, 0, 5)
    assert "a number of 129 bits" in refused(checks.whole_number, "n", 2**128, 0, 5)
