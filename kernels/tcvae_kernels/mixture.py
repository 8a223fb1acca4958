"""Mixtures of millions of components, in memory for the components and the results alone.

    log_density       log sum_n w_n N(x; mu_n, sigma_n^2)              at many points, one dimension
    group_densities   sum_{n in a group} height_n exp(-t_n^2 / 2)       on windows of a uniform grid, for the entropies
                                                                       of `tcvae_ref.metrics.entropy`
    log_joint         log 1/N sum_n q(z_i|n) and the marginals         at many samples

As in `pairwise` a logarithm is carried doubled: g_n - t^2 with t = (x - mu_n) / sigma_n, and heights
g_n = 2 log w_n - log_var_n less the largest of them, so that exp((g - t^2) / 2) cannot overflow and needs no maximum.
A point whose sum underflows is done again from its true maximum, as every point is where the heights lie so far apart
that precision would suffer.

Indices into long arrays are unsigned, both parts of a sum: on other threads than the first, NumPy 2.1 adds a signed
number to an unsigned one as floats.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_kernels import pairwise, threads
from tcvae_kernels._jit import jit, larger, vector_loop
from tcvae_kernels.exp import weight, weight_four
from tcvae_kernels.pairwise import LOG_2PI, ROWS, SPREAD, TILE, TINY, exponent, exponent_below, fill_up
from tcvae_ref import checks
from tcvae_ref.checks import InputError, InputTypeError
from tcvae_ref.types import Array, LogQz, ProgressHook

BLOCK = 1024
"""Points of a block at most; no result depends on it."""
LARGEST_LOG_WEIGHT = 1e30
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
        n_k = lo + np.uint64(k)
        mu_n, s_n, g_n = mu[n_k], s[n_k], g[n_k]
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
        n_k = lo + np.uint64(k)
        mu_n, s_n, g_n = mu[n_k], s[n_k], g[n_k]
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
        n_k = lo + np.uint64(k)
        mu_n, s_n, g_n = mu[n_k], s[n_k], g[n_k]
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
    fours = fill_up(x, ROWS)
    tops, sums, tile = np.zeros_like(fours), np.zeros(len(fours)), TILE[x.itemsize]
    if from_maxima:
        sums_from_maxima(fours, *components, tile, sums, tops)
    else:
        sums_of_exponentials(fours, *components, tile, sums)
    return sums[: len(x)], tops[: len(x)]


def _check_mixture(where: str, points: Array, mu: Array, log_var: Array, log_weights: Array) -> None:
    checks.not_masked(where, log_weights=log_weights)
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
def add_densities(first, length, t, dt, height, rows, left, right, begin, end, E, sums):
    """Add the components begin ... end - 1 to the points left ... right - 1.

    sums[rows[k, n], first_n + i] += height_n exp(-(t_n + i dt_n)^2 / 2) for 0 <= i < length_n. E : (right - left,).
    """
    vector_loop()
    for n in range(begin, end):
        start, stop = max(first[n], left), min(first[n] + length[n], right)
        if start >= stop:
            continue
        t_n, dt_n, height_n = t[n], dt[n], height[n]
        lo, to, points = start - first[n], np.uint64(start), np.uint64(stop - start)
        for i in range(points):
            x = t_n + (lo + np.int64(i)) * dt_n
            E[i] = height_n * weight(-x * x)
        for k in range(rows.shape[0]):
            row = np.uint64(rows[k, n])
            for i in range(points):
                sums[row, to + np.uint64(i)] += E[i]


def group_densities(
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    t: NDArray[np.float64],
    dt: NDArray[np.float64],
    height: NDArray[np.float64],
    rows: NDArray[np.int32],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Sums of Gaussians over each of several groups : (rows, points), a row for each group.

    sums[rows[k, n], first_n + i] += height_n exp( - (t_n + i dt_n)^2 / 2 ),   0 <= i < length_n

    The same as `tcvae_ref.metrics.octaves.group_densities`, in no more memory than the result. Threads share the
    points out, so every sum has one order.

    Parameters
    ----------
    first, length : (N,) of int64
        The window of each component, within the points; from left to right: first does not decrease.
    t, dt, height : (N,) of float64
        The standardised place of its first point, the standardised step, and the height.
    rows : (K, N) of int32
        The rows each component is added to.
    shape : (int, int)
        How many rows and points there are.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, entries are not finite, a window leaves the points or comes too late, a row is not
        below shape[0].
    """
    _check_windows("group_densities", first, length, t, dt, height, rows, shape)
    first, length, t, dt, height, rows = (np.ascontiguousarray(a) for a in (first, length, t, dt, height, rows))
    points = shape[1]
    sums = np.zeros(shape)
    stretch, widest = max(SHORTEST_STRETCH, -(-points // STRETCHES)), int(length.max(initial=0))

    def work(b: int) -> None:
        left, right = b * stretch, min(points, (b + 1) * stretch)
        begin, end = (int(n) for n in np.searchsorted(first, [left - widest, right]))  # all others end or begin outside
        with np.errstate(all="ignore"):
            add_densities(first, length, t, dt, height, rows, left, right, begin, end, np.empty(stretch), sums)

    threads.run(work, -(-points // stretch))
    return sums


def _check_windows(
    where: str,
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    t: NDArray[np.float64],
    dt: NDArray[np.float64],
    height: NDArray[np.float64],
    rows: NDArray[np.int32],
    shape: tuple[int, int],
) -> None:
    checks.vectors(where, t=t, dt=dt, height=height)
    if t.dtype != np.float64:
        raise InputTypeError(f"{where}: t, dt and height are {t.dtype}; float64 is needed: convert with .astype")
    for name, array, dtype, axes in (
        ("first", first, np.int64, t.shape),
        ("length", length, np.int64, t.shape),
        ("rows", rows, np.int32, (len(rows) if hasattr(rows, "__len__") else 0, *t.shape)),
    ):
        if getattr(array, "dtype", None) != dtype or array.shape != axes:
            given = f"{array.dtype} {array.shape}" if hasattr(array, "dtype") else f"a {type(array).__name__}"
            raise InputError(f"{where}: {name} is {given}; {dtype.__name__} {axes} is needed, like t {t.shape}")
    if np.any(np.diff(first) < 0):
        raise InputError(f"{where}: first decreases; sort the windows from left to right")
    if first[0] < 0 or length.min() < 0 or np.max(first + length) > shape[1]:
        raise InputError(
            f"{where}: windows reach from {first[0]} to {np.max(first + length)}; they must lie within the "
            f"{shape[1]} points: cut them"
        )
    if rows.size and (rows.min() < 0 or rows.max() >= shape[0]):
        raise InputError(f"{where}: rows lie in [{rows.min()}, {rows.max()}]; there are rows 0 ... {shape[0] - 1}")


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
