"""The examples of EXTENDING.md, installed as a package is and used from the command line: no file here is touched."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import conftest
import naive
import numpy as np
import problems
import public_names
import pytest

import tcvae_ref
from tcvae_ref import cli, extensions
from tcvae_ref.checks import InputError
from tcvae_ref.data import Factor, FactorDataset, PackedImages
from tcvae_ref.oracle import estimators, vectors
from tcvae_ref.oracle.mistakes import listed
from tcvae_ref.training import NUMPY
from tcvae_ref.training.settings import ESTIMATORS

GUIDE = Path(tcvae_ref.__file__).parent / "EXTENDING.md"
EXAMPLES = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL))
ENTRY_POINTS = tomllib.loads(re.search(r"^```toml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)[1])


def install(folder, entry_points, name="mine"):
    """What pip leaves of a package: its modules, and a folder that says what it brings."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in entry_points.items()
    )
    (info / "entry_points.txt").write_text(groups)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    install(folder, ENTRY_POINTS["project"]["entry-points"])
    for name, text in EXAMPLES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    yield folder
    estimators._added.cache_clear()
    listed.ways_of.cache_clear()
    for name in EXAMPLES:
        sys.modules.pop(name, None)


def test_each_kind_has_an_example_below_thirty_lines():
    assert set(ENTRY_POINTS["project"]["entry-points"]) == set(extensions.GROUPS.values())
    assert len(EXAMPLES) == len(extensions.GROUPS)
    assert set(ENTRY_POINTS["tool"]["setuptools"]["py-modules"]) == set(EXAMPLES)
    for name, text in EXAMPLES.items():
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) < 30, (name, len(lines))


def test_they_import_public_names_alone():
    public = {(package, name) for package, name, _ in public_names.public_names()}
    for text in EXAMPLES.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("tcvae_ref"):
                assert {(node.module, alias.name) for alias in node.names} <= public


def test_they_have_types(tmp_path, monkeypatch):
    """With the guide's own command."""
    api = pytest.importorskip("mypy.api", reason="mypy comes with the extra dev")
    (command,) = re.findall(r"`mypy ([^`]+)`", GUIDE.read_text())
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYPYPATH", str(Path(tcvae_ref.__file__).parents[1]))
    *options, pattern = command.split()
    said, errors, status = api.run([*options, *sorted(path.name for path in tmp_path.glob(pattern))])
    assert status == 0, said + errors
    assert f"{len(EXAMPLES)} source files" in said


def _of_functions(names):
    """Estimators whose two functions are both there."""
    stems = [name.removeprefix("log_qz_").replace("_", "-") for name in names if name.startswith("log_qz_")]
    return {stem for stem in stems if f"expected_log_qz_{stem.replace('-', '_')}" in names}


def _of_weights(weight):
    """Estimators of which weight(name, i, j, M, N) is what the oracle's table says."""
    M, N = 4, 9
    found = set()
    for name, estimator in estimators.OWN.items():
        size = estimator.dataset_size(M, N)
        rows = [[float(weight(name.replace("-", "_"), i, j, M, size)) for j in range(M)] for i in range(M)]
        if np.allclose(rows, np.array(estimator.weights(M, size), dtype=float), rtol=1e-15):
            found.add(name)
    return found


def _places():
    """Place -> the estimators that are there: those of EXTENDING.md, where `exact` is of the whole data set."""
    import right_losses
    import tcvae_kernels
    import test_twins
    import truth

    def twin(name, i, j, M, N):
        return naive.weight(name, i, j, M, N) if name == "exact" else test_twins.torch_weights(name, M, N)[i, j]

    return {
        "tcvae_ref/estimators.py": _of_functions(vars(tcvae_ref.estimators)),
        "tcvae_ref/__init__.py": _of_functions(tcvae_ref.__all__),
        "kernels/tcvae_kernels/__init__.py": _of_functions(tcvae_kernels.__all__),
        "tcvae_ref/training/settings.py": {*ESTIMATORS, "exact"},
        "tcvae_ref/training/operations.py": {*NUMPY.estimators, "exact"},
        "tcvae_ref/oracle/estimators.py": set(estimators.OWN),
        "tcvae_ref/oracle/test_vectors": {path.stem for path in vectors.FOLDER.glob("*.json")},
        "tests/naive.py": _of_weights(naive.weight),
        "tests/truth.py": _of_weights(truth.weight),
        "tests/test_twins.py": _of_weights(twin),
        "tests/problems.py": {*(name.replace("_", "-") for name in problems.BATCH), "exact"},
        "tests/right_losses.py": set(right_losses.ESTIMATORS),
    }


