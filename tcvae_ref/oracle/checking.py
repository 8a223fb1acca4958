"""Judging a target: `check` runs every check in every dtype and variant, and reports.

How a check runs:

1. `commands` reads the options and calls `check`, here.
2. `target.load` finds the function (`finding`) and what its parameters mean (`inference`, `aliases`, `mapping`).
3. `_Run.report` measures exp and log of the framework (`primitives`), calls the target once, and finds its estimator:
   `_detect` holds three cases to each (`against_truth`).
4. Each check is a function of a `Subject` (the target in one dtype and variant) and a case: `judge_values` and
   `judge_gradients` of `against_truth`, or one of `properties`. It calls the target through its adapter
   (`Target.function`; `returns` names what came back), compares with `truth`, within `tolerance`.
5. `search` draws cases (`cases`), stops at the first that fails and makes it small; `counterexample` keeps it.
6. Where values or gradients fail, `diagnosis` calls the target on cases of its own and looks for the mistake's name.
7. `report` and `snippet` write what a person reads, `machine_report` what programs do; `records` saves the cases.
"""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tcvae_ref import __version__, checks
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import adapters, cases, diagnosis, estimators, primitives
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.against_truth import Finding, counterexample, judge_gradients, judge_values
from tcvae_ref.oracle.properties import PROPERTIES
from tcvae_ref.oracle.records import Record
from tcvae_ref.oracle.reference import reference
from tcvae_ref.oracle.search import Tally, search
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.target import FEWEST, Target, load
from tcvae_ref.oracle.types import (
    DTYPES,
    FAILURES,
    Case,
    CheckProgress,
    CheckResult,
    Counterexample,
    Diagnosis,
    Primitives,
    Report,
    TargetFault,
    Verdict,
)

CHECKS: dict[str, str] = {
    "primitives": "the framework's exp and log are accurate to 16 units of roundoff",
    "values": "every returned quantity lies within its derived allowance of its proven enclosure",
    "gradients": "so do the gradients in z, mu and the width of the posteriors",
    **{name: one.description + " (blind)" * one.blind for name, one in PROPERTIES.items()},
}
"""Every check by its name. One called blind holds for any estimate of log q(z), and so proves little."""

DEFAULT_DTYPES = ("float64", "float32")
PROPERTY_SHARE = 8  # one property check has this many times fewer cases than values and gradients have
ROUGHER = 4.0  # times the reference's error/allowed: right, and worth a warning


def check(
    target: str | Callable[..., Any],
    *,
    estimator: str = "auto",
    framework: str | None = None,
    dtypes: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    max_examples: int = 200,
    seed: int = 0,
    checks: Sequence[str] | None = None,
    arguments: Mapping[str, str] | None = None,
    parameterisation: str | None = None,
    packed: str | None = None,
    returns: Any = None,
    weights: Mapping[str, float] | None = None,
    bind: Mapping[str, Any] | None = None,
    factory: str | Callable[[], Any] | None = None,
    gradients: bool = True,
    allow_unstable: bool = False,
    diagnose: bool = True,
    progress: CheckProgress | None = None,
) -> Report:
    """Judge a beta-TCVAE implementation: its values and gradients against proven numbers, and its properties.

    Parameters
    ----------
    target : str or callable
        `package.module:function`, `path/file.py:function`, `...:Class.method`, or the function itself.
    estimator : str
        What it claims to compute: one of `estimators.names()`, or "auto" to find out which it is.
    framework : str, optional
        One of `adapters.available()`; by default seen from what the function's module uses.
    dtypes : sequence of str, optional
        Of float64, float32, bfloat16, float16. By default float64, which judges the semantics, and float32.
    variants : sequence of str, optional
        Of the adapter's, such as eager and compiled; by default the plain one.
    max_examples : int
        Drawn cases for values and for gradients, in each dtype and variant; a property has an eighth of it.
    seed : int
        Of the drawn cases.
    checks : sequence of str, optional
        Of `CHECKS`; by default all that apply.
    arguments, parameterisation, packed, bind, factory, returns, weights
        How the target is found and called: `target.load`.
    gradients : bool
        False for a function that is not meant to be differentiated.
    allow_unstable : bool
        Report what is only unstable as a warning.
    diagnose : bool
        Name the mistake where values or gradients fail: `diagnosis.diagnose`, some seconds at most.
    progress : function, optional
        Called as progress(done, total, what) after each case.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        The target cannot be loaded or an option does not fit it.
    """
    given = {name: value for name, value in locals().items() if name not in ("target", "progress")}
    return _prepared(target, given, progress).report()


