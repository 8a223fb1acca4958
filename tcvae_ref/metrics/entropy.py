"""Differential entropies of one-dimensional Gaussian mixtures, by quadrature.

The marginal q(z_d) = 1/N sum_n N(mu_n, sigma_n^2) is an analytic function of one variable, so its entropy needs no
Monte Carlo: the trapezoid rule on a uniform grid converges faster than any power of the step. A component reaches
about 9 sigma, so the densities cost (N x window), not (N x grid). The step is halved until the answer holds still.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

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
"""Densities held at once, over all groups: 512 MB, and half as much again while they are summed up."""
SMALLEST_SIGMA = 1e-100
MOST_SIGMAS = 1e9
"""How far apart components may lie, in units of the smallest sigma, for the grid between them to be worth a thought."""
_BLOCK = 2**21  # densities evaluated at a time


class Entropy(NamedTuple):
    """Entropies of a mixture and of its groups, in nats."""

    marginal: float
    """H(z), of all components together."""
    conditional: list[float]
    """H(z | v_k) of each labelling k: the groups' entropies averaged with the groups' shares."""
    error: float
    """Estimate of the error of any of these and of their differences, from the changes as the step was halved."""


def group_densities(
    mu: Array,
    sigma: Array,
    labellings: list[NDArray[np.int64]],
    sizes: list[int],
    start: float,
    step: float,
    points: int,
) -> list[NDArray[np.float64]]:
    """Sum of N(z; mu_n, sigma_n^2) / N over each group, on the grid start + step * (0, 1, ... points - 1).

    Components of about one width are taken together, from left to right, so that a block of them touches a short
    stretch of the grid: the cost is the sum of the windows.
    """
    sums = [np.zeros((size, points)) for size in sizes]
    first = np.ceil((mu - REACH * sigma - start) / step).astype(np.int64)
    window = np.floor(2.0 * REACH * sigma / step).astype(np.int64) + 2
    octave = np.floor(np.log2(window)).astype(np.int64)
    order = np.lexsort((first, octave))
    for members in np.split(order, np.flatnonzero(np.diff(octave[order])) + 1):
        width = int(window[members].max())
        count = max(1, _BLOCK // width)
        for begin in range(0, len(members), count):
            block = members[begin : begin + count]
            index = first[block, None] + np.arange(width)
            q = (start + step * index - mu[block, None]) / sigma[block, None]
            density = np.exp(-0.5 * q * q) / (math.sqrt(2.0 * math.pi) * sigma[block, None] * len(mu))
            left, stretch = int(index[0, 0]), int(index[-1, -1]) - int(index[0, 0]) + 1
            for total, label in zip(sums, labellings, strict=True):
                cell = label[block, None] * stretch + (index - left)
                added = np.bincount(cell.ravel(), density.ravel(), minlength=len(total) * stretch)
                total[:, left : left + stretch] += added.reshape(len(total), stretch)
    return sums


GroupDensities: TypeAlias = Callable[
    [Array, Array, list[NDArray[np.int64]], list[int], float, float, int], list[NDArray[np.float64]]
]
"""`group_densities` or its equal."""


def mixture_entropies(
    mu: Array,
    log_var: Array,
    labels: NDArray[np.integer],
    tolerance: float = 1e-10,
    group_densities: GroupDensities = group_densities,
) -> Entropy:
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
        Halve the step until the error estimate is below this, nats.
    group_densities : function, optional
        Sums the components on the grid, where the time goes: the function of this module in NumPy, or the compiled
        `tcvae_kernels.mixture.group_densities`, for many components.

    Returns
    -------
    Entropy
        Its error is the change of the last halving, or the square of the change before where that is larger: the
        trapezoid rule's error is about squared by each halving once the step is below the widths, and one small change
        alone can be an accident.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, or the widths differ so much that one grid for all would
        exceed `LARGEST_GRID`.
    """
    checks.vectors("mixture_entropies", mu=mu, log_var=log_var)
    checks.real_number("mixture_entropies", "tolerance", tolerance, 0.0, above=True)
    checks.labels("mixture_entropies", "labels", labels, len(mu))
    if labels.size and labels.min() < 0:
        raise InputError("mixture_entropies: labels go below 0; number the groups 0, 1, ...")
    mu = mu.astype(np.float64)
    with np.errstate(over="ignore"):
        sigma = np.exp(0.5 * log_var.astype(np.float64))
    if sigma.min() < SMALLEST_SIGMA or sigma.max() > 1.0 / SMALLEST_SIGMA:
        raise InputError(
            f"mixture_entropies: log_var lies in [{log_var.min():.4g}, {log_var.max():.4g}]; widths between "
            f"{SMALLEST_SIGMA:g} and {1.0 / SMALLEST_SIGMA:g} are computed: rescale the components"
        )
    mu = mu - 0.5 * (mu.min() + mu.max())  # an entropy does not change with the origin, the rounding of the grid does
    if float(np.max(np.abs(mu))) / float(sigma.min()) > MOST_SIGMAS:
        raise InputError(
            f"mixture_entropies: components as narrow as {sigma.min():.3g} lie {2 * np.max(np.abs(mu)):.3g} apart, "
            f"more than {MOST_SIGMAS:g} of their widths; leave out the components that are too narrow"
        )
    step = 2.0 ** math.floor(math.log2(FIRST_STEP * float(sigma.min())))  # a power of two: grid points are exact
    while True:
        by_step = _trapezoid_entropies(mu, sigma, labels, step, group_densities)
        last, before = (_largest_change(fine, coarse) for fine, coarse in itertools.pairwise(by_step))
        error = max(last, before**2)  # halving squares the error: two changes must agree that it is small
        if error <= tolerance:
            marginal, *conditional = by_step[0].tolist()
            rounding = 16 * np.finfo(np.float64).eps * float(np.max(np.abs(by_step[0])) + 1.0)
            return Entropy(marginal, conditional, error + rounding)
        step /= 2