def test_an_estimator_of_the_house_is_in_each_place():
    places = _places()
    known = set().union(*places.values())
    forgotten = [f"{place} lacks {', '.join(known - there)}" for place, there in places.items() if known != there]
    assert not forgotten, "; ".join(forgotten)
    assert all(f"`{place}`" in GUIDE.read_text() for place in places)


def test_they_are_unknown_without_the_package(capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(["train", "--out", str(tmp_path / "run"), "--estimator", "mss-before"])
    assert "invalid choice: 'mss-before'" in capsys.readouterr().err
    assert cli.main(["train", "--out", str(tmp_path / "run"), "--named", "discs"]) == 2
    assert "discs" in capsys.readouterr().err
    assert cli.main(["explain", "last-dimension-dropped"]) == 2


def test_nothing_is_imported_before_it_is_asked_for(package):
    assert [extensions.names(kind) for kind in extensions.GROUPS] == [
        *(("mss-before",), ("mss-before",), ("discs",), ("active-codes",), ("boxes",), ("last-dimension-dropped",)),
    ]
    assert not set(EXAMPLES) & set(sys.modules)


def test_an_estimator_a_data_set_and_a_score(package, capsys):
    numpy = ["--kernels", "numpy"]
    size = [*("--encoder", "16", "--decoder", "16", "--latent", "3", "--batch", "32", "--epochs", "2"), *numpy]
    assert cli.main(["train", "--out", "run", "--named", "discs", "--estimator", "mss-before", *size]) == 0
    assert cli.main(["train", "--resume", "run", "--epochs", "3", *numpy]) == 0
    kept = json.loads(Path("run/run.json").read_text())
    assert (kept["data"]["named"], kept["settings"]["estimator"]) == ("discs", "mss-before")
    assert cli.main(["evaluate", "run", "--metrics", "active-codes", "--no-figures", *numpy]) == 0
    scores = json.loads(Path("run/evaluation.json").read_text())["scores"]
    assert 0 <= scores["active-codes"]["score"] <= 1
    assert "share of codes whose KL is above 0.01 nats" in capsys.readouterr().out


def test_weights(package, capsys):
    """The oracle judges the estimator, finds it, and names mistakes in it."""
    Path("losses.py").write_text(
        "import autograd.numpy as np\n"
        "from my_estimator import expected_log_qz_mss_before\n"
        "from tcvae_ref import log_qz_mss\n"
        "def before(z, mu, log_var, dataset_size):\n"
        "    joint, marginals = expected_log_qz_mss_before(z, mu, log_var, dataset_size)\n"
        "    return joint - marginals\n"
        "def other_size(z, mu, log_var, dataset_size):\n"
        "    return before(z, mu, log_var, 500)\n"
        "def after(z, mu, log_var, dataset_size):\n"
        "    log_qz = log_qz_mss(z, mu, log_var, dataset_size)\n"
        "    return np.mean(log_qz.joint - np.sum(log_qz.marginals, axis=1))\n"
    )
    few, claimed = ["--max-examples", "16", "--framework", "autograd"], ["--estimator", "mss-before"]
    assert cli.main(["check", "losses.py:before", *few, *claimed]) == 0
    out = capsys.readouterr().out
    assert "PASS" in out
    assert "mss-before depends on the order of the batch" in out
    assert cli.main(["check", "losses.py:before", *few, "--checks", "values"]) == 0
    assert "estimator: mss-before, found by its values" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["check", "losses.py:other_size", *few, *claimed, "--checks", "values"]) == 1
    out = capsys.readouterr().out
    assert "(wrong-dataset-size)" in out
    assert "N = 500 whatever dataset_size is" in out
    assert cli.main(["replay", Path(next(Path(".tcvae-ref/cases").glob("*.json"))).stem]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert cli.main(["check", "losses.py:after", *few, *claimed, "--checks", "values"]) == 1
    assert "computes mss, not mss-before as claimed" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["weights", "losses.py:before", *claimed]) == 0
    assert "claimed (mss-before)" in capsys.readouterr().out


