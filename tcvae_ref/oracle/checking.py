"""Judging a target: `check` runs every check in every dtype and variant, and reports.

How a check runs:

1. `commands` reads the options and calls `check`, here, which makes them a record (`options`).
2. `target.load` finds the function (`lookup`) and what its parameters mean (`inference`, `aliases`, `mapping`).
3. `_Run.report` measures exp and log of the framework (`primitives`), calls the target once, and finds its estimator:
   `identity` holds three cases to each (`estimators`).
4. `one_check` runs each check in each dtype and variant. A check is a function of a `Subject` (the target in one dtype
   and variant) and a case: of `against_truth`, or one of `properties`. It calls the target through its adapter
   (`Target.function`; `returns` names what came back) and compares with `truth`, within `tolerance`.
5. `search` draws cases (`cases`), stops at the first that fails and makes it small; `counterexample` keeps it.
6. Where values or gradients fail, `diagnosis` calls the target on cases of its own and looks for the mistake's name.
7. `report` and `snippet` write what a person reads, `machine_report` what programs do; `records` saves the cases.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tcvae_ref import __version__, checks, extensions
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import adapters, cases, diagnosis, estimators, one_check, primitives
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.against_truth import Finding, judge_gradients, judge_values
from tcvae_ref.oracle.identity import Identity, first_cases, identify, require_a_function
from tcvae_ref.oracle.mistakes.alternatives import FREE_COLUMN
from tcvae_ref.oracle.one_check import Check
from tcvae_ref.oracle.options import Options
from tcvae_ref.oracle.properties import PROPERTIES
from tcvae_ref.oracle.records import Record
from tcvae_ref.oracle.search import Tally
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.target import FEWEST, LOADING, Target, load
from tcvae_ref.oracle.types import (
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

_JUDGED: dict[str, Check] = {
    "values": Check(
        "every returned quantity lies within its derived allowance of its proven enclosure",
        judge_values,
        every_number=True,
    ),
    "gradients": Check(
        "so do the gradients in z, mu and the width of the posteriors",
        lambda subject, case: judge_gradients(subject, case, subject.quantities),
        of_gradients=True,
        every_number=True,
    ),
    **PROPERTIES,
}
"""The checks that cases are drawn for."""

CHECKS: dict[str, str] = {
    "primitives": "the framework's exp and log are accurate to 16 units of roundoff",
    **{name: one.description + " (blind)" * one.blind for name, one in _JUDGED.items()},
}
"""Every check by its name. One called blind holds for any estimate of log q(z), and so proves little."""

PACKAGES = ("numpy", "hypothesis", "python-flint")
"""Whose versions a report holds, beside the framework's."""
PROPERTY_SHARE = 8  # one property check has this many times fewer cases than values and gradients have


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
    init: Mapping[str, Any] | None = None,
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
    arguments, parameterisation, packed, bind, factory, init, returns, weights
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
    options = Options(
        estimator=estimator,
        framework=framework,
        dtypes=dtypes,
        variants=variants,
        max_examples=max_examples,
        seed=seed,
        checks=checks,
        arguments=arguments,
        parameterisation=parameterisation,
        packed=packed,
        returns=returns,
        weights=weights,
        bind=bind,
        factory=factory,
        init=init,
        gradients=gradients,
        allow_unstable=allow_unstable,
        diagnose=diagnose,
    )
    return _Run(target, options, progress).report()


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
    run = _Run(target, Options(**options), None)
    run.adapter.warm_up()
    probed = {dtype: primitives.probe(run.adapter, dtype) for dtype in run.dtypes}
    remedy = f"name the estimator that it claims to be, with --estimator: one of {', '.join(estimators.names())}"
    try:
        found = run.understood(probed)
    except TargetFault as fault:
        raise InputError(f"{run.target.name}: {fault}; repair it, or {remedy}") from None
    if not found.fits:
        raise InputError(f"{run.target.name}: its values are those of no estimator; {remedy}")
    named = {"estimator": found.subject.estimator, "returns": found.form or run.options.returns}
    return {name: value for name, value in named.items() if value is not None}


def _dtypes(adapter: Adapter, asked: Sequence[str] | None) -> tuple[str, ...]:
    """What is asked for, or the usual ones of the framework."""
    dtypes = tuple(asked or adapter.usual_dtypes)
    for dtype in dtypes:
        adapter.tensor(np.zeros((1, 1)), dtype)  # says what to do where it cannot be had
    return dtypes


def _variants(adapter: Adapter, asked: Sequence[str] | None) -> tuple[str, ...]:
    """What is asked for, or the plain one."""
    return tuple(checks.option("check", "variant", one, adapter.variants) for one in asked or adapter.variants[:1])


