"""The mutual information gap (paper, section 4.1): what all its recipes share, and the recipe without Monte Carlo."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.entropy import GroupDensities, group_densities, mixture_entropies, probabilities
from tcvae_ref.types import Array, ProgressHook

LEAST_ENTROPY = 1e-9
"""Of a factor, nats: gaps are divided by it."""


class MIGErrors(NamedTuple):
    """How far the numbers of a `MIG` may be off, number by number.

    An estimate of the numerical error where they are integrals (quadrature), a standard error where they are means
    over samples (Monte Carlo), 0 where they are counts (binned).
    """

    score: float
    gaps: NDArray[np.float64]
    """(K,)."""
    information: NDArray[np.float64]
    """(D, K), nats."""
    entropies: NDArray[np.float64]
    """(D,), nats."""


class MIG(NamedTuple):
    """A mutual information gap and what it was computed from; entropies and information in nats."""

    score: float
    """Mean of the gaps."""
    gaps: NDArray[np.float64]
    """(K,): ( I(z_top1; v_k) - I(z_top2; v_k) ) / H(v_k)."""
    information: NDArray[np.float64]
    """(D, K): I(z_d; v_k)."""
    entropies: NDArray[np.float64]
    """(D,): H(z_d)."""
    error: MIGErrors
    recipe: str
    """Which of the recipes that share the name MIG this is."""
    factor_entropies: NDArray[np.float64]
    """(K,): H(v_k)."""


class Prepared(NamedTuple):
    """What every recipe reads of the factors and of p(n)."""

    labels: NDArray[np.int64]
    """(N, K): values of the factors, numbered 0 ... sizes[k] - 1; any of these where p(n) = 0."""
    sizes: list[int]
    """How many values with p(v_k) > 0 each factor has."""
    p: NDArray[np.float64]
    """(N,): p(n), sums to 1."""
    factor_entropies: NDArray[np.float64]
    """(K,): H(v_k), nats."""


def prepared(
    where: str, mu: Array, log_var: Array, classes: NDArray[np.integer], weights: Array | None = None
) -> Prepared:
    """Check the arguments that all recipes share, number the factors' values and normalise p(n).

    Parameters
    ----------
    where : str
        The recipe, for error messages.
    mu, log_var : (N, D)
        The posteriors of all inputs, D >= 2.
    classes : (N, K) of int
        Each input's class of each factor; every factor takes at least two values.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a weight is negative or all are 0, a factor has a single
        value with weight.
    """
    checks.matrices(where, mu=mu, log_var=log_var)
    N, D = mu.shape
    if D < 2:
        raise InputError(f"{where}: {D} latent dimension is too few; a gap needs two")
    checks.labels(where, "classes", classes, N)
    if classes.shape[1] == 0:
        raise InputError(f"{where}: classes are {classes.shape}; at least one factor is needed")
    p = probabilities(where, N, weights)
    labels = np.empty(classes.shape, dtype=np.int64, order="F")  # read column by column, once for each latent
    sizes, factor_entropies = [], []
    for k, column in enumerate(classes.T):
        labels[:, k], shares = _numbered(column, p)
        if len(shares) < 2:
            raise InputError(f"{where}: factor {k} has a single value, so its entropy is 0; leave it out")
        entropy = -float(np.sum(xlogy(shares, shares)))
        if entropy < LEAST_ENTROPY:
            raise InputError(
                f"{where}: factor {k} has nearly a single value, its entropy is {entropy:.3g}; leave it out"
            )
        sizes.append(len(shares))
        factor_entropies.append(entropy)
    return Prepared(labels, sizes, p, np.array(factor_entropies))


def _numbered(column: NDArray[np.integer], p: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number the values that have weight 0, 1, ... in their order; labels : (N,) and the values' shares of p."""
    values, labels = np.unique(column, return_inverse=True)
    shares = np.bincount(labels, p, len(values))
    number = np.cumsum(shares > 0) - 1
    return np.maximum(number[labels], 0).astype(np.int64), shares[shares > 0].astype(np.float64)


def gaps(information: NDArray[np.float64], factor_entropies: NDArray[np.float64]) -> NDArray[np.float64]:
    """( I(z_top1; v_k) - I(z_top2; v_k) ) / H(v_k) : (K,), from the information : (D, K)."""
    top2, top1 = np.sort(information, axis=0)[-2:]
    return np.asarray((top1 - top2) / factor_entropies)


def mig_quadrature(
    mu: Array,
    log_var: Array,
    classes: NDArray[np.integer],
    *,
    weights: Array | None = None,
    tolerance: float = 1e-10,
    progress: ProgressHook | None = None,
    group_densities: GroupDensities = group_densities,
) -> MIG:
    """Mutual information gap without Monte-Carlo noise.

    I(z_d; v_k) = H(z_d) - sum_v p(v) H(z_d | v_k = v),    MIG = mean_k ( I_top1 - I_top2 ) / H(v_k)

    q(z_d | v_k) is the mixture of the posteriors q(z_d | n) of the inputs with that factor value, weighted by p(n | v).
    The quantity of the paper (section 4.1), whose authors estimate the entropies from 10,000 samples; here they are
    integrals (`tcvae_ref.metrics.entropy`). Factors need not form a grid: p(v) and H(v_k) are those of `classes` and
    `weights`. Not to be mixed with the MIG of binned posterior means, which has another value on the same model.

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of all inputs, D >= 2.
    classes : (N, K) of int
        Each input's class of each factor; every factor takes at least two values.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.
    tolerance : float
        Halve the steps of the quadrature until its error estimate is below this, nats.
    progress : function, optional
        Called as progress(done, total), in dimensions.
    group_densities : function, optional
        Passed on to `mixture_entropies`: sums the components on its grids, in NumPy, or compiled
        (`tcvae_kernels.mixture.group_densities`).

    Returns
    -------
    MIG
        `error` holds estimates of the numerical error (`Entropy.error`). That of a gap is twice the largest error of
        any I(z_d; v_k), divided by H(v_k): no order statistic moves more than the entries do.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a weight is negative, a factor has a single value with
        weight, or the widths of the posteriors are refused by `mixture_entropies`.
    """
    labels, _, p, factor_entropies = prepared("mig_quadrature", mu, log_var, classes, weights)
    D, K = mu.shape[1], labels.shape[1]
    entropies, errors, information = np.empty(D), np.empty(D), np.empty((D, K))
    for d in range(D):
        result = mixture_entropies(mu[:, d], log_var[:, d], labels, p, tolerance, group_densities)
        entropies[d], errors[d] = result.marginal, result.error
        information[d] = result.marginal - np.array(result.conditional)
        if progress is not None:
            progress(d + 1, D)
    by_factor = gaps(information, factor_entropies)
    gap_errors = 2.0 * errors.max() / factor_entropies
    error = MIGErrors(float(gap_errors.mean()), gap_errors, np.tile(errors[:, None], K), errors)
    return MIG(float(by_factor.mean()), by_factor, information, entropies, error, "quadrature", factor_entropies)
