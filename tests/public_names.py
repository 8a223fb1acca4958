"""The index of public names: `python tests/public_names.py` writes tcvae_ref/INDEX.md anew.

A name is public when a package's `__all__` has it.
"""

import ast
import importlib
import inspect
import itertools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "tcvae_ref" / "INDEX.md"
PACKAGES = {
    "tcvae_ref": "The reference",
    "tcvae_ref.metrics": "What was learned, in numbers",
    "tcvae_ref.data": "Images, with the factors behind them",
    "tcvae_ref.training": "Runs",
    "tcvae_ref.studies": "The paper's experiments",
    "tcvae_ref.oracle": "Is a loss right",
    "tcvae_ref.extending": "What packages of one's own add to",
    "tcvae_ref.oracle.adapters.common": "What adapters share: calling a target, reading what it returned",
    "tcvae_kernels": "Compiled kernels, by the reference's names",
}
HEAD = """\
# Every public name

Import a name from the package that heads its table. This page is written by `python tests/public_names.py`, and a test
holds it to the code. The way in is [`README.md`](README.md), which leads from the paper's equations to the functions.
"""


def public_names():
    """[(package, name, object)] of every `__all__`."""
    modules = ((package, importlib.import_module(package)) for package in PACKAGES)
    return [(package, name, getattr(module, name)) for package, module in modules for name in module.__all__]


def home(package, name):
    """The file of the module that a package imports a name from."""
    for node in ast.walk(ast.parse(Path(importlib.import_module(package).__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return Path(importlib.import_module(node.module).__file__)
    raise LookupError(f"{package}.{name}: no import says where it is from")


def described_constant(package, name):
    """The file that assigns a constant at its top level, and the string that stands below."""
    path = home(package, name)
    for statement, following in itertools.pairwise(ast.parse(path.read_text()).body):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(getattr(target, "id", None) == name for target in targets):
            text = getattr(getattr(following, "value", None), "value", None)
            if isinstance(text, str):
                return path, inspect.cleandoc(text)
    raise LookupError(f"{package}.{name}: no string below its assignment says what it is")


def described(package, name, thing):
    """The file that defines a public name, and its docstring."""
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return Path(inspect.getsourcefile(thing)), inspect.getdoc(thing) or ""
    return described_constant(package, name)


def summary(docstring):
    """The first line, or as much as makes a sentence."""
    first = docstring.split("\n\n")[0].replace("\n", " ")
    return first.replace("|", "\\|").replace("*", "\\*")


def page():
    """The index as Markdown."""
    parts = [HEAD]
    for package, title in PACKAGES.items():
        parts += [f"## `{package}`", "", f"{title}.", "", "| name | what it is | in |", "|---|---|---|"]
        for owner, name, thing in public_names():
            if owner == package:
                path, docstring = described(package, name, thing)
                place = path.relative_to(ROOT)
                link = Path("..") / place if place.parts[0] == "kernels" else place.relative_to("tcvae_ref")
                parts.append(f"| `{name}` | {summary(docstring)} | [{path.name}]({link}) |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    INDEX.write_text(page())
    print(f"wrote {INDEX}: {len(public_names())} names")