def test_weights_must_be_exact_and_positive(package, capsys):
    Path("losses.py").write_text("def tc_loss(z, mu, log_var, dataset_size): return 0.0\n")
    for formula, said in (("0.25", "is 0.25; a positive Fraction"), ("M - M", "is Fraction(0, 1); a positive")):
        estimators._added.cache_clear()
        sys.modules.pop("my_weights", None)
        text = EXAMPLES["my_weights"].replace("return 1 / N", f"return {formula}")
        (package / "my_weights.py").write_text(text)
        assert cli.main(["check", "losses.py:tc_loss", "--estimator", "mss-before", "--framework", "numpy"]) == 2
        assert said in capsys.readouterr().err


def test_an_adapter(package, capsys):
    Path("losses.py").write_text(
        "from my_adapter import Box\n"
        "from tcvae_ref import expected_log_qz_mws\n"
        "def tc_loss(z, mu, log_var, dataset_size):\n"
        "    log_qz, marginals = expected_log_qz_mws(z.data, mu.data, log_var.data, dataset_size)\n"
        "    return Box(log_qz - marginals)\n"
    )
    few = ["--checks", "values", "--max-examples", "10", "--estimator", "mws"]
    assert cli.main(["check", "losses.py:tc_loss", "--framework", "boxes", *few]) == 0
    assert "boxes" in capsys.readouterr().out


def test_an_adapter_is_found_by_what_a_loss_refers_to(package, capsys):
    """And says how its tensors are made in the code that repeats a failure."""
    Path("losses.py").write_text(
        "import numpy as np\n"
        "from my_adapter import Box\n"
        "def tc_loss(z, mu, log_var, dataset_size):\n"
        "    return Box(np.mean(z.data))\n"
    )
    few = ["--checks", "values", "--max-examples", "10", "--estimator", "mws"]
    assert cli.main(["check", "losses.py:tc_loss", *few]) == 1
    out = capsys.readouterr().out
    assert "(boxes, estimator mws)" in " ".join(out.split())
    assert "from my_adapter import Box\n" in out
    assert "t = lambda array: Box(array.astype('float64'))" in out


def test_a_mistake(package, capsys):
    Path("losses.py").write_text(
        "import autograd.numpy as np\n"
        "from tcvae_ref import log_qz_mws\n"
        "def tc_loss(z, mu, log_var, dataset_size):\n"
        "    log_qz, marginals = log_qz_mws(z, mu, log_var, dataset_size)\n"
        "    return np.mean(log_qz - np.sum(marginals[:, :-1], axis=1))\n"
    )
    few = ["--checks", "values", "--max-examples", "10", "--estimator", "mws", "--framework", "autograd"]
    assert cli.main(["check", "losses.py:tc_loss", *few]) == 1
    out = capsys.readouterr().out
    assert "(last-dimension-dropped)" in out
    assert "sum_{d < D} log q(z_d)" in out
    assert cli.main(["explain", "last-dimension-dropped"]) == 0
    assert "A slice [:-1] too many." in capsys.readouterr().out
    assert cli.main(["explain"]) == 0
    assert "last-dimension-dropped" in capsys.readouterr().out


def test_what_cannot_be_loaded_says_so(package):
    (package / "my_score.py").write_text("raise RuntimeError('half written')\n")
    with pytest.raises(InputError, match=r"score 'active-codes': loading.*'my_score:ACTIVE_CODES' raised Runt"):
        extensions.load("score", "active-codes")
    with pytest.raises(InputError, match=r"data set 'discs': its entry point 'my_data:discs' has no entry, ways"):
        extensions.load("data set", "discs", ("entry", "ways"))
    with pytest.raises(InputError, match="score='passive' is unknown"):
        extensions.load("score", "passive")


