"""Entropies of mixtures: closed forms, adaptive quadrature, enclosures at 50 digits, and whether the error is one."""

import itertools
import math
import tracemalloc

import naive
import numpy as np
import pytest
from flint import acb, arb, ctx
from scipy import integrate

from tcvae_ref import InputError
from tcvae_ref.metrics import brackets, entropy, mig_quadrature, mixture_entropies, octaves

GAUSSIAN = 0.5 * math.log(2 * math.pi * math.e)  # entropy of N(0, 1)
NO_LABELS = np.zeros((1, 0), dtype=int)
BITS = 320
MIXED = (2 * math.log(1e-6), 2 * math.log(1e3))  # log_var of sigma from 1e-6 to 1e3


def unlabelled(mu, log_var, **options):
    return mixture_entropies(mu, log_var, np.zeros((len(mu), 0), int), **options)


def values(result):
    return np.array([result.marginal, *result.conditional])


def phi_integral(mu, log_var, p):
    """Enclose - integral q log q, q = sum_n p_n N(mu_n, sigma_n^2), p balls: Arb's adaptive quadrature on pieces.

    Within 16 sigma of some component: beyond, q is below exp(-128) of the heights.
    """
    parts = [(arb(float(m)), (-arb(float(v))).exp(), w) for m, v, w in zip(mu, log_var, p, strict=True)]
    heights = [w * (i / (2 * arb.pi())).sqrt() for _, i, w in parts]

    def integrand(z, analytic):
        q = acb(0)
        for (m, i, _), height in zip(parts, heights, strict=True):
            q += height * (-(z - m) * (z - m) * i / 2).exp()
        return -q * q.log(analytic)

    sigma = np.exp(0.5 * log_var)
    reach = [0, *(sign * k for sign in (-1, 1) for k in (1, 2, 3, 4, 5, 7, 9, 12, 16))]
    edges = np.unique([mu + k * sigma for k in reach])
    pieces = [(a, b) for a, b in itertools.pairwise(edges) if np.any(np.abs((a + b) / 2 - mu) < 16 * sigma)]
    tolerance = {"rel_tol": arb(2) ** -170, "abs_tol": arb(2) ** -170}
    return sum((acb.integral(integrand, float(a), float(b), **tolerance) for a, b in pieces), acb(0)).real


def enclosed_entropies(mu, log_var, labels, weights):
    """H(z), H(z | v) and H(v) as balls, for one labelling."""
    p = [arb(float(w)) for w in weights]
    p = [w / sum(p, arb(0)) for w in p]
    groups = [np.flatnonzero(labels == v) for v in np.unique(labels)]
    shares = [sum((p[n] for n in group), arb(0)) for group in groups]
    factor = -sum((s * s.log() for s in shares), arb(0))
    of_groups = sum((phi_integral(mu[g], log_var[g], [p[n] for n in g]) for g in groups), arb(0))
    return phi_integral(mu, log_var, p), of_groups - factor, factor


def rounded(ball):
    assert float(ball.rad()) < 1e-40, f"the enclosure {ball} is too wide"
    return float(ball.mid())


@pytest.fixture
def high_precision():
    before, ctx.prec = ctx.prec, BITS
    yield
    ctx.prec = before


