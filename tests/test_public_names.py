"""Every public name is in the index, and its docstring says what it takes and what it gives."""

import dataclasses
import inspect
import re

import public_names
import pytest

NAMES = public_names.public_names()
FUNCTIONS = [(package, name, thing) for package, name, thing in NAMES if inspect.isfunction(thing)]
SECTION = re.compile(r"^(\w+)\n-{3,}\n(.*?)(?=^\w+\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?$", re.MULTILINE)


def sections(docstring):
    """{title: text} of a docstring in NumPy's form."""
    return dict(SECTION.findall(docstring))


def documented_parameters(docstring):
    """The names that head the entries of Parameters."""
    entries = ENTRY.findall(sections(docstring).get("Parameters", ""))
    return [name.strip("* ") for entry in entries for name in entry.split(",")]


def refers_to_another(docstring):
    """Whether it says whose arguments and results it shares: the name of another public function in backticks."""
    others = {name for _, name, _ in FUNCTIONS}
    return bool(others & {reference.split(".")[-1] for reference in re.findall(r"`([\w.]+)`", docstring)})


def gaps(function):
    """What a public function's docstring leaves out."""
    docstring, signature = inspect.getdoc(function) or "", inspect.signature(function)
    missing = [] if re.match(r".*[.:]$", docstring.split("\n\n")[0], re.DOTALL) else ["a first sentence"]
    parameters = list(signature.parameters)
    if "Parameters" in sections(docstring):
        documented = documented_parameters(docstring)
        missing += [name for name in parameters if name not in documented]
        missing += [f"{name} (there is none)" for name in documented if name not in parameters]
    elif parameters and not refers_to_another(docstring):
        missing += parameters
    gives = signature.return_annotation not in (None, "None", inspect.Signature.empty)
    if gives and "Parameters" in sections(docstring) and "Returns" not in sections(docstring):
        missing.append("Returns")
    return missing


def test_the_index_is_what_the_code_says():
    assert public_names.INDEX.read_text() == public_names.page(), "python tests/public_names.py writes it anew"


@pytest.mark.parametrize(("package", "name", "thing"), FUNCTIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_docstrings_are_complete(package, name, thing):
    assert not gaps(thing), f"{package}.{name}: its docstring leaves out {', '.join(gaps(thing))}"


def test_classes_say_what_they_hold():
    for package, name, thing in NAMES:
        if inspect.isclass(thing):
            assert inspect.getdoc(thing), (package, name)
            assert not dataclasses.is_dataclass(thing) or not inspect.getdoc(thing).startswith(f"{name}("), name


def test_gaps_are_seen():
    def right(z, N):
        """Something.

        Parameters
        ----------
        z : (M, D)
        N : int
        """

    def without(z, N) -> int:
        """Something.

        Parameters
        ----------
        z : (M, D)
        other : int
        """

    def nothing(z):
        """Something"""

    assert gaps(right) == []
    assert gaps(without) == ["N", "other (there is none)", "Returns"]
    assert gaps(nothing) == ["a first sentence", "z"]
    nothing.__doc__ = "Like `log_qz_mws`."
    assert gaps(nothing) == []
