"""A report for a person: one screen, the worst first."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path

import numpy as np

from tcvae_ref.oracle import snippet
from tcvae_ref.oracle.aliases import WEIGHTS
from tcvae_ref.oracle.catalogue import entry_of
from tcvae_ref.oracle.records import FOLDER
from tcvae_ref.oracle.types import FAILURES, PENALTIES, CheckResult, Counterexample, Diagnosis, Element, Report, Verdict

WIDTH = 120

MEANING: dict[Verdict, str] = {
    Verdict.PASS: "Every certified number lies as near to the true value as right code in this dtype must be.",
    Verdict.WARN: "Right within the allowance, but more than four times as far off as the reference in the same dtype.",
    Verdict.INCONCLUSIVE: "Nothing was certified; the reason stands beside each check.",
    Verdict.PRIMITIVE: "The framework's own exp or log is off in this dtype; the target may be right.",
    Verdict.UNSTABLE: "The formula is right, its arithmetic loses digits that another order of operations keeps.",
    Verdict.NONFINITE: "nan or infinity came out where the true value is an ordinary number.",
    Verdict.ERROR: "The target raised, hung, or did not return what was announced: there is nothing to judge.",
    Verdict.WRONG_GRADIENT: "The gradients are not those of the formula: training follows another objective.",
    Verdict.WRONG: "The values differ from the formula by more than floating point can explain.",
}
"""What each verdict says, in a sentence."""

STAGES = {
    "log_qz_given_x": "log q(z|x)",
    "log_pz": "log p(z)",
    "log_qz": "log q(z)",
    "log_qz_marginals": "log q(z_d)",
    "mi": "MI",
    "tc": "TC",
    "dwkl": "DWKL",
    "penalty": "the penalty",
    "kl_penalty": "the penalty",
}
"""Quantities as they are written in formulas."""


def text(report: Report, saved: Mapping[int, str] | None = None, folder: Path = FOLDER) -> str:
    """The whole report.

    Parameters
    ----------
    report : Report
    saved : mapping, optional
        Index of a result -> id of its saved case, from `records.save`.
    folder : Path
        Where the cases were saved.
    """
    worst = worst_result(report)
    judged = f"{report.target}  ({report.framework}, estimator {report.estimator})"
    head = [f"{report.verdict}  {judged}", *_wrapped("understood as: ", report.mapping)]
    if worst is None:
        body = ["", *_overview(report)]
    else:
        body = ["", evidence(report, worst, saved, folder), *_others(report, worst)]
    return _printable("\n".join([*head, *body, *_circumstances(report), "", summary(report)]))


def step_text(report: Report, saved: Mapping[int, str] | None = None, folder: Path = FOLDER) -> str:
    """The report of `check_step`: each part, what was found, and the mistakes by name; the rest as in `text`."""
    parts = [report.target, report.framework, *([f"estimator {report.estimator}"] if report.estimator != "-" else [])]
    lines = [f"{report.verdict}  {', '.join(parts)}", *_wrapped("understood as: ", report.mapping), ""]
    for index, result in enumerate(report.results):
        prefix = f"{result.check}: "
        named = [one for one in report.diagnosis if one.evidence.startswith(prefix)]
        if named:  # what it says is the evidence
            lines.append(f"{result.verdict}  {result.check}")
        else:
            lines += _wrapped(f"{result.verdict}  {prefix}", result.message)
        for found in named:
            lines += [*_named(replace(found, evidence=found.evidence.removeprefix(prefix)))]
        if saved and index in saved:
            lines.append(f"  again: {snippet.replay(saved[index], folder)}")
    return _printable("\n".join([*lines, *_circumstances(report)]))


def summary(report: Report) -> str:
    """The counts in one line."""
    counts = report.counts
    said = ", ".join(f"{counts[name]:,} {name}" for name in counts)
    said = said.replace("1 checks,", "1 check,", 1) if counts["checks"] == 1 else said
    said = said.replace(" 1 cases,", " 1 case,", 1) if counts["cases"] == 1 else said
    return f"{said}, worst error/allowed {short(report.worst)}"


def worst_result(report: Report) -> int | None:
    """Index of the failing result to explain: the worst verdict, with evidence if there is any, the first of these."""
    failing = [i for i, result in enumerate(report.results) if result.verdict in FAILURES]
    ranks = [(report.results[i].verdict.rank, report.results[i].counterexample is not None, -i) for i in failing]
    return -max(ranks)[2] if ranks else None


# --- numbers -----------------------------------------------------------------------------------------------


def short(value: float) -> str:
    """A number in about three digits."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.3g}"


