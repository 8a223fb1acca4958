"""The kernels against rigorous enclosures and against the reference: values, gradients, errors, bits, memory, code."""

import errno
import functools
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import problems
import pytest
import tcvae_kernels
import test_truth
from autograd import grad
from autograd import numpy as anp
from hypothesis import given, settings
from problems import batches
from tcvae_kernels import _jit, compiling, pairwise, threads
from tcvae_kernels import exp as exponential
from tcvae_kernels.pairwise import Weights, log_sums_and_gradient

from tcvae_ref import InputError, estimators
from tcvae_ref.estimators import log_sum_exp
from tcvae_ref.gaussian import LOG_2PI, log_density_matrix

COMPILED = tcvae_kernels.COMPILED
CASES = 2000 if COMPILED else 20  # for each of five estimators
TOLERANCE = 4 * 2.0**-52  # 4 ulp of the conditioned scale, in float64
F32 = 2.0**29  # how much larger the ulp of float32 is
ULP = {"float64": 1.0, "float32": F32}
CUT = {"float64": 2.0**-960, "float32": 2.0**-90}  # shares below it are dropped
DTYPES = ("float64", "float32")
HERE = Path(__file__).parent
interpreted_is_slow = pytest.mark.skipif(not COMPILED, reason="needs compiled kernels: NUMBA_DISABLE_JIT is set")


def log_qz(name):
    return getattr(tcvae_kernels, f"log_qz_{name}")


def expected_log_qz(name):
    return getattr(tcvae_kernels, f"expected_log_qz_{name}")


def batch(rng, M, D, dtype="float64", S=None, spread=1.0):
    """(z, mu, log_var), z_i of posterior i, or S samples of the first posteriors, in turn."""
    mu, log_var = rng.standard_normal((M, D)), spread * rng.uniform(-1.0, 1.0, (M, D))
    own = np.arange(M if S is None else S) % M
    z = mu[own] + np.exp(0.5 * log_var[own]) * rng.standard_normal((len(own), D))
    return tuple(a.astype(dtype) for a in (z, mu, log_var))


def script(text, *arguments, **environment):
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", text, *arguments],
        env={**os.environ, **environment},
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def log_weights(estimator, M, N):
    if estimator in ("exact", "minibatch"):
        return np.full((1, 1), -np.log(M))
    return getattr(estimators, f"log_weights_{estimator}")(M, N)


def scales(z, mu, log_var, log_w, a, b, dropped):
    """tests/truth.py's scales in NumPy, for sum_i a_i joint_i + sum_id b_id marginals_id; shares err by `dropped`."""
    u = (z[:, None] - mu) * np.exp(-log_var)
    q = (z[:, None] - mu) * u
    L, size = -0.5 * (q + log_var + LOG_2PI), 0.5 * (q + abs(log_var) + LOG_2PI)

    def mixture(L, size, weight):
        y = log_sum_exp(L + log_w)[:, None]
        p, A = np.exp(L + log_w - y), size + abs(log_w)
        reach = np.sum(p * A, axis=1, keepdims=True)
        return (abs(y) + reach)[:, 0], abs(weight)[:, None] * (p * (1.0 + A + reach + abs(y)) + dropped)

    parts = [mixture(L[..., d], size[..., d], b[:, d]) for d in range(z.shape[1])]
    joint, shares = mixture(L.sum(axis=2), size.sum(axis=2), a)
    P = shares[..., None] + np.stack([p for _, p in parts], axis=2)
    at_mu = P * abs(u)
    gradients = at_mu.sum(axis=1), at_mu.sum(axis=0), (P * 0.5 * (q + 1.0)).sum(axis=0)
    return joint, np.stack([m for m, _ in parts], axis=1), gradients


def deviations(estimator, z, mu, log_var, N):
    """Values, and gradients with random cotangents, against the reference in float64: largest error in 4 ulp."""
    rng, dtype = np.random.default_rng(len(mu)), str(z.dtype)
    a, b = rng.standard_normal(len(z)).astype(dtype), rng.standard_normal(z.shape).astype(dtype)
    narrow, wide = (z, mu, log_var), tuple(x.astype("float64") for x in (z, mu, log_var))
    log_w, unit = log_weights(estimator, len(mu), N), TOLERANCE * ULP[dtype]

    def values_and_gradient(fn, arguments):
        slopes = grad(lambda *x: anp.sum(fn(*x, N).joint * a) + anp.sum(fn(*x, N).marginals * b), (0, 1, 2))
        return *fn(*arguments, N), *slopes(*arguments)

    got = values_and_gradient(log_qz(estimator), narrow)
    right = values_and_gradient(problems.log_qz(estimator), wide)
    joint, marginals, gradients = scales(*wide, log_w, a, b, CUT[dtype] * np.exp(np.ptp(log_w)) / unit)
    errors = [np.abs(x - y) / s for x, y, s in zip(got, right, (joint, marginals, *gradients), strict=True)]
    return np.max([e.max() for e in errors]) / unit  # nan if any is


class TestTruth:
    @pytest.mark.parametrize("estimator", problems.ALL)
    def test_values_and_gradients_lie_within_their_enclosures(self, estimator):
        rng = np.random.default_rng(7 + sum(map(ord, estimator)))
        worst = np.zeros(2)
        for _ in range(CASES):
            case = problems.case(rng, estimator)
            worst = np.maximum(
                worst, test_truth.relative_errors(estimator, log_qz(estimator), expected_log_qz(estimator), *case)
            )
        assert worst.max() < TOLERANCE, worst

    @pytest.mark.parametrize("estimator", problems.ALL)
    def test_float32(self, estimator):
        rng = np.random.default_rng(11 + sum(map(ord, estimator)))
        worst = np.zeros(2)
        for _ in range(CASES):
            case = problems.case(rng, estimator, "float32")
            worst = np.maximum(
                worst, test_truth.relative_errors(estimator, log_qz(estimator), expected_log_qz(estimator), *case)
            )
        assert worst.max() < TOLERANCE * F32, worst / F32


