"""Looking for a counterexample among many cases, and making the one that was found small."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy

from tcvae_ref.oracle.against_truth import Finding
from tcvae_ref.oracle.cases import smaller
from tcvae_ref.oracle.types import FAILURES, Case, Verdict

Judge = Callable[[Case], Finding]
Heartbeat = Callable[[], None]
KEPT = 20  # of the worst cases, for a comparison with the reference


@dataclass
class Tally:
    """What the cases showed, all of them counted."""

    cases: int = 0
    certified: int = 0
    inconclusive: int = 0
    worst: float = 0.0
    hardest: list[tuple[float, Case]] = field(default_factory=list)
    """The certified cases with the largest error/allowed."""
    warning: Finding | None = None
    """The first that is right and worth a warning."""
    unfit: str = ""
    """Why the last inconclusive case was so, if it says."""
    case: Case | None = None
    failure: Finding | None = None
    """The smallest counterexample, with its case."""

    def count(self, case: Case, finding: Finding) -> bool:
        """Take a finding in; whether it is a failure."""
        self.cases += 1
        if finding.verdict in FAILURES:
            self.case, self.failure = case, finding
            return True
        if finding.verdict is Verdict.WARN:
            self.warning = self.warning or finding
        if finding.verdict is Verdict.INCONCLUSIVE:
            self.inconclusive += 1
            self.unfit = finding.message
        else:
            self.certified += 1
            self.worst = max(self.worst, finding.worst)
            self.hardest = sorted([*self.hardest, (finding.worst, case)], key=lambda pair: -pair[0])[:KEPT]
        return False


class _Found(Exception):
    """Ends a search."""


def search(
    strategy: SearchStrategy[Case],
    built: Iterable[Case],
    judge: Judge,
    estimator: str,
    max_examples: int,
    seed: int,
    heartbeat: Heartbeat = lambda: None,
    shrink_seconds: float = 4.0,
) -> Tally:
    """Judge drawn cases, then the purpose-built ones, until one fails; make that one small.

    Parameters
    ----------
    strategy : of Case
    built : cases judged after the drawn ones
    judge : function of a case
    estimator : str
        For what a smaller case may look like.
    max_examples : int
        Cases to draw.
    seed : int
        Of hypothesis.
    heartbeat : function
        Called after each case.
    shrink_seconds : float
        Time given to making a counterexample small.

    Returns
    -------
    Tally
    """
    tally = Tally()

    def one(case: Case) -> None:
        if tally.case is not None:  # hypothesis runs a failing case once more
            raise _Found
        failed = tally.count(case, judge(case))
        heartbeat()
        if failed:
            raise _Found

    run = settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )(seeded(seed)(given(strategy)(one)))
    if _reproducible(run, tally):
        for case in built:
            if tally.count(case, judge(case)):
                break
            heartbeat()
    if tally.case is not None and tally.failure is not None:
        tally.case, tally.failure = shrunk(tally.case, tally.failure, judge, estimator, heartbeat, shrink_seconds)
    return tally


def _reproducible(run: Callable[[], None], tally: Tally) -> bool:
    """Run hypothesis; whether nothing failed. Its second run of a failing case is not counted."""
    try:
        run()
    except _Found:
        pass
    except Exception:
        # hypothesis complains where the second run of a failing case passes: the first one is evidence enough
        if tally.case is None:
            raise
    return tally.case is None


def _alike(one: Finding, other: Finding) -> bool:
    """Whether two failures are the same mistake, as far as can be seen: the same number is off, the same is raised."""
    if one.verdict is not other.verdict:
        return False
    if not other.elements:
        return one.message.partition(":")[0] == other.message.partition(":")[0]
    first = other.elements[0]
    return (first.quantity, first.argument) in {(e.quantity, e.argument) for e in one.elements}


def shrunk(
    case: Case, finding: Finding, judge: Judge, estimator: str, heartbeat: Heartbeat, seconds: float
) -> tuple[Case, Finding]:
    """Simplify a counterexample greedily while it fails in the same way.

    Samples and dimensions are dropped, then numbers are replaced by zeros and by fewer digits.
    """
    until = time.monotonic() + seconds
    progress = True
    while progress and time.monotonic() < until:
        progress = False
        for candidate in smaller(case, estimator):
            if time.monotonic() >= until:
                break
            result = judge(candidate)
            heartbeat()
            if _alike(result, finding):
                case, finding, progress = candidate, result, True
                break
    return case, finding
