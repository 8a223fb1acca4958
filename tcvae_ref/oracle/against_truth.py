"""The checks "values" and "gradients": what a target returned for one case, held to the truth."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from tcvae_ref.oracle import tolerance
from tcvae_ref.oracle.comparison import Comparison, worst_elements
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import (
    ARRAYS,
    TERMS,
    Allowances,
    Case,
    Counterexample,
    Element,
    Observed,
    TargetFault,
    Truth,
    Verdict,
)


class Finding(NamedTuple):
    """What one case showed."""

    verdict: Verdict
    worst: float = 0.0
    """Largest error/allowed."""
    received: Case | None = None
    elements: tuple[Element, ...] = ()
    """Of a failure: the worst five, worst first."""
    stage: str = ""
    message: str = ""
    off: frozenset[tuple[str, str]] = frozenset()
    """All (quantity, argument) that are off somewhere."""


def judge_values(subject: Subject, case: Case) -> Finding:
    """Hold every returned quantity to its enclosure."""
    received = subject.receive(case)
    try:
        observed = subject.observe(received)
    except TargetFault as fault:
        return Finding(Verdict.ERROR, received=received, message=str(fault))
    return verdict_on_values(subject, received, observed, subject.allowances(received, gradients=False))


def judge_gradients(subject: Subject, case: Case, quantities: Sequence[str]) -> Finding:
    """Hold the gradients of every returned quantity to theirs."""
    received = subject.receive(case)
    try:
        observed = subject.observe(received, quantities)
    except TargetFault as fault:
        return Finding(Verdict.ERROR, received=received, message=str(fault))
    return verdict_on_gradients(subject, received, observed, subject.allowances(received))


def verdict_on_values(subject: Subject, received: Case, observed: Observed, allowed: Allowances) -> Finding:
    """What the values that a target returned for a case show."""
    return _judge(subject, received, observed, allowed, compared_values, Verdict.WRONG)


def verdict_on_gradients(subject: Subject, received: Case, observed: Observed, allowed: Allowances) -> Finding:
    """What its gradients show."""
    return _judge(subject, received, observed, allowed, compared_gradients, Verdict.WRONG_GRADIENT)


_Reading = Callable[[Observed, Truth, Allowances], Iterator[Comparison]]


def compared_values(observed: Observed, true: Truth, allowed: Allowances) -> Iterator[Comparison]:
    """Every value that was returned, beside the truth."""
    for name, got in observed.values.items():
        yield Comparison(name, got, true.values[name], allowed.values[name], allowed.value_scales[name])


def compared_gradients(observed: Observed, true: Truth, allowed: Allowances) -> Iterator[Comparison]:
    """Every gradient that was returned, beside the truth."""
    for name, slopes in observed.gradients.items():
        for argument, got in slopes.items():
            yield Comparison(
                name,
                got,
                true.gradients[name][argument],
                allowed.gradients[name][argument],
                allowed.gradient_scales[name][argument],
                argument,
            )


def _judge(
    subject: Subject, received: Case, observed: Observed, allowed: Allowances, reading: _Reading, wrong: Verdict
) -> Finding:
    true = truth(received, subject.estimator)
    compared = list(reading(observed, true, allowed))
    worst = max((c.worst for c in compared), default=0.0)
    if worst <= 1:
        vacuous = any(c.vacuous for c in compared)
        return Finding(Verdict.INCONCLUSIVE if vacuous else Verdict.PASS, worst, received)
    verdict, message = _failure(subject, received, observed, true, reading, wrong, compared)
    stage = first_wrong_stage(observed, true, allowed) if wrong is Verdict.WRONG else "gradient"
    return Finding(verdict, worst, received, worst_elements(compared), stage, message, what_is_off(compared))


def what_is_off(compared: Iterable[Comparison]) -> frozenset[tuple[str, str]]:
    """(quantity, argument) of all that is outside its allowance somewhere."""
    return frozenset((c.quantity, c.argument) for c in compared if c.worst > 1)


def _failure(
    subject: Subject,
    received: Case,
    observed: Observed,
    true: Truth,
    reading: _Reading,
    wrong: Verdict,
    compared: Sequence[Comparison],
) -> tuple[Verdict, str]:
    """Which failure it is: infinite or nan, unstable only, or wrong."""
    if any(c.nonfinite for c in compared):
        return Verdict.NONFINITE, "nan or infinity where the true value is an ordinary number"
    if right_in_float64(subject, received, list(observed.gradients)):
        return Verdict.UNSTABLE, f"right in float64 on the same numbers, off in {subject.dtype}"
    expanded = reading(observed, true, subject.allowances(received, expanded=True))
    if all(c.worst <= 1 for c in expanded):
        return Verdict.UNSTABLE, "within what an expanded square, z^2 - 2 z mu + mu^2, loses to cancellation"
    detached = sorted({a for quantity, a in what_is_off(compared) if a in observed.detached.get(quantity, ())})
    if detached:
        return wrong, f"the gradient in {', '.join(detached)} is zero or missing: detached from the result"
    single = replace(subject, dtype="float32").allowances(received)
    if subject.dtype == "float64" and all(c.worst <= 1 for c in reading(observed, true, single)):
        return wrong, "no more than float32 would lose: is part of it, a constant perhaps, computed in float32?"
    return wrong, ""


def right_in_float64(subject: Subject, received: Case, gradients: Sequence[str]) -> bool:
    """Whether a target that is off in a lower precision passes on the same numbers in float64."""
    if subject.dtype == "float64" or "float64" not in subject.adapter.dtypes:
        return False
    double = replace(subject, dtype="float64")
    finding = judge_gradients(double, received, gradients) if gradients else judge_values(double, received)
    return finding.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)


def first_wrong_stage(observed: Observed, true: Truth, allowed: Allowances) -> str:
    """The first stage that is wrong, as far as what was returned tells."""

    def off(name: str) -> bool:
        bound, scale = allowed.values[name], allowed.value_scales[name]
        return Comparison(name, observed.values[name], true.values[name], bound, scale).worst > 1

    wrong = [name for name in (*ARRAYS, *TERMS, "penalty", "kl_penalty") if name in observed.values and off(name)]
    words = {"log_qz": "log q(z)", "log_qz_marginals": "log q(z_d)", "mi": "MI", "tc": "TC", "dwkl": "DWKL"}
    if not wrong:
        return ""
    if wrong[0] in ARRAYS or not all(name in observed.values for name in TERMS):
        return words.get(wrong[0], wrong[0])
    return _stage_of_terms(observed, true, allowed)


def _stage_of_terms(observed: Observed, true: Truth, allowed: Allowances) -> str:
    """MI, TC and DWKL share their terms: errors that cancel between two of them come from what these share."""
    mi, tc, dwkl = (float(observed.values[n] - true.values[n].middle) for n in TERMS)
    slack = sum(float(allowed.values[n]) for n in TERMS)
    slack += 1e-6 * max(abs(mi), abs(tc), abs(dwkl))
    if abs(dwkl) <= slack and abs(mi + tc) <= slack and abs(mi) > slack:
        return "log q(z)"
    if abs(mi) <= slack and abs(tc + dwkl) <= slack and abs(tc) > slack:
        return "log q(z_d)"
    off = [name for name, error in zip(("MI", "TC", "DWKL"), (mi, tc, dwkl), strict=True) if abs(error) > slack]
    return off[0] if len(off) == 1 else "log q(z) and log q(z_d)" if abs(mi + tc + dwkl) <= slack else "log q(z|x)"


def counterexample(subject: Subject, finding: Finding) -> Counterexample:
    """A failure with all its evidence."""
    assert finding.received is not None
    share: tuple[tuple[float, str], ...] = ()
    if finding.elements:
        first = finding.elements[0]
        share = tolerance.sources(
            finding.received,
            subject.estimator,
            subject.dtype,
            subject.primitives,
            first.quantity,
            first.argument,
            first.index,
        )
    return Counterexample(finding.received, finding.elements, finding.stage, share, finding.message)
