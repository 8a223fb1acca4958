"""The cases a target is held to: drawn by hypothesis, built for a purpose, and made smaller.

Public, for test suites of one's own: `cases` is a hypothesis strategy, `purpose_built` a list.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from tcvae_ref import checks
from tcvae_ref.oracle import estimators
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.types import DTYPES, Case
from tcvae_ref.types import Array


class Kind(NamedTuple):
    """Ranges that cases are drawn from."""

    mu: float
    """|mu| at most."""
    log_var: tuple[float, float]
    sigmas: float
    """|z - mu| / sigma at most."""


KINDS = {
    "moderate": Kind(2.0, (-2.0, 1.0), 3.0),
    "close": Kind(0.5, (-1.0, 1.0), 2.0),
    "wide": Kind(20.0, (-8.0, 8.0), 3.0),
    "narrow": Kind(1.0, (-16.0, -6.0), 3.0),
    "outliers": Kind(2.0, (-3.0, 1.0), 12.0),
    "far apart": Kind(1e3, (-4.0, 2.0), 3.0),
}
"""From moderate scales to extremes; the first two make up half of what is drawn."""

_SMALL = 2.0**-40

Weights = tuple[float, float, float]

WEIGHTS: tuple[Weights, ...] = (
    (1.0, 6.0, 1.0),
    (0.5, 4.0, 2.0),
    (2.0, 0.25, 0.75),
    (1.0, 2.0, 1.0),
    (0.0, 10.0, 1.0),
    (1.0, 0.0, 1.0),
    (1.0, 4.0, 0.0),
    (-1.0, 3.0, -2.0),
)
"""alpha, beta and gamma of the cases: unequal, zero and negative ones among them."""
_SIZES = {"float64": 1_000_000, "float32": 1_000_000, "bfloat16": 256, "float16": 2_000}


@st.composite
def cases(
    draw: Any,
    estimator: str = "mws",
    dtype: str = "float64",
    shapes: Sequence[tuple[int, int, int]] | None = None,
    weights: Sequence[Weights] = WEIGHTS,
    least: int = 1,
    most: int = 12,
) -> Case:
    """Cases for one estimator.

    Parameters
    ----------
    estimator : str
        One of `estimators.names()`: N = M where it is of the whole data set, else N > M.
    dtype : str
        What they will be rounded to: ranges are narrowed to what the format carries.
    shapes : sequence of (M, D, N), optional
        Draw from these alone: for functions that compile for each shape.
    weights : sequence of (alpha, beta, gamma)
        To draw from.
    least : int
        The smallest M, for what a smaller batch does not show.
    most : int
        The largest M, where N is said.

    Returns
    -------
    strategy of Case
        M up to `most`, D up to 6, in float64; alpha, beta and gamma with beta other than 1.
    """
    taken = estimators.find(estimator, "cases")
    checks.option("cases", "dtype", dtype, DTYPES)
    if shapes is None:
        M, D = draw(st.integers(max(least, taken.least_batch), most)), draw(st.integers(1, 6))
        N = M if taken.whole_data_set else draw(st.integers(M + 1, _SIZES[dtype]))
    else:
        M, D, N = draw(st.sampled_from(list(shapes)))
    kind = KINDS[draw(st.sampled_from(["moderate", "moderate", "close", "close", *KINDS]))]
    limit = 0.4 * np.log(FORMATS[dtype].largest)
    low, high = np.clip(kind.log_var, -limit, limit)
    most = min(kind.mu, 0.2 * np.sqrt(FORMATS[dtype].largest))
    mu = draw(_matrix(M, D, -most, most))
    log_var = draw(_matrix(M, D, low, high))
    eps = draw(_matrix(M, D, -kind.sigmas, kind.sigmas))
    relation = draw(st.sampled_from(["apart", "apart", "apart", "duplicates", "identical", "z elsewhere"]))
    if relation == "duplicates":
        mu[-1], log_var[-1] = mu[0], log_var[0]
    elif relation == "identical":
        mu[:], log_var[:] = mu[0], log_var[0]
    z = eps if relation == "z elsewhere" else mu + np.exp(0.5 * log_var) * eps
    return Case(z, mu, log_var, N, *draw(st.sampled_from(list(weights))))


def _matrix(M: int, D: int, low: float, high: float) -> st.SearchStrategy[Array]:
    """Numbers from low to high, or 0; the smallest of floating point are left to a case of their own."""
    elements = st.floats(low, high, allow_subnormal=False).map(lambda x: x if abs(x) > _SMALL else 0.0)
    return st_numpy.arrays(np.float64, (M, D), elements=elements, fill=st.nothing())


def purpose_built(estimator: str, dtype: str, shapes: Sequence[tuple[int, int, int]] | None = None) -> dict[str, Case]:
    """Cases that show mistakes which random ones seldom show, each by its purpose.

    Those of a shape apart from `shapes` are left out where these are given.
    """
    taken = estimators.find(estimator, "cases")
    rng = np.random.default_rng(20180214)
    N = min(1000, _SIZES[dtype])

    def batch(M: int, D: int, mu: float = 1.0, log_var: tuple[float, float] = (-1.0, 0.5), sigmas: float = 1.0) -> Case:
        means = mu * rng.standard_normal((M, D))
        widths = rng.uniform(*log_var, (M, D))
        eps = sigmas * rng.standard_normal((M, D))
        return Case(means + np.exp(0.5 * widths) * eps, means, widths, taken.dataset_size(M, N))

    limit = 0.4 * np.log(FORMATS[dtype].largest)
    M = 4
    result = {
        "variances under any epsilon": batch(M, 3, 0.5, (max(-18.0, -limit), max(-15.0, 0.2 - limit))),
        "samples ten sigma out": _at_sigmas(batch(M, 2), 10.0),
        "a negative estimate of TC": _crossed(batch(M, 2)),
        "67 dimensions": batch(6, 67),
        "64 dimensions, 10 sigma out": _at_sigmas(batch(4, 64), 10.0),
        "one dimension": batch(M, 1),
        "two samples": batch(2, 3),
        "identical posteriors": _identical(batch(M, 3)),
        "far-apart posteriors": batch(M, 3, 50.0, (-2.0, 0.0)),
        "17 samples": batch(17, 2),
        "41 samples": batch(41, 3),
        "the whole data set in one batch": batch(M, 2)._replace(dataset_size=M),
        "numbers near the smallest": _scaled(batch(M, 3), 4 * FORMATS[dtype].smallest),
        "log density beyond +-50": batch(3, 4, 0.1, (-limit, -limit + 1.0)) if dtype == "float64" else batch(3, 4),
    }
    if shapes is not None:
        allowed = {(m, d) for m, d, _ in shapes}
        result = {
            name: case._replace(dataset_size=n)
            for name, case in result.items()
            if case.z.shape in allowed
            for m, d, n in shapes
            if (m, d) == case.z.shape
        }
    return result


def _at_sigmas(case: Case, sigmas: float) -> Case:
    signs = np.where(np.arange(case.z.size).reshape(case.z.shape) % 2, 1.0, -1.0)
    return case._replace(z=case.mu + sigmas * signs * np.exp(0.5 * case.spread))


def _scaled(case: Case, scale: float) -> Case:
    return case._replace(z=scale * case.z, mu=scale * case.mu)


def _crossed(case: Case) -> Case:
    """Each coordinate of z near some posterior, no z near any: the joint is far lower than the marginals."""
    mu = np.where((np.arange(len(case.mu)) % 2 == 0)[:, None], [-6.0, 6.0], [6.0, -6.0])
    z = np.where((np.arange(len(case.mu)) % 2 == 0)[:, None], [6.0, 6.0], [-6.0, -6.0]) + 0.1 * case.z
    return case._replace(z=z, mu=mu + 0.1 * case.mu)


def _identical(case: Case) -> Case:
    first = np.zeros_like(case.mu)
    return case._replace(mu=first + case.mu[0], spread=first + case.spread[0])


def shapes(estimator: str) -> tuple[tuple[int, int, int], ...]:
    """The few shapes (M, D, N) that a function which compiles for each of them is held to."""
    sizes = ((4, 3, 100), (7, 2, 50), (6, 64, 200))
    taken = estimators.find(estimator, "cases")
    return tuple((M, D, taken.dataset_size(M, N)) for M, D, N in sizes)


def smaller(case: Case, estimator: str) -> Iterator[Case]:
    """Simpler cases, the most radical simplification first."""
    taken = estimators.find(estimator, "cases")
    M, D = case.z.shape
    for i in reversed(range(M)) if taken.least_batch < M else ():
        arrays = (np.delete(a, i, axis=0) for a in (case.z, case.mu, case.spread))
        z, mu, spread = arrays
        N = taken.dataset_size(M - 1, case.dataset_size)
        yield case._replace(z=z, mu=mu, spread=spread, dataset_size=N)
    for d in reversed(range(D)) if D > 1 else ():
        z, mu, spread = (np.delete(a, d, axis=1) for a in (case.z, case.mu, case.spread))
        yield case._replace(z=z, mu=mu, spread=spread)
    if not taken.whole_data_set:
        yield from (case._replace(dataset_size=N) for N in (M + 1, 10, 100) if M < N < case.dataset_size)
    if (case.alpha, case.beta, case.gamma) != (1.0, 2.0, 1.0):
        yield case._replace(alpha=1.0, beta=2.0, gamma=1.0)
    yield from _simpler_numbers(case)


def _simpler_numbers(case: Case) -> Iterator[Case]:
    for name in ("z", "mu", "spread"):
        array = getattr(case, name)
        if array.any():
            yield case._replace(**{name: np.zeros_like(array)})
    for decimals in (0, 1, 2):
        for name in ("z", "mu", "spread"):
            array = getattr(case, name)
            rounded = np.round(array, decimals) + 0.0  # no -0.0
            if (rounded != array).any():
                yield case._replace(**{name: rounded})
    for name in ("z", "mu", "spread"):
        array = getattr(case, name)
        for index in zip(*np.nonzero(array), strict=True):
            for value in (0.0, *((1.0,) if array[index] != np.round(array[index]) else ())):
                simpler = array.copy()
                simpler[index] = value
                yield case._replace(**{name: simpler})
