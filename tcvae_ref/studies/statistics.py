"""Medians over seeds, and how far they can be told apart."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError

CONFIDENCE = 0.95
RESAMPLES = 4000
_DEFINED = 0.9


class Interval(NamedTuple):
    """A number and the interval that holds the true one with the stated confidence."""

    value: float
    low: float
    high: float
    confidence: float
    """Of the interval; exact ones reach only certain values of it."""


def shift(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """How much higher `a` lies than `b`: the median of all differences a_i - b_j, with an exact interval.

    The interval lies between the k-th smallest and the k-th largest of the differences, with the largest k for which

        1 - 2 P( U <= k - 1 )  >=  confidence,

    U the Mann-Whitney statistic of two samples of these sizes from one distribution (Hodges & Lehmann 1963). It is
    exact for any distribution, if those of a and b differ by a shift alone.

    Parameters
    ----------
    a, b : sequences of float
        Independent samples, such as the scores of runs with different seeds.
    confidence : float
        Wanted; where the samples are too small for it, all differences are spanned and what that reaches is in the
        result.

    Returns
    -------
    Interval

    Raises
    ------
    InputError
        A sample is empty.
    """
    if not len(a) or not len(b):
        raise InputError(f"shift: samples of {len(a)} and {len(b)} numbers; each needs one at least")
    differences = np.sort(np.subtract.outer(np.asarray(a, float), np.asarray(b, float)).ravel())
    below = _cumulative_mann_whitney(len(a), len(b))
    k = max(1, int(np.searchsorted(below, (1.0 - confidence) / 2.0, side="right")))
    reached = max(0.0, 1.0 - 2.0 * float(below[k - 1]))
    return Interval(float(np.median(differences)), float(differences[k - 1]), float(differences[-k]), reached)


def _cumulative_mann_whitney(n: int, m: int) -> NDArray[np.float64]:
    """P(U <= u) for u = 0 ... n m, of samples without ties from one distribution."""
    counts = np.zeros(n * m + 1)
    counts[0] = 1.0
    for j in range(1, n + 1):  # the Gaussian binomial coefficient: prod_j (1 - q^(m + j)) / (1 - q^j)
        counts[m + j :] -= counts[: max(len(counts) - m - j, 0)].copy()
        for u in range(j, len(counts)):
            counts[u] += counts[u - j]
    return np.cumsum(counts) / counts.sum()


def bootstrap(
    statistic: Callable[[list[NDArray[np.int64]]], NDArray[np.float64]],
    sizes: Sequence[int],
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """Percentile bootstrap of a statistic of several independent samples (Efron 1979).

    Parameters
    ----------
    statistic : function
        Called with one array of indices for each sample; returns the numbers : (n,).
    sizes : sequence of int
        Of the samples.
    rng : numpy.random.Generator
    confidence : float
    resamples : int

    Returns
    -------
    list of Interval
        One for each of the n numbers; its ends are nan where the statistic is nan in over a tenth of the resamples.
        With few seeds such intervals are too short rather than too long.
    """
    value = statistic([np.arange(size) for size in sizes])
    drawn = np.stack([statistic([rng.integers(size, size=size) for size in sizes]) for _ in range(resamples)])
    defined = np.isfinite(drawn).mean(axis=0) >= _DEFINED
    low, high = np.full((2, len(value)), np.nan)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    if defined.any():  # of nothing, nanquantile returns another shape
        low[defined], high[defined] = np.nanquantile(drawn[:, defined], ends, axis=0)
    return [Interval(float(v), float(a), float(b), confidence) for v, a, b in zip(value, low, high, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and the quartiles round it: (first quartile, median, third quartile)."""
    low, middle, high = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)
