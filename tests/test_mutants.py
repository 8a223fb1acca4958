"""Every check has teeth: plant a mistake in the reference, and the check that should notice it must fail."""

import math

import numpy as np
import problems
import pytest
import test_data
import test_entropy
import test_estimators
import test_metrics
import test_reference
import test_training
import test_truth
from autograd import numpy as anp
from scipy.special import xlogy

from tcvae_ref import decomposition, estimators, gaussian, likelihood, metrics, networks
from tcvae_ref.data import dsprites
from tcvae_ref.gaussian import LOG_2PI
from tcvae_ref.metrics import entropy
from tcvae_ref.training import adam


def certified(estimator):
    """Twenty cases of tests/test_truth.py."""

    def check():
        rng = np.random.default_rng(0)
        for _ in range(20):
            # looked up by name at each call, so that the planted mistake is what is judged
            value, gradient = test_truth.relative_errors(
                estimator,
                problems.log_qz(estimator),
                problems.expected_log_qz(estimator),
                *problems.case(rng, estimator),
            )
            assert max(value, gradient) < test_truth.TOLERANCE

    return check


def on_cases(method):
    """Twenty cases of a property that hypothesis draws."""

    def check():
        rng = np.random.default_rng(1)
        for _ in range(20):
            method.hypothesis.inner_test(None, problems.case(rng, "mss"))

    return check


def columns(M, N):
    return np.log(test_estimators.released_mss_weights(M, N))


LOG_WEIGHTS_MSS = estimators.log_weights_mss


def off_by_one(weights):
    return lambda M, N: weights(M, N + 1)


def weights_before_the_sum(z, mu, log_var, log_w):
    """log w inside the product over d: its D-th power in the joint."""
    L = gaussian.log_density_matrix(z, mu, log_var) + np.asarray(log_w)[..., None]
    return problems.estimators.LogQz(estimators.log_sum_exp(anp.sum(L, axis=2)), estimators.log_sum_exp(L))


def weights_on_the_joint_only(z, mu, log_var, log_w):
    L = gaussian.log_density_matrix(z, mu, log_var)
    return problems.estimators.LogQz(
        estimators.log_sum_exp(anp.sum(L, axis=2) + log_w), estimators.log_sum_exp(L) - math.log(len(mu))
    )


def transposed(z, mu, log_var):
    z_j, mu_i, log_var_i = z[None], mu[:, None], log_var[:, None]
    return -0.5 * ((z_j - mu_i) ** 2 * anp.exp(-log_var_i) + log_var_i + LOG_2PI)


def pairs(quadratic_scale=1.0, log_var_scale=1.0, epsilon=0.0, constant=LOG_2PI):
    """log_density_matrix with something wrong in it."""

    def log_density_matrix(z, mu, log_var):
        z, mu, log_var = z[:, None], mu[None], log_var[None]
        precision = 1 / (anp.exp(log_var) + epsilon)
        return -0.5 * (quadratic_scale * (z - mu) ** 2 * precision + log_var_scale * log_var + constant)

    return log_density_matrix


def through_probabilities(a):
    return anp.log(anp.sum(anp.exp(a), axis=1) + 1e-12)


IN_ESTIMATORS = {
    "weights in columns": ("log_weights_mss", columns, "mss"),
    "symmetric weights in place of MSS": ("log_weights_mss", estimators.log_weights_symmetric_mss, "mss"),
    "data set size off by one": (
        "log_weights_symmetric_mss",
        off_by_one(estimators.log_weights_symmetric_mss),
        "symmetric_mss",
    ),
    "neighbour on the other side": ("log_weights_mss", lambda M, N: LOG_WEIGHTS_MSS(M, N).T, "mss"),
    "missing log M": ("log_weights_mws", lambda M, N: np.full((M, M), -math.log(N)), "mws"),
    "missing log N": ("log_weights_mws", lambda M, N: np.full((M, M), -math.log(M)), "mws"),
    "weight before the sum": ("log_qz_rows", weights_before_the_sum, "mss"),
    "weight on the joint only": ("log_qz_rows", weights_on_the_joint_only, "symmetric_mss"),
    "transposed pairs": ("log_density_matrix", transposed, "mws"),
    "factor 1/2 missing": ("log_density_matrix", pairs(quadratic_scale=2.0, log_var_scale=2.0), "minibatch"),
    "log-variance taken for log-std": ("log_density_matrix", pairs(log_var_scale=2.0), "exact"),
    "epsilon on the variance": ("log_density_matrix", pairs(epsilon=1e-10), "mws"),
    "2 pi missing": ("log_density_matrix", pairs(constant=0.0), "mws"),
    "2 pi rounded": ("log_density_matrix", pairs(constant=math.log(6.2831853)), "mws"),
    "mean in place of sum": (
        "_expected",
        lambda q: estimators.ExpectedLogQz(anp.mean(q.joint), anp.mean(q.marginals)),
        "mws",
    ),
    "log-sum-exp in probability space": ("log_sum_exp", through_probabilities, "minibatch"),
}


