"""MIG and the exact decomposition: closed forms, and Monte Carlo within its error."""

import math

import naive
import numpy as np
import pytest

from tcvae_ref import InputError, kl_to_standard_normal
from tcvae_ref.metrics import (
    decomposition_exact,
    dimension_wise_kl_exact,
    estimate,
    mig_quadrature,
    mixture_entropies,
)
from tcvae_ref.metrics.decomposition import Estimate
from tcvae_ref.metrics.mig import gaps, prepared


def grid_classes(*sizes):
    return np.indices(sizes).reshape(len(sizes), -1).T


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

    def test_collapsed_codes_score_nothing(self):
        """All posteriors are the prior: nothing is known, whatever the factors."""
        result = mig_quadrature(np.zeros((24, 3)), np.zeros((24, 3)), grid_classes(2, 3, 4))
        np.testing.assert_allclose(result.information, 0.0, rtol=0, atol=1e-14)
        np.testing.assert_allclose(result.entropies, 0.5 * math.log(2 * math.pi * math.e), rtol=0, atol=1e-14)
        assert abs(result.score) < 1e-14

    def test_weights_are_duplicated_inputs(self):
        rng = np.random.default_rng(7)
        mu, log_var, classes = rng.standard_normal((9, 3)), rng.uniform(-4, 0, (9, 3)), rng.integers(0, 3, (9, 2))
        classes[:3], times = np.arange(3)[:, None], np.array([1, 2, 3, 0, 1, 0, 4, 1, 1])
        weighted = mig_quadrature(mu, log_var, classes, weights=times / 7)
        repeated = mig_quadrature(*(np.repeat(a, times, axis=0) for a in (mu, log_var, classes)))
        for name in ("score", "gaps", "information", "entropies", "factor_entropies"):
            np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=0, atol=1e-13)
        assert mig_quadrature(mu, log_var, classes).score != pytest.approx(weighted.score, abs=1e-3)

    def test_scales_from_1e_6_to_1e3_in_each_latent(self):
        """Invariant under permutations to 1e-12 there as well; half of the inputs tell the factor's value exactly."""
        rng = np.random.default_rng(8)
        classes = grid_classes(2, 3, 4)
        mu, log_var = 10 * rng.standard_normal((24, 2)), 2 * rng.uniform(math.log(1e-6), math.log(1e3), (24, 2))
        result, rows = mig_quadrature(mu, log_var, classes), rng.permutation(24)
        other = mig_quadrature(mu[rows], log_var[rows], classes[rows])
        np.testing.assert_allclose(other.information, result.information, rtol=0, atol=1e-12)
        assert result.error.information.max() < 1e-9
        assert np.all(result.information > 0)

    def test_errors_of_every_number(self):
        rng = np.random.default_rng(9)
        classes, D = grid_classes(3, 4), 3
        mu, log_var = 3 * rng.standard_normal((12, D)), rng.uniform(-5, 0, (12, D))
        best = mig_quadrature(mu, log_var, classes, tolerance=1e-13)
        rough = mig_quadrature(mu, log_var, classes, tolerance=1e-4)
        for name in ("score", "gaps", "information", "entropies"):
            ours, errors = getattr(rough, name), np.asarray(getattr(rough.error, name))
            assert np.shape(ours) == errors.shape
            assert np.all(np.abs(ours - getattr(best, name)) <= errors + getattr(best.error, name))
            assert 0 < errors.min() <= errors.max() < 1e-3
        np.testing.assert_allclose(rough.factor_entropies, np.log([3, 4]), rtol=1e-15)
        np.testing.assert_allclose(rough.error.gaps, 2 * rough.error.information.max(axis=0) / np.log([3, 4]))
        assert rough.error.score == pytest.approx(rough.error.gaps.mean())

    def test_the_gap_is_between_the_two_largest(self):
        information = np.array([[0.1, 0.5], [0.4, 0.2], [0.3, 0.9]])
        np.testing.assert_allclose(gaps(information, np.array([1.0, 2.0])), [0.1, 0.2])

    def test_preparation(self):
        """Values are numbered in their order, those without weight are not; p(n) sums to 1."""
        classes = np.array([[9, -1], [2, -1], [9, 5], [4, 5]])
        given = prepared("here", np.zeros((4, 2)), np.zeros((4, 2)), classes, np.array([2.0, 0.0, 1.0, 1.0]))
        assert given.labels[[0, 2, 3]].tolist() == [[1, 0], [1, 1], [0, 1]]
        assert 0 <= given.labels[1, 0] < 2
        assert given.sizes == [2, 2]
        np.testing.assert_allclose(given.p, [0.5, 0, 0.25, 0.25])
        h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        np.testing.assert_allclose(given.factor_entropies, [h, math.log(2)], rtol=1e-15)

    @pytest.mark.parametrize(
        ("weights", "match"),
        [
            (np.array([1.0, 1.0, 0.0, 0.0]), "factor 0 has a single value"),
            (np.array([1.0, 1.0, -1.0, 1.0]), "weights lie in"),
            (np.ones(3), "weights has shape"),
        ],
    )
    def test_refused_weights(self, weights, match):
        with pytest.raises(InputError, match=match):
            mig_quadrature(np.zeros((4, 2)), np.zeros((4, 2)), grid_classes(2, 2), weights=weights)

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
        assert seen[-1] == (self.N, self.N)

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


