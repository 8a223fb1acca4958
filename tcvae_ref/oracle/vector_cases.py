"""The inputs of the test vectors: fixed for good, whatever machine draws them.

A batch that passed through a function of the machine's mathematics library is rounded to 24 bits, which the last bit of
that function does not reach; float32 holds its numbers too, as far as its range goes.
"""

from collections.abc import Callable

import numpy as np

from tcvae_ref.checks import InputError
from tcvae_ref.oracle.estimators import OWN
from tcvae_ref.oracle.types import PARAMETERISATIONS, Case
from tcvae_ref.types import Array

PURPOSES = (
    "one dimension",
    "identical posteriors",
    "a negative estimate of TC",
    "far-apart posteriors",
    "samples ten sigma out",
    "variances under any epsilon",
    "numbers near the smallest",
    "17 samples",
    "64 dimensions, 10 sigma out",
)
"""Those of `cases.purpose_built` that are taken, all but the last cut to two dimensions: files are small."""

BY_HAND = {
    "by hand, one dimension": Case(
        np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), np.array([[0.0], [0.0]]), 10, 1.0, 6.0, 1.0
    ),
    "by hand, two dimensions": Case(
        np.array([[0.0, 1.0], [1.0, -1.0]]), np.array([[0.0, 0.5], [1.0, 0.0]]), np.zeros((2, 2)), 10, 1.0, 2.0, 1.0
    ),
}

LARGE_N = 2**40
_SEED = 20180214
_BITS = 24


def names(estimator: str) -> tuple[str, ...]:
    """The cases of one estimator, in the order of its file."""
    large = () if OWN[estimator].whole_data_set else ("a data set of 2^40",)
    widths = tuple(f"the width as {name}" for name in PARAMETERISATIONS[1:])
    return (*BY_HAND, *widths, "drawn", "drawn, widths from e^-4 to e^4", "log density above 50", *large, *PURPOSES)


def inputs(estimator: str) -> dict[str, Case]:
    """Every case of one estimator by its name.

    Parameters
    ----------
    estimator : str
        One of `ESTIMATORS`; the exact one takes the batch as the whole data set, N = M.

    Returns
    -------
    dict
        In the order of `names`.

    Raises
    ------
    InputError
        Hypothesis, which `cases` needs, is not installed.
    """
    try:
        from tcvae_ref.oracle.cases import purpose_built
    except ImportError:
        raise InputError("vectors: hypothesis is not installed; pip install 'tcvae-ref[oracle]'") from None

    built = purpose_built(estimator, "float64")
    fixed = {**BY_HAND, **_drawn(), **{name: _short(built[name], name) for name in PURPOSES}}
    size = OWN[estimator].dataset_size
    sized = {name: case._replace(dataset_size=size(len(case.z), case.dataset_size)) for name, case in fixed.items()}
    return {name: sized[name] for name in names(estimator)}


def _drawn() -> dict[str, Case]:
    """Cases out of a generator's 53-bit numbers, scaled by powers of two; what is added rounds once."""
    rng = np.random.default_rng(_SEED)

    def between(most: float) -> Array:
        return most * (2 * rng.random((3, 2)) - 1)

    result = {
        "drawn": Case(between(2.0), between(2.0), between(1.0), 50, 0.5, 4.0, 2.0),
        "drawn, widths from e^-4 to e^4": Case(between(2.0), between(2.0), between(4.0), 50, 2.0, 0.25, 0.75),
        "log density above 50": Case(2.0**-43 * between(1.0), 2.0**-43 * between(1.0), between(1.0) - 60.0, 50),
        "a data set of 2^40": Case(between(2.0), between(2.0), between(1.0), LARGE_N),
    }
    for name, width in _WIDTHS.items():
        spread = width(between(1.0))
        result[f"the width as {name}"] = Case(between(2.0), between(2.0), spread, 20, 1.0, 4.0, 1.0, name)
    return result


_WIDTHS: dict[str, Callable[[Array], Array]] = {
    "log_std": lambda x: 0.5 * x,
    "std": lambda x: 1.25 + x,
    "var": lambda x: 1.25 + x,
}
"""A width out of a number between -1 and 1."""


def _short(case: Case, name: str) -> Case:
    """The case with arrays of 24 bits and few dimensions."""
    D = case.z.shape[1] if name == PURPOSES[-1] else 2
    z, mu, spread = (_rounded(array[:, :D]) for array in (case.z, case.mu, case.spread))
    return case._replace(z=z, mu=mu, spread=spread)


def _rounded(array: Array) -> Array:
    fraction, exponent = np.frexp(array)
    return np.ldexp(np.round(np.ldexp(fraction, _BITS)), exponent - _BITS) + 0.0  # no -0.0
