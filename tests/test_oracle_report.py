"""Reports of the oracle: for people, for programs, kept in files, and from a process that may die."""

import dataclasses
import json
import math
import os
import re
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tcvae_ref import cli
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import adapters, machine_report, primitives, records, report, snippet
from tcvae_ref.oracle.isolation import run_isolated
from tcvae_ref.oracle.types import (
    ESTIMATORS,
    FAILURES,
    PARAMETERISATIONS,
    Case,
    CheckResult,
    Counterexample,
    Diagnosis,
    Element,
    Primitives,
    Report,
    Verdict,
)

# --- reports by hand, and any report -----------------------------------------------------------------------

Z = np.array([[0.5, -1.0], [1.25, 0.1], [-0.0, 2.0]])
CASE = Case(Z, np.zeros((3, 2)), np.array([[0.0, 0.0], [-1.5, 0.0], [0.3, 5e-324]]), 7)
ELEMENTS = (
    Element("tc", "", (), -0.8312345, -0.123456789012345, -0.123456789012343, 0.70777, 3.1e-15),
    Element("log_qz", "", (2,), -3.1, -3.0999999999999, -3.0999999999998, 2e-13, 4e-15),
    Element("tc", "mu", (0, 1), math.nan, 1.23e-8, 1.24e-8, math.nan, 1e-15),
    Element("dwkl", "", (), math.inf, 1e300, 1.1e300, math.inf, 1e285),
    Element("mi", "z", (1, 1), 0.0, -1e-3, 1e-3, 0.0, 1e-3),
)
SHARES = ((0.87, "(z - mu)^2 / sigma^2 at j = 3, d = 1"), (0.1, "log M"))
EXAMPLE = Counterexample(CASE, ELEMENTS, "log_qz", SHARES, "shrunk from M = 7, D = 4")
PASSED = (
    CheckResult("symmetry", "float32", "eager", Verdict.PASS, 700, 680, 20, 0.19),
    CheckResult("limits", "float32", "compiled", Verdict.WARN, 700, 672, 28, 0.1, "five times the reference's error"),
)
RESULTS = (
    CheckResult("values", "float64", "eager", Verdict.WRONG, 100, 100, 0, 0.1, "", EXAMPLE, 1.25),
    CheckResult("values", "float32", "eager", Verdict.UNSTABLE, 100, 80, 20, 0.19, "grows with mu squared"),
    CheckResult("crash", "float32", "eager", Verdict.ERROR, message="raised ValueError: \x1b[31mno\x00"),
    CheckResult("extremes", "float32", "eager", Verdict.INCONCLUSIVE, 100, 0, 100, message="no case"),
    *PASSED,
)
ABOUT = ("losses/vae.py:tc_loss", "torch", "mss", "tc_loss(z, mu, logvar=log_var, N=dataset_size) -> tc")
WRONG = Report(
    *ABOUT,
    RESULTS,
    (("penalty", "the target returns no penalty"),),
    ("float16 is not computed in on this machine",),
    {"tcvae-ref": "0.2.0", "torch": "2.13.0"},
    3,
    {"seed": 3},
)
RIGHT = Report(*ABOUT, PASSED, versions={"torch": "2.13.0"}, seed=3)

FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
TEXTS = st.text(max_size=12)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=4)
FINITE = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
CASES = SHAPES.flatmap(
    lambda shape: st.builds(
        *(Case, *[hnp.arrays(np.float64, shape, elements=FINITE)] * 3, st.integers(1, 10**9)),
        *(FINITE, FINITE, FINITE, st.sampled_from(PARAMETERISATIONS)),
    )
)
INDEX = st.lists(st.integers(0, 9), max_size=2).map(tuple)
ANY_ELEMENT = st.builds(Element, TEXTS, TEXTS, INDEX, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS)
ANY_EXAMPLE = st.builds(
    Counterexample,
    CASES,
    st.lists(ANY_ELEMENT, max_size=3).map(tuple),
    TEXTS,
    st.lists(st.tuples(FLOATS, TEXTS), max_size=2).map(tuple),
    TEXTS,
)
COUNT = st.integers(0, 10**6)
ANY_RESULT = st.builds(
    CheckResult,
    TEXTS,
    TEXTS,
    TEXTS,
    st.sampled_from(Verdict),
    *(COUNT, COUNT, COUNT, FLOATS, TEXTS),
    st.none() | ANY_EXAMPLE,
    FLOATS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
REPORTS = st.builds(
    Report,
    *(TEXTS, TEXTS, st.sampled_from(ESTIMATORS), TEXTS),
    st.lists(ANY_RESULT, max_size=3).map(tuple),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple),
    st.lists(TEXTS, max_size=2).map(tuple),
    st.dictionaries(TEXTS, TEXTS, max_size=2),
    st.integers(0, 2**64),
    st.dictionaries(TEXTS, JSON, max_size=2),
    st.lists(st.builds(Diagnosis, TEXTS, TEXTS, TEXTS), max_size=2).map(tuple),
)


