"""The test vectors: shipped bytes, certified numbers, planted damage, and readers in other languages."""

import contextlib
import copy
import io
import json
import math
import os
import re
import shutil
import subprocess
from fractions import Fraction

import naive
import numpy as np
import pytest
import truth as other

from tcvae_ref import cli
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import truth as truth_module
from tcvae_ref.oracle import vector_cases, vector_content, vectors
from tcvae_ref.oracle.tolerance import log_variances
from tcvae_ref.oracle.types import ESTIMATORS, PARAMETERISATIONS, QUANTITIES

PAGE = (vectors.FOLDER / "README.md").read_text()
BREAKING = "a changed number is a breaking change: every implementation held to these files may fail on it"


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def block(language):
    return dict(re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))[language]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "vectors"
    return folder, vectors.write(folder)


@pytest.fixture
def copied(tmp_path):
    """The shipped files, that a test may spoil."""
    for estimator in ESTIMATORS:
        shutil.copy(vectors.path_of(estimator), tmp_path)
    return tmp_path


# --- what is shipped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_written_bytes_are_the_shipped_ones(written, estimator):
    folder, paths = written
    assert vectors.path_of(estimator, folder) in paths
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{e}.json" for e in ESTIMATORS)
    same = vectors.path_of(estimator, folder).read_bytes() == vectors.path_of(estimator).read_bytes()
    assert same, f"{estimator}.json as written is not as shipped; {BREAKING}"


def test_verify_finds_them_as_certified():
    said = []
    counted = vectors.verify(progress=lambda *args: said.append(args))
    assert counted == (89, 14374), BREAKING
    assert said[-1] == (89, 89, "exact")


def test_the_files_are_small_and_plain():
    paths = [vectors.path_of(estimator) for estimator in ESTIMATORS]
    assert sum(path.stat().st_size for path in paths) < 1_500_000
    for path in paths:
        text = path.read_text(encoding="ascii")
        assert "NaN" not in text
        assert "Infinity" not in text
        assert "-0.0," not in text


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_cases_are_of_every_kind(estimator):
    loaded = vectors.load(estimator)
    assert tuple(v.name for v in loaded) == vector_cases.names(estimator)
    assert {v.case.parameterisation for v in loaded} == set(PARAMETERISATIONS)
    assert max(v.case.z.shape[1] for v in loaded) == 64
    assert {v.case.z.shape for v in loaded} >= {(2, 1), (2, 2)}
    N = max(v.case.dataset_size for v in loaded)
    assert (N - 17 if estimator == "exact" else N - 2**40) == 0
    assert any(v.values["tc"].upper < -1 for v in loaded)
    for v in loaded:
        assert tuple(v.values) == QUANTITIES
        few, many = v.case.z.size <= vector_content.FEW, v.case.z.size <= vector_content.MANY
        assert tuple(sorted(v.gradients)) == (tuple(sorted(QUANTITIES)) if few else ("penalty",) if many else ())


# --- the numbers -------------------------------------------------------------------------------------------


def nearly(bounds, got, scale):
    """Require that values are the certified ones to some digits of what was added up."""
    assert (bounds.distance(np.array(got)) <= 1e-12 * np.maximum(scale, 1.0)).all(), (bounds, got)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_naive_twin_agrees(estimator):
    name = estimator.replace("-", "_")
    for v in vectors.load(estimator):
        case, log_var = v.case, log_variances(v.case)
        arguments = (name, case.z.tolist(), case.mu.tolist(), log_var.tolist(), case.dataset_size)
        joint, marginals = naive.log_qz(*arguments)
        nearly(v.values["log_qz"], joint, np.abs(joint))
        nearly(v.values["log_qz_marginals"], marginals, np.abs(marginals))
        mi, tc, dwkl = naive.kl_terms(*arguments)
        own = (case.z - case.mu) ** 2 * np.exp(-log_var)
        size = np.mean(np.sum(own + np.abs(log_var) + np.abs(marginals) + case.z**2 + 2, axis=1) + np.abs(joint))
        for quantity, got in (("mi", mi), ("tc", tc), ("dwkl", dwkl)):
            nearly(v.values[quantity], got, size)
        nearly(v.values["penalty"], case.alpha * mi + case.beta * tc + case.gamma * dwkl, 12 * size)
        kl = math.fsum(naive.kl_to_standard_normal(case.mu.tolist(), log_var.tolist())) / len(case.z)
        size = size + np.mean(np.sum(case.mu**2 + np.exp(log_var), axis=1))
        nearly(v.values["kl_penalty"], kl + (case.beta - 1) * tc, 10 * size)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_enclosures_written_apart_agree(estimator):
    """tests/truth.py shares nothing with the oracle's truth."""
    for v in vectors.load(estimator):
        case = v.case
        if case.parameterisation != "log_var" or case.z.size > vector_content.FEW:
            continue
        theirs = other.truth(estimator.replace("-", "_"), case.z, case.mu, case.spread, case.dataset_size)
        for quantity, rounded in (("log_qz", theirs.joint), ("log_qz_marginals", theirs.marginals)):
            assert (v.values[quantity].distance(rounded) <= np.spacing(np.abs(rounded))).all(), v.name
        for argument, gradient in theirs.gradients.items():
            both = [v.gradients[q][argument] for q in ("log_qz", "log_qz_marginals")]
            lower, upper = sum(bounds.lower for bounds in both), sum(bounds.upper for bounds in both)
            rounding = 4e-16 * np.max(theirs.gradient_scales[argument])
            assert (lower - rounding <= gradient).all(), v.name
            assert (gradient <= upper + rounding).all(), v.name