def claims(target: str | Callable[..., Any], **options: Any) -> dict[str, Any]:
    """The options of `check` that hold a target to what it is now: its estimator, and the penalty that it returns.

    Parameters
    ----------
    target, **options
        Of `check`.

    Raises
    ------
    InputError
        As `check`, or its values are those of no estimator.
    """
    run = _prepared(target, {**_DEFAULTS, **options}, None)
    run.adapter.warm_up()
    probed = {dtype: primitives.probe(run.adapter, dtype) for dtype in run.dtypes}
    remedy = f"name the estimator that it claims to be, with --estimator: one of {', '.join(estimators.names())}"
    try:
        subject, _ = run.understood(probed)
    except TargetFault as fault:
        raise InputError(f"{run.target.name}: {fault}; repair it, or {remedy}") from None
    if not run.fits:
        raise InputError(f"{run.target.name}: its values are those of no estimator; {remedy}")
    found = {"estimator": subject.estimator, "returns": run.options.get("returns")}
    return {name: value for name, value in found.items() if value is not None}


_LOADING = ("arguments", "parameterisation", "packed", "bind", "returns", "weights", "factory")
"""Options of `check` that say how the target is found and called."""


def _prepared(target: str | Callable[..., Any], given: Mapping[str, Any], progress: CheckProgress | None) -> "_Run":
    """The run of a check, its options validated and its target loaded."""
    options = {name: value for name, value in given.items() if value is not None and not callable(value)}
    plan = _plan(options)
    loaded = load(target, **{name: given.get(name) for name in _LOADING})
    adapter = adapters.chosen(loaded.name, [loaded.callable], given.get("framework"))
    return _Run(loaded, adapter, plan, options, progress)


@dataclass(frozen=True)
class _Plan:
    """The options of `check` that say what is run, validated."""

    estimator: str
    dtypes: tuple[str, ...] | None
    variants: tuple[str, ...] | None
    max_examples: int
    seed: int
    checks: tuple[str, ...]
    gradients: bool
    allow_unstable: bool
    diagnose: bool


def _plan(options: Mapping[str, Any]) -> _Plan:
    where = "check"
    checks.option(where, "estimator", options["estimator"], ("auto", *estimators.names()))
    names = tuple(dict.fromkeys(options.get("checks") or CHECKS))
    for name in names:
        checks.option(where, "checks", name, CHECKS)
    for dtype in options.get("dtypes") or ():
        checks.option(where, "dtype", dtype, DTYPES)
    for name in ("dtypes", "variants", "checks"):
        if name in options and not options[name]:
            raise InputError(f"{where}: {name} is empty; name some, or leave it out for the default")
    return _Plan(
        options["estimator"],
        tuple(dict.fromkeys(options["dtypes"])) if options.get("dtypes") else None,
        tuple(dict.fromkeys(options["variants"])) if options.get("variants") else None,
        checks.whole_number(where, "max_examples", options["max_examples"], 1, 1_000_000),
        checks.whole_number(where, "seed", options["seed"], 0),
        names,
        bool(options["gradients"]),
        bool(options["allow_unstable"]),
        bool(options["diagnose"]),
    )