def bits(thing):
    """Anything of a report, with floats and arrays by their bits; nan has one."""
    if isinstance(thing, np.ndarray):
        return thing.shape, [bits(x) for x in thing.ravel().tolist()]
    if isinstance(thing, Verdict):
        return str(thing)
    if isinstance(thing, float):
        return "nan" if math.isnan(thing) else thing.hex()
    if dataclasses.is_dataclass(thing):
        return [bits(getattr(thing, field.name)) for field in dataclasses.fields(thing)]
    if isinstance(thing, dict):
        return {key: bits(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [bits(value) for value in thing]
    return thing


def pasted(text):
    """What the lines of a report define and print, from `Given:` and, if they are there, from `Reproduce with:`."""
    lines = text.splitlines()
    code, taking = [], False
    for line in lines:
        taking = line in ("Given:", "Reproduce with:") or (taking and line.startswith("  "))
        if taking and line.startswith("  "):
            code.append(line[2:])
    scope = {}
    exec("\n".join(code), scope)
    return scope


# --- text --------------------------------------------------------------------------------------------------


class TestText:
    def test_a_failure_in_the_order_of_reading(self):
        text = report.text(WRONG, {0: "0123456789"})
        order = [
            *("WRONG  losses/vae.py:tc_loss", "understood as", "WRONG in values (float64, eager)"),
            *(report.MEANING[Verdict.WRONG], "Given:", "got", "First wrong stage: log q(z)", "Allowance of tc: 87 %"),
            *("Reproduce with:", "tcvae-ref replay 0123456789", "Also failing:", "Other checks: 1 PASS, 1 WARN"),
            *("Not run:", "Note: float16", "seed 3; tcvae-ref 0.2.0", "6 checks, 1,700 cases"),
        ]
        places = [text.index(words) for words in order]
        assert places == sorted(places)
        assert text.endswith(
            "6 checks, 1,700 cases, 1,532 certified, 168 inconclusive, 0 failed, worst error/allowed 0.19"
        )
        assert max(map(len, text.splitlines())) <= report.WIDTH
        assert len(text.splitlines()) <= 50
        assert text.isascii()
        assert "\x1b" not in text

    def test_a_diagnosis_takes_the_place_of_the_meaning(self):
        found = Diagnosis("mss-weights-in-columns", "the weights stand in columns", "W[i, j] is W[j, i]")
        text = report.text(dataclasses.replace(WRONG, diagnosis=(found,)))
        assert found.title in text
        assert found.evidence in text
        assert report.MEANING[Verdict.WRONG] not in text

    def test_a_pass_is_a_table_and_the_closing_line(self):
        text = report.text(RIGHT)
        assert re.search(r"PASS +symmetry +float32 +eager +700 +680 +20 +0.19", text)
        assert report.MEANING[Verdict.WARN] in text
        assert "five times the reference's error" in text
        assert text.endswith(
            "2 checks, 1,400 cases, 1,352 certified, 48 inconclusive, 0 failed, worst error/allowed 0.19"
        )

    def test_a_report_prints_itself(self):
        assert str(RIGHT) == report.text(RIGHT)
        part = CheckResult("sampler", "float64", "eager", Verdict.PASS, 3, 3, message="36,864 entries of noise")
        step = Report("sampler a:b", "torch", "-", "sampler(mu=mu)", (part,))
        assert str(step) == report.step_text(step)

    def test_the_worst_of_the_summary_is_in_the_table(self):
        of_exp = CheckResult("primitives", "float32", "eager", Verdict.PASS, worst=0.9)
        text = report.text(dataclasses.replace(RIGHT, results=(of_exp, *PASSED)))
        assert text.endswith("0.19")

    def test_nothing_certified_is_not_said_to_be_for_the_allowance(self):
        alone = CheckResult("cyclic-shift", "float64", "eager", Verdict.INCONCLUSIVE, 1, 0, 1, message="one sample")
        text = report.text(dataclasses.replace(RIGHT, results=(alone,)))
        assert "the reason stands beside each check" in text
        assert "cyclic-shift (float64, eager): one sample" in text
        assert "allowance" not in text

    def test_nothing_run(self):
        assert "no check was run" in report.text(Report(*ABOUT, ()))

    def test_every_verdict_has_a_meaning_of_one_sentence(self):
        assert set(report.MEANING) == set(Verdict)
        assert all(text.endswith(".") and text.count(". ") == 0 for text in report.MEANING.values())

    def test_the_worst_is_explained(self):
        assert report.worst_result(WRONG) == 0
        assert report.worst_result(RIGHT) is None
        twice = dataclasses.replace(RESULTS[0], counterexample=None)
        assert report.worst_result(dataclasses.replace(WRONG, results=(twice, RESULTS[0], RESULTS[0]))) == 1

    @given(REPORTS)
    @settings(max_examples=60)
    def test_any_report_is_written_without_control_characters(self, anything):
        lines = report.text(anything, dict.fromkeys(range(3), "0123456789")).split("\n")
        assert all(line.isprintable() for line in lines)

    @pytest.mark.parametrize("verdict", Verdict)
    def test_any_verdict_alone(self, verdict):
        result = CheckResult("values", "float64", "eager", verdict, 10, 5, 5, 0.5)
        text = report.text(Report(*ABOUT, (result,)))
        assert str(verdict) in text
        assert report.MEANING[verdict] in text or verdict is Verdict.PASS
        assert "1 check, 10 cases, 5 certified, 5 inconclusive, 0 failed" in text

    def test_the_counts_add_up(self):
        failing = CheckResult("values", "float64", "eager", Verdict.ERROR, 3, 1, 1)
        assert "1 check, 3 cases, 1 certified, 1 inconclusive, 1 failed" in report.text(Report(*ABOUT, (failing,)))


class TestNumbers:
    @pytest.mark.parametrize(
        ("lower", "upper", "got", "text"),
        [
            (-0.123456789012345, -0.123456789012343, -0.8312345, "-0.123457 .. -0.123456"),
            (1.2345678901234567, 1.2345678901234571, 1.2345678901234563, "1.2345678901234566 .. 1.2345678901234572"),
            (0.0, 0.0, 1.0, "0.0"),
            (5e-324, 1e-323, 1.0, "(4.94065 .. 9.88132)e-324"),
            (-1.0, 1.0, 3.0, "-1.00000 .. 1.00000"),
            (math.nan, 1.0, 3.0, "nan .. 1.0"),
            (-math.inf, math.inf, 3.0, "-inf .. inf"),
        ],
    )
    def test_enclosures(self, lower, upper, got, text):
        assert report.interval(lower, upper, got) == text

    @given(st.tuples(FLOATS, FLOATS, FLOATS).filter(lambda t: t[0] <= t[1]))
    def test_printed_enclosures_hold_the_true_ones_and_exclude_what_lies_outside(self, numbers):
        lower, upper, got = numbers
        text = report.interval(lower, upper, got)
        if ".." not in text or not (math.isfinite(lower) and math.isfinite(upper)):
            return
        match = re.fullmatch(r"(\()?(\S+) \.\. ([^\s)]+)(?:\)(e\S+))?", text)
        low, high, exponent = match[2], match[3], match[4] or ""
        from decimal import Decimal

        low, high = Decimal(low + exponent), Decimal(high + exponent)
        assert low <= Decimal(lower)
        assert high >= Decimal(upper)
        clear = 1e-14 * max(abs(lower), abs(upper))
        if math.isfinite(got) and (got < lower - clear or got > upper + clear):
            assert not low <= Decimal(got) <= high

    def test_names_of_elements(self):
        names = [report.element_name(element) for element in ELEMENTS]
        assert names == ["tc", "log_qz[2]", "d tc / d mu[0, 1]", "dwkl", "d mi / d z[1, 1]"]

    def test_got_is_as_short_as_its_dtype_allows(self):
        element = Element("tc", "", (), float(np.float32(0.1)), 0.2, 0.3, 0.1, 1e-8)
        assert "0.1 " in report.element_table([element], "float32")[1]
        assert "0.10000000149011612" in report.element_table([element], "float64")[1]


class TestPaste:
    @given(CASES)
    def test_inputs_come_back_bit_for_bit(self, case):
        scope = pasted("\n".join(snippet.given(case)))
        for name, array in {**case.arrays, **case.constants}.items():
            assert bits(scope[name]) == bits(array), name

    @pytest.mark.parametrize("shape", [(1, 1), (12, 6), (3, 64), (5, 1)])
    def test_lines_stay_within_the_width(self, shape):
        array = np.random.default_rng(0).standard_normal(shape) * 1e-200
        case = Case(array, array, array, 100)
        assert max(map(len, snippet.given(case))) <= report.WIDTH
        assert bits(pasted("\n".join(snippet.given(case)))["z"]) == bits(array)

    @pytest.mark.parametrize("place", [None, "elsewhere"])
    def test_a_large_case_is_read_from_its_file(self, tmp_path, monkeypatch, place):
        monkeypatch.chdir(tmp_path)
        folder = Path(place) if place else records.FOLDER
        array = np.random.default_rng(0).standard_normal((12, 64))
        large = dataclasses.replace(EXAMPLE, case=Case(array, array + 1, array + 2, 100))
        made = dataclasses.replace(WRONG, results=(dataclasses.replace(RESULTS[0], counterexample=large),))
        lines = snippet.given(large.case, records.save(made, folder)[0], folder)
        assert len(lines) < 10
        assert bits(pasted("\n".join(lines))["log_var"]) == bits(array + 2)
        assert "not saved" in "\n".join(snippet.given(large.case))

    @pytest.mark.parametrize("width", PARAMETERISATIONS)
    @pytest.mark.parametrize(
        ("estimator", "quantity", "argument"),
        [
            *(("mws", "tc", ""), ("mss", "penalty", ""), ("symmetric-mss", "log_qz", "")),
            *(("minibatch", "log_qz_marginals", ""), ("mws", "dwkl", "width"), ("mss", "penalty", "width")),
            *(("mws", "kl_penalty", ""), ("mws", "kl_penalty", "width"), ("mss", "mi", "")),
            *(("symmetric-mss", "log_qz", "width"), ("symmetric-mss", "log_qz_marginals", "width")),
        ],
    )
    def test_the_snippet_runs(self, tmp_path, monkeypatch, capsys, width, estimator, quantity, argument):
        (tmp_path / "loss.py").write_text(f"def fn(latent, both, N, eps):\n    return {width!r}, N, eps, both.shape\n")
        monkeypatch.chdir(tmp_path)
        case = CASE._replace(spread=np.full((3, 2), 0.5), parameterisation=width)
        element = Element(quantity, width if argument else "", (0, 0), 1.0, 2.0, 2.0, 1.0, 1e-9)
        result = dataclasses.replace(RESULTS[0], counterexample=Counterexample(case, (element,)), dtype="float32")
        mapping = f"fn(z, both=stack(mu, {width}), N=dataset_size, eps=1e-08) -> tc (by hand)"
        made = Report("loss.py:fn", "numpy", estimator, mapping, (result,))
        assert max(map(len, report.text(made).splitlines())) <= report.WIDTH
        pasted(report.text(made))
        shown = capsys.readouterr().out
        assert f"got ({width!r}, 7, 1e-08, (3, 2, 2))" in shown
        assert f"true {'d ' if argument else ''}{quantity}" in shown

    def test_the_snippet_makes_an_instance(self, tmp_path, monkeypatch, capsys):
        code = "class Loss:\n    def __init__(self, size): self.size = size\n    def fn(self, z): return self.size\n"
        (tmp_path / "loss.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        options = {"factory": "loss.py:Loss", "init": {"size": "s"}}
        made = Report("loss.py:Loss.fn", "numpy", "mws", "Loss.fn(z) -> tc", (RESULTS[0],), options=options)
        pasted(report.text(made))
        assert "got s\n" in capsys.readouterr().out

    @pytest.mark.parametrize("mapping", ["", "f(", "f(z, mu, unknown)", "f(g(z))", "'\0'", "f(z) or f(mu)"])
    def test_no_call_is_made_up(self, mapping):
        made = dataclasses.replace(WRONG, mapping=mapping)
        lines = snippet.reproduction(made, RESULTS[0], "0123456789")
        assert not [line for line in lines if "'got'" in line]
        assert "replay 0123456789" in lines[-1]


# --- JSON and JUnit ----------------------------------------------------------------------------------------


class TestJson:
    @given(REPORTS)
    @settings(max_examples=60)
    def test_there_and_back_bit_for_bit_through_strict_json(self, made):
        text = json.dumps(machine_report.to_json(made), allow_nan=False)
        assert bits(machine_report.from_json(json.loads(text))) == bits(made)

    def test_fields(self):
        content = machine_report.to_json(WRONG)
        assert content["schema_version"] == 1
        assert (content["verdict"], content["exit_status"]) == ("WRONG", 1)
        assert content["counts"] == {"checks": 6, "cases": 1700, "certified": 1532, "inconclusive": 168, "failed": 0}
        assert [one["verdict"] for one in content["checks"]] == [str(r.verdict) for r in RESULTS]
        (case,) = content["cases"]
        assert case["id"] == records.record(WRONG, RESULTS[0]).id
        assert case["inputs"]["arrays"]["z"]["hex"][1] == ["0x1.4000000000000p+0", "0x1.999999999999ap-4"]
        assert case["inputs"]["arrays"]["z"]["values"][1] == [1.25, 0.1]
        assert [e["got"] for e in case["elements"]][2:4] == ["nan", "inf"]
        assert content["not_run"] == [{"check": "penalty", "reason": "the target returns no penalty"}]

    def test_options_that_json_lacks(self):
        odd = {"dtypes": ("float64",), "bind": {"x": np.float32(0.5), "n": np.int64(3), "i": math.inf, "f": {1}}}
        content = machine_report.to_json(dataclasses.replace(RIGHT, options=odd))
        assert content["options"] == {"dtypes": ["float64"], "bind": {"x": 0.5, "n": 3, "i": "inf", "f": "{1}"}}

    @pytest.mark.parametrize("spoil", ["schema_version", "checks", "cases", "target", "seed", "options"])
    def test_damage_is_told(self, spoil):
        content = machine_report.to_json(WRONG)
        for value in (None, 17.5, [[]]):
            with pytest.raises(InputError, match="report: "):
                machine_report.from_json({**content, spoil: value})
        del content[spoil]
        with pytest.raises(InputError, match="report: "):
            machine_report.from_json(content)


class TestJunit:
    def test_the_shape_that_servers_read(self):
        root = ElementTree.fromstring(machine_report.to_junit(WRONG, {0: "0123456789"}))
        assert root.tag == "testsuites"
        suites = {suite.get("name"): suite for suite in root}
        assert list(suites) == ["tcvae-ref torch float64", "tcvae-ref torch float32", "tcvae-ref torch not run"]
        float32 = suites["tcvae-ref torch float32"]
        assert [float32.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "1"]
        failure = suites["tcvae-ref torch float64"].find("testcase/failure")
        assert failure.get("type") == "WRONG"
        assert "tcvae-ref replay 0123456789" in failure.text
        assert "-0.123457 .. -0.123456" in failure.text
        error = float32.find("testcase/error")
        assert error.get("message") == r"raised ValueError: \x1b[31mno\x00"
        assert float32.find("testcase/skipped").get("message") == "no case"
        skipped = suites["tcvae-ref torch not run"].find("testcase/skipped")
        assert skipped.get("message") == "the target returns no penalty"
        assert float32.find("testcase/system-out").text == "WARN: five times the reference's error"

    @given(REPORTS)
    @settings(max_examples=60)
    def test_any_report_parses_and_counts(self, made):
        root = ElementTree.fromstring(machine_report.to_junit(made))
        assert len(root.findall("testsuite/testcase")) == len(made.results) + len(made.not_run)
        failing = [r for r in made.results if r.verdict in FAILURES]
        assert sum(int(suite.get("failures")) + int(suite.get("errors")) for suite in root) == len(failing)


# --- saved cases -------------------------------------------------------------------------------------------


class TestRecords:
    @given(REPORTS)
    @settings(max_examples=40)
    def test_there_and_back_bit_for_bit(self, tmp_path_factory, made):
        folder = tmp_path_factory.mktemp("cases") / "a" / "b"
        saved = records.save(made, folder)
        assert set(saved) == {i for i, r in enumerate(made.results) if r.counterexample is not None}
        for index, name in saved.items():
            kept, result = records.load(name, folder), made.results[index]
            assert bits(kept.case) == bits(result.counterexample.case)
            if list(saved.values()).count(name) == 1:
                assert bits(kept) == bits(records.record(made, result))

    def test_subnormals_and_negative_zero(self, tmp_path):
        kept = records.load(records.save(WRONG, tmp_path)[0], tmp_path)
        assert kept.case.spread[2, 1] == 5e-324
        assert math.copysign(1, kept.case.z[2, 0]) == -1
        assert (kept.target, kept.check, kept.seed, kept.options) == (WRONG.target, "values", 3, {"seed": 3})

    def test_ids_depend_on_the_call_and_nothing_else(self):
        name = records.record(WRONG, RESULTS[0]).id
        assert re.fullmatch("[0-9a-f]{10}", name)
        assert name == "c0e4940ca4"
        assert records.record(dataclasses.replace(WRONG, seed=9), RESULTS[0]).id == name
        moved = dataclasses.replace(EXAMPLE, case=CASE._replace(z=np.abs(Z)))  # 0.0 in place of -0.0 as well
        others = [
            records.record(dataclasses.replace(WRONG, target="a:b"), RESULTS[0]).id,
            records.record(WRONG, dataclasses.replace(RESULTS[0], dtype="float32")).id,
            records.record(WRONG, dataclasses.replace(RESULTS[0], counterexample=moved)).id,
        ]
        assert len({name, *others}) == 4
        with pytest.raises(InputError, match="has no counterexample"):
            records.record(WRONG, RESULTS[1])

    def test_nothing_failing_makes_no_folder(self, tmp_path):
        assert records.save(RIGHT, tmp_path / "cases") == {}
        assert not (tmp_path / "cases").exists()
        assert records.list_ids(tmp_path / "cases") == []

    def test_found_by_how_it_begins(self, tmp_path):
        name = records.save(WRONG, tmp_path)[0]
        assert records.list_ids(tmp_path) == [name]
        assert records.load(name[:4], tmp_path).id == name
        (tmp_path / f"{name[:4]}ffffff.json").write_text("{}")
        with pytest.raises(InputError, match="begins 2 ids"):
            records.load(name[:4], tmp_path)
        with pytest.raises(InputError, match=r"no case .* in .*; `tcvae-ref replay` lists the 2 there"):
            records.load(f"x{name[1:]}", tmp_path)
        with pytest.raises(InputError, match="no case ''"):
            records.load("", tmp_path)
        with pytest.raises(InputError, match="no cases in"):
            records.load(name, tmp_path / "missing")

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', "\0\0", "[" * 100_000])
    def test_damaged_files(self, tmp_path, content):
        name = records.save(WRONG, tmp_path)[0]
        (tmp_path / f"{name}.json").write_text(content)
        with pytest.raises(InputError, match=name):
            records.load(name, tmp_path)

    @pytest.mark.parametrize("key", ["inputs", "verdict", "elements", "seed", "target", "options", "id", "allowance"])
    @pytest.mark.parametrize("value", [None, 3.5, "0x", [[3]]])
    def test_damaged_entries(self, tmp_path, key, value):
        name = records.save(WRONG, tmp_path)[0]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        with pytest.raises(InputError, match=name):
            records.load(name, tmp_path)

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("arguments", 3),
            ("arguments", {"z": 1}),
            ("bind", [1]),
            ("returns", [1]),
            ("weights", "x"),
            ("packed", [[1]]),
        ],
    )
    def test_options_of_another_kind(self, tmp_path, option, value):
        name = records.save(WRONG, tmp_path)[0]
        path = tmp_path / f"{name}.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"options": content["options"] | {option: value}}))
        with pytest.raises(InputError, match=f"is damaged .its option {option} is"):
            records.load(name, tmp_path)

    @pytest.mark.parametrize("changed", [{"dataset_size": 0}, {"beta": "inf"}, {"shape": [0, 2], "hex": []}])
    def test_inputs_that_are_no_case(self, tmp_path, changed):
        name = records.save(WRONG, tmp_path)[0]
        path = tmp_path / f"{name}.json"
        content = json.loads(path.read_text())
        inputs = content["inputs"]
        (inputs["arrays"]["mu"] if "shape" in changed else inputs).update(changed)
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match="is damaged"):
            records.load(name, tmp_path)

    @pytest.mark.parametrize("name", ["check", "estimator"])
    def test_a_check_or_an_estimator_that_is_not_there(self, tmp_path, name):
        from tcvae_ref.oracle.checking import replay_case  # a test below puts another module in its place

        kept = dataclasses.replace(records.load(records.save(WRONG, tmp_path)[0], tmp_path), **{name: "x"})
        with pytest.raises(InputError, match=f"{name}='x' is unknown"):
            replay_case(kept)

    def test_inputs_changed_by_hand(self, tmp_path):
        name = records.save(WRONG, tmp_path)[0]
        path = tmp_path / f"{name}.json"
        path.write_text(path.read_text().replace("0x1.4000000000000p+0", "0x1.5000000000000p+0"))
        with pytest.raises(InputError, match="changed by hand"):
            records.load(name, tmp_path)

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "cases").write_text("")
        with pytest.raises(InputError, match="is not a folder"):
            records.save(WRONG, tmp_path / "cases")


