"""The mixture kernels against rigorous enclosures, against SciPy and the reference: values, bits, memory, errors."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tcvae_kernels
from flint import arb, ctx
from scipy.special import logsumexp
from tcvae_kernels import mixture, threads
from truth import BITS

from tcvae_ref import InputError, estimators, metrics
from tcvae_ref.metrics import mixture_entropies, octaves

COMPILED = tcvae_kernels.COMPILED
CASES = 300 if COMPILED else 20
TOLERANCE = {"float64": 4 * 2.0**-52, "float32": 4 * 2.0**-23}  # 4 ulp of the conditioned scale
SCRIPT = """
import numpy as np
from tcvae_kernels import mixture

def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

def inputs(N):
    rng = np.random.default_rng(0)
    return rng.standard_normal(64), rng.standard_normal(N), rng.uniform(-4, -1, N), np.full(N, -np.log(N))

mixture.log_density(*inputs(10))  # compiled, or read from the cache: not what is measured
given = inputs(1_000_000)
before = memory("VmRSS")
mixture.log_density(*given)
print((memory("VmHWM") - before) * 1024 / 1e6)
"""


@pytest.fixture
def restored_threads():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def density_truth(points, mu, log_var, log_weights):
    """log sum_n w_n N(x; mu_n, sigma_n^2) by ball arithmetic, and the scale its error is measured on.

    The scale is |y| + sum_n p_n A_n, where A_n adds up the absolute terms of one component, as in tests/truth.py.
    """
    before, ctx.prec = ctx.prec, BITS
    try:
        log_2pi = (2 * arb.pi()).log()
        parts = [
            (arb(float(m)), arb(float(v)), arb(float(w)))
            for m, v, w in zip(mu, log_var, log_weights, strict=True)
            if w > -np.inf
        ]
        values, scales = np.empty(len(points)), np.empty(len(points))
        for i, x in enumerate(points):
            squares = [(arb(float(x)) - m) ** 2 * (-v).exp() for m, v, _ in parts]
            terms = [(w - (q + v + log_2pi) / 2).exp() for q, (_, v, w) in zip(squares, parts, strict=True)]
            total = sum(terms, arb(0))
            value = total.log()
            assert float(value.rad()) < 1e-30
            sizes = [(q + abs(v) + log_2pi) / 2 + abs(w) for q, (_, v, w) in zip(squares, parts, strict=True)]
            reach = sum((t / total * a for t, a in zip(terms, sizes, strict=True)), arb(0))
            values[i] = float(value.mid())
            scales[i] = abs(values[i]) + float(reach.mid())
        return values, scales
    finally:
        ctx.prec = before


def weighted_mixture(rng, dtype="float64"):
    """Points and components: few or many, near or far, of like or unlike height, some twice, some of weight 0."""
    N, P = int(rng.integers(1, 12)), int(rng.integers(1, 10))
    points, mu = 3 * rng.standard_normal(P), rng.standard_normal(N)
    log_var = rng.uniform(-2, 2, N)
    log_weights = np.log(rng.dirichlet(np.ones(N)))
    kind = rng.integers(0, 6)
    if kind == 0:
        points *= 10.0 ** rng.uniform(1, 3)
    elif kind == 1:
        log_weights = rng.uniform(-100, 0, N)
    elif kind == 2:
        log_var = rng.uniform(-50, 50, N)
    elif kind == 3 and N > 1:
        mu[1:], log_var[1:] = mu[0], log_var[0]
    elif kind == 4 and N > 1:
        log_weights[rng.permutation(N)[: N // 2]] = -np.inf
    elif kind == 5:
        points[: P // 2] += 1e4  # near and far points in one four
    return tuple(a.astype(dtype) for a in (points, mu, log_var, log_weights))


def by_logsumexp(points, mu, log_var, log_weights):
    t = (points[:, None] - mu) * np.exp(-0.5 * log_var)
    return logsumexp(log_weights - 0.5 * (t * t + log_var + math.log(2 * math.pi)), axis=1)


def windows(rng, N, labellings=3):
    """Arguments of `group_densities` as `mixture_entropies` makes them: one octave, windows cut at both ends."""
    rows = np.stack([rng.integers(5 * k, 5 * k + 5, N) for k in range(labellings)]).astype(np.int32)
    points = 20 * N + 50
    first, length = np.sort(rng.integers(0, points - 20, N)), rng.integers(0, 150, N)
    length = np.minimum(length, points - first)
    return (
        first,
        length,
        rng.uniform(-9, 0, N),
        rng.uniform(0.125, 0.25, N),
        rng.random(N),
        rows,
        (5 * labellings, points),
    )


class TestLogDensity:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_values_lie_within_their_enclosures(self, dtype):
        rng, worst = np.random.default_rng(0), 0.0
        for _ in range(CASES):
            case = weighted_mixture(rng, dtype)
            exact, scale = density_truth(*case)
            got = mixture.log_density(*case)
            assert got.dtype == dtype
            assert got.shape == case[0].shape
            worst = max(worst, float(np.max(np.abs(got - exact) / scale)))
        assert worst < TOLERANCE[dtype], worst

    def test_against_scipy(self):
        rng = np.random.default_rng(1)
        for _ in range(CASES):
            case = weighted_mixture(rng)
            np.testing.assert_allclose(mixture.log_density(*case), by_logsumexp(*case), rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("spread", [1.0, 100.0])
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_more_components_than_a_tile(self, dtype, spread):
        rng, N = np.random.default_rng(2), 5000 if COMPILED else 2100
        points = np.append(rng.standard_normal(6), 80.0)
        case = [a.astype(dtype) for a in (points, rng.standard_normal(N), rng.random(N), -spread * rng.random(N))]
        expected = by_logsumexp(*(a.astype(float) for a in case))
        np.testing.assert_allclose(mixture.log_density(*case), expected, rtol=100 * np.finfo(dtype).eps)

    @pytest.mark.parametrize("place", range(4))
    def test_points_far_and_near_over_several_tiles(self, place, monkeypatch):
        """In each place of four a point with a far lower maximum, or none: no point takes its neighbour's."""
        monkeypatch.setitem(mixture.TILE, 8, 4)
        rng = np.random.default_rng(8)
        points = rng.standard_normal(11)
        points[place::4] = 80.0
        points[(place + 2) % 4 :: 4] = 1e200
        case = points, rng.standard_normal(10), rng.random(10), -100.0 * rng.random(10)
        with np.errstate(over="ignore"):
            expected = by_logsumexp(*case)
        assert np.isneginf(expected[(place + 2) % 4 :: 4]).all()
        np.testing.assert_allclose(mixture.log_density(*case), expected, rtol=1e-14)

    def test_duplicates_add_up(self):
        once = mixture.log_density(np.zeros(1), np.ones(1), np.zeros(1), np.zeros(1))
        thrice = mixture.log_density(np.zeros(1), np.ones(3), np.zeros(3), np.zeros(3))
        assert thrice[0] == pytest.approx(once[0] + math.log(3), abs=1e-15)

    def test_weight_0_is_no_component(self):
        """However high and narrow it is: neither its height nor its place matters."""
        points, nothing = np.array([0.0, 3.0, 500.0]), -np.inf
        alone = mixture.log_density(points, np.array([1.0]), np.array([0.5]), np.array([-0.1]))
        beside = mixture.log_density(points, np.array([3.0, 1.0]), np.array([-600.0, 0.5]), np.array([nothing, -0.1]))
        np.testing.assert_array_equal(alone, beside)

    def test_farther_away_than_a_square_can_say(self):
        points = np.array([1e200, 0.0])
        got = mixture.log_density(points, np.zeros(2), np.array([0.0, 1.0]), np.zeros(2))
        assert got[0] == -np.inf
        assert np.isfinite(got[1])

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_far_away_from_narrow_components(self, dtype):
        """Squares so large that their last place is far above 1: the maximum must be taken out without a remainder."""
        rng = np.random.default_rng(7)
        for log_var in (-27.5, -60.0, -80.0) if dtype == "float32" else (-75.0, -300.0, -690.0):
            points, mu = rng.standard_normal((2, 40)).astype(dtype)
            components = mu[:5], np.full(5, log_var, dtype), np.log(rng.random(5)).astype(dtype)
            expected = by_logsumexp(points.astype(float), *(a.astype(float) for a in components))
            got = mixture.log_density(points, *components)
            np.testing.assert_allclose(got, expected, rtol=10 * np.finfo(dtype).eps)

    @pytest.mark.parametrize(("dtype", "height"), [("float64", 300.0), ("float32", 40.0)])
    def test_beside_a_component_that_is_far_higher(self, dtype, height):
        """Its height is nothing to those that reach a point, and must not be taken from theirs and rounded."""
        points = np.linspace(2.0, 4.0, 9, dtype=dtype)
        for log_var in np.linspace(0.1, 1.0, 7):
            mu = np.array([0.0, 3.0, 3.5], dtype)
            as_high = [-height, log_var, log_var / 3], [0.0, 0.0, 0.0]
            as_low_too = [-2 * height, log_var, log_var / 3], [-height / 2, 0.0, -height / 2]  # heights of both signs
            for log_vars, log_weights in (as_high, as_low_too):
                case = points, mu, np.array(log_vars, dtype), np.array(log_weights, dtype)
                exact, scale = density_truth(*case)
                assert np.max(np.abs(mixture.log_density(*case) - exact) / scale) < TOLERANCE[dtype] / 2

    def test_each_of_seven_points_from_its_maximum(self):
        """Heights further apart than `SPREAD`: no point is summed otherwise."""
        rng = np.random.default_rng(12)
        points, mu, log_var = rng.standard_normal(7), rng.standard_normal(9), rng.uniform(-1, 1, 9)
        log_weights = np.linspace(-40.0, 0.0, 9)
        got = mixture.log_density(points, mu, log_var, log_weights)
        np.testing.assert_allclose(got, by_logsumexp(points, mu, log_var, log_weights), rtol=1e-13)

    def test_the_largest_weight(self):
        one = np.ones(1)
        assert mixture.log_density(one, one, 0 * one, 1e30 * one) == pytest.approx(1e30, rel=1e-15)
        for wrong in (np.nextafter(1e30, np.inf), -np.nextafter(1e30, np.inf)):
            with pytest.raises(InputError, match="log_weights reaches"):
                mixture.log_density(one, one, 0 * one, wrong * one)

    def test_a_point_does_not_depend_on_its_neighbours(self):
        rng = np.random.default_rng(3)
        points = np.where(np.arange(50) % 3 == 0, 1e3, 1.0) * rng.standard_normal(50)
        components = rng.standard_normal(40), rng.random(40), rng.random(40)
        together = mixture.log_density(points, *components)
        alone = [mixture.log_density(points[i : i + 1], *components)[0] for i in range(50)]
        np.testing.assert_array_equal(together, alone)

    def test_the_same_bits_for_any_number_of_threads(self, restored_threads):
        rng, P = np.random.default_rng(4), 3001 if COMPILED else 41
        points = np.where(rng.random(P) < 0.2, 1e3, 1.0) * rng.standard_normal(P)
        components = rng.standard_normal(33), rng.random(33), rng.random(33)
        results = []
        for number in (1, 2, 4):
            threads.set_num_threads(number)
            results.append(mixture.log_density(points, *components).tobytes())
        assert len(set(results)) == 1

    def test_arrays_need_not_be_contiguous(self):
        rng = np.random.default_rng(5)
        case = [rng.standard_normal((9, 2))[:, 0] for _ in range(4)]
        np.testing.assert_array_equal(mixture.log_density(*case), mixture.log_density(*(a.copy() for a in case)))

    def test_progress(self):
        calls, rng = [], np.random.default_rng(6)
        points, *components = (rng.standard_normal(n) for n in (203, 5, 5, 5))
        mixture.log_density(points, *components, progress=lambda done, total: calls.append((done, total)))
        assert len(calls) > 1
        assert calls[-1] == (203, 203)
        assert calls == sorted(set(calls))

    def test_refusals(self):
        x, one = np.zeros(2), np.zeros(1)
        with pytest.raises(TypeError, match="log_density: log_weights is a list"):
            mixture.log_density(x, one, one, [0.0])
        with pytest.raises(TypeError, match="dtypes are"):
            mixture.log_density(x, one, one, one.astype(np.float32))
        with pytest.raises(TypeError, match="dtypes are"):
            mixture.log_density(x.astype(np.float32), one, one, one)
        for weight in (np.nan, np.inf):
            with pytest.raises(InputError, match="log_weights has 1 nan or infinite"):
                mixture.log_density(x, one, one, np.array([weight]))
        with pytest.raises(InputError, match="points has 1 nan"):
            mixture.log_density(np.array([np.nan]), one, one, one)
        with pytest.raises(InputError, match="log_weights are all -inf"):
            mixture.log_density(x, x, x, x - np.inf)
        with pytest.raises(InputError, match=r"log_weights reaches -1e\+31"):
            mixture.log_density(x, x, x, np.array([0.0, -1e31]))
        with pytest.raises(InputError, match="log_var reaches 1500"):
            mixture.log_density(x, one, one + 1500, one)
        for wrong in ((x[:0], one, one, one), (x[None], one, one, one), (x, x, one, one), (x, one, one, x)):
            with pytest.raises(InputError, match="log_density: shapes are"):
                mixture.log_density(*wrong)

    @pytest.mark.skipif(not COMPILED, reason="a million components are for compiled kernels")
    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
    def test_memory_of_a_million_components(self):
        run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
        assert float(run.stdout) < 100, run.stdout


