"""The checks of tests/test_kernels.py have teeth: plant a mistake around the kernels, and one of them must fail.

Compiled loops keep the constants they were compiled with, so the mistakes are planted in the Python around them.
"""

import contextlib
import math

import numpy as np
import problems
import pytest
import tcvae_kernels
import test_kernels
import test_truth
from tcvae_kernels import autograd_ops, pairwise, threads
from tcvae_kernels import estimators as kernels
from tcvae_kernels import exp as exponential

MSS, PREPARE, RUN, BOTH = kernels._mss, pairwise.prepare, threads.run, pairwise.log_sums_and_gradient
LOGARITHMS, SET_NUM_THREADS = pairwise.logarithms, threads.set_num_threads


def certified(estimator):
    """Twenty cases of `test_kernels.TestTruth`."""

    def check():
        rng = np.random.default_rng(0)
        for _ in range(20):
            errors = test_truth.relative_errors(
                estimator,
                test_kernels.log_qz(estimator),
                test_kernels.expected_log_qz(estimator),
                *problems.case(rng, estimator),
            )
            assert max(errors) < test_kernels.TOLERANCE

    return check


def special_weights_swapped(*arguments):
    w = MSS(*arguments)
    return w._replace(at_own=w.at_next, at_next=w.at_own)


def next_like_the_others(*arguments):
    return MSS(*arguments)._replace(at_next=1.0)


def without_log_m(where, z, mu, log_var, N):
    return pairwise.Weights(-math.log(N))


def channels_swapped(*arguments):
    joint, marginals, gradient = BOTH(*arguments)
    return joint, marginals, pairwise.Gradient(gradient.marginals, gradient.joint)


def cotangents_ignored(z, mu, log_var, weights, at_joint, at_marginals):
    return BOTH(z, mu, log_var, weights, np.ones_like(at_joint), np.ones_like(at_marginals))


def inverse_variances(*arguments):
    posteriors = PREPARE(*arguments)
    posteriors.s[:] **= 2
    return posteriors


def without_the_smallest_log_variance(found, h, *arguments):
    LOGARITHMS(found, 0 * h, *arguments)


def without_the_marginals_maxima(found, *arguments):
    LOGARITHMS(found._replace(marginal_tops=0 * found.marginal_tops), *arguments)


def joint_weights_on_the_joint_only(found, h, log_2pi, log_base, first, last, joint, marginals):
    LOGARITHMS(found, h, log_2pi, log_base, first, last, joint, marginals)
    marginals[first:last] -= log_base


def blocks_by_threads(count):
    SET_NUM_THREADS(count)
    pairwise.BLOCKS = 2 * count + 1


def errors_lost(work, blocks):
    with contextlib.suppress(Exception):
        RUN(work, blocks)


def exp_a_little_off(x, out):
    out[:] = np.exp(x) * (1.0 + 3.0 * np.finfo(x.dtype).eps)


def bits():
    test_kernels.TestThreads().test_the_same_bits_for_any_number_of_threads(300, "float64")


EXTREMES, GRADIENTS = test_kernels.TestExtremes(), test_kernels.TestGradients()
NEVER_TINY = {8: 0.0, 4: 0.0}
NEVER_WIDE = {8: np.inf, 4: np.inf}
MISTAKES = {
    "special weights swapped": ([(kernels, "_mss", special_weights_swapped)], certified("mss")),
    "the neighbour weighs what the others weigh": ([(kernels, "_mss", next_like_the_others)], certified("mss")),
    "missing log M": ([(kernels, "_mws", without_log_m)], certified("mws")),
    "symmetric weights in place of MSS": ([(kernels, "_mss", kernels._symmetric_mss)], certified("mss")),
    "variances unchecked": (
        [(kernels, "_variances", lambda log_var: None)],
        lambda: test_kernels.TestErrors().test_the_same_as_the_references("variance"),
    ),
    "joint and marginal gradients swapped": (
        [(autograd_ops, "log_sums_and_gradient", channels_swapped)],
        lambda: GRADIENTS.test_weighted_means_in_some_of_the_arguments("mss", 1),
    ),
    "cotangents ignored": (
        [(autograd_ops, "log_sums_and_gradient", cotangents_ignored)],
        lambda: GRADIENTS.test_samples_apart_from_the_components(4, 7, "float64"),
    ),
    "2 pi missing": ([(pairwise, "LOG_2PI", 0.0)], certified("exact")),
    "2 pi rounded": ([(pairwise, "LOG_2PI", math.log(6.28318530717))], certified("exact")),
    "smallest log-variance dropped": (
        [(pairwise, "logarithms", without_the_smallest_log_variance)],
        certified("minibatch"),
    ),
    "maxima of the marginals dropped": (
        [(pairwise, "logarithms", without_the_marginals_maxima)],
        lambda: EXTREMES.test_samples_far_from_every_component(1e3),
    ),
    "weights on the joint only": (
        [(pairwise, "logarithms", joint_weights_on_the_joint_only)],
        certified("symmetric_mss"),
    ),
    "variances in place of standard deviations": ([(pairwise, "prepare", inverse_variances)], certified("mws")),
    "rows never done again: far samples": (
        [(pairwise, "SPREAD", np.inf), (pairwise, "TINY", NEVER_TINY)],
        lambda: EXTREMES.test_samples_far_from_every_component(1e3),
    ),
    "rows never done again: variances apart": (
        [(pairwise, "SPREAD", np.inf), (pairwise, "WIDEST", NEVER_WIDE), (pairwise, "TINY", NEVER_TINY)],
        lambda: EXTREMES.test_log_variances_far_apart("exact", 200.0),
    ),
    "wide posteriors taken for narrow": (
        [(pairwise, "WIDEST", NEVER_WIDE)],
        lambda: EXTREMES.test_wide_posteriors_with_all_samples_in_their_tails("float64", 666.0, 28.5),
    ),
    "variances apart taken for close": (
        [(pairwise, "SPREAD", np.inf)],
        lambda: EXTREMES.test_one_narrow_posterior(-400.0),
    ),
    "errors in blocks lost": (
        [(threads, "run", errors_lost)],
        lambda: test_kernels.TestThreads().test_an_error_in_a_block_is_raised_and_the_next_call_works(1),
    ),
    "exp three ulp off": (
        [(exponential, "exp_into", exp_a_little_off)],
        lambda: test_kernels.TestExp().test_within_2_ulp("float64", -745.2, 670.0, 1001),
    ),
    "blocks cut by the number of threads": (
        [(tcvae_kernels, "set_num_threads", blocks_by_threads), (pairwise, "BLOCKS", pairwise.BLOCKS)],
        bits,
    ),
}


@pytest.mark.skipif(not tcvae_kernels.COMPILED, reason="needs compiled kernels: NUMBA_DISABLE_JIT is set")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checks_notice(mistake, monkeypatch):
    changes, check = MISTAKES[mistake]
    monkeypatch.setattr(threads, "_threads", threads._threads)  # put back afterwards
    check()
    for place, name, wrong in changes:
        monkeypatch.setattr(place, name, wrong)
    with pytest.raises((AssertionError, RuntimeWarning, pytest.fail.Exception)):
        check()