# --- a process of its own ----------------------------------------------------------------------------------

ENTRIES = """
import ctypes, os, subprocess, sys, time
from tcvae_ref.checks import InputError
from tcvae_ref.oracle.types import *

def report(target, progress, **options):
    print("to nobody's JSON", flush=True)
    os.write(1, b"nor this")
    progress(1, 2, "values (float64, eager)")
    result = CheckResult("values", "float64", "eager", Verdict.PASS, 10, 10)
    return Report(target, "numpy", "mws", "", (result,), options=options)

def hang(target, progress, pid_file=None):
    progress(1, 2, "values (float64, eager)")
    if pid_file:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(pid_file, "w").write(str(child.pid))
    time.sleep(600)

def hang_at_once(target, progress):
    time.sleep(600)

def slow(target, progress):
    for i in range(8):
        time.sleep(0.5)
        progress(i, 8, f"check {i}")
    return report(target, progress)

def leave(target, progress):
    progress(1, 2, "gradients (float32, compiled)")
    os._exit(3)

def exit(target, progress):
    progress(1, 2, "primitives (float64)")
    sys.exit(0)

def crash(target, progress):
    progress(1, 2, "values (float64, eager)")
    ctypes.string_at(0)

def refuse(target, progress):
    raise InputError("fn: no such thing")

def fail(target, progress):
    raise RuntimeError("a mistake of ours")

def close_the_pipe(target, progress):
    os.closerange(3, 64)
    time.sleep(600)
"""


