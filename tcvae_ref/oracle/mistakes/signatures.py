"""Mistakes that need no search: constants, and constant ratios."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.estimators import UNEVEN, may_hold
from tcvae_ref.oracle.mistakes.sightings import Sighting
from tcvae_ref.oracle.mistakes.steps import LOG_2PI
from tcvae_ref.oracle.types import ARRAYS, Case

_CLOSE = 1e-9
_CLEARLY = 0.01


class Reading(NamedTuple):
    """A mistake, or two, that what was returned agrees with."""

    ids: tuple[str, ...]
    words: tuple[str, ...]
    """For each id."""
    digits: float


class Sizes(NamedTuple):
    """What constants are made of."""

    M: int
    D: int
    N: int

    @classmethod
    def of(cls, case: Case) -> "Sizes":
        """Of a case."""
        M, D = case.z.shape
        return cls(M, D, case.dataset_size)


# --- constants -----------------------------------------------------------------------------------------------------


class Constants(NamedTuple):
    """By how much the parts are too large."""

    joint: float = 0.0
    """log q(z)."""
    product: float = 0.0
    """sum_d log q(z_d)."""
    marginal: float = 0.0
    """log q(z_d) as it is returned."""
    given_x: float = 0.0
    """log q(z|x)."""
    prior: float = 0.0
    """log p(z)."""

    def of(self, quantity: str, case: Case) -> float:
        """By how much a quantity is too large."""
        mi, tc, dwkl = self.given_x - self.joint, self.joint - self.product, self.product - self.prior
        return {
            "log_qz": self.joint,
            "log_qz_marginals": self.marginal,
            "mi": mi,
            "tc": tc,
            "dwkl": dwkl,
            "penalty": case.alpha * mi + case.beta * tc + case.gamma * dwkl,
            "kl_penalty": (case.beta - 1) * tc,
        }[quantity]


class Hypothesis(NamedTuple):
    """A mistake in constants; `free` is a number to be found, 0 where there is none."""

    id: str
    words: str
    constants: Callable[[Sizes, float], Constants]
    claims: tuple[str, ...]
    """As `steps.Loss.claims`."""
    has_free: bool = False


def _alike(amount: Callable[[Sizes, float], float]) -> Callable[[Sizes, float], Constants]:
    """The same for the joint and each marginal."""
    return lambda s, free: Constants(amount(s, free), s.D * amount(s, free), amount(s, free))


def _joint(amount: Callable[[Sizes, float], float]) -> Callable[[Sizes, float], Constants]:
    """In the joint alone."""
    return lambda s, free: Constants(joint=amount(s, free))


def _marginals(amount: Callable[[Sizes, float], float]) -> Callable[[Sizes, float], Constants]:
    """In each marginal alone."""
    return lambda s, free: Constants(product=s.D * amount(s, free), marginal=amount(s, free))


def _log_n(s: Sizes, free: float) -> float:
    return float(np.log(s.N))


def _log_m(s: Sizes, free: float) -> float:
    return float(np.log(s.M))


def _log_nm(s: Sizes, free: float) -> float:
    return float(np.log(s.N * s.M))


def _other_n(s: Sizes, free: float) -> float:
    return float(np.log(s.N) - free)


def _two_pi(s: Sizes, free: float) -> Constants:
    one = 0.5 * LOG_2PI
    return Constants(s.D * one, s.D * one, one, s.D * one)


MINIBATCH = ("minibatch", "exact")

_HYPOTHESES = (
    Hypothesis("missing-constant", "log q(z) and log q(z_d) lack - log(N M)", _alike(_log_nm), ("mws",)),
    Hypothesis("missing-constant", "log q(z) and log q(z_d) lack - log M", _alike(_log_m), MINIBATCH),
    Hypothesis(
        "only-log-m", "log q(z) and log q(z_d) lack - log N (or N = 1 is used): log M alone", _alike(_log_n), ("mws",)
    ),
    Hypothesis(
        "only-log-n",
        "log q(z) and log q(z_d) lack - log M (or N / M is used for N): log N alone",
        _alike(_log_m),
        ("mws",),
    ),
    Hypothesis(
        "marginal-constant-once",
        "log(N M) is subtracted once from sum_d log q(z_d), not from each of the D marginals",
        lambda s, free: Constants(0.0, (s.D - 1) * _log_nm(s, 0), _log_nm(s, 0)),
        ("mws",),
    ),
    Hypothesis(
        "marginal-constant-once",
        "log(N M) is subtracted once from sum_d log q(z_d), not from each of the D marginals",
        lambda s, free: Constants(0.0, (s.D - 1) * _log_nm(s, 0), 0.0),
        ("mws",),
    ),
    Hypothesis(
        "marginal-constant-once",
        "log M is subtracted once from sum_d log q(z_d), not from each of the D marginals",
        lambda s, free: Constants(0.0, (s.D - 1) * _log_m(s, 0), _log_m(s, 0)),
        MINIBATCH,
    ),
    Hypothesis(
        "weight-before-sum",
        "log(N M) is subtracted from the joint once for each dimension",
        lambda s, free: Constants(joint=(1 - s.D) * _log_nm(s, 0)),
        ("mws",),
    ),
    Hypothesis(
        "weight-before-sum",
        "log M is subtracted from the joint once for each dimension",
        lambda s, free: Constants(joint=(1 - s.D) * _log_m(s, 0)),
        MINIBATCH,
    ),
    Hypothesis(
        "weights-and-constant",
        "log(N M) is subtracted from log q(z) and log q(z_d) besides the weights",
        _alike(lambda s, free: -_log_nm(s, 0)),
        (UNEVEN,),
    ),
    *(
        Hypothesis("constant-offset", f"log q(z_d) lacks - {name}, log q(z) does not", _marginals(amount), ("mws",))
        for name, amount in (("log N", _log_n), ("log M", _log_m), ("log(N M)", _log_nm))
    ),
    *(
        Hypothesis("constant-offset", f"log q(z) lacks - {name}, log q(z_d) does not", _joint(amount), ("mws",))
        for name, amount in (("log N", _log_n), ("log M", _log_m), ("log(N M)", _log_nm))
    ),
    Hypothesis("missing-two-pi", "log q lacks log 2 pi, log p(z) has it", _two_pi, ()),
    Hypothesis(
        "missing-two-pi",
        "log p(z) lacks log 2 pi, log q has it",
        lambda s, free: Constants(prior=0.5 * s.D * LOG_2PI),
        (),
    ),
    Hypothesis("wrong-dataset-size", "{size}", _alike(_other_n), ("mws",), True),
)


def other_size(size: str, sightings: Sequence[Sighting]) -> str:
    """Another N, in words: beside the one that is meant where that is the same in all cases."""
    meant = {s.case.dataset_size for s in sightings}
    return f"N = {size} in place of {meant.pop():,}" if len(meant) == 1 else f"N = {size} whatever dataset_size is"


def constants(sightings: Sequence[Sighting], estimator: str) -> list[Reading]:
    """Readings of a target that is off by constants alone: one of `_HYPOTHESES`, or log 2 pi and another of them."""
    if not constants_only(sightings):
        return []
    known = [one for one in _HYPOTHESES if may_hold(one.claims, estimator)]
    found = [reading for one in known for reading in _fit(sightings, one)]
    if found:
        return found
    two_pi = [one for one in known if one.id == "missing-two-pi"]
    return [r for one in known for other in two_pi if one.id != other.id for r in _fit(sightings, one, other)]


def offsets(sightings: Sequence[Sighting]) -> list[Reading]:
    """The reading of a target that is off by constants of no particular kind."""
    if not constants_only(sightings):
        return []
    return [Reading(("constant-offset",), (_offsets_in_words(sightings),), -np.log10(_CLOSE))]


def _offset(sighting: Sighting, quantity: str) -> tuple[float, float]:
    """By how much a quantity is too large, and the spread of that over its entries."""
    difference = sighting.observed.values[quantity] - sighting.true.values[quantity].middle
    return float(np.mean(difference)), float(np.ptp(difference))


def _size(s: Sighting, quantity: str, offset: float) -> float:
    """What is added up in a quantity that is off by so much."""
    return float(np.max(s.allowed.value_scales[quantity])) + abs(offset)


def _slack(s: Sighting, quantity: str, offset: float) -> float:
    """How far an offset may be from another that is the same: little beside it, and beside what is added up."""
    return min(
        _CLOSE * _size(s, quantity, offset),
        max(_CLEARLY * abs(offset), float(np.max(s.allowed.values[quantity]))),
    )


def constants_only(sightings: Sequence[Sighting]) -> bool:
    """Whether gradients are right, and offsets depend on M, D and N (and alpha, beta, gamma) alone."""
    if not all(s.finite for s in sightings) or any(argument for s in sightings for _, argument in s.off):
        return False
    seen: dict[tuple[str, Sizes], float] = {}
    repeated = False
    for s in sightings:
        for quantity in s.observed.values:
            offset, spread = _offset(s, quantity)
            key = quantity, Sizes.of(s.case)
            repeated = repeated or key in seen
            if max(spread, abs(offset - seen.setdefault(key, offset))) > _slack(s, quantity, offset):
                return False
    return repeated


def _fit(sightings: Sequence[Sighting], *several: Hypothesis) -> Iterator[Reading]:
    """A reading, if all offsets are those of one hypothesis, or the sum of those of several."""
    free = _free(sightings, several)
    digits = 16.0
    for s in sightings:
        for quantity in s.observed.values:
            offset, _ = _offset(s, quantity)
            error = abs(offset - _expected(several, quantity, s, free))
            if error > _slack(s, quantity, offset):
                return
            digits = min(digits, 16.0 if error == 0 else float(-np.log10(error / _size(s, quantity, offset))))
    example = _example(sightings, several, free)
    words = tuple(one.words.format(size=other_size(f"{np.exp(free):,.6g}", sightings)) for one in several)
    yield Reading(tuple(one.id for one in several), (words[0] + example, *words[1:]), min(digits, 16.0))


def _expected(several: Sequence[Hypothesis], quantity: str, s: Sighting, free: float) -> float:
    return sum(one.constants(Sizes.of(s.case), free).of(quantity, s.case) for one in several)


_TERMS = {"mi": "MI", "tc": "TC", "dwkl": "DWKL", "penalty": "the penalty", "kl_penalty": "the penalty"}
WORDS = {"log_qz": "log q(z)", "log_qz_marginals": "log q(z_d)", **_TERMS}
"""Quantities as they are written."""


def _example(sightings: Sequence[Sighting], several: Sequence[Hypothesis], free: float) -> str:
    """By how much a term is off in the first case, in numbers."""
    s = sightings[0]
    M, D, N = Sizes.of(s.case)
    for quantity in ("tc", "dwkl", "mi", "penalty", "kl_penalty"):
        if quantity in s.observed.values and (amount := _expected(several, quantity, s, free)):
            return f": {_TERMS[quantity]} is off by {amount:+.4g} at M = {M}, D = {D}, N = {N}"
    return ""


def _free(sightings: Sequence[Sighting], several: Sequence[Hypothesis]) -> float:
    """The free number for which the first offset that depends on it is right; 0 where nothing is free."""
    s = sightings[0]
    for quantity in s.observed.values if any(one.has_free for one in several) else ():
        at_0, at_1 = (_expected(several, quantity, s, free) for free in (0.0, 1.0))
        if at_0 != at_1:
            return (_offset(s, quantity)[0] - at_0) / (at_1 - at_0)
    return 0.0


_FORMS: dict[str, Callable[[Sizes], float]] = {
    "log N": lambda s: float(np.log(s.N)),
    "log M": lambda s: float(np.log(s.M)),
    "log(N M)": lambda s: float(np.log(s.N * s.M)),
    "log(N / M)": lambda s: float(np.log(s.N / s.M)),
    "1/2 log 2 pi": lambda s: 0.5 * LOG_2PI,
    "log(M - 1)": lambda s: float(np.log(max(s.M - 1, 1))),
}


def _offsets_in_words(sightings: Sequence[Sighting]) -> str:
    """Each quantity's offset as a combination of the sizes, or as a number."""
    said = []
    for quantity in sightings[0].observed.values:
        pairs = [(Sizes.of(s.case), _offset(s, quantity)[0]) for s in sightings if (quantity, "") in s.off]
        if pairs:
            said.append(f"{WORDS[quantity]} is off by {_in_words(pairs)}")
    return ", ".join(said)


