"""The exact TC-decomposition of a trained model: samples against the posteriors of the whole data set."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.estimators import log_qz_exact
from tcvae_ref.gaussian import kl_to_standard_normal, log_density, log_standard_normal, reparameterise
from tcvae_ref.types import Array, LogQzEstimator, ProgressHook


class Estimate(NamedTuple):
    """A Monte-Carlo mean and its standard error, nats."""

    value: float
    standard_error: float


class ExactDecomposition(NamedTuple):
    """The KL term of the ELBO and its parts (paper, eq. 2), log q(z) taken over all N components."""

    mutual_information: Estimate
    total_correlation: Estimate
    dimension_wise_kl: Estimate
    kl_monte_carlo: Estimate
    """mean of log q(z|n) - log p(z) over the same samples: the sum of the three."""
    kl_analytic: float
    """mean over all inputs of the closed form; no sampling error."""
    samples: int
    components: int


def decomposition_exact(
    mu: Array,
    log_var: Array,
    index: NDArray[np.integer],
    eps: Array,
    log_qz: LogQzEstimator = log_qz_exact,
    block_bytes: int = 2**26,
    progress: ProgressHook | None = None,
) -> ExactDecomposition:
    """Decompose the KL term with the exact aggregate posterior (paper, eq. 2).

    z_s = mu_n + sigma_n eps_s with n = index_s; log q(z_s) and log q(z_sd) against all N posteriors, z_s's own among
    them; MI, TC and DWKL are means over the same samples.

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of the whole data set.
    index : (S,) of int
        The inputs to sample from; drawn uniformly with replacement, the standard errors are those of S draws.
    eps : (S, D)
        Standard normal noise.
    log_qz : function
        `log_qz_exact` or its equal.
    block_bytes : int
        Samples are taken in blocks whose pairwise log-densities fill about this much memory.
    progress : function, optional
        Called as progress(done, total), in samples.

    Returns
    -------
    ExactDecomposition

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, an index is not one of 0 ... N - 1, or S < 2.
    """
    checks.matrices("decomposition_exact", mu=mu, log_var=log_var)
    N, D = mu.shape
    S = len(index)
    if S < 2 or eps.shape != (S, D):
        raise InputError(
            f"decomposition_exact: {S} indices and eps {eps.shape}; (S,) and (S, {D}) with S >= 2 are needed"
        )
    if not np.issubdtype(index.dtype, np.integer) or index.min() < 0 or index.max() >= N:
        raise InputError(
            f"decomposition_exact: indices lie in [{index.min()}, {index.max()}]; there are N={N} posteriors"
        )
    block = max(1, block_bytes // (N * D * mu.dtype.itemsize))
    mutual_information, total_correlation, dimension_wise_kl = (np.empty(S) for _ in range(3))
    for start in range(0, S, block):
        part = slice(start, min(start + block, S))
        mu_n, log_var_n = mu[index[part]], log_var[index[part]]
        z = reparameterise(mu_n, log_var_n, eps[part])
        joint, marginals = log_qz(z, mu, log_var, N)
        product_of_marginals = np.sum(marginals, axis=1)  # over dimensions d
        mutual_information[part] = np.sum(log_density(z, mu_n, log_var_n), axis=1) - joint
        total_correlation[part] = joint - product_of_marginals
        dimension_wise_kl[part] = product_of_marginals - log_standard_normal(z)
        if progress is not None:
            progress(part.stop, S)
    return ExactDecomposition(
        mutual_information=estimate(mutual_information),
        total_correlation=estimate(total_correlation),
        dimension_wise_kl=estimate(dimension_wise_kl),
        kl_monte_carlo=estimate(mutual_information + total_correlation + dimension_wise_kl),
        kl_analytic=float(np.mean(kl_to_standard_normal(mu, log_var), dtype=np.float64)),
        samples=S,
        components=N,
    )


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean of independent draws and its standard error."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def dimension_wise_kl_exact(mu: Array, log_var: Array, entropies: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(q(z_d) || p(z_d)) of each dimension without Monte Carlo.

    - H(z_d) - E[log p(z_d)] = - H(z_d) + 1/2 [ log 2 pi + mean_n( mu_nd^2 + exp(log_var_nd) ) ]

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of the whole data set.
    entropies : (D,)
        H(z_d), nats (`MIG.entropies`).

    Returns
    -------
    kl : (D,), nats
    """
    second_moment = np.mean(mu**2 + np.exp(log_var), axis=0, dtype=np.float64)  # over inputs n
    return 0.5 * (math.log(2.0 * math.pi) + second_moment) - entropies