class _Run:
    """One call of `check`."""

    def __init__(
        self,
        target: Target,
        adapter: Adapter,
        plan: _Plan,
        options: Mapping[str, Any],
        progress: CheckProgress | None,
    ):
        self.target, self.adapter, self.plan, self.options = target, adapter, plan, options
        self.progress = progress or (lambda done, total, what: None)
        self.dtypes = self._dtypes()
        self.variants = self._variants()
        self.results: list[CheckResult] = []
        self.not_run: dict[str, str] = {}
        self.notes: list[str] = []
        bound = target.arguments.bound.get("dataset_size")
        if bound is not None and target.dataset_size is None:
            self.notes.append(f"N is bound to {bound!r}, and not judged: it takes a whole number of at least {FEWEST}")
        self.done = self.total = self.due = 0
        """Cases that were judged, that will be, and that will be when this check is through."""
        self.what = ""
        self.fits = False
        """Whether the target's values are those of the estimator that it is judged as."""

    def _dtypes(self) -> tuple[str, ...]:
        if self.plan.dtypes is None and self.adapter.name != "jax":
            return tuple(d for d in DEFAULT_DTYPES if d in self.adapter.dtypes)
        for dtype in self.plan.dtypes or DEFAULT_DTYPES:
            self.adapter.tensor(np.zeros((1, 1)), dtype)  # says what to do where it cannot be had
        return self.plan.dtypes or DEFAULT_DTYPES

    def _variants(self) -> tuple[str, ...]:
        for variant in self.plan.variants or ():
            checks.option("check", "variant", variant, self.adapter.variants)
        return self.plan.variants or self.adapter.variants[:1]

    # --- what the target is ---------------------------------------------------------------------------------

    def report(self) -> Report:
        """Run everything."""
        self.adapter.warm_up()
        worst = {dtype: self._probe(dtype) for dtype in self.dtypes}
        probed = {d: Primitives(*(one.finite_error for one in worst[d].values())) for d in self.dtypes}
        subject = self._subject(probed)
        try:
            subject, quantities = self.understood(probed)
        except TargetFault as fault:
            self.results.append(self._fault(subject, fault))
            return self._report(subject, ())
        if "primitives" in self.plan.checks:
            self.results.extend(self._primitives(dtype, worst[dtype]) for dtype in self.dtypes)
        jobs = self._jobs(subject, quantities, probed)
        cases_of = [examples + len(self._built(name, one)) for name, one, examples in jobs]
        self.total = sum(cases_of)
        for (name, one, examples), count in zip(jobs, cases_of, strict=True):
            self.due += count
            self.results.append(self._judged(name, one, quantities, examples))
            self.done = self.due  # where a check failed, or fewer cases than asked for were there
        return self._report(subject, quantities, self._diagnosis(subject, quantities))

    def understood(self, probed: Mapping[str, Primitives]) -> tuple[Subject, tuple[str, ...]]:
        """The target as the estimator that it claims to be or is taken for, and what it returns.

        Raises
        ------
        TargetFault
            It raised, or returned what cannot be judged.
        """
        subject = self._subject(probed)
        self._say(f"first call ({subject.dtype}, {subject.variant})")
        quantities = self._quantities(subject)
        return self._detect(self._most_precise(subject), quantities)

    def _subject(self, probed: Mapping[str, Primitives]) -> Subject:
        """The target as it is claimed to be, in the first dtype and variant."""
        estimator = "minibatch" if self.plan.estimator == "auto" else self.plan.estimator
        first = self.variants[0], self.dtypes[0]
        return Subject.of(self.target, self.adapter, *first, estimator, probed[self.dtypes[0]])

    def _diagnosis(self, subject: Subject, quantities: tuple[str, ...]) -> tuple[Diagnosis, ...]:
        """The name of what is wrong with values or gradients; notes go with the others."""
        judged = [r for r in self.results if r.check in ("primitives", "values", "gradients")]
        guessed = self.plan.estimator == "auto"  # perhaps wrongly: then what is raised may be no fault of the target
        failing = FAILURES if guessed else FAILURES - {Verdict.ERROR}
        if not self.plan.diagnose or not any(r.verdict in failing for r in judged):
            return ()
        self._say("diagnosis")
        others = [name for name in estimators.candidates() if name != subject.estimator] if guessed else []
        found = diagnosis.diagnose(subject, quantities, self.results, gradients=self.plan.gradients, others=others)
        self.notes.extend(found.notes)
        if found.estimator:
            self.notes.append(f"the diagnosis takes it for {found.estimator}, the checks for {subject.estimator}")
        return found.diagnosis

    def _most_precise(self, subject: Subject) -> Subject:
        """In float64, where estimators differ most, if the framework computes in it."""
        if "float64" not in self.adapter.dtypes or subject.dtype == "float64":
            return subject
        exp, log = (one.finite_error for one in self._probe("float64").values())
        return replace(subject, dtype="float64", primitives=Primitives(exp, log))

    def _quantities(self, subject: Subject) -> tuple[str, ...]:
        """What the target returns, from a first call."""
        case = self._first_cases(subject, 1)[0]
        return tuple(subject.observe(subject.receive(case)).values)

    def _first_cases(self, subject: Subject, count: int) -> list[Case]:
        """Ordinary cases in which the estimators differ, and N from M."""
        rng = np.random.default_rng(self.plan.seed)
        M, D, N = cases.shapes(subject.estimator)[0]
        result = []
        for _ in range(count):
            mu, log_var, eps = rng.standard_normal((3, M, D))
            log_var = 0.5 * log_var
            result.append(Case(mu + np.exp(0.5 * log_var) * eps, mu, log_var, N))
        return result

    def _detect(self, subject: Subject, quantities: tuple[str, ...]) -> tuple[Subject, tuple[str, ...]]:
        """Find the estimator, where none is claimed: the one that fits, or the nearest."""
        trials = [(subject, quantities)]
        if quantities == ("penalty",) and self.options.get("returns") is None:
            closed_form = replace(self.target, returns=("kl_penalty",))
            trials.append((replace(subject, function=closed_form.function), ("kl_penalty",)))
        named = [self.plan.estimator] if self.plan.estimator != "auto" else list(estimators.candidates())
        fitting: list[tuple[float, Subject, tuple[str, ...]]] = []
        others: list[tuple[tuple[float, int], Subject, tuple[str, ...]]] = []
        for one, returned in trials:
            for name in named:
                candidate = replace(one, estimator=name)
                findings = [judge_values(candidate, case) for case in self._first_cases(candidate, 3)]
                if any(finding.verdict in FAILURES for finding in findings):
                    others.append((self._distance(candidate, returned, findings), candidate, returned))
                else:
                    fitting.append((max(finding.worst for finding in findings), candidate, returned))
        if fitting:
            _, best, returned = min(fitting, key=lambda item: item[0])
            rivals = [one.estimator for _, one, _ in fitting if one.estimator != best.estimator]
            if rivals:
                self.notes.append(f"in {best.dtype} it cannot be told from {', '.join(rivals)}")
            return self._detected(best, returned, fits=True, tried=len(trials))
        _, nearest, returned = min(others, key=lambda item: item[0])
        return self._detected(nearest, returned, fits=False, tried=len(trials))

    def _distance(self, subject: Subject, quantities: tuple[str, ...], values: list[Finding]) -> tuple[float, int]:
        """How badly an estimator fits: powers of ten by which values and gradients are off, then how many are."""
        parts = [values]
        if self.plan.gradients and self.adapter.differentiable:
            parts.append([judge_gradients(subject, case, quantities) for case in self._first_cases(subject, 3)])
        worst = [min(max(1.0, *(finding.worst for finding in part)), 1e300) for part in parts]
        off = {pair for part in parts for finding in part for pair in finding.off}
        return round(sum(np.log10(worst))), len(off)

    def _detected(
        self, subject: Subject, returned: tuple[str, ...], *, fits: bool, tried: int
    ) -> tuple[Subject, tuple[str, ...]]:
        """Say what the target was found to be, or is taken for."""
        self.fits = fits
        if self.plan.estimator == "auto":
            self.notes.append(
                f"estimator: {subject.estimator}, found by its values"
                if fits
                else f"estimator: none fits; judged as {subject.estimator}, the nearest. "
                "Name what it claims with --estimator"
            )
        words = {
            "penalty": "alpha MI + beta TC + gamma DWKL",
            "kl_penalty": "KL(q(z|n) || p(z)) + (beta - 1) TC, with the closed-form KL",
        }
        if tried > 1:
            fit = "the scalar is" if fits else "the scalar fits neither form of the penalty; it is judged as"
            self.notes.append(f"{fit} {words[returned[0]]} (--returns {returned[0]})")
            self.options = {**self.options, "returns": returned}
        taken = estimators.find(subject.estimator)
        told = self.target.takes_dataset_size or self.target.dataset_size is not None
        if taken.gradients_use_dataset_size and not told:
            self.notes.append(f"{subject.estimator} depends on N, and the target takes no dataset_size")
        return subject, returned

    # --- the checks -----------------------------------------------------------------------------------------

    def _jobs(
        self, subject: Subject, quantities: tuple[str, ...], probed: Mapping[str, Primitives]
    ) -> list[tuple[str, Subject, int]]:
        """(check, subject, cases): everything that applies."""
        jobs: list[tuple[str, Subject, int]] = []
        for variant in self.variants:
            for dtype in self.dtypes:
                one = replace(subject, variant=variant, dtype=dtype, primitives=probed[dtype])
                for name in self.plan.checks:
                    reason = self._reason_against(name, quantities, one)
                    if reason:
                        self.not_run[name] = reason
                    elif name != "primitives":
                        share = PROPERTY_SHARE if name in PROPERTIES else 1
                        jobs.append((name, one, max(1, self.plan.max_examples // share)))
        ran = {name for name, *_ in jobs}
        self.not_run = {name: reason for name, reason in self.not_run.items() if name not in ran}
        return jobs

    def _reason_against(self, name: str, quantities: tuple[str, ...], subject: Subject) -> str:
        """Why a check does not apply, or nothing."""
        differentiates = name in ("gradients", "central-differences")
        if differentiates and not self.plan.gradients:
            return "gradients are not asked for"
        if differentiates and not self.adapter.differentiable:
            return f"{self.adapter.name} has no gradients"
        if name in PROPERTIES:
            return PROPERTIES[name].applies(quantities, subject.estimator, subject.dtype)
        return ""

    def _judged(self, name: str, subject: Subject, quantities: tuple[str, ...], examples: int) -> CheckResult:
        """Run one check."""
        self._say(f"{name} ({subject.dtype}, {subject.variant})")
        started = time.monotonic()
        few = self._few(subject)
        judge = self._judge(name, subject, quantities)
        least = PROPERTIES[name].least_batch if name in PROPERTIES else 1
        most = min(12, subject.dataset_size or 12)
        built = self._built(name, subject)
        tally = search(
            cases.cases(subject.estimator, subject.dtype, few, self._weights(subject), least, most),
            built.values(),
            judge,
            subject.estimator,
            examples,
            self.plan.seed,
            self._heartbeat,
        )
        seconds = time.monotonic() - started
        if tally.failure is not None:
            return self._failed(name, subject, tally, tally.failure, seconds)
        verdict, message = self._passed(name, subject, quantities, tally)
        return CheckResult(
            name,
            subject.dtype,
            subject.variant,
            verdict,
            tally.cases,
            tally.certified,
            tally.inconclusive,
            tally.worst,
            message,
            None,
            seconds,
        )

    def _few(self, subject: Subject) -> Sequence[tuple[int, int, int]] | None:
        """The shapes of the cases, where the target is compiled for each."""
        return cases.shapes(subject.estimator) if self.adapter.compiles(subject.variant) else None

    def _built(self, name: str, subject: Subject) -> dict[str, Case]:
        """The cases that are built for a purpose; properties make their own of those that are drawn."""
        if name in PROPERTIES:
            return {}
        built = cases.purpose_built(subject.estimator, subject.dtype, self._few(subject))
        N = subject.dataset_size
        return {purpose: case for purpose, case in built.items() if N is None or len(case.z) <= N}

    def _weights(self, subject: Subject) -> Sequence[cases.Weights]:
        """The alpha, beta and gamma of the cases; where each triple is compiled for, as few as show a mix-up."""
        if subject.variant == self.adapter.variants[0]:
            return cases.WEIGHTS
        return cases.WEIGHTS[: 2 if self.target.takes_weights else 1]

    def _judge(self, name: str, subject: Subject, quantities: tuple[str, ...]) -> Callable[[Case], Finding]:
        if name == "values":
            return lambda case: judge_values(subject, case)
        if name == "gradients":
            return lambda case: judge_gradients(subject, case, quantities)
        return lambda case: PROPERTIES[name].judge(subject, case)

    def _failed(self, name: str, subject: Subject, tally: Tally, failure: Finding, seconds: float) -> CheckResult:
        verdict = failure.verdict
        if verdict is Verdict.UNSTABLE and self.plan.allow_unstable:
            verdict = Verdict.WARN
        worst = failure.worst if failure.elements else tally.worst
        return CheckResult(
            name,
            subject.dtype,
            subject.variant,
            verdict,
            tally.cases,
            tally.certified,
            tally.inconclusive,
            worst,
            failure.message,
            counterexample(subject, failure) if failure.received is not None else None,
            seconds,
        )

    def _passed(self, name: str, subject: Subject, quantities: tuple[str, ...], tally: Tally) -> tuple[Verdict, str]:
        if not tally.certified:
            reason = f"the allowance says nothing in {subject.dtype} on any of these cases"
            return Verdict.INCONCLUSIVE, tally.unfit or reason
        if tally.warning is not None:
            return Verdict.WARN, tally.warning.message
        if name not in ("values", "gradients") or subject.dtype not in ("float64", "float32"):
            return Verdict.PASS, ""
        double = replace(
            subject,
            function=reference(subject.estimator, subject.parameterisation, quantities),
            adapter=adapters.by_name("autograd"),
            variant="eager",
        )
        judge = self._judge(name, double, quantities)
        ours = max((judge(case).worst for _, case in tally.hardest), default=0.0)
        if tally.worst > ROUGHER * ours:
            return Verdict.WARN, (
                f"within the allowance, but {tally.worst / max(ours, 1e-300):.1f} times as far off as the reference"
            )
        return Verdict.PASS, ""

    # --- primitives, faults, the report ---------------------------------------------------------------------

    def _probe(self, dtype: str) -> dict[str, primitives.Worst]:
        self._say(f"primitives ({dtype})")
        return {name: primitives.worst(self.adapter, name, dtype) for name in Primitives._fields}

    def _primitives(self, dtype: str, probed: Mapping[str, primitives.Worst]) -> CheckResult:
        """The verdict on exp and log. Overflow where the result is a number counts as infinitely wrong."""
        error = max(worst.error for worst in probed.values())
        said = ", ".join(
            f"{name} off by {worst.error:.3g} u at {worst.x:.6g}" for name, worst in probed.items() if worst.error > 0
        )
        verdict = Verdict.PASS if error <= primitives.INACCURATE else Verdict.PRIMITIVE
        ratio = error / primitives.INACCURATE
        return CheckResult("primitives", dtype, self.variants[0], verdict, worst=ratio, message=said)

    def _fault(self, subject: Subject, fault: TargetFault) -> CheckResult:
        received = subject.receive(self._first_cases(subject, 1)[0])
        example = Counterexample(received, message=str(fault))
        return CheckResult("values", subject.dtype, subject.variant, Verdict.ERROR, 1, 0, 0, 0.0, str(fault), example)

    def _say(self, what: str) -> None:
        """Tell what begins."""
        self.what = what
        self.progress(self.done, self.total, what)

    def _heartbeat(self) -> None:
        """Tell that a case is done; what making a counterexample small takes besides was not planned."""
        self.done = min(self.done + 1, self.due)
        self.progress(self.done, self.total, self.what)

    def _report(self, subject: Subject, quantities: tuple[str, ...], found: tuple[Diagnosis, ...] = ()) -> Report:
        return Report(
            self.target.name,
            self.adapter.name,
            subject.estimator,
            self.target.mapping_to(quantities or ("?",)),
            tuple(self.results),
            tuple(self.not_run.items()),
            tuple(self.notes),
            _versions(self.adapter),
            self.plan.seed,
            dict(self.options),
            found,
        )


def _versions(adapter: Adapter) -> dict[str, str]:
    result = {"tcvae-ref": __version__, "python": platform.python_version(), adapter.name: adapter.version()}
    for package in ("numpy", "hypothesis", "python-flint"):
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def replay_case(record: Record, target: str | Callable[..., Any] | None = None) -> CheckResult:
    """Run a saved case again.

    Parameters
    ----------
    record : Record
        From `records.load`.
    target : optional
        What to run it on, in place of the target it was saved for.

    Raises
    ------
    InputError
        The target cannot be loaded.
    """
    for name, allowed in (("check", CHECKS), ("estimator", estimators.names())):
        checks.option(f"replay {record.id}", name, getattr(record, name), allowed)
    how = {name: record.options.get(name) for name in _LOADING}
    loaded = load(target if target is not None else record.target, **how)
    adapter = adapters.by_name(record.framework)
    adapter.warm_up()
    case = record.case
    probed = primitives.probe(adapter, record.dtype)
    subject = Subject.of(loaded, adapter, record.variant, record.dtype, record.estimator, probed)
    how_run = {"seed": record.seed, "dtypes": (record.dtype,), "variants": (record.variant,)}
    run = _Run(loaded, adapter, _plan({**_DEFAULTS, **how_run}), {}, None)
    try:
        quantities = tuple(subject.observe(case).values)
    except TargetFault as fault:
        finding = Finding(Verdict.ERROR, received=case, message=str(fault))
    else:
        finding = run._judge(record.check, subject, quantities)(case)
    tally = Tally()
    tally.count(case, finding)
    if finding.verdict in FAILURES:
        return run._failed(record.check, subject, tally, finding, 0.0)
    return CheckResult(
        record.check, record.dtype, record.variant, finding.verdict, 1, tally.certified, tally.inconclusive, tally.worst
    )


_DEFAULTS: dict[str, Any] = {
    "estimator": "auto",
    "max_examples": 1,
    "seed": 0,
    "gradients": True,
    "allow_unstable": False,
    "diagnose": False,
}