def test_a_broken_score_spoils_no_other(package, capsys):
    """Nor is it imported when it is not asked for."""
    (package / "my_score.py").write_text("raise RuntimeError('half written')\n")
    rng = np.random.default_rng(0)
    mu, log_var = rng.standard_normal((50, 2)), rng.standard_normal((50, 2))
    np.savez("model.npz", mu=mu, log_var=log_var, factors=rng.integers(3, size=(50, 2)))
    only = ["--no-figures", "--kernels", "numpy"]
    assert cli.main(["evaluate", "model.npz", "--metrics", "mig", *only]) == 0
    assert cli.main(["evaluate", "model.npz", "--metrics", "active-codes", *only]) == 2
    assert "score 'active-codes': loading its entry point" in capsys.readouterr().err


def test_a_name_that_two_packages_add(package):
    install(package, {"tcvae_ref.scores": {"active-codes": "other:ACTIVE"}}, "other")
    with pytest.raises(InputError, match="several packages add it: my_score:ACTIVE_CODES, other:ACTIVE; uninstall"):
        extensions.load("score", "active-codes")


def test_what_must_be_called_can_be(package):
    (package / "my_data.py").write_text("discs = 17\n")
    assert cli.main(["train", "--out", "run", "--named", "discs"]) == 2


def test_a_data_set_must_be_one(package, capsys):
    (package / "my_data.py").write_text("def discs(progress=None):\n    return 17\n")
    assert cli.main(["train", "--out", "run", "--named", "discs"]) == 2
    assert "data set 'discs': a call returns a int; a FactorDataset is needed" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "instead", "said"),
    [
        ('ID = "last-dimension-dropped"', 'ID = "last-dropped"', "are called last-dropped; call all last-dim"),
        ("def product(self, marginals: Any", "def product(self, other: Any, marginals: Any", "raised TypeError"),
        ("np.sum(marginals[:, :-1], axis=1)", "1 / 0", "raised ZeroDivisionError"),
        ("def product", "def produkt", "changes no step of Loss; these are .*product"),
        ("LastDimensionDropped),)", "int),)", "changes no step of Loss"),
        ('(Mistake(ID, "sum over d without the last", LastDimensionDropped),)', "()", "a tuple of Mistake is needed"),
    ],
)
def test_a_mistake_that_is_none_is_left_out_and_said_where_it_is_asked_for(package, text, instead, said):
    assert text in EXAMPLES["my_mistake"]
    (package / "my_mistake.py").write_text(EXAMPLES["my_mistake"].replace(text, instead))
    with pytest.raises(InputError, match=rf"mistake 'last-dimension-dropped': .*{said}"):
        listed.ways_of("last-dimension-dropped")
    with pytest.warns(extensions.LeftOut, match=said):
        assert listed.added() == ()


def test_no_package_takes_away_the_verdict_on_a_loss(package, capsys):
    """What is broken is left out with a warning; a loss that is wrong is called so."""
    for name in ("my_weights", "my_mistake"):
        (package / f"{name}.py").write_text("raise RuntimeError('half written')\n")
    Path("losses.py").write_text(
        "import autograd.numpy as np\n"
        "from tcvae_ref import log_qz_mws\n"
        "def tc_loss(z, mu, log_var, dataset_size):\n"
        "    log_qz, marginals = log_qz_mws(z, mu, log_var, dataset_size)\n"
        "    return np.sum(log_qz - np.sum(marginals, axis=1))\n"
    )
    few = ["--checks", "values", "--max-examples", "10", "--framework", "autograd"]
    for claimed in ([], ["--estimator", "mws"]):
        with pytest.warns(extensions.LeftOut, match="half written"):
            assert cli.main(["check", "losses.py:tc_loss", *few, *claimed]) == 1
        assert "(sum-not-mean)" in capsys.readouterr().out
    with pytest.warns(extensions.LeftOut, match="half written"):
        assert cli.main(["explain"]) == 0
    assert cli.main(["explain", "last-dimension-dropped"]) == 2
    assert "half written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("0.5", "float"),
        ("None", "NoneType"),
        ("task.of.mu", "ndarray"),
        ("ActiveCodes('high')", "ActiveCodes"),
        ("1 / 0", "raised ZeroDivisionError"),
    ],
)
def test_a_score_that_gives_something_else_spoils_no_other(package, capsys, returned, said):
    text = EXAMPLES["my_score"].replace("return ActiveCodes(float(np.mean(kl > 0.01)))", f"return {returned}")
    (package / "my_score.py").write_text(text)
    rng = np.random.default_rng(0)
    mu, log_var = rng.standard_normal((50, 2)), rng.standard_normal((50, 2))
    np.savez("model.npz", mu=mu, log_var=log_var, factors=rng.integers(3, size=(50, 2)))
    arguments = ["--metrics", "mig-binned,active-codes", "--no-figures", "--kernels", "numpy", "--json", "numbers.json"]
    assert cli.main(["evaluate", "model.npz", *arguments]) == 0
    numbers = json.loads(Path("numbers.json").read_text())
    assert "mig-binned" in numbers["scores"]
    assert said in numbers["left_out"]["active-codes"]


