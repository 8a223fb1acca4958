"""Differential entropies of one-dimensional Gaussian mixtures, by quadrature.

The marginal q(z_d) = 1/N sum_n N(mu_n, sigma_n^2) is an analytic function of one variable, so its entropy needs no
Monte Carlo: the trapezoid rule on a uniform grid converges faster than any power of the step. A component reaches
about 9 sigma, so the densities cost (N x window), not (N x grid). The step is halved until the answer holds still.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.types import Array

REACH = 9.0
"""Components are evaluated within this many sigma: the mass left out is 2e-19."""
FIRST_STEP = 0.5
"""The coarsest step, in units of the smallest sigma (rounded down to a power of two)."""
LARGEST_GRID = 2**26
"""Densities held at once, over all groups: 512 MB."""
_BLOCK = 2**21  # densities evaluated at a time


class Entropy(NamedTuple):
    """Entropies of a mixture and of its groups, in nats."""

    marginal: float
    """H(z), of all components together."""
    conditional: list[float]
    """H(z | v_k) of each labelling k: the groups' entropies averaged with the groups' shares."""
    error: float
    """The largest change of any of these, or of their differences, when the step was last halved."""


def mixture_entropies(mu: Array, log_var: Array, labels: NDArray[np.integer], tolerance: float = 1e-10) -> Entropy:
    """Entropy of a 1-D mixture, and its entropies given each of several labellings of the components.

    H(z)       = - integral q log q,                      q        = 1/N sum_n N(mu_n, sigma_n^2)
    H(z | v_k) = - sum_v p(v) integral q_v log q_v,       q(z | v) = the mean over the components labelled v

    Parameters
    ----------
    mu, log_var : (N,)
        The components.
    labels : (N, K) of int
        Class of each component in each of K labellings, 0, 1, ...
    tolerance : float
        Halve the step until no entropy changes by more, nats.

    Returns
    -------
    Entropy
        The step of the result is half the step its `error` speaks of, so the error is an upper estimate.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, or the widths differ so much that one grid for all would
        exceed `LARGEST_GRID`.
    """
    checks.matrices("mixture_entropies", mu=mu[:, None], log_var=log_var[:, None])
    if labels.ndim != 2 or len(labels) != len(mu):
        raise InputError(f"mixture_entropies: labels are {labels.shape}; (N, K) with N={len(mu)} is needed")
    mu, sigma = mu.astype(np.float64), np.exp(0.5 * log_var.astype(np.float64))
    step = 2.0 ** math.floor(math.log2(FIRST_STEP * float(sigma.min())))  # a power of two: grid points are exact
    while True:
        fine, coarse = _trapezoid_entropies(mu, sigma, labels, step)
        change = fine - coarse
        error = float(np.max(np.abs(np.append(change, change[0] - change[1:]))))
        if error <= tolerance:
            return Entropy(float(fine[0]), [float(h) for h in fine[1:]], error)
        step /= 2


def _trapezoid_entropies(
    mu: Array, sigma: Array, labels: NDArray[np.integer], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[H(z), H(z|v_1), ..., H(z|v_K)] with this step, and with every second point of the same grid."""
    start = step * math.floor(float(np.min(mu - REACH * sigma)) / step)
    spread = float(np.max(mu + REACH * sigma)) - start
    window = math.floor(2.0 * REACH * float(sigma.max()) / step) + 1
    points = math.ceil(spread / step) + 1 + window  # a block's windows are as long as its widest: room for them
    sizes = [1] + [int(column.max()) + 1 for column in labels.T]
    if points * sum(sizes) > LARGEST_GRID:
        raise InputError(
            f"mixture_entropies: components as narrow as {sigma.min():.3g} over a range of {spread:.3g} need a grid "
            f"of {points} points for each of {sum(sizes)} groups, more than {LARGEST_GRID} numbers; "
            "drop the components that are too narrow, or this dimension"
        )
    labellings = [np.zeros(len(mu), dtype=np.int64), *labels.T.astype(np.int64)]
    sums = _group_densities(mu, sigma, labellings, sizes, start, step, points)
    fine, coarse = [], []
    for label, density in zip(labellings, sums, strict=True):
        # density[v] = p(v) q(z|v), so  - p(v) q log q = - density log density + density log p(v)
        share = np.bincount(label, minlength=len(density)) / len(mu)
        integrand = xlogy(density, np.where(share > 0, share, 1.0)[:, None]) - xlogy(density, density)
        fine.append(step * integrand.sum())
        coarse.append(2.0 * step * integrand[:, ::2].sum())
    return np.array(fine), np.array(coarse)


def _group_densities(
    mu: Array,
    sigma: Array,
    labellings: list[NDArray[np.int64]],
    sizes: list[int],
    start: float,
    step: float,
    points: int,
) -> list[NDArray[np.float64]]:
    """Sum of N(z; mu_n, sigma_n^2) / N over each group, on the grid start + step * (0, 1, ... points - 1)."""
    sums = [np.zeros((size, points)) for size in sizes]
    order = np.argsort(sigma)  # components of one block have windows of about one length
    first = np.ceil((mu - REACH * sigma - start) / step).astype(np.int64)
    window = np.floor(2.0 * REACH * sigma / step).astype(np.int64) + 1
    done = 0
    while done < len(mu):
        count = max(1, _BLOCK // int(window[order[min(done + _BLOCK // 64, len(mu) - 1)]]))
        block = order[done : done + count]
        index = first[block, None] + np.arange(window[block[-1]])
        q = (start + step * index - mu[block, None]) / sigma[block, None]
        density = np.exp(-0.5 * q * q) / (math.sqrt(2.0 * math.pi) * sigma[block, None] * len(mu))
        for total, label in zip(sums, labellings, strict=True):
            cell = label[block, None] * points + index
            total += np.bincount(cell.ravel(), density.ravel(), minlength=total.size).reshape(total.shape)
        done += count
    return sums