def interval(lower: float, upper: float, got: float) -> str:
    """Two ends, rounded outwards, in just the digits that tell `got` from them: `1.2345678 .. 1.2345681`."""
    if not (np.isfinite(lower) and np.isfinite(upper)):
        return f"{lower!r} .. {upper!r}"
    if lower == upper:
        return repr(float(lower))
    if lower <= 0 <= upper and max(-lower, upper) < 1e-30 * abs(got):
        return f"0 to within {short(max(-lower, upper))}"
    digits = _telling_digits(lower, upper, got)
    low, high = _ends(lower, upper, digits)
    return _joined(low, high)


def _ends(lower: float, upper: float, digits: int) -> tuple[Decimal, Decimal]:
    """The ends to so many significant digits of the larger, outwards."""
    low, high = Decimal(lower), Decimal(upper)
    quantum = Decimal((0, (1,), max(abs(low), abs(high)).adjusted() - digits + 1))
    return low.quantize(quantum, ROUND_FLOOR), high.quantize(quantum, ROUND_CEILING)


def _telling_digits(lower: float, upper: float, got: float) -> int:
    """The fewest digits, 6 to 17, that show where `got` lies outside, or else how wide the interval is."""
    low, high, value = Decimal(lower), Decimal(upper), Decimal(got)
    gap = max(low - value, value - high) if value.is_finite() else Decimal(0)
    smallest = gap if gap > 0 else high - low
    return min(17, max(6, max(abs(low), abs(high)).adjusted() - smallest.adjusted() + 2))


def _joined(low: Decimal, high: Decimal) -> str:
    """`low .. high`, a power of ten that both have written once."""
    exponent = max(abs(low), abs(high)).adjusted()
    scale = 0 if -4 <= exponent < 16 else exponent
    ends = [f"{end.scaleb(-scale):f}" for end in (low, high)]
    joined = f"{ends[0]} .. {ends[1]}"
    return f"({joined})e{scale:+03d}" if scale else joined


def _got(value: float, dtype: str) -> str:
    """A returned number, in the fewest digits that give it back in its dtype."""
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    if dtype != "float64" and float(narrow) == value:
        return str(narrow)
    return repr(float(value))


def element_name(element: Element) -> str:
    """`tc`, `log_qz[3]`, `d tc / d mu[0, 1]`."""
    index = f"[{', '.join(map(str, element.index))}]" if element.index else ""
    if element.argument:
        return f"d {element.quantity} / d {element.argument}{index}"
    return f"{element.quantity}{index}"


def element_table(elements: Sequence[Element], dtype: str) -> list[str]:
    """Lines of a table: what came, where the true value lies, error, allowance."""
    rows = [["", "got", "true value", "error", "allowed", "error/allowed"]]
    for e in elements:
        ends = interval(e.lower, e.upper, e.got)
        rows.append([element_name(e), _got(e.got, dtype), ends, *map(short, (e.error, e.allowed, e.ratio))])
    return table(rows, right=(3, 4, 5))


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines with aligned columns, two spaces between; the columns `right` end flush."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


# --- a failure ---------------------------------------------------------------------------------------------


def evidence(report: Report, index: int, saved: Mapping[int, str] | None = None, folder: Path = FOLDER) -> str:
    """All that is known about one failing result."""
    result, name = report.results[index], (saved or {}).get(index)
    lines = [f"{result.verdict} in {result.check} ({result.dtype}, {result.variant})"]
    lines += _diagnosis(report, result)
    if result.message:
        lines += _wrapped("  ", result.message)
    example = result.counterexample
    if example is not None:
        if example.message and example.message != result.message:
            lines += _wrapped("  ", example.message)
        lines += ["", *snippet.given(example.case, name, folder, weights=_has_weights(report, example))]
        if example.elements:
            lines += ["", *element_table(example.elements, result.dtype)]
        if example.stage:
            lines += ["", f"First wrong stage: {STAGES.get(example.stage, example.stage)}"]
        lines += _allowance(result)
        lines += ["", *snippet.reproduction(report, result, name, folder)]
    return _printable("\n".join(lines))


def _has_weights(report: Report, example: Counterexample) -> bool:
    """Whether alpha, beta and gamma have a part in what failed."""
    takes = any(re.search(rf"\b{name}\b", report.mapping) for name in WEIGHTS)
    return takes or any(element.quantity in PENALTIES for element in example.elements)


def _diagnosis(report: Report, result: CheckResult) -> Iterator[str]:
    """The name of the mistake and how it was found, or what the verdict means."""
    for found in report.diagnosis:
        yield from _named(found)
    if not report.diagnosis:
        yield from _wrapped("  ", MEANING[result.verdict])


