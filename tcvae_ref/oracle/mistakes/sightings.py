"""What a target returned for a case, and how far something else agrees with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tcvae_ref.oracle.against_truth import compared_gradients, compared_values, what_is_off
from tcvae_ref.oracle.comparison import exactly
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import Allowances, Case, Observed, Truth
from tcvae_ref.types import Array

MOST_DIGITS = 16.0
_EXPLAINED = 0.01
"""A mistake that leaves more than this part of an error unexplained is another mistake."""

Numbers = Mapping[str, Array]
Slopes = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Sighting:
    """One call of a target, held to the truth."""

    name: str
    case: Case
    """As received."""
    observed: Observed
    true: Truth
    allowed: Allowances
    off: frozenset[tuple[str, str]]
    """(quantity, argument) of what is outside its allowance; argument "" for a value."""
    unstable: bool
    """Whether all that is off lies within what an expanded square may lose."""

    @property
    def values_off(self) -> bool:
        """Whether a value is off."""
        return any(not argument for _, argument in self.off)

    @property
    def finite(self) -> bool:
        """Whether all that was returned is numbers."""
        return all(np.isfinite(value).all() for value in self.observed.values.values())

    @property
    def truth(self) -> tuple[Numbers, Slopes]:
        """The right values and gradients of what was returned."""
        values = {name: self.true.values[name].middle for name in self.observed.values}
        slopes = {
            name: {a: self.true.gradients[name][a].middle for a in by_argument}
            for name, by_argument in self.observed.gradients.items()
        }
        return values, slopes

    def agreement(self, values: Numbers, slopes: Slopes | None, needed: float) -> float:
        """The digits to which all values, and gradients if given, agree with what was returned; 0 below `needed`."""
        digits = MOST_DIGITS
        for name, got in self.observed.values.items():
            true, scale = self.true.values[name].middle, self.allowed.value_scales[name]
            allowed = self.allowed.values[name] if (name, "") in self.off else np.inf
            digits = min(digits, _digits(got, values[name], true, scale, allowed))
            if digits < needed:
                return 0.0
        if slopes is None or not self.finite:
            return digits
        for name, by_argument in self.observed.gradients.items():
            for argument, got in by_argument.items():
                true, scale = self.true.gradients[name][argument].middle, self.allowed.gradient_scales[name][argument]
                allowed = self.allowed.gradients[name][argument] if (name, argument) in self.off else np.inf
                digits = min(digits, _digits(got, slopes[name][argument], true, scale, allowed))
                if digits < needed:
                    return 0.0
        return digits


def _digits(got: Array, model: Array, true: Array, scale: Array, allowed: Array | float) -> float:
    """Digits of agreement, relative to the largest of what is added up.

    0 where an error is left unexplained that rounding does not allow: `allowed`, infinite where nothing is off.
    """
    got, model, finite = np.asarray(got), np.asarray(model), np.isfinite(model)
    if (np.isfinite(got) != finite).any():
        return 0.0
    if not finite.any():
        return MOST_DIGITS
    with np.errstate(invalid="ignore"):
        error = float(np.max(np.abs(got - model)[finite]))
        missed = float(np.max(np.nan_to_num(np.abs(got - true), nan=np.inf, posinf=np.inf)))
    if error > max(_EXPLAINED * missed, float(np.max(allowed))):
        return 0.0
    size = max(float(np.max(scale)), float(np.max(np.abs(model[finite]))), 1e-300)
    return MOST_DIGITS if error == 0 else float(np.clip(-np.log10(error / size), 0.0, MOST_DIGITS))


def relative(s: Sighting, values: Numbers, slopes: Slopes, needed: float) -> Sighting:
    """The sighting held to other numbers than the truth; off is what agrees to fewer digits than `needed`."""
    off = {
        (name, "")
        for name, value in values.items()
        if _digits(s.observed.values[name], value, value, s.allowed.value_scales[name], np.inf) < needed
    }
    off |= {
        (name, a)
        for name, by_argument in slopes.items()
        for a, slope in by_argument.items()
        if _digits(s.observed.gradients[name][a], slope, slope, s.allowed.gradient_scales[name][a], np.inf) < needed
    }
    exact_slopes = {name: {a: exactly(slope) for a, slope in one.items()} for name, one in slopes.items()}
    true = Truth({**s.true.values, **{name: exactly(value) for name, value in values.items()}}, exact_slopes)
    return replace(s, true=true, off=frozenset(off))


def parallel(s: Sighting, slopes: Slopes) -> bool:
    """Whether the gradient of each quantity is a multiple of the given one."""
    for name, by_argument in slopes.items():
        got = np.concatenate([s.observed.gradients[name][a].ravel() for a in by_argument])
        model = np.concatenate([slope.ravel() for slope in by_argument.values()])
        lengths = float(np.linalg.norm(got) * np.linalg.norm(model))
        if not abs(float(got @ model)) >= (1 - _EXPLAINED * _EXPLAINED) * lengths:
            return False
    return True


def look(subject: Subject, name: str, case: Case, gradients: Sequence[str]) -> Sighting:
    """Call a target.

    Raises
    ------
    TargetFault
        It returned what cannot be judged.
    """
    received = subject.receive(case)
    observed = subject.observe(received, gradients)
    true, allowed = truth(received, subject.estimator), subject.allowances(received)
    off = _off(observed, true, allowed)
    unstable = bool(off) and not _off(observed, true, subject.allowances(received, expanded=True))
    return Sighting(name, received, observed, true, allowed, off, unstable)


def _off(observed: Observed, true: Truth, allowed: Allowances) -> frozenset[tuple[str, str]]:
    return what_is_off((*compared_values(observed, true, allowed), *compared_gradients(observed, true, allowed)))
