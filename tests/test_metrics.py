"""Entropies, MIG and the exact decomposition: closed forms, adaptive quadrature, and Monte Carlo within its error."""

import itertools
import math
import tracemalloc

import naive
import numpy as np
import pytest
from scipy import integrate

from tcvae_ref import InputError, kl_to_standard_normal
from tcvae_ref.metrics import (
    decomposition_exact,
    dimension_wise_kl_exact,
    entropy,
    mig_quadrature,
    mixture_entropies,
)

GAUSSIAN = 0.5 * math.log(2 * math.pi * math.e)  # entropy of N(0, 1)
NO_LABELS = np.zeros((1, 0), dtype=int)


def grid_classes(*sizes):
    return np.indices(sizes).reshape(len(sizes), -1).T


class TestEntropies:
    @pytest.mark.parametrize("sigma", [1e-6, 1.0, 1e3])
    def test_one_gaussian(self, sigma):
        result = mixture_entropies(np.array([3.0]), np.array([2 * math.log(sigma)]), NO_LABELS)
        assert result.marginal == pytest.approx(GAUSSIAN + math.log(sigma), abs=1e-12)

    def test_two_far_components_add_log_2(self):
        result = mixture_entropies(np.array([0.0, 500.0]), np.zeros(2), np.array([[0], [1]]))
        assert result.marginal == pytest.approx(GAUSSIAN + math.log(2), abs=1e-12)
        assert result.conditional[0] == pytest.approx(GAUSSIAN, abs=1e-12)

    def test_duplicates_change_nothing(self):
        mu, log_var = np.array([0.0, 1.0, 1.5]), np.array([0.0, -1.0, 0.5])
        once = mixture_entropies(mu, log_var, np.zeros((3, 0), int)).marginal
        thrice = mixture_entropies(np.tile(mu, 3), np.tile(log_var, 3), np.zeros((9, 0), int)).marginal
        assert once == pytest.approx(thrice, abs=1e-12)

    def test_against_adaptive_quadrature(self):
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
            assert result.error <= 1e-10

    @pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
    def test_the_error_estimate_is_one(self, tolerance, monkeypatch):
        """Loose tolerances on many mixtures, from a first step twice the usual: the error stays below the reported."""
        rng = np.random.default_rng(1)
        monkeypatch.setattr(entropy, "FIRST_STEP", 2 * entropy.FIRST_STEP)
        for _ in range(300):
            n = int(rng.integers(1, 6))
            mu, log_var = rng.uniform(1, 10) * rng.standard_normal(n), rng.uniform(-3, 0, n)
            best = mixture_entropies(mu, log_var, np.zeros((n, 0), int), tolerance=1e-12).marginal
            rough = mixture_entropies(mu, log_var, np.zeros((n, 0), int), tolerance=tolerance)
            assert abs(rough.marginal - best) <= rough.error + 1e-12
            assert rough.error <= tolerance

    def test_one_small_change_can_be_an_accident(self, monkeypatch):
        """Two components 8.5 sigma apart: at some steps two sums agree by chance far better than they are right."""
        mu, log_var, none = np.array([0.0, 8.5]), np.zeros(2), np.zeros((2, 0), int)
        best = mixture_entropies(mu, log_var, none, tolerance=1e-13).marginal
        for first in (0.25, 0.5, 1.0, 2.0):
            monkeypatch.setattr(entropy, "FIRST_STEP", first)
            rough = mixture_entropies(mu, log_var, none, tolerance=1e-4)
            assert abs(rough.marginal - best) <= rough.error

    def test_blocks_do_not_matter(self, monkeypatch):
        rng = np.random.default_rng(2)
        mu, log_var, labels = rng.standard_normal(300), rng.uniform(-4, 0, 300), rng.integers(0, 3, (300, 2))
        whole = mixture_entropies(mu, log_var, labels)
        monkeypatch.setattr(entropy, "_BLOCK", 1000)
        pieces = mixture_entropies(mu, log_var, labels)
        np.testing.assert_allclose(
            [pieces.marginal, *pieces.conditional], [whole.marginal, *whole.conditional], rtol=1e-13
        )

    def test_few_narrow_among_many_wide(self):
        """Blocks are made of components of one width: no array grows with the widest times the number of all."""
        rng = np.random.default_rng(3)
        mu = rng.standard_normal(6000)
        log_var = np.where(np.arange(6000) < 3300, 2 * math.log(1e-3), 0.0)
        tracemalloc.start()
        mixture_entropies(mu, log_var, np.zeros((6000, 0), int))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 400e6

    def test_the_origin_does_not_matter(self):
        mu, log_var, labels = np.array([0.0, 2e-9, 5e-9]), np.full(3, 2 * math.log(1e-9)), np.array([[0], [0], [1]])
        near, far = mixture_entropies(mu, log_var, labels), mixture_entropies(mu + 2.0**-10, log_var, labels)
        assert far.marginal == pytest.approx(near.marginal, abs=1e-6)  # the shift itself rounds mu by 1e-19
        narrow = mixture_entropies(np.array([1e6, 1e6]), np.full(2, 2 * math.log(1e-12)), np.zeros((2, 1), int))
        assert narrow.marginal == pytest.approx(GAUSSIAN + math.log(1e-12), abs=1e-10)

    def test_refusals(self):
        with pytest.raises(InputError, match="of their widths"):
            mixture_entropies(np.array([0.0, 1.0]), np.full(2, 2 * math.log(1e-17)), np.zeros((2, 0), int))
        with pytest.raises(TypeError, match="mu is a list"):
            mixture_entropies([0.0], np.zeros(1), NO_LABELS)
        for labels in ([[0]], None, np.zeros((1, 1)), np.zeros(1, int)):
            with pytest.raises(InputError, match="labels are"):
                mixture_entropies(np.zeros(1), np.zeros(1), labels)
        for log_var in (-1500.0, 1500.0):
            with pytest.raises(InputError, match="log_var lies in"):
                mixture_entropies(np.zeros(1), np.array([log_var]), NO_LABELS)
        for tolerance in (0.0, math.nan):
            with pytest.raises(InputError, match="tolerance"):
                mixture_entropies(np.zeros(1), np.zeros(1), NO_LABELS, tolerance)
        with pytest.raises(InputError, match="more than 67108864 numbers"):
            mixture_entropies(np.array([0.0, 1.0]), np.array([-38.0, 0.0]), np.zeros((2, 0), int))
        with pytest.raises(InputError, match="labels"):
            mixture_entropies(np.zeros(2), np.zeros(2), np.zeros((3, 1), int))
        with pytest.raises(InputError, match="nan"):
            mixture_entropies(np.array([np.nan]), np.zeros(1), NO_LABELS)