class TestIsolation:
    @pytest.fixture
    def entry(self, tmp_path, monkeypatch):
        (tmp_path / "isolated_entries.py").write_text(ENTRIES)
        monkeypatch.syspath_prepend(tmp_path)
        return "isolated_entries:{}".format

    def test_the_report_comes_back_and_prints_stay_out(self, entry, capfd):
        heard = []
        made = run_isolated("a:b", {"seed": 3}, 60, lambda *words: heard.append(words), entry("report"))
        assert (made.verdict, made.target, made.options) == (Verdict.PASS, "a:b", {"seed": 3})
        assert heard == [(1, 2, "values (float64, eager)")]
        out, err = capfd.readouterr()
        assert out == ""
        assert "to nobody's JSON" in err

    @pytest.mark.parametrize(
        ("name", "where", "message"),
        [
            ("hang", ("values", "float64", "eager"), "no answer within 3 s while running values (float64, eager)"),
            ("hang_at_once", ("start", "-", "-"), "no answer within 3 s before the first check ran"),
            ("close_the_pipe", ("start", "-", "-"), "no answer within 3 s before the first check ran"),
            (
                "leave",
                ("gradients", "float32", "compiled"),
                "the process exited with status 3 while running gradients (float32, compiled)",
            ),
            ("exit", ("primitives", "float64", "-"), "exited with status 0 while running primitives (float64)"),
            (
                "crash",
                ("values", "float64", "eager"),
                "the process was ended by SIGSEGV while running values (float64, eager)",
            ),
            ("fail", ("start", "-", "-"), "the check itself raised RuntimeError: a mistake of ours before"),
        ],
    )
    def test_faults(self, entry, name, where, message):
        limit = 3.0
        made = run_isolated("a:b", {}, limit, entry=entry(name))
        (result,) = made.results
        assert (result.check, result.dtype, result.variant) == where
        assert message in result.message
        assert (result.verdict, made.exit_status) == (Verdict.ERROR, 1)
        assert message.split(" while ")[0] in report.text(made)

    def test_what_it_started_ends_with_it(self, entry, tmp_path):
        run_isolated("a:b", {"pid_file": str(tmp_path / "pid")}, 3.0, entry=entry("hang"))
        state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
        assert not state.exists() or state.read_text().split()[2] in "ZX"

    def test_slow_is_not_silent(self, entry):
        assert run_isolated("a:b", {}, 3.0, entry=entry("slow")).verdict is Verdict.PASS

    def test_usage_errors_are_the_parents(self, entry):
        with pytest.raises(InputError, match="fn: no such thing"):
            run_isolated("a:b", {}, entry=entry("refuse"))
        for limit in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(InputError, match="time_limit"):
                run_isolated("a:b", {}, limit, entry=entry("report"))

    def test_no_pipe_is_left_open(self, entry):
        before = len(os.listdir("/proc/self/fd"))
        for name in ("report", "leave"):
            run_isolated("a:b", {}, entry=entry(name))
        assert len(os.listdir("/proc/self/fd")) == before


