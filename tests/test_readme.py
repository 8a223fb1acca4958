"""The guides tell the truth: their blocks run and print what stands below them, what they name and link to exists."""

import collections
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tcvae_kernels import bench
from test_celeba import celeba
from test_imports import imports

from tcvae_ref import cli

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [
    ROOT / "README.md",
    ROOT / "tcvae_ref" / "README.md",
    ROOT / "tcvae_ref" / "EXTENDING.md",
    ROOT / "tcvae_ref" / "INDEX.md",
    ROOT / "tests" / "README.md",
    ROOT / "kernels" / "README.md",
    ROOT / "tcvae_ref" / "metrics" / "README.md",
    ROOT / "tcvae_ref" / "studies" / "README.md",
    ROOT / "tcvae_ref" / "oracle" / "README.md",
    ROOT / "tcvae_ref" / "oracle" / "TOLERANCE.md",
    ROOT / "tcvae_ref" / "oracle" / "test_vectors" / "README.md",
]
ORACLE = ROOT / "tcvae_ref" / "oracle" / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path):
    """[(language, text)] of the fenced blocks."""
    return [(m[1], m[2]) for m in BLOCK.finditer(path.read_text())]


def sources(token):
    """The files that a word of the column "of" means."""
    for top in (ROOT / "tcvae_ref", ROOT / "kernels"):
        if (top / token).exists():
            return sorted((top / token).rglob("*.py")) if token.endswith("/") else [top / token]
    return []


def named_tests():
    """Source -> its test files, as the table of tests/README.md has them."""
    found = collections.defaultdict(set)
    for row in (ROOT / "tests" / "README.md").read_text().splitlines():
        if row.startswith("| `") and row.count(" | ") >= 2:
            files, *_, of = row.strip("| ").split(" | ")
            for token in re.findall(r"`([\w/]+(?:\.py|/))`", of):
                assert sources(token), f"{token} in the row of {files} is no source"
                for path in sources(token):
                    found[path] |= set(re.findall(r"`(test_\w+\.py)`", files))
    return found


def importers():
    """Source -> the test files that import it."""
    found = collections.defaultdict(set)
    for path in (ROOT / "tests").glob("test_*.py"):
        for name in imports(path):
            top = ROOT / "kernels" if name.startswith("tcvae_kernels") else ROOT
            found[top / f"{name.replace('.', '/')}.py"].add(path.name)
    return found


def test_the_tests_of_every_source_are_named():
    table, imported = named_tests(), importers()
    everything = [*(ROOT / "tcvae_ref").rglob("*.py"), *(ROOT / "kernels" / "tcvae_kernels").glob("*.py")]
    for path in everything:
        if path.name != "__init__.py":
            named = table[path]
            assert named, f"{path.relative_to(ROOT)} is in no row of tests/README.md"
            assert not imported[path] or named & imported[path], f"{path}: {imported[path]} import it, not {named}"


