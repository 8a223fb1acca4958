"""What is known of the estimators without computing a mixture: unbiasedness, symmetries, bounds, special cases."""

import itertools
import math

import naive
import numpy as np
import problems
import pytest
from autograd import grad
from autograd import numpy as anp
from autograd.test_util import check_grads
from hypothesis import given, settings
from problems import ALL, BATCH, batches, expected_log_qz, log_qz
from scipy import stats

from tcvae_ref import checks, kl_terms
from tcvae_ref.estimators import log_weights_mss, log_weights_mws, log_weights_symmetric_mss
from tcvae_ref.gaussian import log_density, log_density_matrix

WEIGHTS = {"mws": log_weights_mws, "mss": log_weights_mss, "symmetric_mss": log_weights_symmetric_mss}


def released_mss_weights(M, N):
    """The matrix of the code released with the paper, statement by statement.

    There `m = batch_size - 1` is also the stride of the fills, over rows that are batch_size = m + 1 wide:
    `W.view(-1)[::m + 1]` walks down column 0, not along the diagonal.
    """
    m = M - 1
    W = np.full((M, M), 1 / m)
    W.reshape(-1)[:: m + 1] = 1 / N
    W.reshape(-1)[1 :: m + 1] = (N - m) / (N * m)
    W[m - 1, 0] = (N - m) / (N * m)
    return W


def weighted(log_w, z, mu, log_var):
    """log sum_j w_ij q(z_i|n_j) and its marginals, for any weights; plain NumPy."""
    L = log_density_matrix(z, mu, log_var)
    return np.log(np.exp(L.sum(axis=2) + log_w).sum(axis=1)), np.log(np.exp(L + log_w[..., None]).sum(axis=1))


@given(batches())
@settings(max_examples=200)
def test_loops_and_reference_agree(case):
    z, mu, log_var, N = case
    for estimator in ALL:
        size = len(mu) if estimator == "exact" else N
        joint, marginals = naive.log_qz(estimator, z.tolist(), mu.tolist(), log_var.tolist(), size)
        got = log_qz(estimator)(z, mu, log_var, size)
        np.testing.assert_allclose(got.joint, joint, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got.marginals, marginals, rtol=1e-12, atol=1e-12)


@given(batches())
def test_batch_means_are_means(case):
    z, mu, log_var, N = case
    for estimator in ALL:
        size = len(mu) if estimator == "exact" else N
        joint, marginals = log_qz(estimator)(z, mu, log_var, size)
        means = expected_log_qz(estimator)(z, mu, log_var, size)
        np.testing.assert_allclose(means.joint, joint.mean(), rtol=1e-13)
        np.testing.assert_allclose(means.marginals, marginals.sum(axis=1).mean(), rtol=1e-13)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dtype_in_is_dtype_out(estimator, dtype):
    z, mu, log_var, N = problems.case(np.random.default_rng(0), estimator, dtype)
    joint, marginals = log_qz(estimator)(z, mu, log_var, N)
    means = expected_log_qz(estimator)(z, mu, log_var, N)
    gradients = grad(lambda *a: sum(expected_log_qz(estimator)(*a, N)), (0, 1, 2))(z, mu, log_var)
    found = {str(a.dtype) for a in (joint, marginals, *means, *gradients)}
    assert found == {dtype}


@pytest.mark.parametrize("estimator", ALL)
def test_gradients_by_finite_differences_to_second_order(estimator):
    rng = np.random.default_rng(3)
    z, mu, log_var = (rng.standard_normal((4, 2)) for _ in range(3))
    N = 4 if estimator == "exact" else 9
    by = (0, 1, 2)
    check_grads(lambda *a: sum(expected_log_qz(estimator)(*a, N)), by, modes=["rev"], order=2)(z, mu, log_var)
    check_grads(lambda *a: log_qz(estimator)(*a, N).marginals, by, modes=["rev"], order=1)(z, mu, log_var)


