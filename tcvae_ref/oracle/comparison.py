"""Numbers beside what they are to be: how far off, how far they may be, and which of them are outside."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.types import VACUOUS, Element, Enclosure
from tcvae_ref.types import Array

_TINY = 1e-290  # the size of what underflow may cost: never counted


class Comparison(NamedTuple):
    """One array that a target returned, or a derivative of it."""

    quantity: str
    got: Array
    true: Enclosure
    allowed: Array
    scale: Array
    """The size of what was added up; an allowance above `VACUOUS` of it says nothing."""
    argument: str = ""
    """What the derivative is taken in; "" for a value."""
    at: tuple[int, ...] = ()
    """Leading indices, where one entry or row of the quantity is compared."""

    @property
    def error(self) -> Array:
        """Distance from the truth."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.true.distance(self.got)

    @property
    def finite(self) -> Array:
        """Whether both are numbers."""
        return np.isfinite(self.got) & np.isfinite(self.true.middle)

    @property
    def ratio(self) -> Array:
        """Error over allowance; infinite where nan or infinity stands for a number."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ratio = np.where(self.error == 0, 0.0, self.error / self.allowed)
        return np.where(self.finite, ratio, np.where(np.isfinite(self.allowed), np.inf, 0.0))

    @property
    def worst(self) -> float:
        """The largest ratio: above 1 it is a counterexample."""
        return float(np.max(self.ratio))

    @property
    def nonfinite(self) -> bool:
        """Whether nan or infinity is what is wrong."""
        return bool(np.any(~self.finite & (self.ratio > 1)))

    @property
    def vacuous(self) -> bool:
        """Whether the allowance says little or nothing: larger than a quarter of what was added up, if anything was."""
        most, size = np.max(self.allowed), np.max(self.scale)
        return not (np.isfinite(most) if size == 0 else most <= VACUOUS * size + _TINY)

    def elements(self) -> Iterator[Element]:
        """The numbers that are off."""
        ratio = self.ratio
        for index in np.ndindex(ratio.shape):
            if ratio[index] > 1:
                arrays = (self.got, self.true.lower, self.true.upper, self.error, self.allowed)
                numbers = (float(np.broadcast_to(a, ratio.shape)[index]) for a in arrays)
                yield Element(self.quantity, self.argument, (*self.at, *index), *numbers)


def worst_elements(comparisons: Iterable[Comparison]) -> tuple[Element, ...]:
    """The five numbers that are off most, worst first."""
    return tuple(sorted((e for c in comparisons for e in c.elements()), key=lambda e: -e.ratio)[:5])


def exactly(numbers: Array | float) -> Enclosure:
    """Numbers that are compared with as they are."""
    middle = np.asarray(numbers, dtype=np.float64)
    return Enclosure(middle, np.zeros_like(middle), np.zeros_like(middle))