class TestClosedForms:
    @pytest.mark.parametrize("sigma", [1e-99, 1e-6, 1.0, 1e3, 1e99])
    def test_one_gaussian(self, sigma):
        result = mixture_entropies(np.array([3.0]), np.array([2 * math.log(sigma)]), NO_LABELS)
        expected = GAUSSIAN + math.log(sigma)
        assert abs(result.marginal - expected) <= result.error
        assert result.error < 1e-13 * max(1.0, abs(expected))

    def test_two_far_components_add_log_2(self):
        result = mixture_entropies(np.array([0.0, 500.0]), np.zeros(2), np.array([[0], [1]]))
        assert result.marginal == pytest.approx(GAUSSIAN + math.log(2), abs=1e-12)
        assert result.conditional[0] == pytest.approx(GAUSSIAN, abs=1e-12)

    def test_far_components_of_every_width(self):
        """One component in each of 31 octaves, apart from each other: the mean of their entropies, and log 31."""
        log_var = 2 * np.linspace(math.log(1e-6), math.log(1e3), 31)
        mu = np.cumsum(40 * np.exp(0.5 * log_var))
        result = mixture_entropies(mu, log_var, np.arange(31)[:, None])
        mean = GAUSSIAN + log_var.mean() / 2
        np.testing.assert_allclose(values(result), [mean + math.log(31), mean], rtol=0, atol=1e-13)

    @pytest.mark.parametrize("narrow", [1e-3, 1e-6, 1e-12])
    def test_a_narrow_component_on_a_wide_one(self, narrow):
        """To first order in the ratio of their heights the mixture is as if they were apart."""
        log_var = np.array([0.0, 2 * math.log(narrow)])
        result = unlabelled(np.array([0.0, 0.3]), log_var)
        assert result.marginal == pytest.approx(GAUSSIAN + log_var.mean() / 2 + math.log(2), abs=100 * narrow)

    def test_duplicates_change_nothing(self):
        mu, log_var = np.array([0.0, 1.0, 1.5]), np.array([0.0, -1.0, 0.5])
        once, thrice = unlabelled(mu, log_var), unlabelled(np.tile(mu, 3), np.tile(log_var, 3))
        assert once.marginal == pytest.approx(thrice.marginal, abs=1e-14)

    def test_collapsed_codes_know_nothing(self):
        labels = np.arange(50)[:, None] % 7
        result = mixture_entropies(np.zeros(50), np.zeros(50), labels)
        np.testing.assert_allclose(values(result), GAUSSIAN, rtol=0, atol=1e-14)

    def test_weights_are_duplicates(self):
        rng = np.random.default_rng(4)
        mu, log_var, labels = rng.standard_normal(9), rng.uniform(-12, 2, 9), rng.integers(0, 3, (9, 2))
        times = rng.integers(0, 4, 9)
        weighted = mixture_entropies(mu, log_var, labels, times.astype(float))
        repeated = mixture_entropies(*(np.repeat(a, times, axis=0) for a in (mu, log_var, labels)))
        np.testing.assert_allclose(values(weighted), values(repeated), rtol=0, atol=1e-14)
        scaled = mixture_entropies(mu, log_var, labels, 5e307 * times)
        np.testing.assert_allclose(values(scaled), values(weighted), rtol=0, atol=1e-14)

    def test_components_without_weight_are_not_there(self):
        """Not even where no grid could hold them."""
        mu, log_var, weights = np.array([0.0, 1e300, 0.0]), np.array([0.0, 0.0, -900.0]), np.array([1.0, 0.0, 0.0])
        result = mixture_entropies(mu, log_var, np.array([[0], [1], [2]]), weights)
        np.testing.assert_allclose(values(result), GAUSSIAN, rtol=0, atol=1e-14)

    def test_scaling_adds_its_logarithm(self):
        rng = np.random.default_rng(5)
        mu, log_var, labels = rng.standard_normal(30), rng.uniform(-9, 0, 30), rng.integers(0, 3, (30, 2))
        result = mixture_entropies(mu, log_var, labels)
        for scale in (1e-20, 0.37, 1e20):
            other = mixture_entropies(scale * mu, log_var + 2 * math.log(scale), labels)
            np.testing.assert_allclose(values(other), values(result) + math.log(scale), rtol=2e-14)

    def test_the_origin_does_not_matter(self):
        mu, log_var, labels = np.array([0.0, 2e-9, 5e-9]), np.full(3, 2 * math.log(1e-9)), np.array([[0], [0], [1]])
        near, far = mixture_entropies(mu, log_var, labels), mixture_entropies(mu + 2.0**-10, log_var, labels)
        assert far.marginal == pytest.approx(near.marginal, abs=1e-6)  # the shift itself rounds mu by 1e-19
        narrow = mixture_entropies(np.array([1e6, 1e6]), np.full(2, 2 * math.log(1e-12)), np.zeros((2, 1), int))
        assert narrow.marginal == pytest.approx(GAUSSIAN + math.log(1e-12), abs=1e-13)

    def test_centring_loses_nothing(self):
        """Two narrow components near each other, far from the middle of all: their distance survives."""
        mu = np.array([0.1, 0.1 + 3e-9, 3e3 + 0.7])
        log_var = np.full(3, 2 * math.log(1e-9))
        pair = unlabelled(mu[:2], log_var[:2]).marginal
        expected = (2 * pair + GAUSSIAN + math.log(1e-9)) / 3 + math.log(3) - 2 / 3 * math.log(2)
        assert unlabelled(mu, log_var).marginal == pytest.approx(expected, abs=1e-13)


