"""Floating-point formats by the numbers that bounds are made of."""

from typing import NamedTuple


class Format(NamedTuple):
    """A binary floating-point format."""

    digits: int
    """Bits of the significand, the leading one included."""
    least_exponent: int
    """Of the smallest normal number, 2^e."""
    most_exponent: int
    """All numbers are below 2^e."""

    @property
    def roundoff(self) -> float:
        """u, half the distance from 1 to the next number."""
        return 2.0**-self.digits

    @property
    def smallest(self) -> float:
        """The smallest normal number: results below it may be flushed to zero."""
        return 2.0**self.least_exponent

    @property
    def largest(self) -> float:
        """The largest number."""
        return 2.0 ** (self.most_exponent - 1) * (2.0 - 2.0 * self.roundoff)


FORMATS = {
    "float64": Format(53, -1022, 1024),
    "float32": Format(24, -126, 128),
    "bfloat16": Format(8, -126, 128),
    "float16": Format(11, -14, 16),
}