def test_the_first_case_by_hand():
    first = vectors.load("mws")[0]
    joint = math.log((1 + math.exp(-0.5)) / 20) - 0.5 * math.log(2 * math.pi)
    assert first.values["log_qz"].lower == pytest.approx([joint, joint], rel=1e-15)
    assert first.values["tc"].lower <= 0 <= first.values["tc"].upper
    assert first.values["penalty"].lower < 0.25 < first.values["penalty"].upper


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ends_are_as_close_as_they_can_be(estimator):
    for v in vectors.load(estimator):
        for bounds in (*v.values.values(), *(b for one in v.gradients.values() for b in one.values())):
            assert (bounds.lower < bounds.upper).all()
            twice = np.nextafter(np.nextafter(bounds.lower, np.inf), np.inf)
            small = np.maximum(-bounds.lower, bounds.upper) <= bounds.allowed * 2.0**-9
            smallest = v.name == "numbers near the smallest"
            narrow = bounds.upper - bounds.lower <= bounds.allowed * 2.0**-8
            assert ((bounds.upper <= twice) | ((small | smallest) & narrow)).all(), v.name


def test_intervals_of_mpmath_certify_the_same(monkeypatch, copied):
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    truth_module._cached.cache_clear()
    for estimator, names in (
        ("mss", (*vector_cases.names("mss")[:7], "numbers near the smallest")),
        ("mws", ("identical posteriors", "numbers near the smallest")),
    ):
        path = vectors.path_of(estimator)
        for entry in json.loads(path.read_text())["cases"]:
            if entry["name"] in names:
                assert vectors._verify_case(path, estimator, entry) > 0
    truth_module._cached.cache_clear()


def test_the_float_below():
    third, least = Fraction(1, 3), Fraction(5e-324)
    for exact in (third, -third, Fraction(0), Fraction(1), Fraction(2**53 + 1), least / 3, -least / 3, 3 * least / 2):
        below, above = vector_content._float_below(exact), vector_content._float_above(exact)
        assert Fraction(below) <= exact <= Fraction(above)
        assert above == below if Fraction(below) == exact else above == math.nextafter(below, math.inf)
    assert [vector_content._rounded_up(x) for x in (1.0, 1.001, 9.999e-14, 0.0)] == [1.0, 1.01, 1e-13, 0.0]
    for x in np.exp(np.random.default_rng(0).uniform(-700, 700, 1000)):
        assert x <= vector_content._rounded_up(x) <= 1.0101 * x


def test_what_bounds_admit():
    bounds = vectors.load("mws")[1].values["log_qz"]
    middle = 0.5 * (bounds.lower + bounds.upper)
    assert bounds.admits(middle)
    assert bounds.admits(bounds.upper + 0.9 * bounds.allowed)
    assert not bounds.admits(bounds.upper + 1.1 * bounds.allowed)
    assert not bounds.admits(middle - 1e-12)
    assert not bounds.admits(middle * np.nan)
    assert not bounds.admits(middle[0])
    assert not bounds.admits(np.stack([middle, middle]))


# --- damage ------------------------------------------------------------------------------------------------


def nudged(value):
    return math.nextafter(value, math.inf)


def spoil(folder, change, estimator="mss"):
    """Change a file's content and write it back."""
    path = vectors.path_of(estimator, folder)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def spoilt_entry(*place, value=None, number=5):
    """A change of one place of one case; the last float up by one where no value is given."""

    def change(content):
        inner = content["cases"][number]
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = nudged(inner[place[-1]]) if value is None else value

    return change


