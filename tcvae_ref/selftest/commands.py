"""`tcvae-ref selftest`: options, versions, report."""

import argparse
import importlib.util
import json
import os
import platform
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tcvae_ref import __version__, checks, extensions
from tcvae_ref.checks import InputError
from tcvae_ref.files import check_writable, write_json
from tcvae_ref.oracle.snippet import assignment
from tcvae_ref.progress import Progress

if TYPE_CHECKING:
    from tcvae_ref.selftest.running import Kernels
    from tcvae_ref.selftest.types import Finding, Result

EPILOG = (
    "exit status: 0 every number within its bound; 1 a number outside; 2 wrong usage, or python-flint is missing; "
    "3 nothing was certified"
)
SECONDS = 40.0
SHOWN = 5
"""Findings that are shown in full."""
PACKAGES = ("numpy", "scipy", "autograd", "numba", "llvmlite", "python-flint")
STANDARD_OUTPUT = Path("-")
FORMAT = 1
_VECTORS = ("+avx", "+fma", "+sse4", "+neon", "+sve", "+v")
"""What to name of a processor's features."""


def add_selftest(parser: argparse.ArgumentParser) -> None:
    """Add the options of `selftest`."""
    parser.set_defaults(run=_selftest)
    parser.epilog = EPILOG
    parser.add_argument("--seed", type=int, metavar="S", help="of the cases (drawn, and printed)")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--cases", type=int, metavar="K", help="how many")
    limit.add_argument("--seconds", type=float, metavar="T", help=f"how long, after compiling ({SECONDS:g})")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first case (0)")
    parser.add_argument("--kernels", choices=("auto", "numba", "numpy"), default="auto", help="with the kernels or not")
    parser.add_argument("--threads", type=int, metavar="T", help="of the kernels (all processors)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report for programs ('-': standard output)")