def _named(found: Diagnosis) -> Iterator[str]:
    """A mistake by its name, with the line of mathematics."""
    yield from _wrapped("  ", f"{found.title} ({found.id})")
    yield from _wrapped("    ", found.evidence)
    entry = entry_of(found.id)
    if entry is not None and found.id != "unknown":
        yield from _wrapped("    wrong: ", entry.wrong)
        yield from _wrapped("    right: ", entry.right)
        yield f"    the fix: tcvae-ref explain {found.id}"


def _allowance(result: CheckResult) -> list[str]:
    example = result.counterexample
    if example is None or not example.allowance or not example.elements:
        return []
    shares = "; ".join(f"{100 * share:.0f} % from {words}" for share, words in example.allowance)
    return _wrapped(f"Allowance of {element_name(example.elements[0])}: ", shares)


def _others(report: Report, worst: int) -> list[str]:
    """The other failing results in a line each, the rest counted."""
    others = [r for i, r in enumerate(report.results) if i != worst]
    failing = sorted((r for r in others if r.verdict in FAILURES), key=lambda r: -r.verdict.rank)
    lines = ["", "Also failing:"] if failing else []
    lines += [f"  {line}" for line in table([_failing_row(r) for r in failing])] if failing else []
    counts = {v: sum(r.verdict is v for r in others) for v in Verdict if v not in FAILURES}
    rest = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lines += _gradients_alone(report)
    return [*lines, "", f"Other checks: {rest}"] if rest else lines


def _gradients_alone(report: Report) -> list[str]:
    """Where only values are wrong, that training is not affected."""
    gradients = [r for r in report.results if r.check == "gradients"]
    right = [r.dtype for r in gradients if r.verdict in (Verdict.PASS, Verdict.WARN)]
    values_are_wrong = any(r.check == "values" and r.verdict is Verdict.WRONG for r in report.results)
    if not values_are_wrong or not right or len(right) < len(gradients):
        return []
    said = f"The gradients are right ({', '.join(right)}): training is not affected, only the values that are reported."
    return ["", said]


def _failing_row(result: CheckResult) -> list[str]:
    example = result.counterexample
    said = result.message or (example.message if example else "") or "no counterexample kept"
    if example is not None and example.elements:
        first = example.elements[0]
        said = f"{element_name(first)}: error/allowed {short(first.ratio)}"
        if not np.isfinite(first.got):
            said = f"{element_name(first)} is {first.got}"
    return [result.verdict.value, result.check, result.dtype, result.variant, textwrap.shorten(said, 60)]


# --- no failure --------------------------------------------------------------------------------------------

_COLUMNS = ["verdict", "check", "dtype", "variant", "cases", "certified", "inconclusive", "error/allowed"]


def _overview(report: Report) -> list[str]:
    """The table of checks, and what stands behind each that did not plainly pass."""
    if not report.results:
        return ["no check was run"]
    rows = [_COLUMNS]
    for r in report.results:
        counts = (f"{r.cases:,}", f"{r.certified:,}", f"{r.inconclusive:,}", short(r.worst) if r.certified else "-")
        rows.append([r.verdict.value, r.check, r.dtype, r.variant, *counts])
    lines = table(rows, right=(4, 5, 6, 7))
    for verdict in dict.fromkeys(r.verdict for r in report.results if r.verdict is not Verdict.PASS):
        lines += ["", *_wrapped(f"{verdict}: ", MEANING[verdict])]
        said = [(f"{r.check} ({r.dtype}, {r.variant})", r.message) for r in report.results if r.verdict is verdict]
        for where, message in said:
            lines += _wrapped(f"  {where}: ", message) if message else []
    return lines


def _circumstances(report: Report) -> list[str]:
    """What was not run and why, remarks, versions and seed."""
    lines = ["", "Not run:"] if report.not_run else []
    for check, reason in report.not_run:
        lines += _wrapped(f"  {check}: ", reason)
    lines += [""] if report.notes else []
    for note in report.notes:
        lines += _wrapped("Note: ", note)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [*lines, "", *_wrapped("", f"seed {report.seed}" + (f"; {versions}" if versions else ""))]


def _wrapped(first: str, words: str) -> list[str]:
    """Text after a label, broken to the width; following lines are indented alike."""
    indent = " " * (len(first) - len(first.lstrip()) + 2) if first.strip() else first
    lines: list[str] = []
    for paragraph in _printable(words).splitlines():
        lead = indent if lines else first
        lines += textwrap.wrap(paragraph, WIDTH, initial_indent=lead, subsequent_indent=indent) or [lead.rstrip()]
    return lines


def _printable(words: str) -> str:
    """Text without what moves the cursor or changes the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in words.expandtabs())