class TestExp:
    @pytest.mark.parametrize(
        ("dtype", "low", "high", "dense"), [("float64", -745.2, 670.0, 100_001), ("float32", -104.0, 70.0, 100_001)]
    )
    def test_within_2_ulp(self, dtype, low, high, dense):
        rng, count = np.random.default_rng(0), dense if COMPILED else 2001
        normal = np.log(float(np.finfo(dtype).smallest_normal))  # below, results are subnormal
        x = np.concatenate([
            np.linspace(low, high, count), rng.uniform(low, high, count), rng.uniform(-1, 1, count),
            rng.uniform(low, normal, count), [*(k * 0.5 * np.log(2) for k in range(-150, 150))],
            10.0 ** rng.uniform(-30, 0, count),
        ]).astype(dtype)  # fmt: skip
        x = x[(x >= low) & (x <= high)]
        error = np.abs(self.exp(x).astype(np.longdouble) - np.exp(x.astype(np.longdouble)))
        ulp = np.spacing(np.exp(x.astype(np.longdouble)).astype(dtype)).astype(np.longdouble)
        assert np.max(error / ulp) <= 2.0, x[np.argmax(error / ulp)]

    def exp(self, x):
        out = np.empty_like(x)
        with np.errstate(all="ignore"):
            exponential.exp_into(x, out)
        return out

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_special_arguments(self, dtype):
        x = np.array([0.0, -0.0, -np.inf, np.nan, -750.0, -1e30, np.finfo(dtype).min], dtype)
        np.testing.assert_array_equal(self.exp(x), np.array([1, 1, 0, np.nan, 0, 0, 0], dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_nan_stays_one_whatever_its_payload(self, dtype):
        bits = np.array(np.nan, dtype).view(f"u{np.dtype(dtype).itemsize}")
        assert np.isnan(self.exp((bits + np.arange(1100, dtype=bits.dtype)).view(dtype))).all()

    @pytest.mark.parametrize(("dtype", "cut"), [("float64", exponential.CUT_64), ("float32", exponential.CUT_32)])
    def test_weights_below_the_cut_are_0(self, dtype, cut):
        cut = np.dtype(dtype).type(cut)
        for x, positive in ((cut, True), (np.nextafter(cut, -np.inf, dtype=dtype), False), (2 * cut, False)):
            with np.errstate(all="ignore"):
                total = exponential.sum_of_weights(np.full(1, x, dtype))
            assert (total > 0) == positive
            assert abs(total - positive * np.exp(float(x) / 2)) <= 1e-5 * CUT[dtype]

    @pytest.mark.skipif(COMPILED, reason="called from Python: `test_interpreted` runs it")
    @pytest.mark.parametrize(("dtype", "cut"), [("float64", exponential.CUT_64), ("float32", exponential.CUT_32)])
    def test_four_are_each_one(self, dtype, cut):
        """In each place of four the same, also at the cut."""
        real = np.dtype(dtype).type
        x = [real(v) for v in (cut, -0.7, -33.3, np.nextafter(real(cut), real(-np.inf)), 0.0)]
        with np.errstate(all="ignore"):
            one = [exponential.weight(v) for v in x]
            for k in range(5):
                rotated = [x[(k + i) % 5] for i in range(4)]
                assert list(exponential.weight_four(*rotated)) == [one[(k + i) % 5] for i in range(4)]
        assert one[0] > 0
        assert one[3] == 0


MACHINE_CODE = """
import numba
import numpy as np
from tcvae_kernels import exp, pairwise
for dtype in (np.float64, np.float32):
    A, a, one = np.zeros((8, 64), dtype), np.zeros(64, dtype), dtype(1)
    Z, eight = np.zeros((8, 4)), (a,) * 8
    exp.sum_of_weights(a)
    pairwise._joint_exponentials(a, a, a, a, a, one, one, one, one)
    pairwise._exponentials(A, 0, 0, a, a, a, None, (a, a, a, a), (a, a, a, a), None)
    pairwise._exponentials(A, 0, 0, a, a, a, (a, a, a, a), None, None, None)
    pairwise._exponentials(A, 0, 0, a, a, a, None, None, (a, a, a, a), (a, a, a, a))
    pairwise._joint_sums(A, 0, 0, a, a, eight, a, a, Z)
    pairwise._own_sums(A, 0, 0, a, a, eight, (one,) * 8, a, a, Z)
@numba.njit
def library(x):
    return np.exp(x)
library(1.0)
for f in (exp.sum_of_weights, pairwise._joint_exponentials, pairwise._exponentials,
          pairwise._joint_sums, pairwise._own_sums, library):
    for form, (signature, text) in enumerate(f.inspect_asm().items()):
        name = f.__name__ + " " + str(form)
        print("===", name, "float32" if "float32" in str(signature) else "float64", text, sep=chr(10))
"""


@interpreted_is_slow
def test_compiled_text_has_packed_arithmetic_and_calls_no_exponential(tmp_path):
    """From a fresh cache: numba has no text of what it loads."""
    packed = {
        "float64": r"\bv?(?:fn?m(?:add|sub)\d+|mul)pd\b|\bfml[as]\s+v\d+\.2d",
        "float32": r"\bv?(?:fn?m(?:add|sub)\d+|mul)ps\b|\bfml[as]\s+v\d+\.4s",
    }
    calls = r"(?<![\w.])(?:__svml_|_ZGV\w+?_|\w*numba_)?exp[f2m\d]*(?![\w.])"
    seen = {}
    for block in script(MACHINE_CODE, NUMBA_CACHE_DIR=str(tmp_path)).split("===\n")[1:]:
        name, dtype, text = block.split("\n", 2)
        seen[name, dtype] = bool(re.search(packed[dtype], text)), bool(re.search(calls, text))
    assert seen.pop(("library 0", "float64"))[1], "the pattern does not find a call of the library's exp"
    assert len(seen) == 14
    assert all(found == (True, False) for found in seen.values()), seen


class TestExtremes:
    def judge(self, estimator, z, mu, log_var, N):
        errors = test_truth.relative_errors(estimator, log_qz(estimator), expected_log_qz(estimator), z, mu, log_var, N)
        assert max(errors) < TOLERANCE, errors
        assert deviations(estimator, z, mu, log_var, N) < 1.0  # sees nan as well

    @pytest.mark.parametrize("spread", [7.9, 8.1, 40.0, 200.0])
    @pytest.mark.parametrize("estimator", problems.ALL)
    def test_log_variances_far_apart(self, estimator, spread):
        rng = np.random.default_rng(0)
        for M, D in ((2, 1), (5, 3), (8, 2)):
            self.judge(estimator, *batch(rng, M, D, spread=spread), M if estimator == "exact" else 50)
            case = batch(rng, M, D, "float32", spread=min(spread, 80.0))  # exp(200) does not fit float32
            assert deviations(estimator, *case, M if estimator == "exact" else 50) < 1.0

    @pytest.mark.parametrize("narrow", [-8.0, -15.9, -16.1, -40.0, -200.0, -400.0, -600.0])
    def test_one_narrow_posterior(self, narrow):
        """The others' exponents would be large beside their own size, were they counted from the narrowest."""
        rng = np.random.default_rng(8)
        for estimator in problems.ALL:
            z, mu, log_var = batch(rng, 6, 2, spread=0.1)
            log_var[2], z[2] = narrow, mu[2]
            self.judge(estimator, z, mu, log_var, 6)
            if narrow > -80.0:
                assert deviations(estimator, *(x.astype("float32") for x in (z, mu, log_var)), 6) < 1.0

    @pytest.mark.parametrize("far", [5.0, 30.0, 1e3, 1e8])
    def test_samples_far_from_every_component(self, far):
        """At 30 the sum of a row falls below TINY, at 1e3 every term is 0: both are redone from the row's maximum."""
        rng = np.random.default_rng(1)
        z, mu, log_var = batch(rng, 6, 3, S=9)
        z[::2] += far
        z[1] -= far
        self.judge("exact", z, mu, log_var, 6)
        if far < 1e8:
            assert deviations("exact", *(a.astype("float32") for a in (z, mu, log_var)), 6) < 1.0

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_samples_so_far_away_that_squares_round_to_large_numbers(self, dtype):
        for M in (1, 2, 4, 9):
            for power in range(3, 18 if dtype == "float32" else 60):
                z, mu, log_var = batch(np.random.default_rng(power), M, 2)
                case = (a.astype(dtype) for a in (z + 10.0**power, mu, log_var))
                assert deviations("exact", *case, M) < 1.0

    @pytest.mark.parametrize("estimator", ["exact", "mss"])
    def test_samples_so_far_away_that_their_squares_just_fit(self, estimator):
        """t^2 up to 1e307: nothing else on the way may be larger."""
        mu, log_var, direction = np.random.default_rng(0).standard_normal((3, 5, 2))
        for far in (1e140, 1e146, 1e150, 1e153):
            z = far * np.abs(direction)

            def slopes(module, z=z):
                of = getattr(module, f"expected_log_qz_{estimator}")
                return grad(lambda *a: of(*a, 5).joint + of(*a, 5).marginals, (0, 1, 2))(z, mu, 0.1 * log_var)

            for got, expected in zip(slopes(tcvae_kernels), slopes(estimators), strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-12)

    @pytest.mark.parametrize(("at_own", "at_next"), [(1.0, 0.5), (0.5, 1.0), (0.25, 0.5)])
    def test_either_special_weight_alone(self, at_own, at_next):
        z, mu, log_var = np.random.default_rng(4).standard_normal((3, 6, 2))
        w = np.ones((6, 6))
        w[np.arange(6), (np.arange(6) + 1) % 6] = at_next
        w[np.arange(6), np.arange(6)] = at_own
        expected = estimators.log_qz_rows(z, mu, log_var, np.log(w))
        weights = pairwise.Weights(0.0, at_own, at_next)
        ones = np.ones((6, 2))
        for joint, marginals, *_ in (
            pairwise.log_sums(z, mu, log_var, weights),
            pairwise.log_sums_and_gradient(z, mu, log_var, weights, ones[:, 0], ones),
        ):
            np.testing.assert_allclose(joint, expected.joint, rtol=1e-13)
            np.testing.assert_allclose(marginals, expected.marginals, rtol=1e-13)

    @pytest.mark.parametrize(("dtype", "log_var", "far"), [("float64", 666.0, 28.5), ("float32", 150.0, 7.0)])
    def test_wide_posteriors_with_all_samples_in_their_tails(self, dtype, log_var, far):
        """A row's sum, just above TINY, times 1 / sigma would underflow; the derivative in z does not."""
        rng = np.random.default_rng(0)
        mu, log_var = np.zeros((4, 2)), log_var + 0.1 * rng.standard_normal((4, 2))
        z = far * np.exp(0.5 * log_var)
        self.assert_marginal_slopes(5, *(a.astype(dtype) for a in (z, mu, log_var)))

    def test_own_terms_of_tiny_weight(self):
        """z - mu is subnormal, and a sample's own weight 1 / N: neither may be multiplied by the other first."""
        mu = np.array([[-2, -3], [3, -1]], "float32") * np.finfo("float32").smallest_subnormal
        log_var = np.array([[-25.8, -47.0], [-22.7, 38.1]], "float32")
        self.assert_marginal_slopes(2**62, np.zeros((2, 2), "float32"), mu, log_var)

    @pytest.mark.parametrize("cotangent", [1e-10, 1e-20, 1e-25])
    def test_small_cotangents_of_narrow_posteriors(self, cotangent):
        """1 / sigma makes up for a term that is tiny beside its row's sum, if nothing underflows before."""
        mu = np.array([[0.5], [16.0 * np.exp(-80.0)]], "float32")
        log_var = np.array([[0.0], [-160.0]], "float32")
        self.assert_marginal_slopes(4, np.zeros((2, 1), "float32"), mu, log_var, cotangent)

    def assert_marginal_slopes(self, N, z, mu, log_var, cotangent=1.0):
        """Derivatives in z are those of the reference in float64."""

        def slopes(module, *arguments):
            return grad(lambda *a: anp.sum(module.log_qz_mss(*a, N).marginals) * cotangent)(*arguments)

        expected = slopes(estimators, *(a.astype("float64") for a in (z, mu, log_var)))
        assert np.abs(expected).min() > np.finfo(z.dtype).smallest_normal
        rtol = 1e-12 if z.dtype == np.float64 else 1e-5
        np.testing.assert_allclose(slopes(tcvae_kernels, z, mu, log_var), expected, rtol=rtol)

    @pytest.mark.parametrize("D", [1, 2, 3, 10, 39, 40])
    def test_dimensions(self, D):
        rng = np.random.default_rng(D)
        for estimator in ("mss", "exact"):
            self.judge(estimator, *batch(rng, 6, D), 6)
            assert deviations(estimator, *batch(rng, 6, D, "float32"), 6) < 1.0

    @pytest.mark.parametrize("estimator", problems.BATCH)
    @pytest.mark.parametrize("N", [10**9, 10**15])
    def test_huge_data_sets(self, estimator, N):
        rng = np.random.default_rng(2)
        for spread in (1.0, 40.0):
            self.judge(estimator, *batch(rng, 5, 2, spread=spread), N)
        assert deviations(estimator, *batch(rng, 5, 2, "float32"), N) < 1.0

    @pytest.mark.parametrize("estimator", problems.ALL)
    def test_duplicates(self, estimator):
        z, mu, log_var = (np.tile(a, (6, 1)) for a in batch(np.random.default_rng(3), 1, 2))
        self.judge(estimator, z, mu, log_var, 6)

    @pytest.mark.parametrize("M", [2, 3, 4, 5, 7, 8, 9])
    def test_groups_of_four(self, M):
        rng = np.random.default_rng(M)
        for dtype in DTYPES:
            for estimator in problems.ALL:
                assert deviations(estimator, *batch(rng, M, 2, dtype), M) < 1.0
            assert deviations("exact", *batch(rng, 1, 2, dtype, S=M), 1) < 1.0

    @interpreted_is_slow
    @pytest.mark.parametrize("M", [1023, 1024, 1025, 2047, 2048, 2049])
    def test_edges_of_tiles(self, M):
        """Rows of special weights at both ends of a tile, and the neighbour of the last row in the first tile."""
        rng = np.random.default_rng(M)
        for dtype in DTYPES:
            assert deviations("mss", *batch(rng, M, 2, dtype), 3 * M) < 1.0

    @interpreted_is_slow
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_edges_of_several_tiles(self, dtype):
        """Values only, some rows at a time: what autograd keeps of M = 4097 takes gigabytes."""
        z, mu, log_var = batch(np.random.default_rng(4097), 4097, 2, dtype)
        got, log_w = tcvae_kernels.log_qz_mss(z, mu, log_var, 10**4), estimators.log_weights_mss(4097, 10**4)
        for rows in np.array_split(np.arange(4097), 16):
            L = log_density_matrix(z[rows].astype("float64"), mu.astype("float64"), log_var.astype("float64"))
            right = log_sum_exp(L.sum(axis=2) + log_w[rows]), log_sum_exp(L + log_w[rows][..., None])
            for ours, theirs in zip((got.joint[rows], got.marginals[rows]), right, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=10 * TOLERANCE * ULP[dtype])

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_overflow_gives_minus_infinity_as_in_the_reference(self, dtype):
        z, mu, log_var = batch(np.random.default_rng(4), 5, 2, dtype)
        z[1, 0] = z[4, 1] = 0.9 * np.finfo(dtype).max
        with np.errstate(over="ignore"):
            for estimator in problems.ALL:
                got, right = (m.log_qz(estimator)(z, mu, log_var, 5) for m in (sys.modules[__name__], problems))
                assert np.isneginf(right.joint[[1, 4]]).all()
                for ours, theirs in zip(got, right, strict=True):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-15 * ULP[dtype])

    @interpreted_is_slow
    def test_float32_error_does_not_grow_with_the_components(self):
        rng = np.random.default_rng(5)
        few, many = (deviations("exact", *batch(rng, N, 2, "float32", S=256), N) for N in (256, 8192))
        assert many < 2 * few, (few, many)
        assert many < 1.0


class TestGradients:
    @pytest.mark.parametrize(("S", "N"), [(1, 7), (4, 7), (9, 7), (30, 2)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_samples_apart_from_the_components(self, S, N, dtype):
        case = batch(np.random.default_rng(S), N, 3, dtype, S=S)
        assert deviations("exact", *case, N) < 1.0
        got, right = (
            grad(lambda *a, m=m: sum(m.expected_log_qz_exact(*a, N)), (0, 1, 2))(*case)
            for m in (tcvae_kernels, estimators)
        )
        for ours, theirs in zip(got, right, strict=True):
            assert ours.shape == theirs.shape
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-13 * ULP[dtype], atol=1e-14 * ULP[dtype])

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_values_beside_a_gradient_where_a_row_overflows(self, dtype):
        """In each place of four: too far for any square, far, and near; no row takes another's maximum."""
        z, mu, log_var = batch(np.random.default_rng(9), 5, 2, dtype, S=9)
        for place in range(4):
            far = z.copy()
            far[place::4, 0] = 0.9 * np.finfo(dtype).max
            far[(place + 2) % 4 :: 4] = 1e3
            with np.errstate(over="ignore"):
                right = estimators.log_qz_rows(far, mu, log_var, 0.0)
            got = log_sums_and_gradient(far, mu, log_var, Weights(0.0, 1.0, 1.0), np.ones(9), np.ones((9, 2)))
            assert np.isneginf(right.joint[place::4]).all()
            for ours, theirs in zip(got[:2], right, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=4e-15 * ULP[dtype], atol=4e-15 * ULP[dtype])

    def test_means_of_one_dimension(self):
        case = batch(np.random.default_rng(10), 3, 1)
        got, right = (
            grad(lambda *x, m=m: m.expected_log_qz_mws(*x, 9).joint, (0, 1, 2))(*case)
            for m in (tcvae_kernels, estimators)
        )
        for ours, theirs in zip(got, right, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("estimator", problems.ALL)
    @pytest.mark.parametrize("argument", [0, 1, 2, (1, 2), (0, 2)])
    def test_weighted_means_in_some_of_the_arguments(self, estimator, argument):
        case = batch(np.random.default_rng(6), 7, 3)
        for a, b in ((1.0, 0.0), (0.0, 1.0), (-3.1, 0.7)):

            def weighted(fn, a=a, b=b):
                return grad(lambda *x: a * fn(*x, 7).joint + b * fn(*x, 7).marginals, argument)(*case)

            got, right = weighted(expected_log_qz(estimator)), weighted(problems.expected_log_qz(estimator))
            for ours, theirs in zip(np.atleast_3d(got), np.atleast_3d(right), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("inner", [0, 1])
    @pytest.mark.parametrize("outer", [0, 1])
    @pytest.mark.parametrize("name", ["log_qz_mss", "expected_log_qz_mss"])
    def test_second_derivatives_are_refused(self, name, inner, outer):
        case, fn = batch(np.random.default_rng(7), 4, 2), getattr(tcvae_kernels, name)
        with pytest.raises(InputError, match=r"second derivative.*tcvae_ref"):
            grad(lambda *x: anp.sum(grad(lambda *y: anp.sum(fn(*y, 9)[0]), inner)(*x) * x[outer]), outer)(*case)


@given(batches())
@settings(max_examples=100 if COMPILED else 10)
def test_kernels_are_the_reference(case):
    z, mu, log_var, N = case
    for estimator in problems.ALL:
        size = len(mu) if estimator == "exact" else N
        assert deviations(estimator, z, mu, log_var, size) < 1.0
        got, right = (m.expected_log_qz(estimator)(z, mu, log_var, size) for m in (sys.modules[__name__], problems))
        np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-12)


class TestErrors:
    Z = np.zeros((3, 2))
    BAD = {  # noqa: RUF012
        "dtypes": (Z, Z, Z.astype("float32"), 3),
        "integers": (Z.astype(int), Z.astype(int), Z.astype(int), 3),
        "nan": (Z, np.where(np.arange(6).reshape(3, 2) == 3, np.nan, Z), Z, 3),
        "infinite": (Z, Z, Z - np.inf, 3),
        "rows": (Z, Z, Z[:2], 3),
        "columns": (Z[:, :1], Z, Z, 3),
        "vectors": (Z[0], Z[0], Z[0], 3),
        "empty": (Z[:0], Z[:0], Z[:0], 3),
        "list of z": (Z.tolist(), Z, Z, 3),
        "list of log_var": (Z, Z, Z.tolist(), 3),
        "M > N": (Z, Z, Z, 2),
        "M = 1": (Z[:1], Z[:1], Z[:1], 5),
        "N = 0": (Z, Z, Z, 0),
        "N = 9": (Z, Z, Z, 9),
        "float N": (Z, Z, Z, 3.0),
        "bool N": (Z, Z, Z, True),
        "variance": (Z, Z, Z + 1500, 3),
        "variance, N": (Z, Z, Z - 1500, 0),
        "float32 variance": (*(Z.astype("float32"),) * 2, Z.astype("float32") - 178, 3),
    }

    @pytest.mark.parametrize("case", BAD)
    def test_the_same_as_the_references(self, case):
        raised = 0
        for estimator in problems.ALL:
            for name in ("log_qz", "expected_log_qz"):
                ours, theirs = (self.error(m, f"{name}_{estimator}", case) for m in (tcvae_kernels, estimators))
                assert ours == theirs
                raised += ours is not None
        assert raised

    def error(self, module, name, case):
        try:
            getattr(module, name)(*self.BAD[case])
        except Exception as error:
            return type(error), str(error)
        return None

    def test_checks_see_through_autograd(self):
        with pytest.raises(InputError, match="nan or infinite"):
            grad(lambda z: tcvae_kernels.expected_log_qz_mws(z, self.Z, self.Z, 3)[0])(np.full((3, 2), np.nan))


@pytest.fixture
def restored():
    before = tcvae_kernels.get_num_threads()
    yield
    tcvae_kernels.set_num_threads(before)


def everything(case, N=10**4):
    """Values, means, gradients."""
    z, mu, log_var = case
    value = tcvae_kernels.log_qz_mss(*case, N)
    means = tcvae_kernels.expected_log_qz_mss(*case, N)
    slopes = grad(lambda *a: sum(tcvae_kernels.expected_log_qz_mss(*a, N)), (0, 1, 2))(z, mu, log_var)
    return b"".join(np.asarray(a).tobytes() for a in (*value, *means, *slopes))


@pytest.mark.usefixtures("restored")
class TestThreads:
    def test_a_signals_handler_may_call_kernels_wherever_it_interrupts_one(self):
        """Where it comes, this thread may hold the locks that all calls share."""
        a, found = np.zeros((300, 2)), []

        def interrupted():
            with threads._lock, pairwise._scratch._lock:
                found.append(tcvae_kernels.log_qz_exact(a, a, a, 300).joint)

        caller = threading.Thread(target=interrupted, daemon=True)
        caller.start()
        caller.join(60.0)
        assert len(found) == 1, "the call waits for a lock of its own thread's"

    @interpreted_is_slow
    @pytest.mark.parametrize("M", [300, 2500])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_same_bits_for_any_number_of_threads(self, M, dtype):
        case = batch(np.random.default_rng(M), M, 3, dtype)
        bits = set()
        for count in (1, 2, 4, 4, 2):
            tcvae_kernels.set_num_threads(count)
            bits.add(everything(case))
        assert len(bits) == 1

    def test_set_and_get(self):
        tcvae_kernels.set_num_threads(3)
        assert tcvae_kernels.get_num_threads() == 3
        for wrong, error in ((0, InputError), (-1, InputError), (1.5, TypeError), (True, TypeError), ("2", TypeError)):
            with pytest.raises(error, match="set_num_threads: threads="):
                tcvae_kernels.set_num_threads(wrong)
        assert tcvae_kernels.get_num_threads() == 3

    def test_callers_at_the_same_time(self):
        tcvae_kernels.set_num_threads(2)
        cases = [batch(np.random.default_rng(k), 40 if COMPILED else 6, 3, DTYPES[k % 2]) for k in range(8)]
        alone = [everything(case) for case in cases]
        with ThreadPoolExecutor(4) as callers:
            for _ in range(5 if COMPILED else 1):
                assert list(callers.map(everything, cases)) == alone

    def test_the_number_changes_while_kernels_run(self):
        case = batch(np.random.default_rng(0), 300 if COMPILED else 6, 3)
        tcvae_kernels.set_num_threads(1)
        alone = everything(case)
        with ThreadPoolExecutor(3) as callers:
            results = [callers.submit(everything, case) for _ in range(20 if COMPILED else 2)]
            for count in range(1, 9):
                tcvae_kernels.set_num_threads(count)
                time.sleep(0.005)
            assert {r.result() for r in results} == {alone}

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_an_error_in_a_block_is_raised_and_the_next_call_works(self, count):
        tcvae_kernels.set_num_threads(count)
        for bad in (0, 3, 15):
            done = np.zeros(16)

            def work(b, bad=bad, done=done):
                time.sleep(0.001)
                if b == bad:
                    raise KeyError(b)
                done[b] += 1

            with pytest.raises(KeyError):
                threads.run(work, 16)
            assert done[bad] == 0
            threads.run(functools.partial(work, bad=None), 16)
            assert done.max() <= 2

    def test_the_callers_error_state_holds_on_every_thread(self):
        tcvae_kernels.set_num_threads(3)
        together, states = threading.Barrier(3), []

        def work(b):
            together.wait(10.0)
            states.append(np.geterr()["over"])

        for state in ("raise", "ignore"):
            with np.errstate(over=state):
                threads.run(work, 3)
        assert states == [*["raise"] * 3, *["ignore"] * 3]

    @pytest.mark.skipif(threads._processor is None, reason="the system does not send threads to processors")
    def test_helpers_wake_on_other_processors_than_their_caller(self, monkeypatch):
        """And may use all that it may, once awake. The numbers of processors are made up: it may have but one."""
        tcvae_kernels.set_num_threads(3)
        together, sent, caller = threading.Barrier(3), [], threading.get_native_id()
        monkeypatch.setattr("os.sched_getaffinity", {0: {2, 5, 7}}.__getitem__)  # the caller's
        monkeypatch.setattr("os.sched_setaffinity", lambda *of: sent.append((threading.get_native_id(), *of)))
        threads.run(lambda block: together.wait(10.0), 3)  # now there are helpers
        helpers = set(threads._helping)
        assert len(helpers) >= 2
        assert caller not in helpers
        for here, elsewhere in ((2, {5, 7}), (7, {2, 5}), (4, {2, 5, 7})):
            sent.clear()
            monkeypatch.setattr(threads, "_processor", lambda here=here: here)
            threads.run(lambda block: together.wait(10.0), 3)
            before = [of for of in sent if of[0] == caller]
            assert sent[: len(before)] == before
            assert sorted(before) == sorted((caller, helper, elsewhere) for helper in helpers)
            after = sent[len(before) :]
            assert len(after) == 2
            assert all(helper in helpers and (who, where) == (0, {2, 5, 7}) for helper, who, where in after)

    @pytest.mark.skipif(threads._processor is None, reason="the system does not send threads to processors")
    def test_helpers_are_not_sent_where_that_is_no_use_or_not_allowed(self, monkeypatch):
        def refuse(*of):
            sent.append(of)
            raise PermissionError("not allowed")

        tcvae_kernels.set_num_threads(2)
        done, sent = np.zeros(8), []
        monkeypatch.setattr("os.sched_setaffinity", refuse)
        for count, tried in ((1, False), (17, False), (2, True), (16, True)):
            sent.clear()
            processors = set(range(count))
            monkeypatch.setattr("os.sched_getaffinity", {0: processors}.__getitem__)
            assert threads._send_elsewhere([1]) == (processors if tried else set())
            assert bool(sent) == tried
        threads.run(lambda block: done.__setitem__(block, 1.0), 8)
        assert done.all()

    def test_threads_that_cannot_be_had(self, monkeypatch):
        """Those that are there help, and are waited for; the rest is done without."""
        done = np.zeros(8)

        def refuse(*arguments):
            raise RuntimeError("can't start new thread")

        def work(b):
            time.sleep(0.2 if threading.current_thread() is not threading.main_thread() else 0.01)
            done[b] += 1

        tcvae_kernels.set_num_threads(2)
        threads.run(work, 8)
        monkeypatch.setattr("_thread.start_new_thread", refuse)
        tcvae_kernels.set_num_threads(100)
        threads.run(work, 8)
        assert (done == 2).all()
        monkeypatch.setattr(threads, "_helpers", 0)
        threads.run(work, 8)
        assert (done == 3).all()

    @pytest.mark.parametrize("count", [2, 3])
    def test_work_that_calls_kernels(self, count):
        """Such as that of a progress hook: no thread waits for one that waits for it."""
        tcvae_kernels.set_num_threads(count)
        done = np.zeros((6, 4))

        def within(b, c):
            time.sleep(0.002)
            done[b, c] += 1

        def work(b):
            threads.run(functools.partial(within, b), 4)

        calling = threading.Thread(target=threads.run, args=(work, 6), daemon=True)
        calling.start()
        calling.join(30)
        assert not calling.is_alive()
        assert (done == 1).all()

    def test_an_interrupt_at_any_moment(self):
        """It comes through, nobody waits for ever for what was interrupted, and nothing of it goes on."""
        tcvae_kernels.set_num_threads(3)
        rng, begun = np.random.default_rng(0), []
        alarms = []

        def work(block):
            begun.append(block)
            time.sleep(1e-5)

        def interrupt(number, frame):
            alarms.append(number)
            raise KeyboardInterrupt

        def work_for_ever():
            signal.setitimer(
                signal.ITIMER_REAL, rng.uniform(1e-5, 0.01), 60.0
            )  # the second one ends a wait without end
            while True:
                threads.run(work, 50)

        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            for turn in range(60):
                with pytest.raises(KeyboardInterrupt):
                    work_for_ever()
                assert len(alarms) == turn + 1
                before = len(begun)
                time.sleep(0.002)
                assert len(begun) == before
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        done = np.zeros(50)
        threads.run(lambda b: np.add.at(done, b, 1), 50)
        assert (done == 1).all()

    def test_compiling_ahead_leaves_the_number_as_it_is(self):
        """Others may change it, or compile ahead themselves, meanwhile."""
        tcvae_kernels.set_num_threads(5)
        seen = []

        def step(dtype):
            seen.append(threading.get_ident())
            threads.run(lambda b: seen.append(threading.get_ident()), 8)
            tcvae_kernels.set_num_threads(4)

        compiling.make_ready((step,), "float64")
        assert tcvae_kernels.get_num_threads() == 4
        assert set(seen) == {threading.get_ident()}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child(self):
        text = """
import os, sys
import test_kernels as t, numpy as np, tcvae_kernels
tcvae_kernels.set_num_threads(4)
case = t.batch(np.random.default_rng(0), 20, 2)
before = t.everything(case)
if (child := os.fork()) == 0:
    os._exit(0 if t.everything(case) == before else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert t.everything(case) == before
"""
        script(text, PYTHONFAULTHANDLER="1")


PEAK = """
import sys, numpy as np, tcvae_kernels
from autograd import grad
def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
def run(M):
    z, mu, log_var = (np.random.default_rng(k).standard_normal((M, 10)) for k in range(3))
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    before = status("VmRSS")
    tcvae_kernels.expected_log_qz_mss(z, mu, log_var, 10 * M)
    grad(lambda *a: sum(tcvae_kernels.expected_log_qz_mss(*a, 10 * M)), (0, 1, 2))(z, mu, log_var)
    return status("VmHWM") - before
run(64)
print(run(4096))
"""


@interpreted_is_slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is read from /proc")
def test_memory():
    """One (M, M) matrix would take 128 MB."""
    assert 0 < float(script(PEAK)) < 48


@interpreted_is_slow
def test_interpreted():
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", "TestTruth or TestExp or TestErrors or second"],
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed", done.stdout), done.stdout


def test_without_numba():
    text = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np, tcvae_kernels
assert not tcvae_kernels.COMPILED and "numba" not in sys.modules
Z = np.zeros((3, 2))
for name in tcvae_kernels.__all__:
    if "log_qz" in name:
        try:
            getattr(tcvae_kernels, name)(Z, Z, Z, 3)
        except tcvae_kernels.KernelsNotInstalled as error:
            assert isinstance(error, ImportError) and "tcvae-ref[kernels]" in str(error)
            print(name)
"""
    assert len(script(text).split()) == 10


COMPILE = """
import sys
import numpy as np
from tcvae_kernels import exp, pairwise
print("ready", flush=True)
sys.stdin.readline()
rng = np.random.default_rng(0)
for dtype in sys.argv[1:]:
    x, out = rng.standard_normal(100).astype(dtype), np.empty(100, dtype)
    exp.exp_into(x, out)
    np.testing.assert_allclose(out, np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(exp.sum_of_weights(-np.abs(x)), np.exp(-np.abs(x) / 2).sum(), rtol=1e-5)
    (mu, s, g), one = rng.standard_normal((3, 100)).astype(dtype), np.dtype(dtype).type(1)
    total, top = pairwise._marginal_again(mu[0], 0, mu, s, g, (one, one), out, False, 64)
    L = g - ((mu[0] - mu) * s) ** 2
    np.testing.assert_allclose([total, top], [np.exp((L - L.max()) / 2).sum(), L.max()], rtol=1e-5)
stats = exp.exp_into.stats, exp.sum_of_weights.stats, pairwise._marginal_again.stats
print(*(sum(s.cache_hits.values()) for s in stats), *(sum(s.cache_misses.values()) for s in stats))
"""


@interpreted_is_slow
class TestCache:
    def test_what_is_damaged_is_not_run(self, tmp_path):
        """Machine code is loaded only if it is what was compiled, and for the very types it was compiled for."""
        kept = _jit._CheckedFile(str(tmp_path), "kernel", "stamp")
        codes = {"float64": b"machine code", "float32": b"other machine code"}
        for types, code in codes.items():
            kept.save(types, code)
        assert {types: kept.load(types) for types in codes} == codes
        assert _jit._CheckedFile(str(tmp_path), "kernel", "another stamp").load("float64") is None
        files = sorted(tmp_path.iterdir())
        assert [path.suffix for path in files] == [".nbc", ".nbc", ".nbi"]
        for path in files:
            whole = path.read_bytes()
            for i in range(8 * len(whole)):
                content = bytearray(whole)
                content[i // 8] ^= 1 << i % 8
                path.write_bytes(content)
                assert all(kept.load(types) in (None, code) for types, code in codes.items())
            for content in (b"", whole[:-1], whole + b"x"):  # as after a power cut
                path.write_bytes(content)
                assert None in map(kept.load, codes)
            for types, code in codes.items():  # compiled anew
                kept.save(types, code)
            assert {types: kept.load(types) for types in codes} == codes

    def test_code_of_other_sources_is_not_run(self, tmp_path, monkeypatch):
        """The index is written first: after a failure in between it names a file of the sources before."""
        _jit._CheckedFile(str(tmp_path), "kernel", "old").save("float64", b"old machine code")
        new = _jit._CheckedFile(str(tmp_path), "kernel", "new")
        with monkeypatch.context() as failing:
            failing.setattr(new, "_save_data", lambda name, data: None)
            new.save("float64", b"new machine code")
        assert new.load("float64") is None
        new.save("float64", b"new machine code")
        assert new.load("float64") == b"new machine code"

    def test_files_of_another_numba_are_not_unpickled(self, tmp_path, monkeypatch):
        kept = _jit._CheckedFile(str(tmp_path), "kernel", "stamp")
        kept.save("float64", b"machine code")
        other = _jit._CheckedFile(str(tmp_path), "kernel", "stamp")
        other._version = "another"
        monkeypatch.setattr(pickle, "loads", lambda content: pytest.fail("unpickled"))
        assert other.load("float64") is None

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
    @pytest.mark.parametrize("call", ["replace", "makedirs"])
    def test_a_disk_that_cannot_be_written(self, monkeypatch, code, call):
        def fail(*arguments, **options):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, call, fail)
        assert _jit.jit(lambda x: x + 1)(1) == 2

    def test_no_place_for_one(self, monkeypatch):
        """Numba refuses a function then; ours are compiled in every process."""

        def nowhere(*arguments):
            raise RuntimeError("cannot cache function: no locator available")

        monkeypatch.setattr("numba.core.caching.CacheImpl.__init__", nowhere)
        assert _jit.jit(lambda x: x + 1)(1) == 2

    def test_a_fork_waits_for_a_compilation(self):
        """Its child would wait for the thread that compiles, which it does not have."""
        text = """
import os, signal, threading, time
import tcvae_kernels
from numba.core.compiler_lock import global_compiler_lock
def compile():
    with global_compiler_lock:
        held.set()
        time.sleep(0.5)
held = threading.Event()
thread = threading.Thread(target=compile)
thread.start()
held.wait()
if (child := os.fork()) == 0:
    signal.alarm(20)
    with global_compiler_lock:
        os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
thread.join()
"""
        script(text)


@interpreted_is_slow
def test_processes_that_fill_one_cache_together(tmp_path):
    """Numba numbers the files of its cache: two writers must not choose one number."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def start(*dtypes):
        return subprocess.Popen(
            [sys.executable, "-c", COMPILE, *dtypes],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(processes):
        for p in processes:
            assert p.stdout.readline() == "ready\n", p.stderr.read()
        for p in processes:  # all at once
            p.stdin.write("\n")
            p.stdin.flush()
        outputs = [(*p.communicate(timeout=300), p.returncode) for p in processes]
        assert all(code == 0 for _, _, code in outputs), outputs
        return [[int(n) for n in out.split()] for out, _, _ in outputs]

    finish([start("float64"), start("float32"), start("float64", "float32"), start("float32", "float64")])
    assert finish([start("float32", "float64")]) == [[2, 2, 2, 0, 0, 0]]