def test_progress_never_goes_back():
    calls = []
    report = threads.in_order(lambda done, total: calls.append((done, total)))
    for done in (4, 12, 8, 20, 16):  # what threads may come with
        report(done, 20)
    assert calls == [(4, 20), (12, 20), (20, 20)]


class TestGroupDensities:
    @pytest.mark.parametrize("N", [1, 7, 2000 if COMPILED else 12])
    def test_the_same_as_numpy(self, N):
        case = windows(np.random.default_rng(N), N)
        ours, reference = mixture.group_densities(*case), octaves.group_densities(*case)
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, rtol=1e-13, atol=1e-15 * reference.max())

    @pytest.mark.parametrize("densities", [mixture.group_densities, octaves.group_densities])
    def test_sums_by_hand(self, densities):
        """Two components in two labellings; one window is empty, nothing is written beside the others."""
        first, length = np.array([0, 2, 3]), np.array([4, 3, 0])
        t, dt, height = np.array([-1.0, -0.5, 7.0]), np.array([0.5, 0.25, 1.0]), np.array([2.0, 3.0, 1e9])
        rows = np.array([[0, 1, 1], [3, 3, 2]], dtype=np.int32)
        a = 2 * np.exp(-0.5 * np.array([-1, -0.5, 0, 0.5, np.inf, np.inf]) ** 2)
        b = 3 * np.exp(-0.5 * np.array([np.inf, np.inf, -0.5, -0.25, 0, np.inf]) ** 2)
        got = densities(first, length, t, dt, height, rows, (4, 6))
        np.testing.assert_allclose(got, [a, b, 0 * a, a + b], rtol=1e-15)

    @pytest.mark.parametrize("stretch", [128, 5])
    def test_the_same_bits_for_any_number_of_threads(self, restored_threads, monkeypatch, stretch):
        monkeypatch.setattr(mixture, "SHORTEST_STRETCH", stretch)
        case, results = windows(np.random.default_rng(1), 500 if COMPILED else 6), []
        for number in (1, 2, 4):
            threads.set_num_threads(number)
            results.append(mixture.group_densities(*case).tobytes())
        assert len(set(results)) == 1

    def test_the_cuts_of_the_grid_do_not_matter(self, monkeypatch):
        """Windows cross many stretches, or lie within the only one."""
        case = windows(np.random.default_rng(2), 300 if COMPILED else 6)
        results = []
        for stretch, stretches in ((1, 500), (10**6, 1)):
            monkeypatch.setattr(mixture, "SHORTEST_STRETCH", stretch)
            monkeypatch.setattr(mixture, "STRETCHES", stretches)
            results.append(mixture.group_densities(*case))
        np.testing.assert_allclose(*results, rtol=1e-14)

    def test_entropies_and_mig(self):
        rng, N = np.random.default_rng(3), 400 if COMPILED else 6
        mu, log_var, labels = rng.standard_normal((N, 2)), rng.uniform(-2, 0, (N, 2)), rng.integers(0, 3, (N, 2))
        labels[:3] = np.arange(3)[:, None]
        calls = []

        def ours(*arguments):
            calls.append(arguments)
            return mixture.group_densities(*arguments)

        got = mixture_entropies(mu[:, 0], log_var[:, 0], labels, tolerance=1e-3, group_densities=ours)
        assert calls
        expected = mixture_entropies(mu[:, 0], log_var[:, 0], labels, tolerance=1e-3)
        np.testing.assert_allclose(
            [got.marginal, *got.conditional], [expected.marginal, *expected.conditional], rtol=1e-13
        )
        before = len(calls)
        mig = metrics.mig_quadrature(mu, log_var, labels, tolerance=1e-3, group_densities=ours)
        assert len(calls) > before
        np.testing.assert_allclose(
            mig.information, metrics.mig_quadrature(mu, log_var, labels, tolerance=1e-3).information, atol=1e-13
        )

    @pytest.mark.skipif(not COMPILED, reason="many components are for compiled kernels")
    def test_widths_from_1e_6_to_1e3(self):
        rng, N = np.random.default_rng(4), 300
        mu, labels = 100 * rng.standard_normal(N), rng.integers(0, 4, (N, 2))
        log_var = 2 * rng.uniform(math.log(1e-6), math.log(1e3), N)
        got = mixture_entropies(mu, log_var, labels, group_densities=mixture.group_densities)
        expected = mixture_entropies(mu, log_var, labels)
        np.testing.assert_allclose([got.marginal, *got.conditional], [expected.marginal, *expected.conditional], 1e-13)

    def test_refusals(self):
        def refused(match, error=InputError, **changed):
            good = {"first": np.array([0, 3]), "length": np.array([4, 7]), "t": -np.ones(2), "dt": np.ones(2)}
            good |= {"height": np.ones(2), "rows": np.array([[0, 1]], dtype=np.int32), "shape": (2, 10)}
            with pytest.raises(error, match=match):
                mixture.group_densities(**good | changed)

        refused(r"rows lie in \[0, 1\]; there are rows 0 \.\.\. 0", shape=(1, 10))
        refused("rows lie in", rows=np.array([[-1, 1]], dtype=np.int32))
        refused("rows is int64", rows=np.array([[0, 1]]))
        refused("rows is a list", rows=[[0, 1]])
        refused(r"rows is int32 \(1, 1\)", rows=np.zeros((1, 1), np.int32))
        refused("must lie within the 9 points", shape=(2, 9))
        refused("must lie within", first=np.array([-1, 3]))
        refused("must lie within", length=np.array([-1, 3]))
        refused("first decreases", first=np.array([3, 0]))
        refused("first is float64", first=np.array([0.0, 3.0]))
        refused("length is int64", length=np.array([4]))
        refused("height has 1 nan", height=np.array([1.0, np.nan]))
        refused("shapes are", t=np.ones(3))
        small = {name: np.ones(2, np.float32) for name in ("t", "dt", "height")}
        refused("float64 is needed", TypeError, **small)