ENTRIES = {
    "lower": ("values", "tc", "lower"),
    "upper": ("values", "log_qz_marginals", "upper", 1, 0),
    "of a stage": ("stages", "log_pz", "lower", 2),
    "of a gradient": ("gradients", "mi", "mu", "upper", 1, 1),
    "decimal input": ("arrays", "z", "values", 0, 1),
}


@pytest.mark.parametrize("place", ENTRIES.values(), ids=ENTRIES)
def test_one_float_up_is_found(copied, place):
    spoil(copied, spoilt_entry(*place))
    where = re.escape("".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)[1:])
    with pytest.raises(vectors.Mismatch, match=rf"mss\.json: case 'drawn': {where} is .* was expected"):
        vectors.verify(copied)


CHANGES = {
    "hex input": spoilt_entry("arrays", "mu", "hex", 0, 0, value="0x1.8p+0"),
    "shape": spoilt_entry("arrays", "mu", "shape", value=[2, 3]),
    "rows": spoilt_entry("arrays", "mu", value={"shape": [1, 2], "hex": [["0x0p+0"] * 2], "values": [[0.0] * 2]}),
    "dataset size": spoilt_entry("dataset_size", value=51),
    "too small a dataset size": spoilt_entry("dataset_size", value=2),
    "no dataset": spoilt_entry("dataset_size", value=0),
    "beta": spoilt_entry("beta", value=4.5),
    "parameterisation": spoilt_entry("parameterisation", value="log_std"),
    "unknown parameterisation": spoilt_entry("parameterisation", value="sigma"),
    "nan": spoilt_entry("arrays", "z", "hex", 0, 0, value="nan"),
    "a huge input": spoilt_entry("arrays", "z", "hex", 0, 0, value="0x1p+900"),
    "a negative sigma": spoilt_entry("arrays", "std", "hex", 0, 0, value="-0x1p+0", number=3),
    "allowance": spoilt_entry("values", "tc", "allowed", value=1e-13),
    "negative allowance": spoilt_entry("gradients", "tc", "z", "allowed", 0, 0, value=-1e-13),
    "text for a number": spoilt_entry("values", "tc", "lower", value="0.25"),
    "an object for a number": spoilt_entry("values", "tc", "lower", value={}),
    "ragged": spoilt_entry("values", "log_qz_marginals", "lower", value=[[1.0, 2.0], [3.0]]),
    "name": spoilt_entry("name", value="drawn again"),
    "a key too many": spoilt_entry("seed", value=1),
    "lost quantity": lambda c: c["cases"][5]["values"].pop("dwkl"),
    "lost gradient": lambda c: c["cases"][5]["gradients"]["tc"].pop("log_var"),
    "lost stages": lambda c: c["cases"][5].pop("stages"),
    "lost values": lambda c: c["cases"][5].pop("values"),
    "lost case": lambda c: c["cases"].pop(7),
    "order": lambda c: c["cases"].reverse(),
    "no cases": lambda c: c.update(cases=None),
    "cases that are none": lambda c: c["cases"].append(3),
    "formula": lambda c: c["formulas"].update(tc="mean_i [log q(z_i)]"),
    "weights": lambda c: c.update(weights="w_ij = 1 / M"),
    "licence": lambda c: c.pop("licence"),
    "format": lambda c: c.update(format=2),
    "estimator": lambda c: c.update(estimator="mws"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_planted_damage_is_found(copied, change):
    spoil(copied, change)
    with pytest.raises(InputError, match=r"mss\.json: "):
        vectors.verify(copied)


def test_a_little_more_allowance_is_no_damage(copied):
    """Allowances come from ordinary floating point, whose last bits may differ."""

    def change(content):
        content["cases"][0]["values"]["tc"]["allowed"] *= 1.005

    spoil(copied, change)
    assert vectors.verify(copied) == vectors.verify()


def test_files_that_cannot_be_read(copied, tmp_path):
    path = vectors.path_of("mws", copied)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"[]", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"mws\.json"):
            vectors.load("mws", copied)
    path.unlink()
    with pytest.raises(InputError, match=r"mws\.json: is missing"):
        vectors.verify(copied)
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        vectors.verify(tmp_path / "nowhere")
    with pytest.raises(InputError, match="did you mean 'mws'"):
        vectors.load("mwss")


def test_loading_refuses_a_damaged_case(copied):
    spoil(copied, CHANGES["lost values"], "mws")
    with pytest.raises(InputError, match="case 'drawn' is damaged"):
        vectors.load("mws", copied)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (lambda outputs, tensors: {**outputs, "tc": outputs["tc"] + 1e-12}, "values.tc"),
        (lambda outputs, tensors: {**outputs, "tc": outputs["tc"] * np.nan}, "values.tc"),
        (lambda outputs, tensors: {**outputs, "mi": outputs["mi"] + 1e-3 * (tensors["z"] ** 2).sum()}, "values.mi"),
        (lambda outputs, tensors: {**outputs, "mi": detached(outputs["mi"])}, "gradients.mi"),
    ],
)
def test_the_reference_is_held_to_them(monkeypatch, wrong, place):
    right = vectors.reference

    def spoilt(*arguments):
        function = right(*arguments)
        return lambda tensors, constants: wrong(function(tensors, constants), tensors)

    monkeypatch.setattr(vectors, "reference", spoilt)
    with pytest.raises(
        vectors.Mismatch, match=rf"mws\.json: case 'by hand, one dimension': {re.escape(place)}.*returns"
    ):
        vectors.verify()


