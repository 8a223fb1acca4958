"""Mixtures of millions of components, in memory for the components and the results alone.

    log_density       log sum_n w_n N(x; mu_n, sigma_n^2)              at many points, one dimension
    group_densities   sum_{n in a group} N(z; mu_n, sigma_n^2) / N     on a uniform grid, for the entropies of
                                                                       `tcvae_ref.metrics.entropy`
    log_joint         log 1/N sum_n q(z_i|n) and the marginals         at many samples

As in `pairwise` a logarithm is carried doubled: g_n - t^2 with t = (x - mu_n) / sigma_n, and heights
g_n = 2 log w_n - log_var_n less the largest of them, so that exp((g - t^2) / 2) cannot overflow and needs no maximum.
A point whose sum underflows is done again from its true maximum, as every point is where the heights lie so far apart
that precision would suffer.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_kernels import pairwise, threads
from tcvae_kernels._jit import jit, larger, vector_loop
from tcvae_kernels.exp import weight, weight_four
from tcvae_kernels.pairwise import LOG_2PI, ROWS, SPREAD, TILE, TINY, exponent, exponent_below
from tcvae_ref import checks
from tcvae_ref.checks import InputError, InputTypeError
from tcvae_ref.types import Array, LogQz, ProgressHook

BLOCK = 1024
"""Points of a block at most; no result depends on it."""
LARGEST_LOG_WEIGHT = 1e30
REACH = 9.0
"""Components are added to a grid within this many sigma, as in `tcvae_ref.metrics.entropy`."""
STRETCHES, SHORTEST_STRETCH = 64, 128
"""A grid is cut into at most so many stretches, none shorter than this but the last."""


# --- the density at many points --------------------------------------------------------------------------------


@jit
def _sums_of_four(points, i, mu, s, g, start, n):
    """Sums of exp((g - t^2) / 2) for the points i ... i + 3, over the components start + k, k < n."""
    vector_loop()
    x0, x1, x2, x3 = points[i], points[i + 1], points[i + 2], points[i + 3]
    zero = mu.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    lo = np.uint64(start)
    for k in range(np.uint64(n)):
        mu_n, s_n, g_n = mu[lo + k], s[lo + k], g[lo + k]
        t0, t1, t2, t3 = (x0 - mu_n) * s_n, (x1 - mu_n) * s_n, (x2 - mu_n) * s_n, (x3 - mu_n) * s_n
        e0, e1, e2, e3 = weight_four(g_n - t0 * t0, g_n - t1 * t1, g_n - t2 * t2, g_n - t3 * t3)
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    return sum0, sum1, sum2, sum3


@jit
def _highest_of_four(points, i, tops, mu, s, g, start, n):
    """The largest of g - t^2 and of what is in tops, as in `_sums_of_four`."""
    vector_loop()
    x0, x1, x2, x3 = points[i], points[i + 1], points[i + 2], points[i + 3]
    top0, top1, top2, top3 = tops[i], tops[i + 1], tops[i + 2], tops[i + 3]
    lo = np.uint64(start)
    for k in range(np.uint64(n)):
        mu_n, s_n, g_n = mu[lo + k], s[lo + k], g[lo + k]
        top0 = larger(top0, exponent(x0, mu_n, s_n, g_n))
        top1 = larger(top1, exponent(x1, mu_n, s_n, g_n))
        top2 = larger(top2, exponent(x2, mu_n, s_n, g_n))
        top3 = larger(top3, exponent(x3, mu_n, s_n, g_n))
    return top0, top1, top2, top3


@jit
def _sums_of_four_below(points, i, tops, mu, s, g, start, n):
    """`_sums_of_four` of exp((g - t^2 - top) / 2)."""
    vector_loop()
    x0, x1, x2, x3 = points[i], points[i + 1], points[i + 2], points[i + 3]
    top0, top1, top2, top3 = tops[i], tops[i + 1], tops[i + 2], tops[i + 3]
    zero = mu.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    lo = np.uint64(start)
    for k in range(np.uint64(n)):
        mu_n, s_n, g_n = mu[lo + k], s[lo + k], g[lo + k]
        e0, e1, e2, e3 = weight_four(
            exponent_below(x0, mu_n, s_n, g_n, top0),
            exponent_below(x1, mu_n, s_n, g_n, top1),
            exponent_below(x2, mu_n, s_n, g_n, top2),
            exponent_below(x3, mu_n, s_n, g_n, top3),
        )
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    return sum0, sum1, sum2, sum3


@jit
def sums_of_exponentials(points, mu, s, g, tile, sums):
    """sums[i] = sum_n exp((g - t^2) / 2); whole fours of points."""
    sums[:] = 0.0
    for start in range(0, mu.size, tile):  # tiles outside: one tile of components serves all points from the cache
        n = min(tile, mu.size - start)
        for i in range(0, points.size, 4):
            sum0, sum1, sum2, sum3 = _sums_of_four(points, i, mu, s, g, start, n)
            sums[i] += sum0
            sums[i + 1] += sum1
            sums[i + 2] += sum2
            sums[i + 3] += sum3


@jit
def sums_from_maxima(points, mu, s, g, tile, sums, tops):
    """tops[i] = max_n (g - t^2), 0 where all are -inf, and sums[i] = sum_n exp((g - t^2 - tops[i]) / 2)."""
    sums[:] = 0.0
    tops[:] = -np.inf
    for start in range(0, mu.size, tile):
        n = min(tile, mu.size - start)
        for i in range(0, points.size, 4):
            tops[i], tops[i + 1], tops[i + 2], tops[i + 3] = _highest_of_four(points, i, tops, mu, s, g, start, n)
    for i in range(points.size):
        if tops[i] == -np.inf:
            tops[i] = 0
    for start in range(0, mu.size, tile):
        n = min(tile, mu.size - start)
        for i in range(0, points.size, 4):
            sum0, sum1, sum2, sum3 = _sums_of_four_below(points, i, tops, mu, s, g, start, n)
            sums[i] += sum0
            sums[i + 1] += sum1
            sums[i + 2] += sum2
            sums[i + 3] += sum3


def log_density(
    points: Array, mu: Array, log_var: Array, log_weights: Array, progress: ProgressHook | None = None
) -> Array:
    """Log-density of a weighted one-dimensional mixture : (P,), nats.

    log sum_n exp(log_weights_n) N(x_i; mu_n, exp(log_var_n)); the weights are taken as they are, and need not sum to 1.

    Parameters
    ----------
    points : (P,)
    mu, log_var : (N,)
        The components.
    log_weights : (N,)
        Nats; -inf is weight 0.
    progress : function, optional
        Called as progress(done, total), in points.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, entries are nan or infinite, log_var is out of range, no weight is above 0.
    """
    _check_mixture("log_density", points, mu, log_var, log_weights)
    heights = 2.0 * log_weights.astype(np.float64) - log_var
    top = float(heights.max())
    unsafe = top - float(heights.min(where=heights > -np.inf, initial=top)) > SPREAD
    h = 0.0 if unsafe else top
    heights -= h
    components = Components(np.ascontiguousarray(mu), np.exp(-0.5 * log_var), heights.astype(mu.dtype))
    del heights
    P = len(points)
    block = min(BLOCK, -(-P // (4 * threads.get_num_threads() * ROWS)) * ROWS)
    sums, tops = np.empty(P), np.empty(P)
    report, done = threads.in_order(progress), list[int]()

    def work(b: int) -> None:
        ours = slice(b * block, (b + 1) * block)
        x = points[ours]
        with np.errstate(all="ignore"):
            of_x, from_x = _sums(x, components, unsafe)
            again = np.flatnonzero(of_x < TINY[mu.itemsize])
            if len(again) and not unsafe:
                of_x[again], from_x[again] = _sums(x[again], components, True)
        sums[ours], tops[ours] = of_x, from_x
        done.append(len(x))
        report(sum(done), P)

    threads.run(work, -(-P // block))
    with np.errstate(divide="ignore"):  # farther away than a square can say: -inf
        return (np.log(sums) + 0.5 * (tops + h - LOG_2PI)).astype(mu.dtype)


class Components(NamedTuple):
    """What the loops read of N components."""

    mu: Array
    """(N,)."""
    s: Array
    """(N,): exp(-log_var / 2)."""
    g: Array
    """(N,): 2 log w - log_var, less a constant; -inf for weight 0."""


def _sums(x: Array, components: Components, from_maxima: bool) -> tuple[Array, Array]:
    """Sums of exponentials at some points, and the (doubled) maxima taken out of them."""
    fours = np.concatenate([x, np.repeat(x[-1:], -len(x) % ROWS)])
    tops, sums, tile = np.zeros_like(fours), np.zeros(len(fours)), TILE[x.itemsize]
    if from_maxima:
        sums_from_maxima(fours, *components, tile, sums, tops)
    else:
        sums_of_exponentials(fours, *components, tile, sums)
    return sums[: len(x)], tops[: len(x)]


def _check_mixture(where: str, points: Array, mu: Array, log_var: Array, log_weights: Array) -> None:
    weighted = hasattr(log_weights, "dtype")
    finite = np.where(log_weights == -np.inf, 0, log_weights) if weighted else log_weights
    checks.arrays(where, points=points, mu=mu, log_var=log_var, log_weights=finite)
    checks.vectors(where, points=points)
    checks.vectors(where, mu=mu, log_var=log_var, log_weights=finite)
    checks.log_variances(where, log_var=log_var)
    if np.abs(finite).max() > LARGEST_LOG_WEIGHT:
        raise InputError(
            f"{where}: log_weights reaches {finite.flat[np.argmax(np.abs(finite))]:g}; it must lie within "
            f"-{LARGEST_LOG_WEIGHT:g} and {LARGEST_LOG_WEIGHT:g}, or be -inf for weight 0: normalise the weights"
        )
    if np.max(log_weights) == -np.inf:
        raise InputError(f"{where}: log_weights are all -inf; at least one component needs a weight above 0")


# --- the densities of groups on a grid -------------------------------------------------------------------------


@jit
def add_densities(mu, s, height, first, window, cells, z, left, begin, end, E, sums):
    """Add the components begin ... end - 1 to a stretch of the grid, the points z = left, left + 1, ...

    sums[cells[k, n], i] += height_n exp(-t^2 / 2) for first_n <= i < first_n + window_n. E, z : (length,),
    cells : (labellings, N), sums : (rows, points).
    """
    vector_loop()
    for n in range(begin, end):
        start, stop = max(first[n] - left, 0), min(first[n] + window[n] - left, z.size)
        if start >= stop:
            continue
        mu_n, s_n, height_n = mu[n], s[n], height[n]
        lo, to, count = np.uint64(start), np.uint64(left + start), np.uint64(stop - start)
        for i in range(count):
            t = (z[lo + i] - mu_n) * s_n
            E[i] = height_n * weight(-t * t)
        for k in range(cells.shape[0]):
            row = np.uint64(cells[k, n])
            for i in range(count):
                sums[row, to + i] += E[i]


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

    The same as `tcvae_ref.metrics.entropy.group_densities`, one array (size, points) for each labelling; no more
    memory than these and a few numbers per component. Each component is added within `REACH` sigma, to the part of
    its window that lies on the grid. Threads share the grid out, so every sum has one order.

    Parameters
    ----------
    mu, sigma : (N,) of float64
    labellings : list of (N,) of int
        Group of each component.
    sizes : list of int
        How many groups each labelling has.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, entries are not finite, a sigma is not above 0, a group is not below its size.
    """
    _check_groups("group_densities", mu, sigma, labellings, sizes)
    step = checks.real_number("group_densities", "step", step, 0.0, above=True)
    points = checks.whole_number("group_densities", "points", points, 1)
    first = np.ceil((mu - REACH * sigma - start) / step).astype(np.int64)
    window = np.floor(2.0 * REACH * sigma / step).astype(np.int64) + 2
    order = np.argsort(first, kind="stable")
    first, window, mu, sigma = (np.ascontiguousarray(a[order]) for a in (first, window, mu, sigma))
    ends = np.cumsum([0, *sizes])
    cells = np.stack([label[order].astype(np.int64) + end for label, end in zip(labellings, ends, strict=False)])
    s, height = 1.0 / sigma, 1.0 / (math.sqrt(2.0 * math.pi) * sigma * len(mu))
    sums = np.zeros((int(ends[-1]), points))
    length, widest = max(SHORTEST_STRETCH, -(-points // STRETCHES)), int(window.max())

    def work(b: int) -> None:
        left, right = b * length, min(points, (b + 1) * length)
        begin, end = (int(n) for n in np.searchsorted(first, [left - widest, right]))  # all others end or begin outside
        z = start + step * np.arange(left, right)
        with np.errstate(all="ignore"):
            add_densities(mu, s, height, first, window, cells, z, left, begin, end, np.empty_like(z), sums)

    threads.run(work, -(-points // length))
    return [sums[begin:end] for begin, end in itertools.pairwise(ends)]


def _check_groups(where: str, mu: Array, sigma: Array, labellings: list[NDArray[np.int64]], sizes: list[int]) -> None:
    checks.vectors(where, mu=mu, sigma=sigma)
    if mu.dtype != np.float64:
        raise InputTypeError(f"{where}: mu and sigma are {mu.dtype}; float64 is needed: convert with .astype")
    if sigma.min() <= 0:
        raise InputError(f"{where}: sigma goes down to {sigma.min():g}; it must be above 0: leave such components out")
    if len(labellings) != len(sizes) or not sizes:
        raise InputError(f"{where}: {len(labellings)} labellings and {len(sizes)} sizes; each labelling needs its size")
    for k, (label, size) in enumerate(zip(labellings, sizes, strict=True)):
        kind = getattr(getattr(label, "dtype", None), "kind", "O")
        if kind not in "iu" or label.shape != mu.shape:
            given = f"{label.dtype} {label.shape}" if hasattr(label, "dtype") else f"a {type(label).__name__}"
            raise InputError(f"{where}: labellings[{k}] is {given}; an array of integers {mu.shape} is needed")
        if label.min() < 0 or label.max() >= size:
            raise InputError(
                f"{where}: labellings[{k}] lies in [{label.min()}, {label.max()}]; sizes[{k}]={size} groups are "
                f"numbered 0 ... {size - 1}"
            )


# --- the aggregate posterior at many samples --------------------------------------------------------------------


def log_joint(z: Array, mu: Array, log_var: Array, progress: ProgressHook | None = None) -> LogQz:
    """Aggregate posterior of N components at S samples: log q(z_i) : (S,) and log q(z_id) : (S, D), nats.

    log q(z_i) = log 1/N sum_n prod_d N(z_id; mu_nd, exp(log_var_nd))

    The value of `tcvae_ref.estimators.log_qz_exact`, with a hook for long calls and without a gradient.

    Parameters
    ----------
    z : (S, D)
    mu, log_var : (N, D)
    progress : function, optional
        Called as progress(done, total), in samples.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, entries are not finite, log_var is out of range.
    """
    checks.samples_and_posteriors("log_joint", z, mu, log_var)
    return LogQz(*pairwise.log_sums(z, mu, log_var, pairwise.Weights(-math.log(len(mu))), progress))