def _in_words(pairs: Sequence[tuple[Sizes, float]]) -> str:
    """The simplest form that gives every offset."""
    factors: dict[str, Callable[[Sizes], float]] = {
        "": lambda s: 1.0,
        "D ": lambda s: s.D,
        "(D - 1) ": lambda s: s.D - 1,
    }
    for factor, multiple in factors.items():
        for form, amount in _FORMS.items():
            for sign in (1, -1):
                if all(abs(x - sign * multiple(s) * amount(s)) < 1e-7 * (1 + abs(x)) for s, x in pairs):
                    return f"{'-' if sign < 0 else '+'}{factor}{form}"
        scaled = [x / (multiple(s) or 1.0) for s, x in pairs]
        if np.ptp(scaled) < 1e-7 * (1 + abs(scaled[0])):
            return f"{factor}{scaled[0]:+.6g}" if not factor else f"{scaled[0]:+.6g} {factor.strip()}"
    s, x = pairs[0]
    return f"{x:+.6g} at M = {s.M}, D = {s.D}, N = {s.N}"


# --- constant ratios -----------------------------------------------------------------------------------------------

_RATIOS: tuple[tuple[str, str, Callable[[Sizes], float]], ...] = (
    ("sum-not-mean", "M times too large: a sum over the batch, not its mean", lambda s: s.M),
    ("divided-by-d", "D times too small: a mean over dimensions besides", lambda s: 1 / s.D),
    ("sign-flipped", "of the other sign", lambda s: -1.0),
    ("constant-factor", "M D times too large: a sum over the batch, times D", lambda s: s.M * s.D),
    ("constant-factor", "M times too small: divided by the batch size twice", lambda s: 1 / s.M),
    ("constant-factor", "D times too large", lambda s: s.D),
    ("constant-factor", "N times too large", lambda s: s.N),
    ("constant-factor", "N times too small", lambda s: 1 / s.N),
    ("constant-factor", "N / M times too large", lambda s: s.N / s.M),
    ("constant-factor", "M / N times too large", lambda s: s.M / s.N),
)