def detached(value):
    return np.asarray(getattr(value, "_value", value))


# --- the command line --------------------------------------------------------------------------------------


def test_commands(tmp_path, copied, capsys):
    assert run("vectors", "verify") == 0
    assert capsys.readouterr().out == "89 cases, 14,374 numbers: all as certified\n"
    assert run("vectors", "write", "--out", tmp_path / "new") == 0
    assert capsys.readouterr().out.count("vectors: ") == len(ESTIMATORS)
    assert run("vectors", "verify", tmp_path / "new") == 0
    spoil(copied, spoilt_entry("values", "tc", "lower"))
    capsys.readouterr()
    assert run("vectors", "verify", copied) == 1
    shown = capsys.readouterr()
    assert not shown.out
    assert "case 'drawn': values.tc.lower is" in shown.err
    assert shown.err.count("\n") == 1


def test_wrong_usage(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("vectors", "verify", tmp_path / "nowhere") == 2
    assert run("vectors", "verify", tmp_path) == 2
    assert run("vectors", "write", "--out", tmp_path / "file") == 2
    for words in (["vectors"], ["vectors", "write"], ["vectors", "verify", ""], ["vectors", "verfy"]):
        with contextlib.suppress(SystemExit):
            assert run(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch, tmp_path, capsys):
    modules = __import__("sys").modules
    monkeypatch.delitem(modules, "tcvae_ref.oracle.cases", raising=False)
    monkeypatch.setitem(modules, "hypothesis", None)
    assert run("vectors", "verify") == 0
    assert run("vectors", "write", "--out", tmp_path / "new") == 2
    assert "pip install 'tcvae-ref[oracle]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    for name in ("flint", "mpmath"):
        monkeypatch.setitem(modules, name, None)
    assert run("vectors", "verify") == 2
    assert "pip install 'tcvae-ref[oracle]'" in capsys.readouterr().err


# --- the format page ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_reader_in_javascript(copied):
    def node():
        return subprocess.run(["node", "-e", block("js")], cwd=copied, capture_output=True, text=True, timeout=60)

    done = node()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "15 cases: all within what is allowed\n"

    def change(content):
        row = content["cases"][5]["values"]["log_qz"]
        row["lower"][1] += 1e-10
        row["upper"][1] += 1e-10

    spoil(copied, change, "mws")
    done = node()
    assert done.returncode != 0
    assert "drawn: log_qz[1] is" in done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_decimals_are_the_same_doubles_in_javascript():
    """Every number written again by another parser and printer."""
    code = 'process.stdout.write(JSON.stringify(JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"))))'
    for estimator in ESTIMATORS:
        path = vectors.path_of(estimator)
        done = subprocess.run(["node", "-e", code, path], capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(done.stdout) == json.loads(path.read_text())


def test_the_page_in_python():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "README.md", "exec"), {})
    assert printed.getvalue() == block("")
    for estimator in ESTIMATORS:
        assert f"`{estimator}.json`" in PAGE
    entry = json.loads(vectors.path_of("mws").read_text())["cases"][0]
    assert all(f"`{key}`" in PAGE for key in entry)
    for line in block("bash").splitlines():
        cli._parser().parse_args(line.split()[1:])


def test_a_change_of_a_copy_is_no_change_of_the_shipped():
    """Arrays of a vector are the caller's own."""
    one = vectors.load("mws")[0]
    before = copy.deepcopy(one.case.z)
    one.case.z[:] = 7.0
    assert (vectors.load("mws")[0].case.z == before).all()
    assert os.access(vectors.FOLDER, os.R_OK)
