"""Are the promised versions true? The tests, on every Python, with the oldest and with the newest dependencies allowed.

    python tests/campaigns/versions.py --with-torch

For each Python and for `oldest` and `newest`: a copy of this checkout, a fresh environment, the project with its extra
`test`, its tests. `oldest` takes every lower bound of pyproject.toml as it stands there or, where a bound, or what it
needs, has no wheel for that Python, the oldest version above it that can be installed, and says so. What the
dependencies need in their turn is left to pip, so it is new; that an old dependency calls what a new one deprecates is
therefore no failure in `oldest`, where every other warning stays one. Everything comes as a wheel.

PyTorch is installed where `--with-torch` says, by default nowhere: on some machines it is a download of gigabytes.
Without it the tests that compare with it are skipped, and the table says so.

Results go to `--out` as versions.json and versions.md after each environment; environments of an earlier run that are
not run again stay in the table. An environment takes as long as the tests, and some minutes more to install.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
BOUNDS = ("newest", "oldest")
SHOWN = ("numpy", "scipy", "autograd", "numba", "hypothesis", "python-flint", "matplotlib", "scikit-learn", "jax")


class Environment(NamedTuple):
    """A Python, which end of its dependencies' ranges, whether PyTorch is among them."""

    python: str
    bound: str
    torch: bool


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def run(*command, **options):
    """What a command prints; a mistake of its is ours."""
    done = subprocess.run([str(c) for c in command], text=True, capture_output=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


# --- what to install -------------------------------------------------------------------------------------------------


def requirements(project, extra):
    """The dependencies, those of an extra, and of the extras that it takes in its turn."""
    found = {r.name: r for r in map(Requirement, project["dependencies"])}
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        if requirement.name == project["name"]:
            for inner in requirement.extras:
                found |= requirements(project, inner)
        else:
            found[requirement.name] = requirement
    return found


def installs(python, wanted):
    """Whether it, and what it needs, can be installed."""
    command = [python, "-m", "pip", "install", "--dry-run", "--only-binary=:all:", wanted]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def oldest(python, requirement):
    """(the requirement at its lower bound, what there is to say of it)."""
    listed = run(python, "-m", "pip", "index", "versions", "--only-binary=:all:", requirement.name)
    releases = re.search(r"Available versions: (.*)", listed)[1].split(", ")
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    for release in sorted((r for r in releases if r in requirement.specifier), key=Version):
        pinned = f"{requirement.name}{extras}=={release}"
        if installs(python, pinned):
            bound = next((s.version for s in requirement.specifier if s.operator == ">="), release)
            same = Version(release) == Version(bound)
            return pinned, "" if same else f"{requirement.name} {bound} cannot be installed, {release} is taken"
    raise SystemExit(f"{requirement}: none of {', '.join(releases)} can be installed with {python}")


def interpreter(python):
    """The executable of "3.12", or of a path."""
    if Path(python).is_file():
        return python
    candidates = [shutil.which(f"python{python}"), *sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python"))]
    for candidate in filter(None, candidates):  # what pyenv puts on PATH may be there without working
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise SystemExit(f"--pythons: {python!r} is neither on PATH nor in ~/.pyenv/versions; name an executable")


def version(python):
    """Of an interpreter: "3.12.1"."""
    return run(python, "-c", "import platform; print(platform.python_version())").strip()


def install(environment, folder):
    """(the environment's Python, notes), the checkout beside it installed with what the tests need."""
    run(environment.python, "-m", "venv", folder / "venv")
    python, notes = folder / "venv" / "bin" / "python", []
    listed = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], "test")
    if not environment.torch:
        del listed["torch"]
        notes.append("without PyTorch: the tests that need it are skipped")
    wanted = [str(r) for r in listed.values()]
    if environment.bound == "oldest":
        wanted, said = zip(*(oldest(python, r) for r in listed.values()), strict=True)
        notes += filter(None, said)
    say(f"installing {' '.join(wanted)}")
    run(python, "-m", "pip", "install", "--only-binary=:all:", *wanted)
    run(python, "-m", "pip", "install", "--no-deps", "--editable", folder / "checkout")
    run(python, "-m", "pip", "check")
    return python, notes