def ratios(sightings: Sequence[Sighting], needed: float) -> list[Reading]:
    """Readings of a target some of whose scalars are a multiple of the right ones, the rest right."""
    off = sorted({quantity for s in sightings for quantity, _ in s.off})
    if not off or set(off) & set(ARRAYS) or not all(s.finite for s in sightings):
        return []
    first = next((s for s in sightings if (off[0], "") in s.off), sightings[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = float(first.observed.values[off[0]] / first.true.values[off[0]].middle)
    if not np.isfinite(factor) or abs(factor) < 1e-6:  # always 0: a result that is lost, not scaled
        return []
    literal = f"{factor:.12g} times too large" if abs(factor) != 1 else "of the other sign"
    for name, words, ratio in (*_RATIOS, ("constant-factor", literal, lambda s: factor)):
        digits = min(_multiple(s, off, ratio(Sizes.of(s.case)), needed) for s in sightings)
        if digits >= needed:
            said = ", ".join(_TERMS[q] for q in off)
            return [Reading((name,), (f"{said}: {words}",), digits)]
    return []


def _multiple(s: Sighting, off: Sequence[str], ratio: float, needed: float) -> float:
    values = {q: true.middle * (ratio if q in off else 1.0) for q, true in s.true.values.items()}
    slopes = {
        q: {a: true.middle * (ratio if q in off else 1.0) for a, true in by_argument.items()}
        for q, by_argument in s.true.gradients.items()
    }
    return s.agreement(values, slopes, needed)