def _selftest(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("flint") is None:
        raise InputError("selftest: python-flint is not installed; pip install 'tcvae-ref[oracle]'")
    seed, cases, seconds = _limits(arguments)
    if arguments.json is not None and arguments.json != STANDARD_OUTPUT:
        check_writable(arguments.json)
    from tcvae_ref.selftest import running

    compiled, left_out = _kernels(arguments)
    about = versions(compiled)
    out = sys.stderr if arguments.json == STANDARD_OUTPUT else sys.stdout
    print(
        f"tcvae-ref selftest: seed {seed}", *(f"  {name}: {text}" for name, text in about.items()), sep="\n", file=out
    )
    if left_out:
        print(f"  left out: {left_out}", file=out)
    out.flush()
    with Progress("comparing") as progress:
        result = running.run(seed, arguments.first, cases, seconds, compiled, progress)
    content = to_json(result, about, left_out)
    if arguments.json == STANDARD_OUTPUT:
        print(json.dumps(content, indent=2, allow_nan=False))
    elif arguments.json is not None:
        write_json(arguments.json, content)
    if arguments.json != STANDARD_OUTPUT:
        print("\n".join(text(result)))
    return result.exit_status


def _limits(arguments: argparse.Namespace) -> tuple[int, int | None, float | None]:
    """Seed, number of cases, seconds."""
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    checks.whole_number("selftest", "--seed", seed, 0)
    checks.whole_number("selftest", "--first", arguments.first, 0)
    if arguments.cases is not None:
        return seed, checks.whole_number("selftest", "--cases", arguments.cases, 1), None
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    return seed, None, checks.real_number("selftest", "--seconds", seconds, 0.0, above=True)


def _kernels(arguments: argparse.Namespace) -> "tuple[Kernels | None, str]":
    """The kernels, compiled; or None and why they are left out."""
    from tcvae_ref.selftest import running

    if arguments.kernels == "numpy":
        if arguments.threads is not None:
            raise InputError("selftest: --threads is for kernels; leave it out, or --kernels numpy")
        return None, "the kernels (--kernels numpy)"
    compiled = running.kernels()
    if compiled is None:
        if arguments.kernels == "numba" or arguments.threads is not None:
            raise InputError("selftest: numba is not installed; pip install 'tcvae-ref[kernels]'")
        return None, "the kernels: numba is not installed; pip install 'tcvae-ref[kernels]'"
    if arguments.threads is not None:
        compiled.estimators.set_num_threads(arguments.threads)
    if compiled.estimators.COMPILED:
        from tcvae_kernels import compiling

        for dtype in ("float64", "float32"):
            with Progress(f"compiling kernels for {dtype} (kept on disk)") as progress:
                compiling.make_ready(compiling.TRAINING[:2] + compiling.EVALUATION, dtype, progress)
    return compiled, ""


def versions(compiled: "Kernels | None") -> dict[str, str]:
    """What the numbers were computed with."""
    found = {"tcvae-ref": __version__, "python": platform.python_version()}
    found |= extensions.versions(*PACKAGES, absent="not installed")
    simd: Any = np.show_config(mode="dicts")
    found["platform"] = f"{platform.platform()}, {os.cpu_count()} processors"
    found["simd of numpy"] = " ".join(simd.get("SIMD Extensions", {}).get("found", [])) or "not known"
    if compiled is not None:
        import numba
        from llvmlite import binding  # type: ignore[import-untyped]

        found["kernels for"] = numba.config.CPU_NAME or binding.get_host_cpu_name()  # type: ignore[attr-defined]
        there = numba.config.CPU_FEATURES or binding.get_host_cpu_features().flatten()  # type: ignore[attr-defined]
        vectors = [word[1:] for word in there.split(",") if word.startswith(_VECTORS)]
        found["features"] = " ".join(vectors) or "not known"
        threads = compiled.estimators.get_num_threads()
        found["threads"] = (
            f"{threads}{'' if compiled.estimators.COMPILED else ', interpreted: NUMBA_DISABLE_JIT is set'}"
        )
    return found


# --- report ----------------------------------------------------------------------------------------------------


def text(result: "Result") -> list[str]:
    """The report in lines."""
    lines = []
    for finding in _first_of_each(result)[:SHOWN]:
        lines += ["", *_described(result, finding)]
    if len(result.findings) > SHOWN:
        lines += ["", f"{len(result.findings)} findings in all, in {len(_first_of_each(result))} functions"]
    ratio, name = result.worst
    lines += [
        f"{result.cases:,} cases in {result.seconds:.0f} s, {len(result.tallies)} functions: "
        f"{result.total('certified'):,} numbers within their bounds, {result.total('wrong'):,} outside, "
        f"{result.total('undecided'):,} too ill-conditioned for a bound to mean anything",
        f"worst error over bound: {ratio:.2f} ({name})",
        {0: "PASS", 1: "WRONG", 3: "INCONCLUSIVE"}[result.exit_status],
    ]
    return lines


def _first_of_each(result: "Result") -> "list[Finding]":
    """The first finding of each function."""
    seen: dict[str, Finding] = {}
    for finding in result.findings:
        seen.setdefault(finding.function, finding)
    return list(seen.values())


def _described(result: "Result", finding: "Finding") -> list[str]:
    what = f" in {finding.argument}" if finding.argument else ""
    lines = [f"WRONG  {finding.function}"]
    if finding.raised:
        lines.append(f"  raised {finding.raised}")
    else:
        lines += [
            f"  {finding.quantity}{what}, at {finding.index}: {finding.got!r}",
            f"  true value {finding.true!r} to within {finding.radius:.1e}; "
            f"error {finding.error:.3g}, allowed {finding.allowed:.3g}; {finding.numbers} such numbers",
        ]
    lines.append(f"  case {finding.case.number}: {finding.case.what}")
    lines += [f"    {line}" for name, value in finding.case.inputs.items() for line in _shown(name, value)]
    return [*lines, f"  again: tcvae-ref selftest --seed {result.seed} --first {finding.case.number} --cases 1"]


def _shown(name: str, value: Any) -> list[str]:
    if not isinstance(value, np.ndarray):
        return [f"{name} = {value!r}"]
    if value.size > 400:
        return [f"# {name}: {value.dtype} {value.shape}, drawn again by the command below"]
    if value.dtype.kind in "iu":
        return [f"{name} = np.array({value.tolist()})"]
    lines = assignment(name, value)
    return lines if value.dtype == np.float64 else [*lines, f"{name} = {name}.astype(np.{value.dtype})"]


def to_json(result: "Result", about: dict[str, str], left_out: str) -> dict[str, Any]:
    """The report for programs; numbers that JSON has not are null, inputs are hexadecimal."""
    return {
        "format": FORMAT,
        "seed": result.seed,
        "first": result.first,
        "cases": result.cases,
        "seconds": result.seconds,
        "versions": about,
        "left_out": left_out,
        "exit_status": result.exit_status,
        "functions": {name: vars(tally) for name, tally in sorted(result.tallies.items())},
        "findings": [
            {
                "function": f.function,
                "quantity": f.quantity,
                "argument": f.argument,
                "index": list(f.index),
                "raised": f.raised,
                **{k: _number(getattr(f, k)) for k in ("got", "true", "radius", "error", "allowed")},
                "numbers": f.numbers,
                "case": f.case.number,
                "what": f.case.what,
                "inputs": {name: _hexadecimal(value) for name, value in f.case.inputs.items()},
            }
            for f in _first_of_each(result)
        ],
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _hexadecimal(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return int(value)
    flat = [x.hex() if isinstance(x, float) else x for x in value.ravel().tolist()]
    return {"dtype": str(value.dtype), "shape": list(value.shape), "entries": flat}