# --- an environment, and what is said of it --------------------------------------------------------------------------


def copy_checkout(folder):
    """What git knows of this checkout, and what is new in it, as it is now."""
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def measure(environment, folder, options):
    """What the table holds of one environment."""
    copy_checkout(folder / "checkout")
    python, notes = install(environment, folder)
    installed = {p["name"].lower(): p["version"] for p in json.loads(run(python, "-m", "pip", "list", "--format=json"))}
    say(f"installed; the tests, with pytest {' '.join(options)}")
    started, junit = time.monotonic(), folder / "tests.xml"
    search = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    quiet = [] if environment.bound == "newest" else ["-W", "default::DeprecationWarning"]
    command = [python, "-m", "pytest", "-q", f"--junitxml={junit}", *quiet, *options]
    status = subprocess.run(command, cwd=folder / "checkout", env=search, check=False).returncode
    seconds = time.monotonic() - started
    if not junit.exists():
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {status}, and no test was run")
    suite = ElementTree.parse(junit).getroot()[0]
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    bad = [case for case in suite if {element.tag for element in case} & {"failure", "error"}]
    return {
        "python": version(python),
        "dependencies": environment.bound,
        "versions": installed,
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in bad],
        "seconds": round(seconds),
        "options": options,
        "notes": notes,
    }


def table(rows):
    head = ["Python", "dependencies", "passed", "failed", "skipped", "seconds", "torch", *SHOWN]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row[name] for name in ("python", "dependencies", "passed", "failed", "skipped", "seconds")]
        cells += [row["versions"].get(name, "-") for name in ("torch", *SHOWN)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for row in rows:
        said = row["notes"] + [f"pytest {' '.join(row['options'])}"] * bool(row["options"])
        said += [f"failed: {name}" for name in row["failures"]]
        lines += [f"\n{row['python']}, {row['dependencies']}:\n", *(f"- {note}" for note in said)] if said else []
    return "\n".join(lines) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, help="versions or executables (3.11 3.12 3.13)")
    parser.add_argument("--bounds", nargs="+", choices=BOUNDS, default=BOUNDS)
    parser.add_argument("--with-torch", nargs="*", help="the Pythons that get PyTorch; alone: all", metavar="PYTHON")
    parser.add_argument("--out", type=Path, default=Path("runs/versions"), help="where the table goes (runs/versions)")
    parser.add_argument("--keep", type=Path, help="a folder for the environments; without it they are removed")
    parser.add_argument("options", nargs="*", help="after --: options for pytest, such as -n 2 or --ignore=FILE")
    arguments = parser.parse_args(argv)
    pythons = {python: interpreter(python) for python in arguments.pythons}
    with_torch = arguments.pythons if arguments.with_torch == [] else arguments.with_torch or []
    arguments.out.mkdir(parents=True, exist_ok=True)
    store, measured = arguments.out / "versions.json", []
    rows = json.loads(store.read_text()) if store.exists() else []
    for name in arguments.pythons:
        for bound in arguments.bounds:
            say(f"Python {name}, {bound} dependencies")
            with tempfile.TemporaryDirectory(prefix="tcvae-versions-") as temporary:
                folder = (arguments.keep or Path(temporary)).resolve() / f"{version(pythons[name])}-{bound}"
                shutil.rmtree(folder, ignore_errors=True)
                environment = Environment(pythons[name], bound, name in with_torch)
                measured.append(row := measure(environment, folder, arguments.options))
            rows = [r for r in rows if (r["python"], r["dependencies"]) != (row["python"], bound)] + [row]
            rows.sort(key=lambda r: (Version(r["python"]), r["dependencies"]))
            store.write_text(json.dumps(rows, indent=1) + "\n")
            store.with_suffix(".md").write_text(table(rows))
            say(f"{row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped in {row['seconds']} s")
    print(table(rows))
    tests, failed = (sum(row[name] for row in measured) for name in ("passed", "failed"))
    print(f"{len(measured)} environments: {tests} tests passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