class _Run:
    """One call of `check`."""

    def __init__(self, target: str | Callable[..., Any], options: Options, progress: CheckProgress | None):
        self.options = options.validated(tuple(CHECKS))
        self.target = options.load(target)
        self.adapter = adapters.chosen(self.target.name, [self.target.callable], options.framework)
        self.progress = progress or (lambda done, total, what: None)
        self.dtypes = _dtypes(self.adapter, self.options.dtypes)
        self.variants = _variants(self.adapter, self.options.variants)
        self.results: list[CheckResult] = []
        self.not_run: dict[str, str] = {}
        self.notes = list(_on_what_is_bound(self.target))
        self.done = self.total = self.due = 0
        """Cases that were judged, that will be, and that will be when this check is through."""
        self.what = ""

    def report(self) -> Report:
        """Run everything."""
        self.adapter.warm_up()
        worst = {dtype: self._probe(dtype) for dtype in self.dtypes}
        probed = {d: Primitives(*(one.finite_error for one in worst[d].values())) for d in self.dtypes}
        try:
            found = self.understood(probed)
        except TargetFault as fault:
            subject = self._subject(probed)
            self.results.append(self._fault(subject, fault))
            return self._report(subject, self.options, ())
        self.notes.extend(found.notes)
        if "primitives" in self._names:
            self.results.extend(self._primitives(dtype, worst[dtype]) for dtype in self.dtypes)
        jobs = self._jobs(found.subject, probed)
        cases_of = [examples + len(_JUDGED[name].built(one)) for name, one, examples in jobs]
        self.total = sum(cases_of)
        for (name, one, examples), count in zip(jobs, cases_of, strict=True):
            self.due += count
            self.results.append(self._judged(name, one, examples))
            self.done = self.due  # where a check failed, or fewer cases than asked for were there
        options = replace(self.options, returns=found.form) if found.form else self.options
        return self._report(found.subject, options, self._diagnosis(found.subject))

    # --- what the target is ---------------------------------------------------------------------------------

    def understood(self, probed: Mapping[str, Primitives]) -> Identity:
        """The target as the estimator that it claims to be or is taken for, in the most precise dtype.

        Raises
        ------
        TargetFault
            It raised, or returned what cannot be judged.
        """
        subject, options = self._subject(probed), self.options
        self._say(f"first call ({subject.dtype}, {subject.variant})")
        (case,) = first_cases(subject.estimator, 1, options.seed)
        first = subject.observe(subject.receive(case)).values
        subject = replace(subject, quantities=tuple(first))
        require_a_function(first, subject.observe(subject.receive(case)).values)
        self.notes.extend(self._passed_over(subject, case))
        if "float64" in self.adapter.dtypes and subject.dtype != "float64":  # in which estimators differ most
            exp, log = (one.finite_error for one in self._probe("float64").values())
            subject = replace(subject, dtype="float64", primitives=Primitives(exp, log))
        return identify(self.target, subject, options.estimator, options.seed, gradients=options.gradients)

    def _passed_over(self, subject: Subject, case: Case) -> list[str]:
        """What to say of parts that the target returns besides."""
        said: list[str] = []
        target = replace(self.target, stack=self.adapter.stack)

        def look(tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
            said.append(target.passed_over(tensors, constants))
            return {}

        one = replace(subject, function=look, variant=self.adapter.variants[0])
        one.observe(one.receive(case))
        return list(filter(None, said[-1:]))

    def _subject(self, probed: Mapping[str, Primitives]) -> Subject:
        """The target as it is claimed to be, in the first dtype and variant."""
        estimator = "minibatch" if self.options.estimator == "auto" else self.options.estimator
        first = self.variants[0], self.dtypes[0]
        return Subject.of(self.target, self.adapter, *first, estimator, probed[self.dtypes[0]])

    def _diagnosis(self, subject: Subject) -> tuple[Diagnosis, ...]:
        """The name of what is wrong with values or gradients; notes go with the others."""
        judged = [r for r in self.results if r.check in ("primitives", "values", "gradients")]
        guessed = self.options.estimator == "auto"  # perhaps wrongly: what is raised may be no fault of the target
        failing = FAILURES if guessed else FAILURES - {Verdict.ERROR}
        if not self.options.diagnose or not any(r.verdict in failing for r in judged):
            return ()
        self._say("diagnosis")
        others = [name for name in estimators.candidates() if name != subject.estimator] if guessed else []
        found = diagnosis.diagnose(
            subject, subject.quantities, self.results, gradients=self.options.gradients, others=others
        )
        self.notes.extend(found.notes)
        if not self.target.takes_dataset_size and any(one.id == "wrong-dataset-size" for one in found.diagnosis):
            self.notes.append("it takes no dataset_size: if the N inside is meant, say so with --bind dataset_size=N")
        if found.valid:
            self.results = [_not_its_formula(result) for result in self.results]
        if found.estimator:
            self.notes.append(f"the diagnosis takes it for {found.estimator}, the checks for {subject.estimator}")
        return found.diagnosis

    # --- the checks -----------------------------------------------------------------------------------------

    @property
    def _names(self) -> Sequence[str]:
        return self.options.checks or tuple(CHECKS)

    def _jobs(self, subject: Subject, probed: Mapping[str, Primitives]) -> list[tuple[str, Subject, int]]:
        """(check, subject, cases to draw): everything that applies."""
        jobs: list[tuple[str, Subject, int]] = []
        for variant in self.variants:
            for dtype in self.dtypes:
                one = replace(subject, variant=variant, dtype=dtype, primitives=probed[dtype])
                for name in self._names:
                    if name == "primitives":
                        continue
                    check = _JUDGED[name]
                    reason = check.reason_against(one)
                    if check.of_gradients and not self.options.gradients:
                        reason = "gradients are not asked for"
                    if reason:
                        self.not_run[name] = reason
                    else:
                        share = 1 if check.every_number else PROPERTY_SHARE
                        jobs.append((name, one, max(1, self.options.max_examples // share)))
        ran = {name for name, *_ in jobs}
        self.not_run = {name: reason for name, reason in self.not_run.items() if name not in ran}
        return jobs

    def _judged(self, name: str, subject: Subject, examples: int) -> CheckResult:
        """Run one check."""
        self._say(f"{name} ({subject.dtype}, {subject.variant})")
        return one_check.run(
            name,
            _JUDGED[name],
            subject,
            weights=self._weights(subject),
            examples=examples,
            seed=self.options.seed,
            allow_unstable=self.options.allow_unstable,
            heartbeat=self._heartbeat,
        )

    def _weights(self, subject: Subject) -> Sequence[cases.Weights]:
        """The alpha, beta and gamma of the cases; where each triple is compiled for, as few as show a mix-up."""
        if subject.variant == self.adapter.variants[0]:
            return cases.WEIGHTS
        return cases.WEIGHTS[: 2 if self.target.takes_weights else 1]

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
        received = subject.receive(first_cases(subject.estimator, 1, self.options.seed)[0])
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

    def _report(self, subject: Subject, options: Options, found: tuple[Diagnosis, ...]) -> Report:
        """Everything; `options` run it again."""
        about = {"tcvae-ref": __version__, "python": platform.python_version()}
        return Report(
            self.target.name,
            self.adapter.name,
            subject.estimator,
            self.target.mapping_to(subject.quantities or ("?",)),
            tuple(self.results),
            tuple(self.not_run.items()),
            tuple(self.notes),
            about | {self.adapter.name: self.adapter.version()} | extensions.versions(*PACKAGES),
            options.seed,
            options.given,
            found,
        )


def _not_its_formula(result: CheckResult) -> CheckResult:
    """What is right, held to the formula of something else, has not been judged."""
    if result.verdict not in (Verdict.WRONG, Verdict.WRONG_GRADIENT):
        return result
    return replace(
        result,
        verdict=Verdict.INCONCLUSIVE,
        inconclusive=result.cases - result.certified,
        message=f"{FREE_COLUMN}; held to {result.check} of the paper's, which is another",
        counterexample=None,
    )


def _on_what_is_bound(target: Target) -> Iterator[str]:
    bound = target.arguments.bound.get("dataset_size")
    if bound is not None and target.dataset_size is None:
        yield f"N is bound to {bound!r}, and not judged: it takes a whole number of at least {FEWEST}"


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
    how = {name: record.options.get(name) for name in LOADING}
    loaded = load(record.target if target is None else target, **how)
    adapter = adapters.by_name(record.framework)
    adapter.warm_up()
    (variant,), (dtype,) = _variants(adapter, [record.variant]), _dtypes(adapter, [record.dtype])
    subject = Subject.of(loaded, adapter, variant, dtype, record.estimator, primitives.probe(adapter, dtype))
    try:
        subject = replace(subject, quantities=tuple(subject.observe(record.case).values))
    except TargetFault as fault:
        finding = Finding(Verdict.ERROR, received=record.case, message=str(fault))
    else:
        finding = _JUDGED[record.check].judge(subject, record.case)
    tally = Tally()
    if tally.count(record.case, finding):
        return one_check.failed(record.check, subject, tally, finding)
    return one_check.result(record.check, subject, tally, finding.verdict)