@pytest.mark.parametrize(
    ("text", "instead", "said"),
    [
        ("z: Array, mu: Array, log_var: Array, dataset_size: int", "z: Array, mu: Array, log_var: Array", "TypeError"),
        (
            "np.sum(log_qz.joint) / M, np.sum(log_qz.marginals) / M",
            "log_qz.joint, log_qz.marginals",
            "gave no two numbers",
        ),
        ("np.sum(log_qz.joint) / M,", "np.log(0.0 * np.sum(log_qz.joint)),", "is not finite"),
        ("M = len(z)", "raise ValueError('no batch')", "no batch"),
        ("import autograd.numpy as np", "raise RuntimeError('half written')", "half written"),
    ],
)
def test_an_estimator_that_is_none_is_refused_before_there_is_a_folder(package, capsys, text, instead, said):
    assert text in EXAMPLES["my_estimator"]
    (package / "my_estimator.py").write_text(EXAMPLES["my_estimator"].replace(text, instead))
    with np.errstate(all="ignore"):
        assert cli.main(["train", "--out", "run", "--grid", "1x2x1x4x4", "--estimator", "mss-before"]) == 2
    err = capsys.readouterr().err
    assert "estimator 'mss-before'" in err
    assert said in err
    assert not Path("run").exists()


def test_classes_that_are_no_indices_are_refused():
    images, factor = PackedImages(np.zeros((3, 2), np.uint8), (4, 4)), (Factor("x", np.arange(2.0)),)
    for classes, said in (
        (np.array([[0], [1], [2]]), r"classes of x lie in \[0, 2\]; 0 to 1 are needed"),
        (np.array([[0], [-1], [1]]), r"lie in \[-1, 1\]"),
        (np.array([[0.0], [0.5], [1.0]]), r"are float64 \(3, 1\); integers \(N, K\) with N=3, K=1 are needed"),
        (np.array([[0, 0], [1, 1], [1, 1]]), r"are int64 \(3, 2\); .* K=1"),
        ([[0], [1], [1]], "are list; integers"),
        (np.ma.masked_array([[0], [1], [1]]), "is a masked array"),
    ):
        with pytest.raises(InputError, match=said):
            FactorDataset("mine", images, factor, classes)
    assert len(FactorDataset("mine", images, factor, np.array([[0], [1], [1]]))) == 3


def test_what_is_installed_in_the_environment_is_no_part_of_the_tests(package, monkeypatch):
    assert extensions.names("score") == ("active-codes",)
    monkeypatch.setattr(conftest, "ENVIRONMENT", {*conftest.ENVIRONMENT, str(package)})
    assert extensions.names("score") == ()


def test_a_name_of_the_house_is_not_given_away(tmp_path, monkeypatch):
    theirs = {"tcvae_ref.scores": {"mig": "nothing:AT_ALL"}, "tcvae_ref.estimators": {"mws": "no:no"}}
    install(tmp_path / "site", theirs)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    from tcvae_ref.scores import RECIPES, recipe_of, score_names
    from tcvae_ref.training.settings import estimators

    assert [entry.value for entry in extensions.entries("score").values()] == ["nothing:AT_ALL"]
    assert score_names() == tuple(RECIPES)
    assert recipe_of("mig") is RECIPES["mig"]
    assert estimators() == ESTIMATORS
