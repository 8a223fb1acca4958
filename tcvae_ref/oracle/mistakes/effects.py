"""What a mistake does to gradients, in words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.mistakes.sightings import Sighting
from tcvae_ref.oracle.mistakes.signatures import WORDS
from tcvae_ref.oracle.types import ARRAYS

_LEAST_ANGLE = 0.05  # degrees
_PLAIN = 1e-3  # of its length by which a gradient is plainly off


def consequence(sightings: Sequence[Sighting]) -> str:
    """What the mistake does to training."""
    if not any(s.observed.gradients for s in sightings):
        return ""
    wrong = [s for s in sightings if any(argument for _, argument in s.off)]
    if not wrong:
        return "gradients right: training is unaffected"
    errors = [_slope_error(s) for s in wrong]
    first = next((e for e in errors if e.relative > _PLAIN), max(errors, key=lambda e: e.relative))
    return f"changes what is learned: {first.words}"


def where_off(sightings: Sequence[Sighting]) -> str:
    """The arguments in which gradients are off, and how, where that is simple."""
    arguments = sorted({a for s in sightings for _, a in s.off if a})
    return ", ".join(a + _how_off(sightings, a) for a in arguments)


def _how_off(sightings: Sequence[Sighting], argument: str) -> str:
    """Zero, or a multiple of the right gradient."""
    pairs = [
        (s.observed.gradients[q][argument], s.true.gradients[q][argument].middle)
        for s in sightings
        for q, a in s.off
        if a == argument
    ]
    if not any(got.any() for got, _ in pairs):
        return " (zero)"
    factor = float(np.sum(pairs[0][0] * pairs[0][1]) / np.sum(pairs[0][1] ** 2))
    if all(np.allclose(got, factor * right, rtol=1e-6, atol=1e-9 * np.abs(right).max()) for got, right in pairs):
        return f" ({factor:.6g} times the right one)"
    return ""


class _SlopeError(NamedTuple):
    """How far a gradient is from the right one."""

    relative: float
    """Length of the difference over that of the right one."""
    words: str


def _slope_error(s: Sighting) -> _SlopeError:
    """Of the quantity that is trained with, on a case where it is off."""
    wrong = {quantity for quantity, argument in s.off if argument}
    name = next(q for q in ("penalty", "kl_penalty", "tc", "mi", "dwkl", *ARRAYS) if q in wrong)
    got = np.concatenate([a.ravel() for a in s.observed.gradients[name].values()])
    right = np.concatenate([s.true.gradients[name][a].middle.ravel() for a in s.observed.gradients[name]])
    what, where = f"the gradient of {WORDS[name]} is", f"on the case {s.name}"
    if not np.isfinite(got).all():
        return _SlopeError(np.inf, f"{what} not finite {where}")
    lengths = float(np.linalg.norm(got)), float(np.linalg.norm(right))
    if not lengths[0] or not lengths[1]:
        return _SlopeError(1.0, f"{what} zero" if lengths[1] else f"{what} not zero {where}")
    difference = float(np.linalg.norm(got - right)) / lengths[1]
    if difference < _PLAIN:
        return _SlopeError(difference, f"{what} off by {difference:.2g} of its length {where}")
    angle = float(np.degrees(np.arccos(np.clip(got @ right / (lengths[0] * lengths[1]), -1, 1))))
    if angle < _LEAST_ANGLE:
        return _SlopeError(difference, f"{what} {lengths[0] / lengths[1]:.4g} times the right one {where}")
    return _SlopeError(difference, f"{what} off by an angle of {angle:.3g} degrees {where}")