class TestMIG:
    def test_a_code_per_factor_scores_near_one(self):
        classes = grid_classes(4, 6)
        mu = 10.0 * classes.astype(float)
        result = mig_quadrature(mu, np.full(mu.shape, -2.0), classes)
        np.testing.assert_allclose(result.information, np.diag(np.log([4, 6])), atol=1e-9)
        assert result.score == pytest.approx(1.0, abs=1e-9)
        assert result.recipe == "quadrature"

    def test_a_duplicated_code_has_no_gap(self):
        classes = grid_classes(4, 6)
        codes = 10.0 * classes[:, [0, 1, 0, 1]].astype(float)
        np.testing.assert_allclose(mig_quadrature(codes, np.zeros(codes.shape), classes).gaps, 0.0, atol=1e-12)

    def test_independent_codes_score_nothing(self):
        classes = grid_classes(3, 3)
        result = mig_quadrature(np.zeros((9, 2)), np.zeros((9, 2)), classes)
        np.testing.assert_allclose(result.information, 0.0, atol=1e-12)

    def test_every_code_identifies_the_input_as_sigma_goes_to_zero(self):
        classes = grid_classes(3, 4)
        mu = np.stack([np.arange(12.0), np.arange(12.0)[::-1]], axis=1)
        result = mig_quadrature(mu, np.full((12, 2), 2 * math.log(1e-3)), classes)
        np.testing.assert_allclose(result.information, [np.log([3, 4])] * 2, atol=1e-9)
        assert abs(result.score) < 1e-12

    def test_permuting_inputs_latents_and_factors(self):
        rng = np.random.default_rng(3)
        classes = grid_classes(3, 4, 2)
        mu, log_var = rng.standard_normal((24, 4)), rng.uniform(-2, 0, (24, 4))
        result = mig_quadrature(mu, log_var, classes)
        rows, latents, factors = rng.permutation(24), [2, 0, 3, 1], [1, 2, 0]
        other = mig_quadrature(mu[rows][:, latents], log_var[rows][:, latents], classes[rows][:, factors])
        np.testing.assert_allclose(other.score, result.score, atol=1e-12)
        np.testing.assert_allclose(other.information, result.information[latents][:, factors], atol=1e-12)

    def test_uneven_factors_use_their_own_entropy(self):
        classes = np.array([[0, 0], [0, 1], [0, 0], [1, 1]])
        mu = 10.0 * classes.astype(float)
        result = mig_quadrature(mu, np.full((4, 2), -2.0), classes)
        h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        assert result.information[0, 0] == pytest.approx(h, abs=1e-9)

    def test_classes_need_not_be_contiguous(self):
        classes = grid_classes(3, 4)
        rng = np.random.default_rng(4)
        mu, log_var = rng.standard_normal((12, 2)), rng.uniform(-2, 0, (12, 2))
        same = mig_quadrature(mu, log_var, 7 * classes + 5)
        np.testing.assert_array_equal(same.information, mig_quadrature(mu, log_var, classes).information)

    def test_against_monte_carlo(self):
        """I(z_d; v_k) as a mean of log-ratios over samples of the aggregate, with its standard error."""
        rng = np.random.default_rng(5)
        classes = grid_classes(3, 4)
        mu, log_var = rng.standard_normal((12, 2)), rng.uniform(-2, 0, (12, 2))
        result = mig_quadrature(mu, log_var, classes)
        n = rng.integers(12, size=4000)
        z = mu[n, 0] + np.exp(0.5 * log_var[n, 0]) * rng.standard_normal(4000)
        ratios = []
        for t, own in zip(z.tolist(), n, strict=True):
            peers = classes[:, 1] == classes[own, 1]
            given = naive.mixture_density(t, mu[peers, 0].tolist(), log_var[peers, 0].tolist())
            ratios.append(math.log(given / naive.mixture_density(t, mu[:, 0].tolist(), log_var[:, 0].tolist())))
        error = np.std(ratios) / math.sqrt(len(ratios))
        assert abs(np.mean(ratios) - result.information[0, 1]) < 4 * error

    @pytest.mark.parametrize(
        ("mu", "classes", "match"),
        [
            (np.zeros((4, 1)), grid_classes(2, 2), "a gap needs two"),
            (np.zeros((4, 2)), np.zeros((4, 1), int), "single value"),
            (np.zeros((4, 2)), np.zeros((3, 1), int), "classes are"),
            (np.zeros((4, 2)), np.zeros((4, 0), int), "classes are"),
        ],
    )
    def test_refusals(self, mu, classes, match):
        with pytest.raises(InputError, match=match):
            mig_quadrature(mu, np.zeros(mu.shape), classes)


