"""The guides tell the truth: Python blocks run and print what stands below them, commands and links exist."""

import argparse
import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from tcvae_kernels import bench

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
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path):
    """[(language, text)] of the fenced blocks."""
    return [(m[1], m[2]) for m in BLOCK.finditer(path.read_text())]


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run_and_print_what_follows(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, scope = blocks(path), {}
    for i, (language, text) in enumerate(found):
        after, expected = found[i + 1] if i + 1 < len(found) else ("end", "")
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(path), "exec"), scope)
        if after == "":
            assert printed.getvalue() == expected
        else:
            assert not printed.getvalue()


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_are_accepted_by_the_parser(path):
    lines = [line for language, text in blocks(path) if language == "bash" for line in text.splitlines()]
    for line in lines:
        for command in re.split(r"&&|\n", line):
            words = shlex.split(command, comments=True)
            if words[:2] == ["tcvae-ref", "bench"]:
                parser = argparse.ArgumentParser()
                bench.add_arguments(parser)
                parser.parse_args(words[2:])
            elif words and words[0].endswith("tcvae-ref"):
                cli._parser().parse_args(words[1:])
            elif words and words[0].endswith("python") and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), words[1]


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    for name in re.findall(r"`(tests/[\w/]+\.py)", path.read_text()):
        assert (ROOT / name).is_file(), name


def test_the_map_names_functions_that_exist():
    text = (ROOT / "tcvae_ref" / "README.md").read_text()
    names = re.findall(r"\[`(\w+)\.(\w+)`\]\((\w+)\.py\)", text)
    assert len(names) >= 14
    for module, function, file in names:
        assert module == file
        assert hasattr(__import__(f"tcvae_ref.{module}", fromlist=[function]), function), function


LOSS = """\
import math

import torch


{weights}

def tc_loss(z, mu, logvar, dataset_size):
    L = -0.5 * ((z[:, None] - mu) ** 2 * torch.exp(-logvar) + logvar + math.log(2 * math.pi))
    log_w = log_weights(len(z), dataset_size).to(z.dtype)
    log_qz = torch.logsumexp(L.sum(2) + log_w, 1)
    log_qz_marginals = torch.logsumexp(L + log_w[:, :, None], 1)
    return (log_qz - log_qz_marginals.sum(1)).mean()
"""


def test_the_report_in_the_guides_is_what_check_prints(tmp_path, monkeypatch, capsys):
    """On the weights that the oracle's guide shows; but for the digits of numbers, which PyTorch rounds as it likes."""
    pytest.importorskip("torch")
    of_oracle = [text for language, text in blocks(ROOT / "tcvae_ref" / "oracle" / "README.md") if language == "text"]
    weights = next(text for text in of_oracle if text.startswith("def log_weights"))
    monkeypatch.chdir(tmp_path)
    Path("losses.py").write_text(LOSS.format(weights=weights))
    assert cli.main(["check", "losses.py:tc_loss", "--checks", "values"]) == 1
    printed = capsys.readouterr().out
    of_readme = [text for language, text in blocks(ROOT / "README.md") if language == "text"]
    for shown in (of_oracle, of_readme):
        report = next(text for text in shown if text.startswith("WRONG"))
        assert without_digits(printed).startswith(without_digits(report))


def without_digits(text):
    """Numbers in e-notation or with a point are not compared, nor the widths of the columns they make."""
    return re.sub(r" +", " ", re.sub(r"-?\d+(\.\d+)?e[+-]?\d+|-?\d+\.\d+", "#", text))