# --- command line ------------------------------------------------------------------------------------------


@pytest.fixture
def checking(monkeypatch, tmp_path):
    """A stand-in for the runner; `returns` is what it answers, `calls` what it was asked."""
    module = types.ModuleType("tcvae_ref.oracle.checking")
    module.CHECKS = {"values": "values within the allowance", "gradients": "gradients within the allowance"}
    module.calls, module.returns = [], WRONG

    def check(target, **options):
        print("printed by the target")
        module.calls.append((target, options))
        return module.returns

    def replay_case(record, target=None):
        module.calls.append((record, target))
        return module.returns

    module.check, module.replay_case = check, replay_case
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("tcvae_ref.oracle.checking", module, raising=False)
    monkeypatch.chdir(tmp_path)
    return module


def run(*arguments):
    return cli.main([str(a) for a in arguments])


class TestCheck:
    def test_a_failure_is_told_and_saved(self, checking, capsys):
        assert run("check", "losses/vae.py:tc_loss") == 1
        (name,) = records.list_ids()
        out, err = capsys.readouterr()
        assert f"tcvae-ref replay {name}" in out
        assert "printed by the target" in err
        (call,) = checking.calls
        assert call[0] == "losses/vae.py:tc_loss"
        assert call[1] | {"progress": None} == {
            **{"max_examples": 200, "seed": 0, "gradients": True, "allow_unstable": False, "progress": None}
        }

    def test_options_arrive(self, checking):
        words = "--estimator mss --framework torch --dtype float64,bfloat16 --dtype float32 --variant eager --seed 5"
        words += " --max-examples 7 --checks values,gradients --args z=latent,mu=mean --width log-std --returns mi,tc"
        words += " --weights alpha=1,beta=6.5 --bind eps=1e-8 --bind mode='\"a\"' --no-gradients --allow-unstable"
        words += " --packed p:mu,std --factory m:make --init size=3"
        assert run("check", "a:b", *words.replace("'", "").split(), "--no-save") == 1
        assert checking.calls[0][1] | {"progress": None} == {
            "estimator": "mss",
            "framework": "torch",
            "dtypes": ("float64", "bfloat16", "float32"),
            "variants": ("eager",),
            "seed": 5,
            "max_examples": 7,
            "checks": ("values", "gradients"),
            "arguments": {"z": "latent", "mu": "mean"},
            "parameterisation": "log_std",
            "returns": "mi,tc",
            "weights": {"alpha": 1.0, "beta": 6.5},
            "bind": {"eps": 1e-8, "mode": "a"},
            "packed": "p:mu,std",
            "factory": "m:make",
            "init": {"size": 3},
            "gradients": False,
            "allow_unstable": True,
            "progress": None,
        }
        assert not records.FOLDER.exists()

    def test_exit_status_is_the_reports(self, checking, capsys):
        checking.returns = RIGHT
        assert run("check", "a:b", "--quiet") == 0
        assert capsys.readouterr().out.startswith("WARN  losses/vae.py:tc_loss: 2 checks, 1,400 cases")
        checking.returns = dataclasses.replace(WRONG, results=RESULTS[3:4])
        assert run("check", "a:b") == 3

    def test_machine_output(self, checking, capsys, tmp_path):
        assert run("check", "a:b", "--json", "-", "--junit", "junit.xml", "--cases", "kept") == 1
        content = json.loads(capsys.readouterr().out)
        assert content == machine_report.to_json(WRONG)
        assert records.list_ids(Path("kept")) == [content["cases"][0]["id"]]
        assert f"replay {content['cases'][0]['id']} --cases kept" in Path("junit.xml").read_text()
        assert run("check", "a:b", "--json", "out.json", "--no-save") == 1
        assert json.loads(Path("out.json").read_text()) == content
        assert "Given:" in capsys.readouterr().out

    def test_isolated(self, checking, monkeypatch, capsys):
        asked = []
        monkeypatch.setattr("tcvae_ref.oracle.isolation.run_isolated", lambda *a: asked.append(a) or RIGHT)
        assert run("check", "a:b", "--isolate", "--seed", 4) == 0
        assert run("check", "a:b", "--isolate", "--time-limit", 5) == 0
        assert [call[2] for call in asked] == [60.0, 5.0]
        assert asked[0][0] == "a:b"
        json.dumps(asked[0][1])
        assert "time_limit" not in asked[1][1]
        assert not checking.calls

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--estimator", "msw"], "did you mean 'mws'"),
            (["--dtype", "float46"], "did you mean 'float64'"),
            (["--checks", "value"], "did you mean 'values'"),
            (["--width", "logvar"], "did you mean 'log-var'"),
            (["--max-examples", "0"], "must be at least 1"),
            (["--seed", "-1"], "must be at least 0"),
            (["--time-limit", "5"], "add --isolate"),
            (["--isolate", "--time-limit", "0"], "above 0"),
            (["--isolate", "--time-limit", "nan"], "above 0"),
            (["--args", "z"], "'z'"),
            (["--weights", "beta=six"], "is not a number"),
            (["--weights", "bet=6"], "did you mean 'beta'"),
            (["--weights", "beta=inf"], "must be finite"),
            (["--bind", "=3"], "=3"),
            (["--json", "missing/out.json"], "No such file"),
            (["--json", "."], "is not a file"),
            (["--junit", "missing/out.xml"], "No such file"),
            (["--junit", "-"], "give the name of a file"),
            (["--html", "-"], "give the name of a file"),
            (["--html", "a", "--junit", "./a"], "give two names"),
            (["--json", "a", "--junit", "./a"], "give two names"),
            (["--cases", "file"], "is not a folder"),
        ],
    )
    def test_usage_errors_before_the_work(self, checking, capsys, options, message):
        Path("file").write_text("")
        assert run("check", "a:b", *options) == 2
        assert message in capsys.readouterr().err
        assert not checking.calls

    @pytest.mark.parametrize("options", [["--dtype", ","], ["--json", " "], ["--max-examples", "x"], ["--other"], []])
    def test_usage_errors_of_the_parser(self, checking, options):
        with pytest.raises(SystemExit) as stop:
            run("check", *(["a:b"] if options else []), *options)
        assert stop.value.code == 2

    @pytest.mark.parametrize(("module", "package"), [("hypothesis", "hypothesis"), ("flint", "python-flint")])
    @pytest.mark.parametrize("command", [["check", "a:b"], ["list-checks"]])
    def test_what_is_missing_is_named(self, checking, monkeypatch, capsys, module, package, command):
        find = importlib_find_spec_without(module)
        monkeypatch.setattr("importlib.util.find_spec", find)
        assert run(*command) == 2
        assert f"{package} is not installed; pip install 'tcvae-ref[oracle]'" in capsys.readouterr().err