class TestDecomposition:
    def setup_method(self):
        rng = np.random.default_rng(6)
        self.N, self.S, D = 200, 5000, 3
        self.mu, self.log_var = rng.standard_normal((self.N, D)), rng.uniform(-3, -1, (self.N, D))
        self.index, self.eps = rng.integers(self.N, size=self.S), rng.standard_normal((self.S, D))

    def test_terms_against_loops_on_the_same_samples(self):
        few = 20
        result = decomposition_exact(self.mu, self.log_var, self.index[:few], self.eps[:few])
        n = self.index[:few]
        z = self.mu[n] + np.exp(0.5 * self.log_var[n]) * self.eps[:few]
        joint, marginals = naive.log_qz("exact", z.tolist(), self.mu.tolist(), self.log_var.tolist(), self.N)
        own = [
            math.fsum(naive.log_density(*a) for a in zip(z[s], self.mu[n[s]], self.log_var[n[s]], strict=True))
            for s in range(few)
        ]
        mi = [own[s] - joint[s] for s in range(few)]
        tc = [joint[s] - math.fsum(marginals[s]) for s in range(few)]
        assert result.mutual_information.value == pytest.approx(np.mean(mi), rel=1e-12)
        assert result.total_correlation.value == pytest.approx(np.mean(tc), rel=1e-12)
        assert result.total_correlation.standard_error == pytest.approx(np.std(tc, ddof=1) / few**0.5, rel=1e-12)

    def test_against_quadrature_and_the_closed_form(self):
        """The dimension-wise KL and the KL, each two ways, within four standard errors."""
        result = decomposition_exact(self.mu, self.log_var, self.index, self.eps)
        entropies = mig_quadrature(self.mu, self.log_var, np.arange(self.N)[:, None] % 2).entropies
        by_quadrature = dimension_wise_kl_exact(self.mu, self.log_var, entropies).sum()
        assert abs(result.dimension_wise_kl.value - by_quadrature) < 4 * result.dimension_wise_kl.standard_error
        assert result.kl_analytic == pytest.approx(kl_to_standard_normal(self.mu, self.log_var).mean(), rel=1e-12)
        assert abs(result.kl_monte_carlo.value - result.kl_analytic) < 4 * result.kl_monte_carlo.standard_error
        assert result.mutual_information.value < math.log(self.N)

    def test_standard_errors_are_the_spread_over_seeds(self):
        values, errors = [], []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            index, eps = rng.integers(self.N, size=200), rng.standard_normal((200, 3))
            result = decomposition_exact(self.mu, self.log_var, index, eps)
            values.append([term.value for term in result[:4]])
            errors.append([term.standard_error for term in result[:4]])
        ratio = np.std(values, axis=0, ddof=1) / np.mean(errors, axis=0)
        assert np.all((ratio > 0.6) & (ratio < 1.5)), ratio

    def test_blocks_do_not_matter(self):
        whole = decomposition_exact(self.mu, self.log_var, self.index[:50], self.eps[:50])
        pieces = decomposition_exact(self.mu, self.log_var, self.index[:50], self.eps[:50], block_bytes=1)
        assert whole == pieces

    def test_progress_ends_at_the_total(self):
        seen = []
        decomposition_exact(
            self.mu,
            self.log_var,
            self.index[:50],
            self.eps[:50],
            block_bytes=40_000,
            progress=lambda *a: seen.append(a),
        )
        assert len(seen) > 1
        assert seen[-1] == (50, 50)

    @pytest.mark.parametrize(
        ("index", "eps", "match"),
        [
            (np.array([0, 200]), np.zeros((2, 3)), "N=200"),
            (np.array([0, 1]), np.zeros((3, 3)), "eps"),
            (np.array([0]), np.zeros((1, 3)), "S >= 2"),
        ],
    )
    def test_refusals(self, index, eps, match):
        with pytest.raises(InputError, match=match):
            decomposition_exact(self.mu, self.log_var, index, eps)