class TestEdges:
    def test_what_cannot_be_averaged_is_refused(self):
        for values in (np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([1.0]), np.zeros(0), [1.0, 2.0]):
            with pytest.raises(InputError, match=r"^estimate: "):
                estimate(values)

    def test_what_would_overflow_when_squared_is_averaged(self):
        values = np.random.default_rng(0).standard_normal(9)
        plain = Estimate(values.mean(), values.std(ddof=1) / 3)
        assert estimate(values) == plain
        for scale in (2.0**1000, 2.0**-1000):
            assert estimate(scale * values) == Estimate(*(scale * x for x in plain))
        assert estimate(np.full(4, 1.7e308)) == Estimate(1.7e308, 0.0)
        assert estimate(np.zeros(3)) == Estimate(0.0, 0.0)

    def test_a_sample_beyond_the_prior_is_named(self):
        log_var = np.zeros((4, 2))
        log_var[2, 1] = 745.0
        with pytest.raises(
            InputError, match=r"^decomposition_exact: log p\(z\) is -inf where z, drawn from posterior 2, is"
        ):
            decomposition_exact(np.zeros((4, 2)), log_var, np.arange(4), np.ones((4, 2)))
        log_var[2, 1] = 700.0
        result = decomposition_exact(np.zeros((4, 2)), log_var, np.arange(4), np.ones((4, 2)))
        assert np.all(np.isfinite(result.dimension_wise_kl))

    def test_entropies_that_are_not_numbers(self):
        zero = np.zeros((4, 2))
        with pytest.raises(InputError, match="dimension_wise_kl_exact: entropies has 1 nan"):
            dimension_wise_kl_exact(zero, zero, np.array([1.0, np.nan]))

    def test_groups_beyond_all_count(self):
        labels = np.array([[0], [2**40]])
        with pytest.raises(InputError, match="labels reach 1099511627776; they must be below"):
            mixture_entropies(np.zeros(2), np.zeros(2), labels)

    def test_masked_classes_are_not_taken_for_classes(self):
        zero = np.zeros((4, 2))
        classes = np.ma.masked_array([[0], [1], [0], [1]], mask=[[True], [False], [False], [False]])
        with pytest.raises(InputError, match="mig_quadrature: classes is a masked array"):
            mig_quadrature(zero, zero, classes)

    def test_components_at_the_end_of_the_range_have_a_centre(self):
        mu = np.full(2, 1.7e308)
        got = mixture_entropies(mu, np.zeros(2), np.zeros((2, 0), int))
        assert abs(got.marginal - 0.5 * np.log(2 * np.pi * np.e)) <= got.error

    def test_indices_that_are_no_array(self):
        zero = np.zeros((4, 2))
        for index in ([0, 1], np.array(1), None):
            with pytest.raises(InputError, match=r"index is .*integers"):
                decomposition_exact(zero, zero, index, zero[:2])
        with pytest.raises(InputError, match="eps is a list; an array"):
            decomposition_exact(zero, zero, np.arange(2), zero[:2].tolist())