def test_every_file_of_tests_is_in_the_table():
    rows = [row for row in (ROOT / "tests" / "README.md").read_text().splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(test_\w+\.py)`", row.split(" | ")[0])}
    assert named == {path.name for path in (ROOT / "tests").glob("test_*.py")}


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run_and_print_what_follows(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, scope = blocks(path), {}
    for i, (language, text) in enumerate(found):
        after, expected = found[i + 1] if i + 1 < len(found) else ("end", "")
        if language != "python":
            continue
        if "import torch" in text:
            pytest.importorskip("torch")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(path), "exec"), scope)
        if after == "":
            assert printed.getvalue() == expected
        else:
            assert not printed.getvalue()


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#]*\.md|)#([^)]+)\)", path.read_text()):
        assert anchor in anchors(path.parent / target if target else path), anchor
    for name in re.findall(r"`(tests/[\w/]+\.py)", path.read_text()):
        assert (ROOT / name).is_file(), name


def anchors(path):
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_map_names_functions_that_exist():
    text = (ROOT / "tcvae_ref" / "README.md").read_text()
    names = re.findall(r"\[`(\w+)\.(\w+)`\]\((\w+)\.py\)", text)
    assert len(names) >= 14
    for module, function, file in names:
        assert module == file
        assert hasattr(__import__(f"tcvae_ref.{module}", fromlist=[function]), function), function


# --- shell blocks ----------------------------------------------------------------------------------------------------

NOT_RUN = {
    "python3 -m venv .venv": "installs",
    ".venv/bin/pip install -e '.[experiments]'": "installs",
    ".venv/bin/pip install -e '.[test]'": "installs",
    "pip install '.[oracle]'": "installs",
    ".venv/bin/python -m pytest -n logical --maxprocesses 4 --dist worksteal": "is these tests",
    "tcvae-ref sweep trade-off --jobs 2": "trains fifty models; test_studies.py sweeps smaller studies",
    "tcvae-ref sweep mine.toml --out elsewhere --on dask://127.0.0.1:8786": "needs a cluster; test_studies.py has one",
}
"""Commands of the guides that are held to the parser alone, and why."""

SMALLER = {
    "tcvae-ref train --out runs/hearts": "--epochs 2",  # 250
    "tcvae-ref evaluate runs/hearts": "--samples 100 --no-figures",
    "tcvae-ref evaluate runs/mine --json": "--no-figures",
    "tcvae-ref evaluate runs/mine --metrics": "--samples 100 --no-figures",
    "tcvae-ref train --out runs/celeba": "--epochs 1 --batch 2",
    "tcvae-ref bench": "--sizes 64 --dtypes float64 --peers kernels,numpy --rounds 1 --no-memory",
    "tcvae-ref check losses.py:tc_loss": "--max-examples 3",  # 200
    "tcvae-ref check others.py": "--max-examples 1 --checks values",
    "tcvae-ref check my_package": "--max-examples 1 --checks values",
    "tcvae-ref selftest": "--cases 2",  # 40 seconds
    "python kernels/bench_pairwise.py": "--sizes 64 --dtypes float64 --peers kernels,numpy --rounds 1 --no-memory",
    "python kernels/bench_step.py": "--batch 8 --rounds 1",
    "python kernels/bench_mixture.py": "--components 1000 --points 100 --rounds 1",
    "python kernels/bench_metrics.py": "--sizes 2 3 4 --latents 2 --rounds 1 --slice 1",
    "python kernels/bench_decomposition.py": "--components 1000 --samples 100 --slice 2",
    "python kernels/bench_render.py": "--grid tiny --rounds 1",
}
"""How a command begins that takes long as it stands -> the settings with which it takes seconds."""


def commands_in(text):
    found = (command.strip() for command in re.split(r"&&|\n", text))
    return [command for command in found if command and not command.startswith("#")]


@pytest.mark.parametrize(
    "path", [path for path in GUIDES if "```bash" in path.read_text()], ids=lambda p: str(p.relative_to(ROOT))
)
def test_shell_blocks_run_and_print_what_follows(path, tmp_path, monkeypatch):
    """In the guide's order, in a folder that holds what the guide says is the reader's own."""
    found = blocks(path)
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_what_is_the_readers(tmp_path)
    if path.parent.name == "metrics":  # it speaks of the run that README.md makes
        run(["tcvae-ref", "train", "--out", "runs/hearts", *smaller("tcvae-ref train --out runs/hearts")])
    saved, scripts = "of no case", []
    for (language, text), (after, shown) in zip(found, [*found[1:], ("end", "")], strict=True):
        if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            Path(name[1]).write_text(text)
        if language != "bash":
            continue
        for command in commands_in(text):
            if command in NOT_RUN:
                assert_is_accepted(shlex.split(command))
                continue
            words = [os.path.expanduser(word) for word in shlex.split(command.replace("replay ID", f"replay {saved}"))]
            if words[0] == "python":
                scripts.append([str(ROOT / words[1]), *words[2:], *smaller(command)])
                continue
            printed = run([*words, *smaller(command)])
            saved = (re.findall(r"tcvae-ref replay (\w{10})", printed) or [saved])[-1]
        if after == "text":
            assert rounded(printed).startswith(rounded(shown))
    if scripts:
        subprocess.run([sys.executable, "-c", RUN_SCRIPTS], input=json.dumps(scripts), text=True, check=True)


RUN_SCRIPTS = """\
import json, runpy, sys

for sys.argv in json.load(sys.stdin):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
"""In one process, which imports PyTorch once."""


def smaller(command):
    command = command.removeprefix(".venv/bin/")
    return next((words.split() for start, words in SMALLER.items() if command.startswith(start)), [])


def run(words):
    """What a command printed; its status is 0, or 1 where it found something wrong."""
    if words[0].endswith("tcvae-ref"):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            status = cli.main(words[1:])
        printed = stream.getvalue()
    else:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        printed, status = done.stdout, done.returncode
    assert status == printed.startswith(("WRONG", "FAILED")), (words, status, printed)
    return printed


def assert_is_accepted(words):
    """By the parser, where the command is one of this package."""
    if words[0].endswith("tcvae-ref") and words[1] == "bench":
        bench.arguments_parser().parse_args(words[2:])
    elif words[0].endswith("tcvae-ref"):
        cli._parser().parse_args(words[1:])


def test_what_is_not_run_or_made_smaller_stands_in_the_guides():
    commands = {
        c for path in GUIDES for language, text in blocks(path) if language == "bash" for c in commands_in(text)
    }
    assert set(NOT_RUN) <= commands
    assert [start for start in SMALLER if not any(start in command for command in commands)] == []


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_sentences_are_accepted(path):
    """But for those that say only which command is meant; test_extending.py runs those of its guide."""
    text = BLOCK.sub("", path.read_text())
    found = re.findall(r"`((?:[\w./]+/)?tcvae-ref [^`]+)`", text)
    for words in (shlex.split(command) for line in found for command in commands_in(line.replace("\n", " "))):
        has_arguments = any(word.isupper() or not word.isalpha() for word in words[1:])
        if has_arguments and "..." not in words and path.name != "EXTENDING.md":
            assert_is_accepted([{"ID": "0", "S": "0", "K": "0"}.get(word, word) for word in words])
    for name in re.findall(r"python ((?:kernels|tests)/[\w/]+\.py)", text):
        assert (ROOT / name).is_file(), name


def rounded(text):
    """Numbers to twelve digits at most, which any machine's rounding leaves, and the widths of columns left open."""
    number = re.compile(r"-?\d+\.\d{12,}(e[+-]?\d+)?")
    return re.sub(r" +", " ", number.sub(lambda m: f"{float(m[0]):.12g}", text))


def write_what_is_the_readers(folder):
    """Files that the guides name as the reader's own, but for those that a guide shows."""
    oracle = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", ORACLE.read_text(), re.MULTILINE | re.DOTALL))
    for name, text in oracle.items():
        (folder / name).write_text(text)
    (folder / "others.py").write_text(OTHERS)
    (folder / "vae.py").write_text(WHOLE_LOSS)
    (folder / "my_package").mkdir()
    (folder / "my_package" / "models.py").write_text(MODELS)
    classes = np.indices((4, 5)).reshape(2, -1).T
    mu, log_var = np.random.default_rng(0).standard_normal((2, len(classes), 3))
    np.savez(folder / "model.npz", mu=mu, log_var=log_var, factors=classes, factor_names=["scale", "posX"])
    celeba(folder / "celeba")
    shutil.copytree(ROOT / "tcvae_ref" / "studies" / "measured" / "trade-off", folder / "studies" / "trade-off")


OTHERS = """\
import math

import torch


def terms(z, mu, log_std, dataset_size):
    log_2pi, log_nm = math.log(2 * math.pi), math.log(len(z) * dataset_size)
    own = (-0.5 * ((z - mu) ** 2 * torch.exp(-2 * log_std) + 2 * log_std + log_2pi)).sum(1)
    pairs = -0.5 * ((z[:, None] - mu) ** 2 * torch.exp(-2 * log_std) + 2 * log_std + log_2pi)
    log_qz = torch.logsumexp(pairs.sum(2), 1) - log_nm
    product = (torch.logsumexp(pairs, 1) - log_nm).sum(1)
    log_pz = -0.5 * (z**2 + log_2pi).sum(1)
    return (own - log_qz).mean(), (log_qz - product).mean(), (product - log_pz).mean()


def tc(latent, mean, lv, n):
    return terms(latent, mean, lv / 2, n)[1]


def penalty(z, params, dataset_size):
    mi, tc, dwkl = terms(z, params[..., 0], params[..., 1], dataset_size)
    return mi + 6.0 * tc + dwkl
"""

WHOLE_LOSS = """\
import torch
from torch.nn.functional import binary_cross_entropy

from others import terms


class BetaTCVAELoss(torch.nn.Module):
    N = 60_000

    def forward(self, recon_x, x, mu, log_var, z):
        mi, tc, dwkl = terms(z, mu, log_var / 2, self.N)
        return binary_cross_entropy(recon_x, x, reduction="sum") / len(x) + mi + 6.0 * tc + dwkl
"""

MODELS = """\
from others import terms


class Model:
    def __init__(self, dataset_size):
        self.dataset_size = dataset_size

    def tc(self, z, mu, log_std, dataset_size, reduction):
        return getattr(terms(z, mu, log_std, dataset_size)[1], reduction)()


def make():
    return Model(60_000)
"""
