"""Differential entropies of one-dimensional Gaussian mixtures, by quadrature.

The marginal q(z_d) = sum_n p(n) N(mu_n, sigma_n^2) is an analytic function of one variable, so its entropy needs no
Monte Carlo: - q log q is analytic as well, in a strip about the real line that holds no zero of q, and so the trapezoid
rule on a uniform grid converges faster than any power of the step. Each octave of sigma has its own grid
(`tcvae_ref.metrics.brackets`), so a component costs about as many points as any other. The steps are halved until the
answer holds still.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.brackets import phi_integrals
from tcvae_ref.metrics.octaves import (
    Components,
    Floats,
    GroupDensities,
    group_densities,
    sorted_by_octave,
)
from tcvae_ref.types import Array

__all__ = ["Entropy", "GroupDensities", "group_densities", "mixture_entropies", "probabilities"]

FIRST_STEP = 0.25
"""The coarsest step of an octave's grid, in units of its smallest sigma; a power of two."""
SMALLEST_SIGMA = 1e-100
MOST_GROUPS = 2**24
MOST_SIGMAS = 1e13
"""How far apart components may lie, in units of the smallest sigma: grid points must be exact numbers."""


class Entropy(NamedTuple):
    """Entropies of a mixture and of its groups, in nats."""

    marginal: float
    """H(z), of all components together."""
    conditional: list[float]
    """H(z | v_k) of each labelling k: the groups' entropies averaged with the groups' shares."""
    error: float
    """Estimate of the error of any of these and of their differences, from the changes as the steps were halved."""


def mixture_entropies(
    mu: Array,
    log_var: Array,
    labels: NDArray[np.integer],
    weights: Array | None = None,
    tolerance: float = 1e-10,
    group_densities: GroupDensities = group_densities,
) -> Entropy:
    """Entropy of a 1-D mixture, and its entropies given each of several labellings of the components.

    H(z)       = - integral q log q,                      q        = sum_n p(n) N(mu_n, sigma_n^2)
    H(z | v_k) = - sum_v p(v) integral q_v log q_v,       q(z | v) = sum_{n labelled v} p(n | v) N(mu_n, sigma_n^2)

    Parameters
    ----------
    mu, log_var : (N,)
        The components.
    labels : (N, K) of int
        Class of each component in each of K labellings, 0, 1, ...
    weights : (N,), optional
        p(n) up to a constant; by default 1/N.
    tolerance : float
        Halve the steps until the error estimate is below this, nats, or as low as rounding lets it become.
    group_densities : function, optional
        Sums the components on the grids, where the time goes: `tcvae_ref.metrics.octaves.group_densities`, or the
        compiled `tcvae_kernels.mixture.group_densities`, for many components.

    Returns
    -------
    Entropy
        Its error is the change of the last halving, or the square of the change before where that is larger: the
        trapezoid rule's error is about squared by each halving once the step is below the widths, and one small change
        alone can be an accident. Rounding is added.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, a weight is negative or all are 0, a width is not between
        `SMALLEST_SIGMA` and its inverse, or components lie more than `MOST_SIGMAS` widths apart.
    """
    tolerance = checks.real_number("mixture_entropies", "tolerance", tolerance, 0.0, above=True)
    components, sizes = _components(mu, log_var, labels, weights)
    shares = np.sum([np.bincount(row, components.p, sum(sizes)) for row in components.rows], axis=0)
    by_octave = sorted_by_octave(components)
    fraction, lowest = FIRST_STEP, math.inf
    while True:
        integrals = phi_integrals(by_octave, fraction, sizes[0], sum(sizes), group_densities)
        by_step = _entropies(integrals, shares, sizes)
        entropies = by_step[:, 0].sum(axis=0)  # over octaves
        last, before = (_change(by_step[:, power], by_step[:, power + 1]) for power in (0, 1))
        error = max(last, before**2)  # halving squares the error: two changes must agree that it is small
        rounding = (16.0 + math.sqrt(len(mu))) * np.finfo(np.float64).eps * (1.0 + float(np.abs(entropies).max()))
        only_rounding = lowest < 1e-9 and error >= lowest  # any other error so small is about squared by halving
        if error <= max(tolerance, rounding) or only_rounding:
            marginal, *conditional = entropies.tolist()
            return Entropy(marginal, conditional[: labels.shape[1]], error + rounding)
        fraction, lowest = fraction / 2, min(lowest, error)