def importlib_find_spec_without(module):
    import importlib.util

    find = importlib.util.find_spec
    return lambda name, *rest: None if name == module else find(name, *rest)


class TestReplay:
    @pytest.mark.parametrize(
        ("verdict", "word", "status"),
        [
            (Verdict.PASS, "FIXED", 0),
            (Verdict.WARN, "FIXED", 0),
            (Verdict.WRONG, "FAILED", 1),
            (Verdict.UNSTABLE, "FAILED", 1),
            (Verdict.ERROR, "ERROR", 1),
            (Verdict.INCONCLUSIVE, "INCONCLUSIVE", 3),
        ],
    )
    def test_outcomes(self, checking, capsys, verdict, word, status):
        name = records.save(WRONG)[0]
        checking.returns = dataclasses.replace(RESULTS[0], verdict=verdict)
        assert run("replay", name[:5], "--target", "c:d") == status
        out = capsys.readouterr().out
        assert out.startswith(f"{word}  {name}: values (float64, eager) of c:d, WRONG when it was saved")
        assert ("-0.123457 .. -0.123456" in out) == (word != "FIXED")
        assert checking.calls[0][0].id == name
        assert checking.calls[0][1] == "c:d"

    def test_usage_errors(self, checking, capsys):
        assert run("replay", "0123") == 2
        assert "no cases in" in capsys.readouterr().err
        records.save(WRONG)
        assert run("replay", "zzz") == 2
        assert "`tcvae-ref replay` lists the 1 there" in capsys.readouterr().err


