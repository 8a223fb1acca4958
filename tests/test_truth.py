"""The last word: every estimator against rigorous enclosures, values and gradients, at 1e-15 of the conditioned scale.

The scale of a value is |y| + sum_j p_ij A_ij, where A_ij adds up the absolute terms of one pairwise log-density: what
any evaluation in floating point must round. The scale of a gradient adds that amplification to each
softmax weight.
"""

import numpy as np
import problems
import pytest
from autograd import grad
from autograd import numpy as anp
from truth import truth

CASES = 1000
TOLERANCE = 1e-15  # 4.5 times the unit roundoff; the worst of the 5,000 cases reaches 3e-16


def relative_errors(estimator, log_qz, expected_log_qz, z, mu, log_var, N):
    """Largest error of the values and of the gradients, each over its scale; and of the batch means over theirs."""
    exact = truth(estimator, z, mu, log_var, N)
    got = log_qz(z, mu, log_var, N)
    means = expected_log_qz(z, mu, log_var, N)
    M = len(z)
    value = max(
        np.max(np.abs(got.joint - exact.joint) / exact.joint_scale),
        np.max(np.abs(got.marginals - exact.marginals) / exact.marginals_scale),
        abs(means.joint - exact.joint.sum() / M) / (exact.joint_scale.sum() / M),
        abs(means.marginals - exact.marginals.sum() / M) / (exact.marginals_scale.sum() / M),
    )

    def both_means(z, mu, log_var):
        return sum(expected_log_qz(z, mu, log_var, N))

    def from_samples(z, mu, log_var):
        joint, marginals = log_qz(z, mu, log_var, N)
        return (anp.sum(joint) + anp.sum(marginals)) / M

    gradient = 0.0
    for fn in (both_means, from_samples):
        for name, ours in zip(("z", "mu", "log_var"), grad(fn, (0, 1, 2))(z, mu, log_var), strict=True):
            error = np.abs(ours - exact.gradients[name])
            gradient = max(gradient, np.max(error / np.maximum(exact.gradient_scales[name], 1e-290)))
    return value, gradient


@pytest.mark.parametrize("estimator", problems.ALL)
def test_values_and_gradients_lie_within_their_enclosures(estimator):
    rng = np.random.default_rng(sum(map(ord, estimator)))
    worst_value = worst_gradient = 0.0
    for _ in range(CASES):
        value, gradient = relative_errors(
            estimator,
            problems.log_qz(estimator),
            problems.expected_log_qz(estimator),
            *problems.case(rng, estimator),
        )
        worst_value, worst_gradient = max(worst_value, value), max(worst_gradient, gradient)
    assert worst_value < TOLERANCE, worst_value
    assert worst_gradient < TOLERANCE, worst_gradient


def test_samples_apart_from_the_components():
    """The exact aggregate takes any number of samples, not only one per posterior."""
    rng = np.random.default_rng(0)
    mu, log_var, z = rng.standard_normal((7, 3)), rng.standard_normal((7, 3)), rng.standard_normal((4, 3))
    exact = truth("exact", z, mu, log_var, 7)
    joint, marginals = problems.log_qz("exact")(z, mu, log_var, 7)
    assert np.max(np.abs(joint - exact.joint) / exact.joint_scale) < TOLERANCE
    assert np.max(np.abs(marginals - exact.marginals) / exact.marginals_scale) < TOLERANCE


@pytest.mark.parametrize("estimator", problems.ALL)
def test_float32_is_as_good_as_float32_can_be(estimator):
    """Same inputs, rounded to float32 first; the unit roundoff is 2^29 times larger, so is the allowance."""
    rng = np.random.default_rng(1 + sum(map(ord, estimator)))
    for _ in range(100):
        value, gradient = relative_errors(
            estimator,
            problems.log_qz(estimator),
            problems.expected_log_qz(estimator),
            *problems.case(rng, estimator, "float32"),
        )
        assert max(value, gradient) < TOLERANCE * 2**29
