"""The decoder's log-likelihood log p(x|z), summed over pixels."""

from typing import Any

import autograd.numpy as np
import numpy
from autograd.extend import defvjp, primitive

from tcvae_ref import checks
from tcvae_ref.gaussian import log_normal
from tcvae_ref.types import Array


@primitive  # type: ignore[untyped-decorator]
def sigmoid(a: Array) -> Any:
    """1 / (1 + exp(-a)), from exp(-|a|) on both sides: nothing overflows and small values keep their digits."""
    e = numpy.exp(-numpy.abs(a))
    return numpy.where(a > 0, numpy.ones_like(e), e) / (1.0 + e)


@primitive  # type: ignore[untyped-decorator]
def log_bernoulli(x: Array, logit: Array) -> Any:
    """Log-probability of each pixel, x l - log(1 + exp(l)), as l (x - [l > 0]) - log(1 + exp(-|l|)).

    The second form neither overflows nor subtracts two large numbers. It is a primitive with its own derivative,
    x - sigmoid(l), because its two halves have none at l = 0.
    """
    result = logit * (x - (logit > 0))
    tail = numpy.abs(logit)  # one buffer, reused: the array is as large as a batch of images
    numpy.negative(tail, out=tail)
    numpy.exp(tail, out=tail)
    result -= numpy.log1p(tail, out=tail)
    return result


defvjp(sigmoid, lambda ans, a: lambda g: g * ans * sigmoid(-a))
defvjp(
    log_bernoulli,
    lambda ans, x, logit: lambda g: g * logit,
    lambda ans, x, logit: lambda g: g * (x - sigmoid(logit)),
)


def bernoulli_log_likelihood(x: Array, logits: Array) -> Array:
    """Log-likelihood of binary pixels, log p(x|z) = sum_p [ x l - log(1 + exp(l)) ].

    Equal to sum_p [ x log s + (1 - x) log(1 - s) ] with s = sigmoid(l), computed without rounding s.
    Grey values in [0, 1] are accepted, as in the literature; then it is a negative cross entropy.

    Parameters
    ----------
    x : (M, P)
        Pixels in [0, 1].
    logits : (M, P)
        The decoder's output l.

    Returns
    -------
    log_px : (M,), nats, never positive

    Raises
    ------
    InputError, TypeError
        The shapes or dtypes differ, an entry is not finite, or a pixel lies outside [0, 1].
    """
    checks.matrices("bernoulli_log_likelihood", x=x, logits=logits)
    checks.unit_interval("bernoulli_log_likelihood", x=x)
    return np.sum(log_bernoulli(x, logits), axis=1)  # over pixels p


def gaussian_log_likelihood(x: Array, mean: Array, log_var: Array) -> Array:
    """Log-likelihood of real-valued pixels, log p(x|z) = sum_p log N(x_p; mean_p, exp(log_var_p)).

    Parameters
    ----------
    x, mean, log_var : (M, P)

    Returns
    -------
    log_px : (M,), nats; -inf where a square overflows

    Raises
    ------
    InputError, TypeError
        The shapes or dtypes differ, an entry is not finite, or exp(log_var) or its inverse overflows.
    """
    checks.matrices("gaussian_log_likelihood", x=x, mean=mean, log_var=log_var)
    checks.log_variances("gaussian_log_likelihood", log_var=log_var)
    return np.sum(log_normal(x, mean, log_var), axis=1)  # over pixels p
