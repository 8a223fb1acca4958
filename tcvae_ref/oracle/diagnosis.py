"""Naming the mistake: what a target returned, matched with wrong losses that are known.

A target is called on a few cases made to tell mistakes apart. What it returned is then read in this order: nothing is
off; a valid alternative to what was claimed; constants, which need no search; one mistake of the library; constant
ratios; another N in stratified weights; two mistakes of the library. A reading holds only if it agrees to 9 digits of
what is added up, in values and gradients, on every case; where none does the mistake is `unknown`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from tcvae_ref.oracle import estimators
from tcvae_ref.oracle.against_truth import first_wrong_stage
from tcvae_ref.oracle.catalogue import find
from tcvae_ref.oracle.estimators import may_hold
from tcvae_ref.oracle.mistakes import alternatives, constants, effects, listed, signatures
from tcvae_ref.oracle.mistakes.alternatives import FREE_COLUMN
from tcvae_ref.oracle.mistakes.cases import telling_cases
from tcvae_ref.oracle.mistakes.listed import Mistake
from tcvae_ref.oracle.mistakes.sightings import MOST_DIGITS, Sighting, Slopes, look, parallel, relative
from tcvae_ref.oracle.mistakes.signatures import Reading
from tcvae_ref.oracle.mistakes.steps import Loss, gradients, values
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.types import ARRAYS, FAILURES, TERMS, CheckResult, Diagnosis, TargetFault, Verdict
from tcvae_ref.types import Array

DIGITS = {"float64": 9.0, "float32": 4.0}
"""To how many digits a mistake must agree on every case. In less precision nothing is named."""
FLOAT32_INSIDE = 5.5
"""Digits that are left where float64 code keeps some of its numbers in float32."""
RIGHT_IN_FLOAT32 = (
    "right to the digits of float32 and no further: something in it is float32 whatever its arguments are, such as "
    "weights in torch.Tensor(M, M); give it the dtype of z"
)
RIVALS = 3
COUNTEREXAMPLE = "the counterexample"
_IN_A_PAIR = 1e-6  # another N is whole to this


class Findings(NamedTuple):
    """What is wrong with a target, and what is only remarkable."""

    diagnosis: tuple[Diagnosis, ...] = ()
    notes: tuple[str, ...] = ()
    estimator: str = ""
    """What the target is taken for, where it is not what it is judged as."""

    @property
    def valid(self) -> bool:
        """Whether it is right as something that is no estimator here: what it was held to is not its own formula."""
        return FREE_COLUMN in self.notes

    @property
    def settled(self) -> bool:
        """Whether it is known what is wrong: nothing is left to be found by taking the target for something else."""
        return all(one.id != "unknown" or one.evidence.startswith(RIGHT_IN_FLOAT32) for one in self.diagnosis)


def diagnose(
    subject: Subject,
    quantities: Sequence[str],
    results: Sequence[CheckResult] = (),
    *,
    gradients: bool = True,
    others: Sequence[str] = (),
) -> Findings:
    """Name what is wrong with a target.

    Parameters
    ----------
    subject : Subject
        In the dtype in which the semantics are judged, float64 if there is one.
    quantities : sequence of str
        What it returns.
    results : sequence of CheckResult, optional
        What the checks found: a counterexample is looked at where none of the cases here shows anything.
    gradients : bool
        False for a function that is not meant to be differentiated.
    others : sequence of str, optional
        Estimators that the target may be meant to be, where no mistake has a name in the one it is judged as.

    Returns
    -------
    Findings
        One mistake, two that go together, or up to `RIVALS` that fit equally; `unknown` where none fits; nothing
        where nothing is off.
    """
    found = _as_claimed(subject, tuple(quantities), results, gradients=gradients)
    if found.settled:
        return found
    for estimator in others:
        other = _as_claimed(replace(subject, estimator=estimator), tuple(quantities), results, gradients=gradients)
        if other.valid or (other.diagnosis and other.settled):
            return other._replace(estimator=estimator)
    return found


def _as_claimed(
    subject: Subject, names: tuple[str, ...], results: Sequence[CheckResult], *, gradients: bool
) -> Findings:
    """What is wrong with a target that is meant to be the subject's estimator."""
    asked = names if gradients and subject.adapter.differentiable else ()
    sightings = list(_sightings(subject, asked, results))
    if not any(s.off for s in sightings):
        return Findings(tuple(_inaccurate_primitives(results)))
    if subject.dtype not in DIGITS:
        return Findings(notes=(f"no diagnosis in {subject.dtype}: too few digits to tell mistakes apart",))
    found = _Search(subject, names, sightings, DIGITS[subject.dtype]).findings(results)
    if subject.dtype == "float64" and not found.settled:
        rougher = _Search(subject, names, sightings, FLOAT32_INSIDE)
        readings = rougher.singles() or rougher.pairs()
        if readings:
            return Findings(tuple(rougher.diagnoses(readings)), ("part of it seems to be computed in float32",))
    return found


