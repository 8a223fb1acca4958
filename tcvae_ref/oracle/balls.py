"""Ball arithmetic: numbers that carry a proven bound of their own error.

Arb (python-flint) where it is installed, the intervals of mpmath otherwise (some sixty times slower). Both keep their
precision in a global variable, so every computation happens under one lock.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from tcvae_ref.checks import InputError
from tcvae_ref.oracle.types import Enclosure

_LOCK = threading.RLock()


class Balls(Protocol):
    """Arithmetic on balls, which support + - * / and abs."""

    def number(self, x: float | int) -> Any:
        """A float or an integer, exactly."""

    def exp(self, x: Any) -> Any:
        """The exponential."""

    def log(self, x: Any) -> Any:
        """The natural logarithm of a positive number."""

    def pi(self) -> Any:
        """The number pi."""

    def split(self, x: Any) -> tuple[float, float, float]:
        """Two floats that add up to the number, and a radius that bounds what they leave out."""

    def size(self, x: Any) -> float:
        """The absolute value as a float, to some digits."""


class _Arb:
    def __init__(self) -> None:
        from flint import arb

        self._arb = arb

    def number(self, x: float | int) -> Any:
        return self._arb(x)

    def exp(self, x: Any) -> Any:
        return x.exp()

    def log(self, x: Any) -> Any:
        return x.log()

    def pi(self) -> Any:
        return self._arb.pi()

    def split(self, x: Any) -> tuple[float, float, float]:
        middle = float(x)
        if not math.isfinite(middle):
            return middle, 0.0, math.inf
        left = x - middle
        return middle, float(left), float(left.rad())

    def size(self, x: Any) -> float:
        return abs(float(x))


class _Intervals:
    def __init__(self) -> None:
        from mpmath import iv

        self._iv = iv

    def number(self, x: float | int) -> Any:
        return self._iv.mpf(x)

    def exp(self, x: Any) -> Any:
        return self._iv.exp(x)

    def log(self, x: Any) -> Any:
        return self._iv.log(x)

    def pi(self) -> Any:
        return self._iv.pi + 0

    def _ends(self, x: Any) -> tuple[float, float]:
        """The ends as the nearest floats; infinite where they are too large for one."""
        from mpmath import libmp

        lower, upper = x._mpi_
        return libmp.to_float(lower, rnd="n"), libmp.to_float(upper, rnd="n")

    def split(self, x: Any) -> tuple[float, float, float]:
        lower, upper = self._ends(x)
        middle = 0.5 * lower + 0.5 * upper
        if not math.isfinite(middle):
            return middle, 0.0, math.inf
        below, above = self._ends(x - self.number(middle))
        return middle, 0.5 * below + 0.5 * above, 0.5 * above - 0.5 * below

    def size(self, x: Any) -> float:
        return abs(self._ends(x)[1])


@contextmanager
def arithmetic(bits: int) -> Iterator[Balls]:
    """Balls of a given precision; no other thread computes with balls meanwhile.

    Raises
    ------
    InputError
        Neither python-flint nor mpmath is installed.
    """
    with _LOCK:
        try:
            import flint
        except ImportError:
            with _intervals(bits) as intervals:
                yield intervals
        else:
            before, flint.ctx.prec = flint.ctx.prec, bits
            try:
                yield _Arb()
            finally:
                flint.ctx.prec = before


@contextmanager
def _intervals(bits: int) -> Iterator[Balls]:
    try:
        from mpmath import iv
    except ImportError:
        raise InputError(
            "oracle: proven numbers need python-flint or mpmath; pip install 'tcvae-ref[oracle]'"
        ) from None
    before, iv.prec = iv.prec, bits
    try:
        yield _Intervals()
    finally:
        iv.prec = before


def rational(balls: Balls, value: Fraction) -> Any:
    """A fraction as a ball."""
    return balls.number(value.numerator) / balls.number(value.denominator)


def enclosure(balls: Balls, numbers: Any) -> Enclosure:
    """An array of balls (of any shape) as two floats each and what these leave out at most."""
    exact = np.asarray(numbers, dtype=object)
    parts = np.array([balls.split(x) for x in exact.ravel()], dtype=np.float64)
    middle, rest, radius = parts.T.reshape(3, *exact.shape)
    # the conversions to float rounded once each
    return Enclosure(middle, rest, np.nextafter(radius * (1 + 2.0**-50) + 2.0**-52 * np.abs(rest), np.inf))
