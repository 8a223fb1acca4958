"""A report for programs: JSON, there and back, and JUnit's XML."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tcvae_ref.checks import InputError
from tcvae_ref.oracle import encoding, records
from tcvae_ref.oracle.report import MEANING, evidence
from tcvae_ref.oracle.types import FAILURES, CheckResult, Diagnosis, Report, Verdict

SCHEMA_VERSION = 1
"""Of the JSON; raised when a field changes its meaning or goes."""

# --- JSON --------------------------------------------------------------------------------------------------

_ABOUT = ("target", "framework", "estimator", "mapping")
_WHERE = ("check", "dtype", "variant")
_COUNTS = ("cases", "certified", "inconclusive")


def to_json(report: Report) -> dict[str, Any]:
    """A report as strict JSON: nan and infinity are the strings "nan", "inf" and "-inf"."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": report.verdict.value,
        "exit_status": report.exit_status,
        **{name: getattr(report, name) for name in _ABOUT},
        "counts": report.counts,
        "worst": encoding.number(report.worst),
        "checks": [_result_to_json(result) for result in report.results],
        "cases": [_case_to_json(report, i) for i, r in enumerate(report.results) if r.counterexample is not None],
        "diagnosis": [{"id": d.id, "title": d.title, "evidence": d.evidence} for d in report.diagnosis],
        "not_run": [{"check": check, "reason": reason} for check, reason in report.not_run],
        "notes": list(report.notes),
        "versions": dict(report.versions),
        "seed": report.seed,
        "options": encoding.plain(report.options),
    }


def _result_to_json(result: CheckResult) -> dict[str, Any]:
    return {
        **{name: getattr(result, name) for name in _WHERE},
        "verdict": result.verdict.value,
        **{name: int(getattr(result, name)) for name in _COUNTS},
        "worst": encoding.number(result.worst),
        "message": result.message,
        "seconds": encoding.number(result.seconds),
    }


def _case_to_json(report: Report, index: int) -> dict[str, Any]:
    result = report.results[index]
    kept = records.record(report, result)
    return {
        "id": kept.id,
        "result": index,
        **{name: getattr(result, name) for name in _WHERE},
        **encoding.counterexample_to_json(kept.counterexample),
    }


def from_json(content: Mapping[str, Any]) -> Report:
    """The report that `to_json` made `content` from; what is derived in it (verdict, counts) is not read.

    Raises
    ------
    InputError
        The content is of another schema, or incomplete.
    """
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"report: schema_version={version!r} cannot be read; {SCHEMA_VERSION} is needed")
    try:
        return _report_from_json(content)
    except encoding.DAMAGE as error:
        raise InputError(f"report: is damaged ({type(error).__name__}: {error}); make it again") from None


def _report_from_json(content: Mapping[str, Any]) -> Report:
    examples = {case["result"]: encoding.counterexample_from_json(case) for case in content["cases"]}
    results = [
        CheckResult(
            **encoding.texts(one, _WHERE),
            **encoding.wholes(one, _COUNTS),
            verdict=Verdict(one["verdict"]),
            worst=float(one["worst"]),
            message=encoding.text(one["message"]),
            counterexample=examples.get(i),
            seconds=float(one["seconds"]),
        )
        for i, one in enumerate(content["checks"])
    ]
    return Report(
        **encoding.texts(content, _ABOUT),
        results=tuple(results),
        not_run=tuple((encoding.text(one["check"]), encoding.text(one["reason"])) for one in content["not_run"]),
        notes=tuple(encoding.text(note) for note in content["notes"]),
        versions=dict(content["versions"]),
        seed=encoding.whole(content["seed"]),
        options=dict(content["options"]),
        diagnosis=tuple(Diagnosis(d["id"], d["title"], d["evidence"]) for d in content["diagnosis"]),
    )


# --- JUnit -------------------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text: str) -> str:
    """Text that XML 1.0 can hold: other characters by their Python escapes."""
    return _NOT_XML.sub(lambda found: ascii(found[0])[1:-1], text)


def to_junit(checked: Report, saved: Mapping[int, str] | None = None, folder: Path = records.FOLDER) -> bytes:
    """A report as JUnit XML, as pytest writes it and Jenkins reads it: a suite for each dtype.

    A counterexample is a `failure`, a target that cannot be judged an `error`; what certifies nothing, and what was
    not run, is `skipped`.

    Parameters
    ----------
    checked : Report
    saved : mapping, optional
        Index of a result -> id of its saved case, from `records.save`.
    folder : Path
        Where the cases were saved.
    """
    root = ElementTree.Element("testsuites", name="tcvae-ref")
    for dtype in dict.fromkeys(result.dtype for result in checked.results):
        suite = _suite(root, checked, dtype)
        for index, result in enumerate(checked.results):
            if result.dtype == dtype:
                _add_case(suite, checked, index, saved or {}, folder)
        _count(suite)
    if checked.not_run:
        suite = _suite(root, checked, "not run")
        for check, reason in checked.not_run:
            case = ElementTree.SubElement(suite, "testcase", classname=_clean(checked.target), name=_clean(check))
            case.set("time", "0.000")
            ElementTree.SubElement(case, "skipped", type="not-run", message=_clean(reason))
        _count(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: ElementTree.Element, checked: Report, what: str) -> ElementTree.Element:
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(f"tcvae-ref {checked.framework} {what}"))
    properties = ElementTree.SubElement(suite, "properties")
    about = {name: getattr(checked, name) for name in _ABOUT} | {"seed": str(checked.seed)}
    for name, value in (about | {f"version {k}": v for k, v in checked.versions.items()}).items():
        ElementTree.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    return suite


def _add_case(suite: ElementTree.Element, checked: Report, index: int, saved: Mapping[int, str], folder: Path) -> None:
    result = checked.results[index]
    name = f"{result.check}[{result.dtype}-{result.variant}]"
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(checked.target), name=_clean(name))
    case.set("time", f"{result.seconds:.3f}")
    said = _clean(result.message or MEANING[result.verdict])
    if result.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "skipped", type=result.verdict.value, message=said)
    elif result.verdict in FAILURES:
        tag = "error" if result.verdict is Verdict.ERROR else "failure"
        outcome = ElementTree.SubElement(case, tag, type=result.verdict.value, message=said)
        outcome.text = _clean(evidence(checked, index, saved, folder))
    elif result.verdict is not Verdict.PASS:
        ElementTree.SubElement(case, "system-out").text = f"{result.verdict.value}: {said}"


def _count(suite: ElementTree.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(plural, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite.findall('testcase')):.3f}")