class TestWeights:
    @pytest.mark.parametrize("M", [2, 3, 8, 33])
    @pytest.mark.parametrize("N", [33, 34, 1000, 10**9])
    def test_rows_sum_to_one_and_mws_to_one_over_N(self, M, N):
        for name in ("mss", "symmetric_mss"):
            np.testing.assert_allclose(np.exp(WEIGHTS[name](M, N)).sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(np.exp(log_weights_mws(M, N)).sum(axis=1), 1 / N, rtol=1e-12)

    @pytest.mark.parametrize("M", [2, 3, 7])
    def test_symmetric_is_the_mean_over_the_choice_of_neighbour(self, M):
        N, i = 11, np.arange(M)
        m = M - 1
        choices = []
        for shift in range(1, M):
            w = np.full((M, M), 1 / m)
            w[i, (i + shift) % M] = (N - m) / (N * m)
            w[i, i] = 1 / N
            choices.append(w)
        np.testing.assert_allclose(np.exp(log_weights_symmetric_mss(M, N)), np.mean(choices, axis=0), rtol=1e-13)

    def test_weights_are_those_of_the_loops(self):
        for name, M, N in itertools.product(WEIGHTS, (2, 5), (5, 77)):
            expected = [[naive.weight(name, i, j, M, N) for j in range(M)] for i in range(M)]
            np.testing.assert_allclose(np.exp(WEIGHTS[name](M, N)), expected, rtol=1e-13)


class TestUnbiased:
    """Over all ordered batches without replacement, the mean of exp(log q(z)) is q(z): enumerated, N = 4, M = 3."""

    N, M = 4, 3

    def over_batches(self, estimate):
        """estimate / exact for the sample of each input at each place : (cases, batches), joint and marginals."""
        rng = np.random.default_rng(5)
        mu, log_var = rng.standard_normal((self.N, 2)), rng.uniform(-1, 1, (self.N, 2))
        z = mu + np.exp(0.5 * log_var) * rng.standard_normal((self.N, 2))
        exact = log_qz("exact")(z, mu, log_var, self.N)
        ratios = []
        for n, place in itertools.product(range(self.N), range(self.M)):
            batches = [list(b) for b in itertools.permutations(range(self.N), self.M) if b[place] == n]
            joints, marginals = zip(*(estimate(z[b], mu[b], log_var[b]) for b in batches), strict=True)
            ratios.append([np.exp(j[place] - exact.joint[n]) for j in joints])
            ratios += list(np.exp([m[place] - exact.marginals[n] for m in marginals]).T)
        return np.array(ratios)

    def mean_over_batches(self, estimate):
        return self.over_batches(estimate).mean(axis=1)

    @pytest.mark.parametrize("estimator", ["mss", "symmetric_mss"])
    def test_stratified_sampling_is_unbiased(self, estimator):
        ratios = self.mean_over_batches(lambda *a: log_qz(estimator)(*a, self.N))
        np.testing.assert_allclose(ratios, 1.0, rtol=1e-13)

    @pytest.mark.parametrize("estimator", ["mws", "minibatch"])
    def test_the_others_are_not(self, estimator):
        ratios = self.mean_over_batches(lambda *a: log_qz(estimator)(*a, self.N))
        assert np.max(np.abs(ratios - 1.0)) > 0.1

    def test_mws_is_a_lower_bound_on_average(self):
        """E[1/(NM) sum_j q(z|n_j)] <= q(z), for batches that contain the sample's own input; Jensen does the rest."""
        assert np.all(self.mean_over_batches(lambda *a: log_qz("mws")(*a, self.N)) <= 1.0)

    def test_mws_of_any_batch_is_at_most_q_over_m(self):
        ratios = self.over_batches(lambda *a: log_qz("mws")(*a, self.N))
        assert np.all(ratios <= 1 / self.M)
        assert np.max(ratios) > 0.9 / self.M  # nor is there room for more

    def test_symmetric_mss_never_varies_more_than_mss(self):
        of_mss, of_symmetric = (
            self.over_batches(lambda *a, name=name: log_qz(name)(*a, self.N)).std(axis=1)
            for name in ("mss", "symmetric_mss")
        )
        assert np.all(of_symmetric <= of_mss)
        assert np.all(of_mss > 0)


class TestColumnWeightedMSS:
    """The released MSS matrix puts its special weights down columns 0 and 1; each test here tells it from MSS."""

    M, N = 5, 40

    def test_the_released_matrix_is_constant_down_its_first_columns(self):
        w = released_mss_weights(self.M, self.N)
        m = self.M - 1
        np.testing.assert_array_equal(w[:, 0][[0, 1, 2, 4]], 1 / self.N)
        np.testing.assert_array_equal(w[:, 1], (self.N - m) / (self.N * m))
        assert np.max(np.abs(w - np.exp(log_weights_mss(self.M, self.N)))) > 0.1

    def test_rows_do_not_sum_to_one(self):
        sums = released_mss_weights(self.M, self.N).sum(axis=1)
        np.testing.assert_allclose(np.exp(log_weights_mss(self.M, self.N)).sum(axis=1), 1.0, rtol=1e-12)
        # All but one row have the right sum by accident: the same numbers in the wrong places.
        assert abs(sums[self.M - 2] - 1.0) > 0.1

    def test_it_is_biased(self):
        unbiased = TestUnbiased()
        log_w = np.log(released_mss_weights(unbiased.M, unbiased.N))
        ratios = unbiased.mean_over_batches(lambda *a: weighted(log_w, *a))
        assert np.max(np.abs(ratios - 1.0)) > 0.1

    def test_identical_posteriors_betray_it(self):
        rng = np.random.default_rng(0)
        mu, log_var = (np.tile(rng.standard_normal((1, 3)), (self.M, 1)) for _ in range(2))
        z = mu + rng.standard_normal((self.M, 3))
        joint, _ = weighted(np.log(released_mss_weights(self.M, self.N)), z, mu, log_var)
        assert np.max(np.abs(joint - log_density(z, mu, log_var).sum(axis=1))) > 0.1

    def test_shifting_the_batch_does_not_shift_its_result(self):
        rng = np.random.default_rng(1)
        z, mu, log_var = (rng.standard_normal((self.M, 2)) for _ in range(3))
        log_w = np.log(released_mss_weights(self.M, self.N))
        shifted, _ = weighted(log_w, *(np.roll(a, 1, axis=0) for a in (z, mu, log_var)))
        assert np.max(np.abs(shifted - np.roll(weighted(log_w, z, mu, log_var)[0], 1))) > 0.01

    def test_what_it_does_to_the_gradient(self):
        """Training sees it: the gradient of the total correlation points elsewhere."""
        rng = np.random.default_rng(2)
        z, mu, log_var = rng.standard_normal((5, 3)), rng.standard_normal((5, 3)), rng.uniform(-2, -1, (5, 3))
        z = mu + np.exp(0.5 * log_var) * z

        def tc(log_w):
            def value(mu):
                L = log_density_matrix(z, mu, log_var)
                joint = anp.log(anp.sum(anp.exp(anp.sum(L, axis=2) + log_w), axis=1))
                return anp.mean(joint - anp.sum(anp.log(anp.sum(anp.exp(L + log_w[..., None]), axis=1)), axis=1))

            return grad(value)(mu).ravel()

        right, wrong = tc(log_weights_mss(5, 40)), tc(np.log(released_mss_weights(5, 40)))
        cosine = right @ wrong / np.linalg.norm(right) / np.linalg.norm(wrong)
        assert cosine < 0.9


class TestSymmetries:
    @given(batches())
    def test_cyclic_shift(self, case):
        z, mu, log_var, N = case
        for estimator in BATCH:
            joint, marginals = log_qz(estimator)(z, mu, log_var, N)
            shifted = log_qz(estimator)(*(np.roll(a, 1, axis=0) for a in (z, mu, log_var)), N)
            np.testing.assert_allclose(shifted.joint, np.roll(joint, 1), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(shifted.marginals, np.roll(marginals, 1, axis=0), rtol=1e-12, atol=1e-12)

    @given(batches())
    def test_any_permutation_but_for_mss(self, case):
        z, mu, log_var, N = case
        order = np.random.default_rng(N).permutation(len(z))
        for estimator in ("mws", "symmetric_mss", "minibatch"):
            joint, marginals = log_qz(estimator)(z, mu, log_var, N)
            permuted = log_qz(estimator)(z[order], mu[order], log_var[order], N)
            np.testing.assert_allclose(permuted.joint, joint[order], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(permuted.marginals, marginals[order], rtol=1e-12, atol=1e-12)

    def test_mss_depends_on_the_order(self):
        rng = np.random.default_rng(4)
        z, mu, log_var = (rng.standard_normal((5, 2)) for _ in range(3))
        order = [1, 0, 2, 3, 4]
        joint, _ = log_qz("mss")(z, mu, log_var, 9)
        permuted, _ = log_qz("mss")(z[order], mu[order], log_var[order], 9)
        assert np.max(np.abs(permuted - joint[order])) > 1e-3

    @given(batches())
    def test_translation_and_scaling_of_the_latent_space(self, case):
        """log q shifts by minus the log of the scale for each dimension."""
        z, mu, log_var, N = case
        D = z.shape[1]
        for estimator in BATCH:
            joint, marginals = log_qz(estimator)(z, mu, log_var, N)
            moved = log_qz(estimator)(2 * z + 1, 2 * mu + 1, log_var + 2 * math.log(2), N)
            np.testing.assert_allclose(moved.joint, joint - D * math.log(2), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(moved.marginals, marginals - math.log(2), rtol=1e-9, atol=1e-9)


class TestSpecialCases:
    @pytest.mark.parametrize("estimator", ["exact", "mws", "minibatch"])
    def test_a_batch_of_one_out_of_one(self, estimator):
        z, mu, log_var = np.array([[0.5, -1.0]]), np.array([[0.0, 1.0]]), np.array([[0.25, -0.5]])
        joint, marginals = log_qz(estimator)(z, mu, log_var, 1)
        own = stats.norm.logpdf(z, mu, np.exp(0.5 * log_var))
        np.testing.assert_allclose(marginals, own, rtol=1e-14)
        np.testing.assert_allclose(joint, own.sum(axis=1), rtol=1e-14)
        assert log_weights_mws(1, 1) == 0.0

    @given(batches())
    def test_identical_posteriors(self, case):
        """Every row-stochastic weighting returns the posterior itself."""
        z, mu, log_var, N = case
        mu, log_var = np.tile(mu[:1], (len(z), 1)), np.tile(log_var[:1], (len(z), 1))
        own = log_density(z, mu, log_var)
        for estimator in ("exact", "mss", "symmetric_mss", "minibatch"):
            size = len(mu) if estimator == "exact" else N
            joint, marginals = log_qz(estimator)(z, mu, log_var, size)
            np.testing.assert_allclose(joint, own.sum(axis=1), rtol=1e-12, atol=1e-11)
            np.testing.assert_allclose(marginals, own, rtol=1e-12, atol=1e-11)

    @given(batches())
    def test_one_dimension_has_no_total_correlation(self, case):
        z, mu, log_var, N = (a[:, :1] if isinstance(a, np.ndarray) else a for a in case)
        for estimator in BATCH:
            terms = kl_terms(z, mu, log_var, N, expected_log_qz(estimator))
            assert abs(terms.total_correlation) < 1e-12 * (1 + abs(terms.dimension_wise_kl))

    @given(batches())
    def test_symmetric_mss_is_exact_when_the_batch_is_the_data(self, case):
        z, mu, log_var, _ = case
        M = len(z)
        for got, exact in zip(
            log_qz("symmetric_mss")(z, mu, log_var, M), log_qz("exact")(z, mu, log_var, M), strict=True
        ):
            np.testing.assert_allclose(got, exact, rtol=1e-12, atol=1e-12)

    def test_mss_is_not(self):
        rng = np.random.default_rng(6)
        z, mu, log_var = (rng.standard_normal((4, 2)) for _ in range(3))
        assert np.max(np.abs(log_qz("mss")(z, mu, log_var, 4).joint - log_qz("exact")(z, mu, log_var, 4).joint)) > 1e-3

    @given(batches())
    def test_mws_and_minibatch_differ_by_log_N(self, case):
        z, mu, log_var, N = case
        for got, other in zip(log_qz("mws")(z, mu, log_var, N), log_qz("minibatch")(z, mu, log_var, N), strict=True):
            np.testing.assert_allclose(got, other - math.log(N), rtol=1e-12, atol=1e-12)

    @given(batches())
    def test_minibatch_mutual_information_is_at_most_log_M(self, case):
        z, mu, log_var, N = case
        terms = kl_terms(z, mu, log_var, N, expected_log_qz("minibatch"))
        assert terms.mutual_information <= math.log(len(z)) + 1e-12

    def test_exact_total_correlation_of_a_correlated_gaussian(self):
        """Posterior means drawn from N(0, R): TC = -1/2 log det R of the aggregate, here by 200,000 samples' worth."""
        rng = np.random.default_rng(7)
        N, rho, noise = 4000, 0.8, 0.3
        mu = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], N)
        log_var = np.full((N, 2), 2 * math.log(noise))
        z = mu + noise * rng.standard_normal((N, 2))
        aggregate = rho / (1 + noise**2)
        terms = kl_terms(z, mu, log_var, N, expected_log_qz("exact"))
        assert abs(terms.total_correlation + 0.5 * math.log(1 - aggregate**2)) < 0.05

    def test_variances_far_from_one(self):
        """(z - mu) exp(-log_var / 2) is squared, so variances of e^-800 and distances of 1e200 still have a density."""
        z, log_var = np.array([[0.0, 1e200]]), np.array([[-800.0, 922.0]])
        own = log_density(z, 0 * z, log_var)
        expected = [400 - naive.LOG_2PI / 2, -0.5 * ((1e200 * math.exp(-461)) ** 2 + 922 + naive.LOG_2PI)]
        np.testing.assert_allclose(own[0], expected, rtol=1e-12)

    def test_published_bias_of_the_estimators(self):
        """N = 2000, D = 10, M = 256, sigma = 0.3 on standard normal means: MWS is far off, MSS is not."""
        rng = np.random.default_rng(8)
        N, M, D = 2000, 256, 10
        mu, log_var = rng.standard_normal((N, D)), np.full((N, D), 2 * math.log(0.3))
        z = mu + 0.3 * rng.standard_normal((N, D))
        exact = kl_terms(z[:M], mu[:M], log_var[:M], N, lambda z, *_: expected_log_qz("exact")(z, mu, log_var, N))
        mws, mss = (kl_terms(z[:M], mu[:M], log_var[:M], N, expected_log_qz(e)) for e in ("mws", "mss"))
        assert abs(mss.total_correlation - exact.total_correlation) < 0.5
        assert mws.total_correlation - exact.total_correlation > 60


class TestRefusals:
    Z = np.zeros((3, 2))

    def refuse(self, match, fn, *args, error=checks.InputError):
        with pytest.raises(error, match=match):
            fn(*args)

    @pytest.mark.parametrize("estimator", ALL)
    def test_shapes_dtypes_and_values(self, estimator):
        fn, Z = log_qz(estimator), self.Z
        self.refuse("shapes are", fn, Z, Z, Z[:2], 3)
        self.refuse("shapes are|dimensions", fn, Z[:, :1], Z, Z, 3)
        self.refuse("shapes are", fn, Z[0], Z[0], Z[0], 3)
        self.refuse("shapes are", fn, Z[:0], Z[:0], Z[:0], 3)
        self.refuse("dtypes are", fn, Z, Z.astype("float32"), Z.astype("float32"), 3, error=TypeError)
        self.refuse("dtypes are", fn, *(Z.astype(int),) * 3, 3, error=TypeError)
        self.refuse("z is a list", fn, Z.tolist(), Z, Z, 3, error=TypeError)
        self.refuse(r"mu has 1 nan or infinite of 6 entries, the first at \(1, 0\)", fn, Z, self.with_nan(), Z, 3)
        self.refuse("dataset_size", fn, Z, Z, Z, 0)
        self.refuse("dataset_size=3.0 is a float", fn, Z, Z, Z, 3.0, error=TypeError)

    def with_nan(self):
        mu = self.Z.copy()
        mu[1, 0] = np.nan
        return mu

    @pytest.mark.parametrize("estimator", ["mss", "symmetric_mss"])
    def test_batches_stratified_sampling_cannot_use(self, estimator):
        self.refuse("M=3 exceeds dataset_size=2", log_qz(estimator), self.Z, self.Z, self.Z, 2)
        self.refuse("M=1 is too small", log_qz(estimator), self.Z[:1], self.Z[:1], self.Z[:1], 5)

    @pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64])
    def test_a_numpy_integer_is_as_good_as_pythons(self, kind):
        rng = np.random.default_rng(0)
        z, mu, log_var = (rng.standard_normal((3, 2)) for _ in range(3))
        for estimator in BATCH:
            np.testing.assert_array_equal(
                log_qz(estimator)(z, mu, log_var, kind(200)).joint, log_qz(estimator)(z, mu, log_var, 200).joint
            )
        for weights in WEIGHTS.values():
            np.testing.assert_array_equal(weights(kind(100), kind(120)), weights(100, 120))

    @pytest.mark.parametrize(("dtype", "extreme"), [("float64", -1500), ("float64", 1500), ("float32", -178)])
    def test_variances_whose_square_root_overflows(self, dtype, extreme):
        Z = self.Z.astype(dtype)
        for estimator in BATCH:
            self.refuse("log_var reaches", log_qz(estimator), Z, Z, Z + Z.dtype.type(extreme), 3)

    def test_exact_needs_every_posterior(self):
        self.refuse("3 posteriors are given and dataset_size=9", log_qz("exact"), self.Z, self.Z, self.Z, 9)

    def test_checks_see_through_autograd(self):
        nan = np.full((3, 2), np.nan)
        with pytest.raises(checks.InputError, match="nan or infinite"):
            grad(lambda z: expected_log_qz("mws")(z, self.Z, self.Z, 3).joint)(nan)