def _largest_change(fine: NDArray[np.float64], coarse: NDArray[np.float64]) -> float:
    """Of any entropy, or of any difference of the marginal's and a conditional one."""
    change = fine - coarse
    return float(np.max(np.abs(np.append(change, change[0] - change[1:]))))


def _trapezoid_entropies(
    mu: Array, sigma: Array, labels: NDArray[np.integer], step: float, group_densities: GroupDensities
) -> list[NDArray[np.float64]]:
    """[H(z), H(z|v_1), ..., H(z|v_K)] with this step, and with every second and every fourth point of the same grid."""
    start = step * math.floor(float(np.min(mu - REACH * sigma)) / step)
    spread = float(np.max(mu + REACH * sigma)) - start
    window = math.floor(2.0 * REACH * float(sigma.max()) / step) + 2
    points = math.ceil(spread / step) + 1 + window  # a block's windows are as long as its widest: room for them
    sizes = [1] + [int(column.max()) + 1 for column in labels.T]
    if points * sum(sizes) > LARGEST_GRID:
        raise InputError(
            f"mixture_entropies: components as narrow as {sigma.min():.3g} over a range of {spread:.3g} need a grid "
            f"of {points} points for each of {sum(sizes)} groups, more than {LARGEST_GRID} numbers; "
            "leave out the components that are too narrow"
        )
    labellings = [np.zeros(len(mu), dtype=np.int64), *labels.T.astype(np.int64)]
    sums = group_densities(mu, sigma, labellings, sizes, start, step, points)
    integrals: list[list[float]] = [[], [], []]
    for label, density in zip(labellings, sums, strict=True):
        # density[v] = p(v) q(z|v), so  - p(v) q log q = - density log density + density log p(v)
        share = np.bincount(label, minlength=len(density)) / len(mu)
        integrand = xlogy(density, np.where(share > 0, share, 1.0)[:, None]) - xlogy(density, density)
        for power, values in enumerate(integrals):
            values.append(2**power * step * float(integrand[:, :: 2**power].sum()))
    return [np.array(values) for values in integrals]