def _entropies(integrals: Floats, shares: Floats, sizes: list[int]) -> Floats:
    """H(z) and each H(z|v_k), octave by octave and by each step : (octaves, 3, 1 + K), from the groups' integrals.

    - sum_v p(v) integral q_v log q_v = - sum_v integral (p(v) q_v) log (p(v) q_v) + sum_v p(v) log p(v)
    """
    entropies = [integrals[..., -1]]
    for begin, end in itertools.pairwise(np.cumsum([0, *sizes])):
        of_groups = integrals[..., begin:end].sum(axis=-1)
        of_groups[0] += np.sum(xlogy(shares[begin:end], shares[begin:end]))
        entropies.append(of_groups)
    return np.stack(entropies, axis=-1)


def _change(fine: Floats, coarse: Floats) -> float:
    """Largest change of any entropy, or of any difference of the marginal's and a conditional one; octaves' added."""
    change = fine - coarse
    differences = change[:, :1] - change[:, 1:]
    return float(np.abs(np.concatenate([change, differences], axis=1)).sum(axis=0).max())


def _components(
    mu: Array, log_var: Array, labels: NDArray[np.integer], weights: Array | None
) -> tuple[Components, list[int]]:
    """Check the arguments of `mixture_entropies`; the components that have weight, and each labelling's groups."""
    checks.vectors("mixture_entropies", mu=mu, log_var=log_var)
    checks.labels("mixture_entropies", "labels", labels, len(mu))
    if labels.size and labels.min() < 0:
        raise InputError("mixture_entropies: labels go below 0; number the groups 0, 1, ...")
    if labels.size and labels.max() >= MOST_GROUPS:
        raise InputError(
            f"mixture_entropies: labels reach {labels.max()}; they must be below {MOST_GROUPS}: "
            "number the groups 0, 1, ..."
        )
    p = probabilities("mixture_entropies", len(mu), weights)
    if not p.all():
        there = np.flatnonzero(p)
        mu, log_var, labels, p = mu[there], log_var[there], labels[there], p[there]
    mu = mu.astype(np.float64)
    with np.errstate(over="ignore"):
        sigma = np.exp(0.5 * log_var.astype(np.float64))
    if sigma.min() < SMALLEST_SIGMA or sigma.max() > 1.0 / SMALLEST_SIGMA:
        raise InputError(
            f"mixture_entropies: log_var lies in [{log_var.min():.4g}, {log_var.max():.4g}]; widths between "
            f"{SMALLEST_SIGMA:g} and {1.0 / SMALLEST_SIGMA:g} are computed: rescale the components"
        )
    # An entropy does not change with the origin, the size of the grid's numbers does.
    centre = 0.5 * mu.min() + 0.5 * mu.max()
    mu, rest = _difference(mu, float(centre))
    if float(np.max(np.abs(mu))) / float(sigma.min()) > MOST_SIGMAS:
        raise InputError(
            f"mixture_entropies: components as narrow as {sigma.min():.3g} lie {2 * np.max(np.abs(mu)):.3g} apart, "
            f"more than {MOST_SIGMAS:g} of their widths; leave out the components that are too narrow"
        )
    labelled = labels.T if labels.shape[1] else np.zeros((1, len(mu)), dtype=np.int32)
    sizes = [int(column.max()) + 1 for column in labelled]
    ends = np.cumsum([0, *sizes])
    rows = np.stack([column.astype(np.int32) + np.int32(end) for column, end in zip(labelled, ends, strict=False)])
    return Components(mu, rest, sigma, p, rows), sizes


def _difference(a: Floats, b: float) -> tuple[Floats, Floats]:
    """Difference a - b and what its rounding lost (Knuth's two-sum)."""
    s = a - b
    t = s - a
    return s, (a - (s - t)) - (b + t)


def probabilities(where: str, N: int, weights: Array | None) -> Floats:
    """p(n) : (N,), the weights over their sum, or 1/N.

    Raises
    ------
    InputError, TypeError
        Not one finite weight for each input, one is negative, or all are 0.
    """
    if weights is None:
        return np.full(N, 1.0 / N)
    checks.one_per_row(where, N, weights=weights)
    if weights.min() < 0 or weights.max() == 0:
        raise InputError(
            f"{where}: weights lie in [{weights.min():g}, {weights.max():g}]; they must be at least 0 and not all 0: "
            "give each input its probability, or leave weights out"
        )
    p = weights.astype(np.float64) / float(weights.max())
    return np.asarray(p / p.sum())