class TestAgainstOthers:
    def test_adaptive_quadrature(self):
        """Twenty random mixtures with widths over a factor of 50, integrated piece by piece by QUADPACK."""
        rng = np.random.default_rng(0)
        for _ in range(20):
            n = int(rng.integers(2, 7))
            mu, log_var = 2 * rng.standard_normal(n), rng.uniform(-6, 2, n)
            labels = rng.integers(0, 2, (n, 1))
            labels[:2, 0] = [0, 1]

            def integral(members, mu=mu, log_var=log_var):
                m, v = mu[members].tolist(), log_var[members].tolist()
                sigma = np.exp(0.5 * log_var[members])
                edges = np.unique(np.concatenate([mu[members] + k * sigma for k in (-12, -4, -1, 0, 1, 4, 12)]))

                def integrand(t):
                    q = naive.mixture_density(t, m, v)
                    return -q * math.log(q) if q > 0 else 0.0

                pieces = itertools.pairwise(edges)
                return sum(integrate.quad(integrand, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in pieces)

            result = mixture_entropies(mu, log_var, labels)
            assert result.marginal == pytest.approx(integral(np.arange(n)), abs=1e-10)
            groups = [np.flatnonzero(labels[:, 0] == v) for v in (0, 1)]
            expected = sum(len(g) / n * integral(g) for g in groups)
            assert result.conditional[0] == pytest.approx(expected, abs=1e-10)
            assert result.error <= 2e-10

    @pytest.mark.parametrize("seed", range(8))
    def test_enclosures_of_the_gap(self, seed, high_precision):
        """Entropies, information and MIG of random small cases, uniform and weighted, at 50 digits."""
        rng = np.random.default_rng(seed)
        n, D = int(rng.integers(3, 7)), 2
        mu, log_var = 10.0 ** rng.uniform(-1, 1) * rng.standard_normal((n, D)), rng.uniform(-6, 2, (n, D))
        classes, weights = rng.permutation(np.arange(n) % 2)[:, None], rng.random(n) if seed % 2 else np.ones(n)
        result = mig_quadrature(mu, log_var, classes, weights=weights)
        truth = [enclosed_entropies(mu[:, d], log_var[:, d], classes[:, 0], weights) for d in range(D)]
        information = [marginal - conditional for marginal, conditional, _ in truth]
        score = abs(information[0] - information[1]) / truth[0][2]
        errors = [
            *(abs(result.entropies[d] - rounded(truth[d][0])) / result.error.entropies[d] for d in range(D)),
            *(
                abs(result.information[d, 0] - rounded(information[d])) / result.error.information[d, 0]
                for d in range(D)
            ),
            abs(result.score - rounded(score)) / result.error.score,
        ]
        assert max(errors) <= 1, errors
        assert abs(result.score - rounded(score)) < 1e-12
        assert result.error.score < 1e-9

    @pytest.mark.parametrize("seed", [0, 2, 4, 5])
    def test_enclosures_of_mixed_scales(self, seed, high_precision):
        """Widths from 1e-6 to 1e3 in one mixture."""
        rng = np.random.default_rng(seed)
        n = 5
        mu, log_var = 100 * rng.standard_normal(n), rng.uniform(*MIXED, n)
        log_var[:2] = MIXED
        labels, weights = np.arange(n) % 2, rng.random(n)
        result = mixture_entropies(mu, log_var, labels[:, None], weights)
        marginal, conditional, _ = enclosed_entropies(mu, log_var, labels, weights)
        error = np.abs(values(result) - [rounded(marginal), rounded(conditional)])
        assert error.max() <= result.error < 1e-9
        assert error.max() < 1e-13


class TestError:
    @pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
    def test_the_error_estimate_is_one(self, tolerance, monkeypatch):
        """Loose tolerances on many mixtures, from a first step twice the usual: the error stays below the reported."""
        rng = np.random.default_rng(1)
        for _ in range(100):
            n = int(rng.integers(1, 6))
            mu, log_var = rng.uniform(1, 10) * rng.standard_normal(n), rng.uniform(-3, 0, n)
            with monkeypatch.context() as patch:
                best = unlabelled(mu, log_var, tolerance=1e-12).marginal
                patch.setattr(entropy, "FIRST_STEP", 2 * entropy.FIRST_STEP)
                rough = unlabelled(mu, log_var, tolerance=tolerance)
            assert abs(rough.marginal - best) <= rough.error + 1e-12
            assert rough.error <= tolerance + 1e-13

    @pytest.mark.parametrize("apart", [8.5, 10.0, 13.0])
    def test_one_small_change_can_be_an_accident(self, monkeypatch, apart):
        """Two components apart: at some steps two sums agree by chance far better than they are right."""
        mu, log_var = np.array([0.0, apart]), np.zeros(2)
        best = unlabelled(mu, log_var, tolerance=1e-13).marginal
        for first in (0.25, 0.5, 1.0, 2.0, 4.0):
            monkeypatch.setattr(entropy, "FIRST_STEP", first)
            rough = unlabelled(mu, log_var, tolerance=1e-4)
            assert abs(rough.marginal - best) <= rough.error

    def test_mixed_scales_at_two_tolerances(self):
        rng = np.random.default_rng(6)
        for _ in range(20):
            n = int(rng.integers(2, 12))
            mu, log_var, labels = rng.standard_normal(n), rng.uniform(*MIXED, n), rng.integers(0, 2, (n, 2))
            rough = mixture_entropies(mu, log_var, labels, tolerance=1e-5)
            best = mixture_entropies(mu, log_var, labels, tolerance=1e-13)
            assert np.max(np.abs(values(rough) - values(best))) <= rough.error + best.error
            assert best.error < 1e-11

    def test_a_tolerance_below_rounding_ends(self):
        rng = np.random.default_rng(10)
        result = unlabelled(rng.standard_normal(50), rng.uniform(-9, 0, 50), tolerance=1e-300)
        assert 0 < result.error < 1e-13

    @pytest.mark.parametrize("seed", [13, 22, 26, 31])
    def test_a_tolerance_below_the_rounding_of_many_octaves_ends(self, seed):
        """Halving adds points, and with them rounding: where the change grows, no smaller one is waited for."""
        rng = np.random.default_rng(seed)
        log_var = np.clip(2 * rng.uniform(-100, 100, 50), -459, 459)
        mu = 4e12 * np.exp(0.5 * log_var.min()) * rng.uniform(-1, 1, 50)
        labels, weights = rng.integers(0, 5, (50, 2)), rng.random(50) ** 30
        rough, best = (mixture_entropies(mu, log_var, labels, weights, tolerance=t) for t in (1e-9, 1e-300))
        assert best.error < 1e-12
        assert np.max(np.abs(values(rough) - values(best))) <= rough.error + best.error


class TestGrids:
    def test_octaves_agree_with_one_grid(self, monkeypatch):
        """The same mixture by octaves, and by one octave as wide as all: no polynomial is then needed."""
        rng = np.random.default_rng(7)
        mu, log_var, labels = rng.standard_normal(40), rng.uniform(-7, 0, 40), rng.integers(0, 3, (40, 2))
        by_octaves = mixture_entropies(mu, log_var, labels)

        def one(components):
            (e, *_), order = (
                sorted(separately(components)),
                np.argsort(components.mu - octaves.REACH * components.sigma),
            )
            return {e: components.of(order)}

        separately = octaves.sorted_by_octave
        monkeypatch.setattr(entropy, "sorted_by_octave", one)
        np.testing.assert_allclose(values(mixture_entropies(mu, log_var, labels)), values(by_octaves), atol=2e-14)

    @pytest.mark.parametrize("largest", [1, 3000])
    def test_tiles_do_not_matter(self, monkeypatch, largest):
        rng = np.random.default_rng(8)
        mu, log_var, labels = rng.standard_normal(60), rng.uniform(-16, 0, 60), rng.integers(0, 3, (60, 2))
        whole = values(mixture_entropies(mu, log_var, labels))
        monkeypatch.setattr(brackets, "LARGEST_TILE", largest)
        monkeypatch.setattr(octaves, "_BLOCK", 1000)
        np.testing.assert_allclose(values(mixture_entropies(mu, log_var, labels)), whole, rtol=0, atol=2e-14)

    def test_tiles_hold_as_much_as_they_may(self, monkeypatch):
        """A tile of the largest size is left whole; a larger one is cut, down to a cell and one on either side."""
        rng, sizes, own = np.random.default_rng(8), [], brackets._own_density
        mu, log_var, labels = rng.standard_normal(20), rng.uniform(-9, 0, 20), rng.integers(0, 3, (20, 2))

        def recorded(octave, cells, rows, group_densities):
            sizes.append((rows * octaves.CELL * len(cells), len(cells)))
            return own(octave, cells, rows, group_densities)

        def tiles(largest):
            sizes.clear()
            monkeypatch.setattr(brackets, "LARGEST_TILE", largest)
            mixture_entropies(mu, log_var, labels)
            assert all(size <= largest or cells <= 3 for size, cells in sizes)
            return list(sizes)

        monkeypatch.setattr(brackets, "_own_density", recorded)
        whole = tiles(np.inf)
        largest = max(whole)[0]
        assert tiles(largest) == whole
        assert len(tiles(largest - 1)) > len(whole)
        assert max(tiles(1))[1] <= 3

    def test_grids_of_each_group_alone_do_not_matter(self, monkeypatch):
        """With a group that has no component, and one whose components are all narrow."""
        rng = np.random.default_rng(9)
        mu, log_var, labels = rng.standard_normal(60), rng.uniform(-16, 0, 60), rng.integers(0, 3, (60, 2))
        labels[:, 1] = np.where(log_var < -10, 4, labels[:, 1])
        shared = values(mixture_entropies(mu, log_var, labels))
        monkeypatch.setattr(brackets, "LARGEST_SHARED", 0)
        np.testing.assert_allclose(values(mixture_entropies(mu, log_var, labels)), shared, rtol=0, atol=2e-14)

    def test_halving_the_grid_of_a_gaussian(self):
        """The narrowest component of an octave, sigma = 4 steps, wherever it lies between two points."""
        cells = np.arange(-3, 3)
        z = np.arange(-3 * octaves.CELL, 3 * octaves.CELL)
        for centre in np.linspace(0, 1, 7):
            density = np.exp(-0.5 * ((z - centre) / 4) ** 2)[None]
            inner = np.arange(-3, 3)
            halved = brackets.halved(cells, density, inner)[0]
            half = np.arange(-3 * octaves.CELL, 3 * octaves.CELL) / 2
            np.testing.assert_allclose(halved, np.exp(-0.5 * ((half - centre) / 4) ** 2), rtol=0, atol=3e-15)

    def test_halving_leaves_nothing_negative(self):
        """Beside a spike the polynomial goes below 0, and far from it below the normal numbers."""
        density = np.zeros((2, 4 * octaves.CELL))
        density[0, 130], density[1, 130] = 1.0, 1e-290
        halved = brackets.halved(np.arange(4), density, np.arange(2, 6))
        assert halved[0].min() == 0
        assert halved[0].max() == 1
        assert np.count_nonzero(halved[1]) == 1  # the grid's own point

    def test_memory_of_few_narrow_among_many_wide(self):
        rng = np.random.default_rng(3)
        mu = rng.standard_normal(6000)
        log_var = np.where(np.arange(6000) < 3300, 2 * math.log(1e-3), 0.0)
        tracemalloc.start()
        unlabelled(mu, log_var)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200e6


class TestRefusals:
    def test_components(self):
        with pytest.raises(InputError, match="of their widths"):
            unlabelled(np.array([0.0, 1.0]), np.full(2, 2 * math.log(1e-17)))
        with pytest.raises(TypeError, match="mu is a list"):
            mixture_entropies([0.0], np.zeros(1), NO_LABELS)
        with pytest.raises(InputError, match="nan"):
            mixture_entropies(np.array([np.nan]), np.zeros(1), NO_LABELS)
        for log_var in (-1500.0, 1500.0):
            with pytest.raises(InputError, match="log_var lies in"):
                mixture_entropies(np.zeros(1), np.array([log_var]), NO_LABELS)

    def test_labels(self):
        for labels in ([[0]], None, np.zeros((1, 1)), np.zeros(1, int)):
            with pytest.raises(InputError, match="labels are"):
                mixture_entropies(np.zeros(1), np.zeros(1), labels)
        with pytest.raises(InputError, match="labels"):
            mixture_entropies(np.zeros(2), np.zeros(2), np.zeros((3, 1), int))
        with pytest.raises(InputError, match="go below 0"):
            mixture_entropies(np.zeros(1), np.zeros(1), np.array([[-1]]))

    def test_weights_and_tolerance(self):
        for tolerance in (0.0, math.nan):
            with pytest.raises(InputError, match="tolerance"):
                unlabelled(np.zeros(1), np.zeros(1), tolerance=tolerance)
        for weights in (np.array([-1.0, 2.0]), np.zeros(2)):
            with pytest.raises(InputError, match="weights lie in"):
                unlabelled(np.zeros(2), np.zeros(2), weights=weights)
        with pytest.raises(InputError, match="weights has shape"):
            unlabelled(np.zeros(2), np.zeros(2), weights=np.ones(3))
        with pytest.raises(InputError, match="weights has 1 nan"):
            unlabelled(np.zeros(2), np.zeros(2), weights=np.array([1.0, np.nan]))
