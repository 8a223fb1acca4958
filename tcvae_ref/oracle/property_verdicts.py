"""How a property is judged: what it compares on a case, and the verdict on that."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np

from tcvae_ref.oracle.against_truth import Finding
from tcvae_ref.oracle.comparison import Comparison, exactly, worst_elements
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.types import ARRAYS, QUANTITIES, Case, Element, TargetFault, Verdict
from tcvae_ref.types import Array

ROUNDOFF = 2.0**-53
"""Of the properties' own arithmetic, in float64."""


class Compared(NamedTuple):
    """All comparisons on one case; the elements' indices refer to `received`."""

    received: Case
    comparisons: list[Comparison]
    unfit: str = ""
    """Why this case shows nothing about the property."""

    @property
    def worst(self) -> float:
        """The largest error over allowance."""
        return max((c.worst for c in self.comparisons), default=0.0)


Compare: TypeAlias = Callable[[Subject, Case, bool], Compared]
"""`compare(subject, case, expanded)`; `expanded` as in `Subject.allowances`."""


@np.errstate(all="ignore")  # targets return nan and infinity, and these are judged
def judged(compare: Compare, claim: str, wrong: Verdict, subject: Subject, case: Case) -> Finding:
    """Make the comparisons of a property and name what they show."""
    try:
        compared = compare(subject, case, False)
    except TargetFault as fault:
        return Finding(Verdict.ERROR, np.inf, subject.receive(case), message=str(fault))
    received, comparisons, unfit = compared
    if compared.worst <= 1:
        nothing = bool(unfit) or not comparisons or any(c.vacuous for c in comparisons)
        return Finding(Verdict.INCONCLUSIVE if nothing else Verdict.PASS, compared.worst, received, message=unfit)
    elements = worst_elements(comparisons)
    verdict, remark = _failure(compare, wrong, subject, case, compared)
    stage = "gradient" if elements[0].argument else ""
    return Finding(verdict, compared.worst, received, elements, stage, f"{claim}: {_line(elements[0])}" + remark)


def _failure(compare: Compare, wrong: Verdict, subject: Subject, case: Case, compared: Compared) -> tuple[Verdict, str]:
    """Which failure it is, with a remark that says why where it is not plainly wrong."""
    if any(c.nonfinite for c in compared.comparisons):
        return Verdict.NONFINITE, ""
    if wrong is Verdict.UNSTABLE:
        return wrong, ""
    if subject.dtype != "float64" and "float64" in subject.adapter.dtypes:
        double = replace(subject, dtype="float64")
        if _holds(compare, double, compared.received, expanded=False):
            return Verdict.UNSTABLE, f"; holds in float64 on the same numbers, not in {subject.dtype}"
    if _holds(compare, subject, case, expanded=True):
        return Verdict.UNSTABLE, "; within what an expanded square, z^2 - 2 z mu + mu^2, loses to cancellation"
    return wrong, ""


def _holds(compare: Compare, subject: Subject, case: Case, *, expanded: bool) -> bool:
    try:
        return compare(subject, case, expanded).worst <= 1
    except TargetFault:
        return False


def _line(element: Element) -> str:
    index = f"[{', '.join(map(str, element.index))}]" if element.index else ""
    name = f"d {element.quantity} / d {element.argument}" if element.argument else element.quantity
    return (
        f"{name}{index} is {element.got:.17g}, to equal {element.lower:.17g}; "
        f"off by {element.error:.3g} where {element.allowed:.3g} is allowed"
    )


class Evaluation(NamedTuple):
    """What a target returned for a case, and how far that may be off."""

    values: dict[str, Array]
    allowed: dict[str, Array]
    scales: dict[str, Array]

    def rearranged(self, order: Array) -> "Evaluation":
        """Entry i of each array taken from entry order[i]; scalars as they are."""
        return Evaluation(*({n: a[order] if n in ARRAYS else a for n, a in part.items()} for part in self))


def evaluate(subject: Subject, received: Case, expanded: bool) -> Evaluation:
    """Call a target."""
    observed = subject.observe(received)
    allowed = subject.allowances(received, expanded=expanded, gradients=False)
    return Evaluation(observed.values, allowed.values, allowed.value_scales)


def equal(first: Evaluation, second: Evaluation, names: Sequence[str] = QUANTITIES) -> list[Comparison]:
    """Two evaluations that are to agree, each within its own allowance."""
    return [
        Comparison(n, first.values[n], exactly(second.values[n]), first.allowed[n] + second.allowed[n], first.scales[n])
        for n in names
        if n in first.values and n in second.values
    ]
