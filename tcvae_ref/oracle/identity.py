"""What a target is: a function, and the estimator, and the form of the penalty, whose values it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle import cases, estimators
from tcvae_ref.oracle.against_truth import Finding, judge_gradients, judge_values
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.target import Target
from tcvae_ref.oracle.types import FAILURES, Case, TargetFault
from tcvae_ref.types import Array

_SAME = 1e-3
"""Two calls with the same numbers differ by less, relative to the larger, whatever order a framework adds up in."""
_FORMS = {
    "penalty": "alpha MI + beta TC + gamma DWKL",
    "kl_penalty": "KL(q(z|n) || p(z)) + (beta - 1) TC, with the closed-form KL",
}


class Identity(NamedTuple):
    """What a target is taken for."""

    subject: Subject
    fits: bool
    """Whether its values are those of the estimator."""
    notes: tuple[str, ...]
    form: tuple[str, ...] | None = None
    """What it returns, where that was in question."""


def require_a_function(first: Mapping[str, Array], again: Mapping[str, Array], same: float = _SAME) -> None:
    """Require that two calls with the same numbers return the same, relative to the largest.

    Raises
    ------
    TargetFault
        They differ by more than `same`.
    """
    for name, value in first.items():
        one, other = np.asarray(value, dtype=float), np.asarray(again.get(name, np.nan), dtype=float)
        if np.isfinite(one).all() and not np.all(np.abs(one - other) <= same * max(float(np.max(np.abs(one))), 1e-3)):
            raise TargetFault(
                f"is no function of its arguments: called twice with the same numbers, {name} is {_short(one)} and "
                f"then {_short(other)}. A counter, dropout or noise inside? Judge it in evaluation mode, with what "
                "changes bound, or a function that makes a fresh instance for each call"
            )


def _short(value: Array) -> str:
    return f"{float(value):.10g}" if value.size == 1 else np.array2string(value.ravel()[:3], precision=4) + "..."


def first_cases(estimator: str, count: int, seed: int) -> list[Case]:
    """Ordinary cases in which the estimators differ, and N from M."""
    rng = np.random.default_rng(seed)
    M, D, N = cases.shapes(estimator)[0]
    result = []
    for _ in range(count):
        mu, log_var, eps = rng.standard_normal((3, M, D))
        log_var = 0.5 * log_var
        result.append(Case(mu + np.exp(0.5 * log_var) * eps, mu, log_var, N))
    return result


def identify(target: Target, subject: Subject, claimed: str, seed: int, *, gradients: bool) -> Identity:
    """Find what fits a target, or is nearest.

    Parameters
    ----------
    target : Target
    subject : Subject
        The target as it is called, with the quantities that it returned.
    claimed : str
        Its estimator, or "auto".
    seed : int
        Of the cases.
    gradients : bool
        Whether they are looked at too, to tell which is nearest.
    """
    forms = [subject]
    if subject.quantities == ("penalty",) and target.returns is None:
        closed_form = replace(target, returns=("kl_penalty",))
        forms.append(replace(subject, function=closed_form.function, quantities=("kl_penalty",)))
    named = estimators.candidates() if claimed == "auto" else (claimed,)
    fitting: list[tuple[float, Subject]] = []
    others: list[tuple[tuple[float, int], Subject]] = []
    for one in (replace(form, estimator=name) for form in forms for name in named):
        tried = first_cases(one.estimator, 3, seed)
        findings = [judge_values(one, case) for case in tried]
        if any(finding.verdict in FAILURES for finding in findings):
            others.append((_distance(one, tried, findings, gradients=gradients), one))
        else:
            fitting.append((max(finding.worst for finding in findings), one))
    best = min(fitting or others, key=lambda trial: trial[0])[1]
    rivals = [one.estimator for _, one in fitting if one.estimator != best.estimator]
    notes = [f"in {best.dtype} it cannot be told from {', '.join(rivals)}"] if rivals else []
    notes += _notes(target, best, fits=bool(fitting), found=claimed == "auto", in_question=len(forms) > 1)
    return Identity(best, bool(fitting), tuple(notes), best.quantities if len(forms) > 1 else None)


def _distance(subject: Subject, tried: Sequence[Case], values: list[Finding], *, gradients: bool) -> tuple[float, int]:
    """How badly an estimator fits: powers of ten by which values and gradients are off, then how many are."""
    parts = [values]
    if gradients and subject.adapter.differentiable:
        parts.append([judge_gradients(subject, case, subject.quantities) for case in tried])
    worst = [min(max(1.0, *(finding.worst for finding in part)), 1e300) for part in parts]
    off = {pair for part in parts for finding in part for pair in finding.off}
    return round(sum(np.log10(worst))), len(off)


def _notes(target: Target, subject: Subject, *, fits: bool, found: bool, in_question: bool) -> list[str]:
    """What is worth saying of what a target was found to be, or is taken for."""
    notes = []
    if found and fits:
        notes.append(f"estimator: {subject.estimator}, found by its values")
    elif found:
        nearest = f"estimator: none fits; judged as {subject.estimator}, the nearest"
        notes.append(f"{nearest}. Name what it claims with --estimator")
    if in_question:
        (form,) = subject.quantities
        fit = "the scalar is" if fits else "the scalar fits neither form of the penalty; it is judged as"
        notes.append(f"{fit} {_FORMS[form]} (--returns {form})")
    told = target.takes_dataset_size or target.dataset_size is not None
    if estimators.find(subject.estimator).gradients_use_dataset_size and not told:
        notes.append(f"{subject.estimator} depends on N, and the target takes no dataset_size")
    if found and fits and told and not estimators.find(subject.estimator).uses_dataset_size:
        notes.append("dataset_size has no influence. If it is meant to be mws, --estimator mws says what it lacks")
    return notes
