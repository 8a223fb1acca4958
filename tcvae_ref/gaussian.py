"""The diagonal Gaussian posterior q(z|n) and the standard normal prior p(z).

One parameterisation throughout: `mu` and `log_var`, the logarithm of the variance. Everything is in nats.
Pairwise arrays are indexed [i, j, d]: sample i, posterior j, dimension d.
"""

import math

import autograd.numpy as np
import numpy

from tcvae_ref import checks
from tcvae_ref.types import Array

LOG_2PI = math.log(2.0 * math.pi)  # a Python float: a NumPy one would turn float32 into float64


def reparameterise(mu: Array, log_var: Array, eps: Array) -> Array:
    """Draw from q(z|n): z = mu + exp(log_var / 2) * eps.

    Source: the reparameterisation trick, Kingma & Welling 2014, section 2.4. The noise is an argument.

    Parameters
    ----------
    mu, log_var, eps : (M, D)
        Mean, log-variance, and standard normal noise. log_var = 2 log sigma: an encoder that gives log sigma, as the
        one released with the paper does, is to be doubled, and nothing here can notice that it was not.

    Returns
    -------
    z : (M, D)

    Raises
    ------
    InputError, TypeError
        The shapes or dtypes differ, an entry is not finite, or exp(log_var / 2) or its inverse overflows.
    """
    checks.matrices("reparameterise", mu=mu, log_var=log_var, eps=eps)
    checks.log_variances("reparameterise", log_var=log_var)
    return mu + np.exp(0.5 * log_var) * eps


def log_normal(x: Array, mu: Array, log_var: Array) -> Array:
    """Normal log-density of each element, -1/2 [ (x - mu)^2 exp(-log_var) + log_var + log 2 pi ], nats.

    Of arguments that are checked already. The square is taken last, of (x - mu) exp(-log_var / 2); where it overflows
    the log-density is -inf.
    """
    with numpy.errstate(over="ignore"):
        return -0.5 * (((x - mu) * np.exp(-0.5 * log_var)) ** 2 + log_var + LOG_2PI)


def log_density(z: Array, mu: Array, log_var: Array) -> Array:
    """Log-density of each coordinate under its own posterior, log q(z_id | n_i).

    -1/2 [ (z - mu)^2 exp(-log_var) + log_var + log 2 pi ], -inf where the square overflows. Sum over d for
    log q(z_i | n_i).

    Parameters
    ----------
    z, mu, log_var : (M, D)

    Returns
    -------
    log_density : (M, D), nats

    Raises
    ------
    InputError, TypeError
        The shapes or dtypes differ, an entry is not finite, or exp(log_var / 2) or its inverse overflows.
    """
    checks.matrices("log_density", z=z, mu=mu, log_var=log_var)
    checks.log_variances("log_density", log_var=log_var)
    return log_normal(z, mu, log_var)


def log_density_matrix(z: Array, mu: Array, log_var: Array) -> Array:
    """Log-density of every sample under every posterior, L_ijd = log N(z_id; mu_jd, exp(log_var_jd)).

    The formula of `log_density`.

    Parameters
    ----------
    z : (S, D)
        Samples.
    mu, log_var : (N, D)
        Posteriors.

    Returns
    -------
    L : (S, N, D), nats
        L[i, j, d] for sample i, posterior j, dimension d; -inf where the square overflows. The memory is S * N * D
        numbers.

    Raises
    ------
    InputError, TypeError
        The shapes or dtypes differ, an entry is not finite, or exp(log_var / 2) or its inverse overflows.
    """
    checks.samples_and_posteriors("log_density_matrix", z, mu, log_var)
    return log_normal(z[:, None, :], mu[None, :, :], log_var[None, :, :])


def log_standard_normal(z: Array) -> Array:
    """Log-density of the prior, log p(z_i) = -1/2 sum_d [ z_id^2 + log 2 pi ].

    Parameters
    ----------
    z : (M, D)

    Returns
    -------
    log_pz : (M,), nats
        -inf where the squares overflow.

    Raises
    ------
    InputError, TypeError
        z is not a finite (M, D) array.
    """
    checks.matrices("log_standard_normal", z=z)
    with numpy.errstate(over="ignore"):
        return np.sum(-0.5 * (z**2 + LOG_2PI), axis=1)  # over dimensions d


def kl_to_standard_normal(mu: Array, log_var: Array) -> Array:
    """KL(q(z|n) || p(z)) in closed form, 1/2 sum_d [ mu^2 + exp(log_var) - 1 - log_var ].

    Source: Kingma & Welling 2014, appendix B.

    Parameters
    ----------
    mu, log_var : (M, D)

    Returns
    -------
    kl : (M,), nats, never negative
        Infinite where mu^2 or exp(log_var) overflows.

    Raises
    ------
    InputError, TypeError
        The shapes or dtypes differ, or an entry is not finite.
    """
    checks.matrices("kl_to_standard_normal", mu=mu, log_var=log_var)
    with numpy.errstate(over="ignore"):
        return 0.5 * np.sum(mu**2 + (np.expm1(log_var) - log_var), axis=1)  # over dimensions d