def _inaccurate_primitives(results: Sequence[CheckResult]) -> Iterator[Diagnosis]:
    """The framework's exp or log, where nothing else is off."""
    said = [f"{r.message} ({r.dtype})" for r in results if r.verdict is Verdict.PRIMITIVE]
    if said:
        yield Diagnosis("primitive-inaccurate", _title("primitive-inaccurate"), "; ".join(said))


# --- the cases -----------------------------------------------------------------------------------------------------


def _sightings(subject: Subject, asked: tuple[str, ...], results: Sequence[CheckResult]) -> Iterator[Sighting]:
    """The target's results on all cases, and on a counterexample where none of these is off.

    `asked` are the quantities whose gradients are looked at.
    """
    compiles = subject.adapter.compiles(subject.variant)
    off = False
    for name, case in telling_cases(subject.estimator, subject.dataset_size, few=compiles).items():
        try:
            sighting = look(subject, name, case, asked)
        except TargetFault:
            continue
        off = off or bool(sighting.off)
        yield sighting
    if not off:
        for result in results:
            example = result.counterexample
            if result.verdict in FAILURES and example is not None and result.dtype == subject.dtype:
                try:
                    yield look(subject, COUNTEREXAMPLE, example.case, asked)
                except TargetFault:
                    continue


# --- the search ----------------------------------------------------------------------------------------------------


