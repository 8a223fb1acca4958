"""The mutual information gap (paper, section 4.1)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.entropy import GroupDensities, group_densities, mixture_entropies
from tcvae_ref.types import Array, ProgressHook


class MIG(NamedTuple):
    """A mutual information gap and what it was computed from; entropies and information in nats."""

    score: float
    """Mean of the gaps."""
    gaps: NDArray[np.float64]
    """(K,): ( I(z_top1; v_k) - I(z_top2; v_k) ) / H(v_k)."""
    information: NDArray[np.float64]
    """(D, K): I(z_d; v_k)."""
    entropies: NDArray[np.float64]
    """(D,): H(z_d), differential entropies."""
    error: float
    """Estimate of the numerical error of any entry of `information`, nats (`Entropy.error`)."""
    recipe: str
    """Which of the recipes that share the name MIG this is."""


def mig_quadrature(
    mu: Array,
    log_var: Array,
    classes: NDArray[np.integer],
    tolerance: float = 1e-10,
    progress: ProgressHook | None = None,
    group_densities: GroupDensities = group_densities,
) -> MIG:
    """Mutual information gap without Monte-Carlo noise.

    I(z_d; v_k) = H(z_d) - sum_v p(v) H(z_d | v_k = v),    MIG = mean_k ( I_top1 - I_top2 ) / H(v_k)

    q(z_d | v_k) is the mixture of the posteriors q(z_d | n) of the inputs with that factor value. The quantity of
    the paper (section 4.1), whose authors estimate the entropies from 10,000 samples; here they are integrals
    (`tcvae_ref.metrics.entropy`). Factors need not form a grid: p(v) and H(v_k) are those of `classes`.
    Not to be mixed with the MIG of binned posterior means, which has another value on the same model.

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of all inputs, D >= 2.
    classes : (N, K) of int
        Each input's class of each factor; every factor takes at least two values.
    tolerance : float
        Halve the step of the quadrature until its error estimate is below this, nats.
    progress : function, optional
        Called as progress(done, total), in dimensions.
    group_densities : function, optional
        Passed on to `mixture_entropies`: sums the components on its grid, in NumPy, or compiled
        (`tcvae_kernels.mixture.group_densities`).

    Returns
    -------
    MIG

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a factor has a single value, or the widths of the posteriors
        are refused by `mixture_entropies`.
    """
    checks.matrices("mig_quadrature", mu=mu, log_var=log_var)
    N, D = mu.shape
    if D < 2:
        raise InputError(f"mig_quadrature: {D} latent dimension is too few; a gap needs two")
    checks.labels("mig_quadrature", "classes", classes, N)
    if classes.shape[1] == 0:
        raise InputError(f"mig_quadrature: classes are {classes.shape}; at least one factor is needed")
    labels = np.stack([np.unique(column, return_inverse=True)[1] for column in classes.T], axis=1)
    constant = [k for k in range(labels.shape[1]) if labels[:, k].max() == 0]
    if constant:
        raise InputError(f"mig_quadrature: factor {constant[0]} has a single value, so its entropy is 0; leave it out")
    factor_entropy = np.array([_entropy(column) for column in labels.T])
    entropies, information, error = np.empty(D), np.empty((D, labels.shape[1])), 0.0
    for d in range(D):
        result = mixture_entropies(mu[:, d], log_var[:, d], labels, tolerance, group_densities)
        entropies[d] = result.marginal
        information[d] = result.marginal - np.array(result.conditional)
        error = max(error, result.error)
        if progress is not None:
            progress(d + 1, D)
    top2, top1 = np.sort(information, axis=0)[-2:]
    gaps = (top1 - top2) / factor_entropy
    return MIG(float(gaps.mean()), gaps, information, entropies, error, "quadrature")


def _entropy(labels: NDArray[np.integer]) -> float:
    """H(v) of the empirical distribution, nats."""
    p = np.bincount(labels) / len(labels)
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])))
