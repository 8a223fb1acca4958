"""How accurate a framework's exp and log are, measured.

The allowances of the oracle grow with these errors, so that nobody is blamed for the framework's; beyond
`INACCURATE` the framework is.
"""

import functools
from typing import NamedTuple

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle import balls
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.formats import FORMATS, Format
from tcvae_ref.oracle.types import Primitives
from tcvae_ref.types import Array

INACCURATE = 16.0
"""Units of roundoff above which a primitive gets its own verdict."""

_BITS = 200


class Points(NamedTuple):
    """Arguments, and what exp or log is there: high + low, to some 100 bits."""

    x: Array
    high: Array
    low: Array


def probe(adapter: Adapter, dtype: str) -> Primitives:
    """Largest relative error of a framework's exp and log, in units of the roundoff u.

    Some 2,000 points each: exp wherever the result is a normal number, every second point near 0; log of normal
    numbers, every second one near 1 but not 1. A result that is infinite or nan counts as infinitely wrong.

    Parameters
    ----------
    adapter : Adapter
    dtype : str

    Raises
    ------
    InputError
        The dtype is unknown, or the framework has none of it.
    """
    checks.option("probe", "dtype", dtype, FORMATS)
    adapter.warm_up()
    return Primitives(exp=worst(adapter, "exp", dtype).error, log=worst(adapter, "log", dtype).error)


class Worst(NamedTuple):
    """Where a framework's exp or log is furthest off."""

    error: float
    """Relative, in units of the roundoff; infinite where a result is infinite or nan."""
    x: float
    got: float
    true: float
    finite_error: float
    """The largest error among finite results: overflow may be all that is wrong."""


def worst(adapter: Adapter, name: str, dtype: str) -> Worst:
    """The point of `true_points` at which the error of exp or log is largest; `probe` returns its error."""
    points = true_points(name, dtype)
    got = np.asarray(adapter.elementwise(name, points.x, dtype), dtype=np.float64)
    finite = np.isfinite(got)
    with np.errstate(all="ignore"):
        relative = np.abs(((got - points.high) - points.low) / points.high) / FORMATS[dtype].roundoff
    error = np.where(finite, relative, np.inf)
    at = int(np.argmax(error))
    return Worst(
        error=float(error[at]),
        x=float(points.x[at]),
        got=float(got[at]),
        true=float(points.high[at]),
        finite_error=float(np.max(relative[finite], initial=0.0)),
    )


# --- points --------------------------------------------------------------------------------------------------


@functools.cache
def true_points(name: str, dtype: str) -> Points:
    """Arguments of exp or log in a dtype with the true results; the same at every call, and computed once."""
    form = FORMATS[dtype]
    x = np.unique(_rounded(_exp_arguments(form) if name == "exp" else _log_arguments(form), form.digits))
    x = x[x != (0.0 if name == "exp" else 1.0)]
    high, low = _truth(name, x)
    normal = (high >= form.smallest) & (high <= form.largest) if name == "exp" else np.ones(len(x), dtype=bool)
    points = Points(x[normal], high[normal], low[normal])
    for array in points:
        array.flags.writeable = False  # shared by all callers
    return points


def _spread(count: int) -> Array:
    """Points in (0, 1), as even as an irrational step makes them, with no pattern in their low digits."""
    return np.asarray((np.arange(1, count + 1) * 0.6180339887498949) % 1.0)


def _exp_arguments(form: Format) -> Array:
    least, most = np.log(form.smallest), np.log(form.largest)
    wide = least + (most - least) * _spread(1200)
    near = np.exp2(-form.digits * _spread(400))  # 2**-digits .. 1, evenly in the exponent
    return np.concatenate([wide, near, -near])


def _log_arguments(form: Format) -> Array:
    exponents = form.least_exponent + (form.most_exponent - form.least_exponent) * _spread(1200)
    wide = np.exp2(np.minimum(exponents, form.most_exponent - 2.0 * form.roundoff))
    near = 0.5 * np.exp2(-(form.digits - 1) * _spread(400))
    return np.concatenate([np.clip(wide, form.smallest, form.largest), 1.0 + near, 1.0 - near])


def _rounded(x: Array, digits: int) -> Array:
    """The nearest numbers of so many binary digits."""
    significand, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(np.ldexp(significand, digits)), exponent - digits))


# --- truth ---------------------------------------------------------------------------------------------------


def _truth(name: str, x: Array) -> tuple[Array, Array]:
    """Exp or log of floats as high + low."""
    with balls.arithmetic(_BITS) as arithmetic:
        function = getattr(arithmetic, name)
        exact = balls.enclosure(arithmetic, [function(arithmetic.number(value)) for value in x.tolist()])
    return exact.middle, exact.rest