class _Search:
    """The readings of one target's results."""

    def __init__(self, subject: Subject, names: tuple[str, ...], sightings: list[Sighting], needed: float):
        self.subject, self.names, self.sightings, self.needed = subject, names, sightings, needed
        self.estimator = subject.estimator
        off = [s for s in sightings if s.values_off] or [s for s in sightings if s.off]
        self.first = min(off, key=lambda s: (not s.finite, s.case.z.size))
        """Where candidates are screened."""

    def findings(self, results: Sequence[CheckResult]) -> Findings:
        """The readings that hold, as diagnoses."""
        notes = alternatives.notes(self.sightings, self.estimator, self.names, self.needed)
        if notes:
            return Findings(notes=notes)
        searches: tuple[Callable[[], list[Reading]], ...] = (
            self.unstable,
            lambda: signatures.constants(self.sightings, self.estimator),
            self.singles,
            lambda: signatures.ratios(self.sightings, self.needed),
            self.other_size,
            self.rounded,
            self.pairs,
            lambda: signatures.offsets(self.sightings),
            self.beside,
        )
        for search in searches:
            readings = search()
            if readings:
                return Findings(tuple(self.diagnoses(readings)))
        return Findings((self.unknown(results),))

    def unstable(self) -> list[Reading]:
        """Right but for what an expanded square loses."""
        if any(s.off and not s.unstable for s in self.sightings):
            return []
        words = "right within what z^2 - 2 z mu + mu^2 loses to cancellation, and off beyond what (z - mu)^2 loses"
        return [Reading(("expanded-square",), (words,), self.needed)]

    def rounded(self) -> list[Reading]:
        """Right but for what numbers in float32 lose where float64 is asked for, and that is no constant."""
        if self.needed <= FLOAT32_INSIDE or not self.nearly_right(FLOAT32_INSIDE) or signatures.offsets(self.sightings):
            return []
        return [Reading(("unknown",), (RIGHT_IN_FLOAT32,), FLOAT32_INSIDE)]

    @functools.cached_property
    def possible(self) -> list[Mistake]:
        """The mistakes of the library; another N in the words of these cases."""
        return [
            m._replace(words=signatures.other_size(f"{m.steps.other:,}", self.sightings))
            if issubclass(m.steps, constants.OtherDatasetSize)
            else m
            for m in listed.possible(self.estimator, self.names)
        ]

    def singles(self) -> list[Reading]:
        """Single mistakes of the library."""
        found = [
            Reading((mistake.id,), (mistake.words,), digits)
            for mistake in self.possible
            if (digits := self.digits(mistake.steps))
        ]
        return _best(found)

    def pairs(self) -> list[Reading]:
        """Pairs of them that change different steps; screened by the values of one case."""
        mistakes = [m for m in self.possible if m.goes_in_pairs]
        found = []
        for k, one in enumerate(mistakes):
            for other in mistakes[k + 1 :]:
                steps = listed.together(one.steps, other.steps)
                if steps is None or not self.screened(steps):
                    continue
                digits = self.digits(steps)
                if digits:
                    found.append(_pair(one, Reading((other.id,), (other.words,), digits)))
        return found

    def beside(self) -> list[Reading]:
        """A mistake of the library, and a constant or a constant ratio that the library has not."""
        if not all(s.observed.gradients and s.finite for s in self.sightings):
            return []
        if self.first.name == COUNTEREXAMPLE or self.nearly_right(self.needed - 2):
            return []  # a factor and its inverse would pass for two mistakes
        for mistake in self.possible:
            others = self.relative_to(mistake.steps)
            if others:
                found = signatures.constants(others, self.estimator) or signatures.ratios(others, self.needed)
                for one in found or signatures.offsets(others):
                    return [_pair(mistake, one)] if len(one.ids) == 1 else []
        return []

    def nearly_right(self, digits: float) -> bool:
        """Whether the target is right to so many digits on every case."""
        return all(not relative(s, *s.truth, digits).off for s in self.sightings)

    def relative_to(self, steps: type[Loss]) -> list[Sighting]:
        """What was returned, held to a wrong loss; nothing where its gradients are no multiple of that one's."""
        result: list[Sighting] = []
        for s in self.sightings:
            found, slopes = self.values(steps, s), self.slopes(steps, s)
            if slopes is None or not all(np.isfinite(value).all() for value in found.values()):
                return []
            if not parallel(s, slopes):
                return []
            result.append(relative(s, found, slopes, self.needed))
        return result

    def other_size(self) -> list[Reading]:
        """Uneven weights for another N, alone or with another mistake in the weights."""
        if not estimators.find(self.estimator).gradients_use_dataset_size:
            return []
        if not self.first.finite or self.first.name == COUNTEREXAMPLE:
            return []
        known = [m for m in listed.WEIGHTS if may_hold(m.steps.claims, self.estimator) and m.goes_in_pairs]
        found = []
        for mistake in (None, *known):
            steps = mistake.steps if mistake else Loss
            size = self.size_that_fits(steps)
            if size is None:
                continue
            sized = listed.together(steps, _with_size(size))
            digits = self.digits(sized) if sized else 0.0
            if digits:
                words = signatures.other_size(f"{size:,}", self.sightings)
                alone = Reading(("wrong-dataset-size",), (words,), digits)
                found.append(_pair(mistake, alone) if mistake else alone)
        return found[:1]

    def size_that_fits(self, steps: type[Loss]) -> int | None:
        """The N for which a loss with these steps returns the first number that is off."""
        s = self.first
        name = next((name for name in self.names if (name, "") in s.off), None)
        if name is None:
            return None

        def missed(log_size: float) -> float:
            sized = listed.together(steps, _with_size(float(np.exp(log_size))))
            assert sized is not None
            found = values(sized, self.estimator, s.case, (name,))[name]
            return float(np.sum(found) - np.sum(s.observed.values[name]))

        grid = np.linspace(np.log(len(s.case.z)) + 1e-9, np.log(1e9), 40)
        ends = [missed(x) for x in grid]
        for low, high, a, b in zip(grid, grid[1:], ends, ends[1:], strict=False):
            if a * b < 0:
                size = np.exp(brentq(missed, low, high, xtol=1e-14, rtol=1e-14))
                if abs(size - round(size)) < max(_IN_A_PAIR * size, 1e-6):
                    return round(size)
        return None

    # --- agreement ------------------------------------------------------------------------------------------

    def screened(self, steps: type[Loss]) -> bool:
        """Whether the values of the first case agree."""
        try:
            found = self.values(steps, self.first)
        except (ValueError, IndexError, ZeroDivisionError):
            return False  # it has no meaning in a batch of this size: of a counterexample, the other cases are larger
        return self.first.agreement(found, None, self.needed) > 0

    def digits(self, steps: type[Loss]) -> float:
        """The digits to which a loss with these steps agrees on every case; 0 where it does not."""
        if not self.screened(steps):
            return 0.0
        for s in self.sightings:
            if not s.agreement(self.values(steps, s), None, self.needed):
                return 0.0
        digits = MOST_DIGITS
        for s in self.sightings:
            digits = min(digits, s.agreement(self.values(steps, s), self.slopes(steps, s), self.needed))
            if not digits:
                break
        return digits

    def values(self, steps: type[Loss], s: Sighting) -> dict[str, Array]:
        """What such a loss returns for a case."""
        return values(steps, self.estimator, s.case, self.names)

    def slopes(self, steps: type[Loss], s: Sighting) -> Slopes | None:
        """Its gradients, where the target has some."""
        if not s.observed.gradients or not s.finite:
            return None
        return gradients(steps, self.estimator, s.case, tuple(s.observed.gradients))

    # --- words ----------------------------------------------------------------------------------------------

    def diagnoses(self, readings: list[Reading]) -> Iterator[Diagnosis]:
        """One for each id of the first reading, or one for each of several that fit equally."""
        first = readings[0]
        by_ids: dict[tuple[str, ...], Reading] = {}
        for reading in readings:
            by_ids.setdefault(reading.ids, reading)
        if len(first.ids) > 1:
            rivals = [r for r in by_ids.values() if r is not first]
            for k, one in enumerate(first.ids):
                yield Diagnosis(one, _title(one), self.evidence(first, k, rivals))
            return
        named = [r for r in by_ids.values() if len(r.ids) == 1][:RIVALS]
        for reading in named:
            rivals = [r for r in named if r is not reading]
            evidence = self.evidence(reading, 0, rivals) if reading is first else f"{reading.words[0]}; fits as well"
            yield Diagnosis(reading.ids[0], _title(reading.ids[0]), evidence)

    def evidence(self, reading: Reading, k: int, rivals: Sequence[Reading]) -> str:
        """The k-th mistake of a reading, what it does, and how well the reading agrees, in a line."""
        if k:
            return f"{reading.words[k]}; together with {reading.ids[0]}"
        count = len(self.sightings)
        agreed = f"matches to {reading.digits:.0f} digits on {count} of {count} cases"
        if len(reading.ids) > 1:
            agreed = f"together with {reading.ids[1]} it {agreed}"
        parts = [reading.words[0], effects.consequence(self.sightings), agreed]
        if rivals:
            others = " or ".join(" with ".join(r.ids) for r in rivals[:RIVALS])
            parts.append(f"{others} fits as well" + self.what_would_tell())
        return "; ".join(part for part in parts if part)

    def what_would_tell(self) -> str:
        """What to return to tell rivals apart."""
        missing = [name for name in (*ARRAYS, *TERMS) if name not in self.names]
        return f": return {missing[0]} as well to tell them apart" if missing else ""

    def unknown(self, results: Sequence[CheckResult]) -> Diagnosis:
        """No name fits."""
        s = self.first
        stage = first_wrong_stage(s.observed, s.true, s.allowed) if s.values_off else ""
        if not stage:
            by_result = (r.counterexample.stage for r in results if r.counterexample and r.verdict in FAILURES)
            stage = next((one for one in by_result if one and s.values_off), "")
        gradient = f"values right; gradient off in {effects.where_off(self.sightings)}"
        where = f"first wrong stage: {stage}" if stage else gradient
        nothing = "no mistake with a name, and no two of them, agree with what was returned"
        said = [where, effects.consequence(self.sightings), nothing]
        return Diagnosis("unknown", _title("unknown"), "; ".join(part for part in said if part))


def _with_size(size: float) -> type[Loss]:
    return type("OtherDatasetSize", (constants.OtherDatasetSize,), {"other": size})


def _pair(one: Mistake, other: Reading) -> Reading:
    """A mistake and the reading of a second; under one name where both have the same."""
    if (one.id,) == other.ids:
        return Reading(other.ids, (f"{one.words}, and {other.words[0]}",), other.digits)
    return Reading((one.id, *other.ids), (one.words, *other.words), other.digits)


def _best(readings: list[Reading]) -> list[Reading]:
    """Named mistakes before those that are only described."""
    return sorted(readings, key=lambda r: r.ids == ("unknown",))


def _title(one: str) -> str:
    return find(one).title