@pytest.mark.parametrize("mistake", IN_ESTIMATORS)
def test_the_enclosures_notice(mistake, monkeypatch):
    name, wrong, estimator = IN_ESTIMATORS[mistake]
    check = certified(estimator)
    check()
    monkeypatch.setattr(estimators, name, wrong)
    with pytest.raises((AssertionError, OverflowError, FloatingPointError, RuntimeWarning)):
        check()


def rendering():
    test_data.TestRendering().test_against_a_point_in_polygon_test(2)


def without_prior(z, mu, log_var, N, expected):
    terms = decomposition.kl_terms(z, mu, log_var, N, expected)
    return terms._replace(dimension_wise_kl=terms.dimension_wise_kl + 1.0)


def adam_without_bias_correction(parameters, gradient, state, step, *rest):
    return adam.adam_step(parameters, gradient, state, 10**9, *rest)


ELSEWHERE = {
    "2 pi missing from the density": (gaussian, "LOG_2PI", 0.0, test_reference.test_densities_against_scipy),
    "exp(v) - 1 in the closed-form KL": (
        test_reference,
        "kl_to_standard_normal",
        lambda mu, v: 0.5 * np.sum(mu**2 + np.exp(v) - 1 - v, axis=1),
        test_reference.test_closed_form_kl_near_zero_keeps_its_digits,
    ),
    "dimension-wise KL without the prior": (
        test_reference,
        "kl_terms",
        without_prior,
        test_reference.test_terms_telescope_for_any_estimator_and_so_prove_nothing,
    ),
    "x l - log(1 + exp(l)) subtracted": (
        likelihood,
        "log_bernoulli",
        lambda x, a: x * a - np.logaddexp(0, a),
        test_reference.TestLikelihood().test_bernoulli_keeps_its_digits_at_extreme_logits,
    ),
    "biased weights": (
        estimators,
        "log_weights_mss",
        columns,
        lambda: test_estimators.TestUnbiased().test_stratified_sampling_is_unbiased("mss"),
    ),
    "rows that do not sum to one": (
        estimators,
        "log_weights_mss",
        lambda M, N: np.full((M, M), -math.log(M - 1)),
        on_cases(test_estimators.TestSpecialCases.test_identical_posteriors),
    ),
    "weights that do not follow a shift": (
        estimators,
        "log_weights_mss",
        columns,
        on_cases(test_estimators.TestSymmetries.test_cyclic_shift),
    ),
    "MI weighted by beta": (
        test_reference,
        "beta_tcvae",
        lambda t, beta, alpha=1.0, gamma=1.0: (
            t.reconstruction - beta * (t.mutual_information + t.total_correlation) - gamma * t.dimension_wise_kl
        ),
        test_reference.TestObjectives().test_formulas,
    ),
    "ReLU in the decoder": (
        test_reference,
        "decode",
        lambda layers, z: np.concatenate(networks.encode(layers, z), axis=1),
        test_reference.TestNetworks().test_a_pass_against_loops,
    ),
    "no bias correction in Adam": (
        test_training,
        "adam_step",
        adam_without_bias_correction,
        test_training.TestAdam().test_against_torch,
    ),
    "vertices rounded to 1/64 pixel": (dsprites, "SUBPIXELS", 64, rendering),
    "groups that are not weighted by p(v)": (
        entropy,
        "xlogy",
        lambda a, b: np.zeros_like(a) if a is not b else xlogy(a, b),
        test_entropy.TestAgainstOthers().test_adaptive_quadrature,
    ),
    "standard error without the root of S": (
        metrics.decomposition,
        "estimate",
        lambda values: metrics.Estimate(float(values.mean()), float(values.std(ddof=1))),
        lambda: _decomposition().test_standard_errors_are_the_spread_over_seeds(),
    ),
}


def _decomposition():
    test = test_metrics.TestDecomposition()
    test.setup_method()
    return test


@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_the_other_checks_notice(mistake, monkeypatch):
    module, name, wrong, check = ELSEWHERE[mistake]
    check()
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises((AssertionError, RuntimeWarning)):
        check()