class TestLogJoint:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_the_same_as_the_reference(self, dtype):
        rng, N = np.random.default_rng(0), 3000 if COMPILED else 30
        z, mu = rng.standard_normal((13, 4)).astype(dtype), rng.standard_normal((N, 4)).astype(dtype)
        log_var = rng.uniform(-3, 1, (N, 4)).astype(dtype)
        got = mixture.log_joint(z, mu, log_var)
        expected = estimators.log_qz_exact(*(a.astype(float) for a in (z, mu, log_var)), N)
        for ours, reference in zip(got, expected, strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, reference, rtol=50 * np.finfo(dtype).eps)

    def test_progress(self):
        calls, rng = [], np.random.default_rng(1)
        z, mu, log_var = (rng.standard_normal((n, 2)) for n in (301, 4, 4))
        mixture.log_joint(z, mu, log_var, progress=lambda done, total: calls.append((done, total)))
        assert len(calls) > 1
        assert calls[-1] == (301, 301)
        assert calls == sorted(set(calls))

    def test_refusals(self):
        z = np.zeros((2, 3))
        with pytest.raises(InputError, match="log_joint: z has 3 dimensions and mu has 2"):
            mixture.log_joint(z, z[:, :2], z[:, :2])
        with pytest.raises(InputError, match="log_joint: z has 1 nan"):
            mixture.log_joint(np.full((1, 1), np.nan), np.zeros((1, 1)), np.zeros((1, 1)))


@pytest.mark.skipif(not COMPILED, reason="this is the interpreted run")
def test_interpreted():
    """Everything here once more as plain Python."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
