"""The doors: what may import what, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tcvae_kernels

import tcvae_ref

PACKAGE = Path(tcvae_ref.__file__).parent
REFERENCE = (
    *("gaussian", "likelihood", "estimators", "decomposition", "objectives", "priors", "checks", "types", "extensions"),
    *("networks", "convolution", "conv_networks", "discriminator"),
)
ROOMS = {
    "data": {"checks", "types", "files"},
    "metrics": {*REFERENCE, "files"},
    "training": {*REFERENCE, "data", "files"},
    "oracle": {*REFERENCE, "arguments", "files", "progress"},
    "selftest": {*REFERENCE, "metrics", "oracle", "files", "progress"},
    "studies": {
        *(*REFERENCE, "data", "training", "metrics", "files"),
        *("representations", "scores", "evaluation", "figures"),
    },
}
ALONE = {
    "arguments": {"checks"},
    "extensions": {"checks"},
    "files": {"checks"},
    "progress": {"types"},
    "representations": {"checks", "types", "files", "data"},
    "scores": {*REFERENCE, "metrics", "representations"},
    "evaluation": {*REFERENCE, "data", "metrics", "representations", "scores"},
    "figures": {*REFERENCE, "data", "metrics", "files"},
    "extending": {*REFERENCE, "data", "scores", "oracle"},
}
COMMAND_LINE = {"cli", "command_parts", "evaluate_commands", "studies_commands"}
"""The only modules that put rooms together; nothing but they, and `__main__`, imports them."""
EXTRAS_OF_THE_ORACLE = {"hypothesis", "flint", "mpmath", "pytest", "matplotlib"}
"""What single modules of the oracle use; frameworks are imported by their names, by the adapters."""
EXTRAS = {
    "oracle": EXTRAS_OF_THE_ORACLE,
    "metrics": {"sklearn", "dask"},
    "selftest": {"flint", "numba", "llvmlite", "tcvae_kernels"},
    "data": {"PIL", "torch"},
    "studies": {"joblib", "distributed", "sklearn", "threadpoolctl", "matplotlib", "pyarrow"},
}
"""What single modules of a room use, and import when they are called or are not imported without."""

HEAVY = (
    "numba",
    "torch",
    "jax",
    "matplotlib",
    "hypothesis",
    "flint",
    "tcvae_kernels",
    "rich",
    "sklearn",
    "PIL",
    "dask",
    "joblib",
)


def imports(path):
    """(top-level name, full name) of everything a file imports, at any depth of the code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


KERNELS = Path(tcvae_kernels.__file__).parent
OF_THE_HOUSE = {"checks", "types"}  # what kernels may use of tcvae_ref: never the numerics they are judged by


def outside(path):
    """Imported top-level packages that are neither ours nor the standard library's."""
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"tcvae_ref"}


def inside(path):
    """Our modules and rooms that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("tcvae_ref.")}


@pytest.mark.parametrize("module", REFERENCE)
def test_the_reference_stands_alone(module):
    path = PACKAGE / f"{module}.py"
    assert outside(path) <= {"numpy", "scipy", "autograd"}
    assert inside(path) <= set(REFERENCE)


@pytest.mark.parametrize(("room", "path"), [(r, p) for r in ROOMS for p in sorted((PACKAGE / r).rglob("*.py"))])
def test_rooms_use_the_reference_and_their_neighbours_below(room, path):
    assert outside(path) <= {"numpy", "scipy", "autograd"} | EXTRAS.get(room, set())
    allowed = ROOMS[room] | {room, "__version__"}
    assert inside(path) <= allowed, inside(path) - allowed


@pytest.mark.parametrize("module", ALONE)
def test_modules_between_the_rooms_and_the_command_line(module):
    path = PACKAGE / f"{module}.py"
    assert outside(path) <= {"numpy", "scipy", "autograd", "matplotlib", "rich"}
    assert inside(path) <= ALONE[module], inside(path) - ALONE[module]


@pytest.mark.parametrize("module", ["balls", "truth", "formats", "tolerance", "types", "estimators"])
def test_what_the_oracle_calls_true_uses_nothing_it_judges(module):
    path = PACKAGE / "oracle" / f"{module}.py"
    assert inside(path) <= {"oracle", "checks", "types", *(["extensions"] if module == "estimators" else [])}
    assert "autograd" not in outside(path)


def test_the_pytest_plugin_imports_only_pytest():
    path = PACKAGE / "oracle" / "plugin" / "tcvae_ref_pytest.py"
    assert outside(path) == {"pytest"}
    assert not inside(path)
    loaded = f"[m for m in {('tcvae_ref', 'numpy', *HEAVY)!r} if m in sys.modules]"
    code = f"import sys, pytest, tcvae_ref_pytest; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_has_its_doors():
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__", *COMMAND_LINE}
    assert modules == {*REFERENCE, *ALONE}
    assert {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()} == set(ROOMS)
    of_the_command_line = {PACKAGE / f"{module}.py" for module in COMMAND_LINE}
    others = set(PACKAGE.rglob("*.py")) - of_the_command_line - {PACKAGE / "__main__.py"}
    assert all(not inside(path) & COMMAND_LINE for path in others)
    assert all("cli" not in inside(path) for path in of_the_command_line)
    assert inside(PACKAGE / "__main__.py") == {"cli"}


def test_the_start_of_the_command_line_imports_it_late():
    """What opens closed streams comes before what cannot be imported without them."""
    code = "import sys, tcvae_ref.__main__; print([m for m in ('scipy', 'tcvae_ref.cli') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.stem)
def test_kernels_stand_apart_from_what_judges_them(path):
    if path.stem == "bench":  # compares everything with everything, inside functions
        assert not (KERNELS.parent / "__init__.py").exists()
        return
    assert outside(path) <= {"numpy", "numba", "llvmlite", "autograd", "tcvae_kernels"}
    assert inside(path) <= OF_THE_HOUSE, inside(path) - OF_THE_HOUSE


def test_the_naive_twin_imports_the_standard_library_only():
    path = Path(__file__).with_name("naive.py")
    assert not outside(path)
    assert not inside(path)


def test_import_brings_nothing_heavy():
    code = f"import sys, tcvae_ref; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_package_is_typed_and_licensed():
    assert (PACKAGE / "py.typed").exists()
    assert "MIT License" in (PACKAGE / "LICENSE").read_text()
    assert set(tcvae_ref.__all__) <= set(dir(tcvae_ref))
