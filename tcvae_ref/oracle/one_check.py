"""One check of a target in one dtype and variant: what a check is, and its verdict over many cases."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from tcvae_ref.oracle import adapters, cases
from tcvae_ref.oracle.against_truth import Finding, counterexample
from tcvae_ref.oracle.reference import reference
from tcvae_ref.oracle.search import Heartbeat, Tally, search
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.types import Case, CheckResult, Verdict

ROUGHER = 4.0  # times the reference's error/allowed: right, and worth a warning
LARGEST_BATCH = 12  # that is drawn


class Check(NamedTuple):
    """What a target is held to."""

    description: str
    judge: Callable[[Subject, Case], Finding]
    applies: Callable[[Sequence[str], str, str], str] = lambda quantities, estimator, dtype: ""
    """`applies(quantities, estimator, dtype)`: "", or the reason why the check says nothing about such a target."""
    blind: bool = False
    """It holds for any estimate of the densities, right or wrong, so that passing proves little."""
    least_batch: int = 1
    """The smallest batch that shows anything."""
    of_gradients: bool = False
    """Whether it needs gradients."""
    every_number: bool = False
    """Whether all that is returned is held to the truth, in cases built for a purpose too, and with the reference's
    rounding beside it. Other checks make cases of their own out of those that are drawn."""

    def reason_against(self, subject: Subject) -> str:
        """Why it does not apply, or nothing."""
        if self.of_gradients and not subject.adapter.differentiable:
            return f"{subject.adapter.name} has no gradients"
        return self.applies(subject.quantities, subject.estimator, subject.dtype)

    def built(self, subject: Subject) -> dict[str, Case]:
        """The cases that are built for a purpose."""
        if not self.every_number:
            return {}
        built = cases.purpose_built(subject.estimator, subject.dtype, _shapes(subject))
        N = subject.dataset_size
        return {purpose: case for purpose, case in built.items() if N is None or len(case.z) <= N}


def _shapes(subject: Subject) -> Sequence[tuple[int, int, int]] | None:
    """The shapes of the cases, where the target is compiled for each."""
    return cases.shapes(subject.estimator) if subject.adapter.compiles(subject.variant) else None


def run(
    name: str,
    check: Check,
    subject: Subject,
    *,
    weights: Sequence[cases.Weights],
    examples: int,
    seed: int,
    allow_unstable: bool,
    heartbeat: Heartbeat,
) -> CheckResult:
    """Search for a case on which a target fails a check.

    Parameters
    ----------
    name : str
        Of the check.
    check : Check
    subject : Subject
    weights : sequence of (alpha, beta, gamma)
        That cases have.
    examples : int
        Cases to draw.
    seed : int
    allow_unstable : bool
        Whether what is only unstable is no failure.
    heartbeat : function
        Called after each case.
    """
    started = time.monotonic()
    most = min(LARGEST_BATCH, subject.dataset_size or LARGEST_BATCH)
    drawn = cases.cases(subject.estimator, subject.dtype, _shapes(subject), weights, check.least_batch, most)
    built = check.built(subject).values()
    tally = search(drawn, built, lambda case: check.judge(subject, case), subject.estimator, examples, seed, heartbeat)
    seconds = time.monotonic() - started
    if tally.failure is not None:
        return failed(name, subject, tally, tally.failure, allow_unstable=allow_unstable, seconds=seconds)
    verdict, message = _passed(check, subject, tally)
    return result(name, subject, tally, verdict, message, seconds)


def result(
    name: str, subject: Subject, tally: Tally, verdict: Verdict, message: str = "", seconds: float = 0.0
) -> CheckResult:
    """The outcome of a check that found no counterexample."""
    counted = (tally.cases, tally.certified, tally.inconclusive, tally.worst)
    return CheckResult(name, subject.dtype, subject.variant, verdict, *counted, message, None, seconds)


def failed(
    name: str, subject: Subject, tally: Tally, failure: Finding, *, allow_unstable: bool = False, seconds: float = 0.0
) -> CheckResult:
    """The outcome of a check that found one."""
    forgiven = failure.verdict is Verdict.UNSTABLE and allow_unstable
    outcome = result(name, subject, tally, Verdict.WARN if forgiven else failure.verdict, failure.message, seconds)
    return replace(
        outcome,
        worst=failure.worst if failure.elements else tally.worst,
        counterexample=counterexample(subject, failure) if failure.received is not None else None,
    )


def _passed(check: Check, subject: Subject, tally: Tally) -> tuple[Verdict, str]:
    """The verdict where no case failed, and what is worth saying."""
    if not tally.certified:
        reason = f"the allowance says nothing in {subject.dtype} on any of these cases"
        return Verdict.INCONCLUSIVE, tally.unfit or reason
    if tally.warning is not None:
        return Verdict.WARN, tally.warning.message
    if not check.every_number or subject.dtype not in ("float64", "float32"):
        return Verdict.PASS, ""
    double = replace(
        subject,
        function=reference(subject.estimator, subject.parameterisation, subject.quantities),
        adapter=adapters.by_name("autograd"),
        variant="eager",
    )
    ours = max((check.judge(double, case).worst for _, case in tally.hardest), default=0.0)
    if tally.worst > ROUGHER * ours:
        return Verdict.WARN, (
            f"within the allowance, but {tally.worst / max(ours, 1e-300):.1f} times as far off as the reference"
        )
    return Verdict.PASS, ""