class TestProbe:
    @pytest.fixture(autouse=True)
    def framework(self, monkeypatch):
        fake = types.SimpleNamespace(name="numpy", dtypes=("float64", "float32"), version=lambda: "2.0")
        errors = {"float64": Primitives(1.2, 0.9), "float32": Primitives(5e8, 1.0)}
        monkeypatch.setattr(adapters, "by_name", lambda name: fake)
        monkeypatch.setattr(primitives, "probe", lambda adapter, dtype: errors[dtype])

    def test_a_table_and_a_verdict(self, capsys):
        assert run("probe", "--framework", "numpy", "--dtype", "float64") == 0
        assert re.search(r"float64 +1.2 +0.9 +PASS", capsys.readouterr().out)
        assert run("probe", "--framework", "numpy") == 1
        assert re.search(r"float32 +5e\+08 +1 +PRIMITIVE", capsys.readouterr().out)

    def test_usage_errors(self, capsys):
        assert run("probe", "--framework", "numpy", "--dtype", "bfloat16") == 2
        assert "did you mean" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            run("probe")


class TestGhostwriteAndList:
    @pytest.fixture
    def ghostwrite(self, monkeypatch, tmp_path):
        module = types.ModuleType("tcvae_ref.oracle.ghostwrite")
        module.ghostwrite = lambda target, **options: f"{target} {options}\n"
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.chdir(tmp_path)

    @pytest.mark.usefixtures("ghostwrite")
    def test_to_standard_output_or_a_new_file(self, capsys):
        assert run("ghostwrite", "a:b", "--width", "std") == 0
        assert capsys.readouterr().out == "a:b {'folder': None, 'parameterisation': 'std'}\n"
        assert run("ghostwrite", "a:b", "--out", "test_a.py") == 0
        before = Path("test_a.py").read_text()
        assert before.startswith("a:b")
        assert run("ghostwrite", "a:c", "--out", "test_a.py") == 2
        assert Path("test_a.py").read_text() == before
        assert run("ghostwrite", "a:c", "--out", "missing/test_a.py") == 2

    def test_checks_are_listed(self, checking, capsys):
        assert run("list-checks") == 0
        assert capsys.readouterr().out.splitlines() == [
            "values     values within the allowance",
            "gradients  gradients within the allowance",
        ]
