"""Draws among the inputs at hand: what the classifier metrics read a representation through.

The papers render a new image for every draw of the factors. Here the N inputs are what there is, a grid or not: "an
input with factor k = v" is one of those labelled so, drawn with replacement by p(n | v_k = v).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError, InputTypeError
from tcvae_ref.metrics.entropy import probabilities
from tcvae_ref.types import Array

LARGEST_CODE = 1e30
"""Codes above this size, or latents below its inverse, are refused: their squares and sums would overflow."""


class NotInstalled(InputError, ImportError):
    """scikit-learn is missing."""


def not_installed(where: str) -> NotInstalled:
    """Say which extra brings scikit-learn."""
    return NotInstalled(f"{where}: scikit-learn is not installed; pip install 'tcvae-ref[experiments]' brings it")


def generator(where: str, rng: Any) -> np.random.Generator:
    """A generator as it is, or a new one from an int seed; a seed is never made up.

    Raises
    ------
    InputError, TypeError
        It is neither, or the seed is negative.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer):
        raise InputTypeError(f"{where}: rng is a {type(rng).__name__}; give a numpy.random.Generator or an int seed")
    return np.random.default_rng(checks.whole_number(where, "rng", rng, 0))


class Inputs(NamedTuple):
    """The inputs that have weight, to be drawn from."""

    codes: Array
    """(N, D)."""
    labels: NDArray[np.int64]
    """(N, K): values of the factors, numbered 0, 1, ..."""
    p: NDArray[np.float64]
    """(N,): p(n), sums to 1."""


def inputs(
    where: str, codes: Array, classes: NDArray[np.integer], weights: Array | None = None, factors: int = 2
) -> Inputs:
    """Check a representation and its factors, number the factors' values and leave out the inputs without weight.

    Parameters
    ----------
    where : str
        The metric, for error messages.
    codes : (N, D)
    classes : (N, K) of int
    weights : (N,), optional
    factors : int
        The least number of factors.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, there are too few factors, one has a single value, or a weight is
        negative.
    """
    checks.matrices(where, codes=codes)
    checks.labels(where, "classes", classes, len(codes))
    size = np.abs(codes).max(axis=0)
    if size.max() > LARGEST_CODE or np.any((size > 0) & (size < 1.0 / LARGEST_CODE)):
        raise InputError(
            f"{where}: the largest entries of the latents are {size.min():.3g} to {size.max():.3g} in size, and their "
            f"squares are no numbers; rescale codes to between {1.0 / LARGEST_CODE:g} and {LARGEST_CODE:g}"
        )
    if classes.shape[1] < factors:
        raise InputError(f"{where}: classes are {classes.shape}; at least {factors} factors are needed to tell apart")
    p = probabilities(where, len(codes), weights)
    if p.min() == 0:
        codes, classes, p = codes[p > 0], classes[p > 0], p[p > 0]
    labels = np.stack([np.unique(column, return_inverse=True)[1] for column in classes.T], axis=1)
    for k in np.flatnonzero(labels.max(axis=0) == 0):
        raise InputError(f"{where}: factor {k} has a single value, so nothing can be told about it; leave it out")
    return Inputs(codes, labels, p)


def check_widths(where: str, mu: Array, log_var: Array) -> None:
    """Require that mu + sigma eps is not mu: that posteriors are wider than the numbers near their means.

    Raises
    ------
    InputError
        A sigma is below 500 units in the last place of its mean, where samples would be rounded by more than a
        thousandth of sigma.
    """
    with np.errstate(over="ignore"):
        sigma = np.exp(0.5 * log_var)
    narrow = np.argwhere(sigma < 500.0 * np.finfo(mu.dtype).eps * np.abs(mu))
    if len(narrow):
        n, d = narrow[0].tolist()
        raise InputError(
            f"{where}: {len(narrow)} posteriors are too narrow to be sampled in {mu.dtype}, the first with sigma "
            f"{sigma[n, d]:.3g} at mu {mu[n, d]:.6g} in latent {d}; leave out such latents, or score mu as codes"
        )


class Shelves(NamedTuple):
    """Inputs in the order of one factor's values, to draw those that have a given one."""

    order: NDArray[np.int64]
    """(N,): inputs, those of value 0 first."""
    cumulative: NDArray[np.float64]
    """(N + 1,): probability of all inputs before each in this order."""
    bounds: NDArray[np.int64]
    """(V + 1,): the inputs of value v are order[bounds[v] : bounds[v + 1]]."""


def shelves(labels: NDArray[np.int64], p: NDArray[np.float64]) -> Shelves:
    """Sort the inputs by their value of one factor: labels : (N,), p : (N,)."""
    order = np.argsort(labels, kind="stable")
    return Shelves(order, np.append(0.0, np.cumsum(p[order])), np.append(0, np.cumsum(np.bincount(labels))))


def draw_with_value(of: Shelves, values: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One input for each of `values`, of any shape, drawn by p(n | v) with replacement."""
    first, stop = of.bounds[values], of.bounds[values + 1]
    low, high = of.cumulative[first], of.cumulative[stop]
    place = np.searchsorted(of.cumulative, low + (high - low) * rng.random(values.shape), side="right") - 1
    return of.order[np.clip(place, first, stop - 1)]  # low + (high - low) u can round up to high


def draw(p: NDArray[np.float64], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Inputs drawn by p(n) with replacement."""
    return rng.choice(len(p), size=shape, p=p)


def split(
    where: str, N: int, train: int, test: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different inputs to train and to test on, drawn without replacement.

    Raises
    ------
    InputError
        There are fewer than train + test inputs.
    """
    checks.whole_number(where, "train", train, 2)
    checks.whole_number(where, "test", test, 1)
    if train + test > N:
        raise InputError(
            f"{where}: train={train} and test={test} are more than the N={N} inputs; no input serves in both: "
            f"give train={N - N // 3}, test={N // 3}, say"
        )
    drawn = rng.permutation(N)[: train + test]
    return drawn[:train], drawn[train:]
