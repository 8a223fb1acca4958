"""Python to paste: the exact inputs of a failing case, the call that fails, and the true value beside it."""

import ast
import re
import shlex
from collections.abc import Collection
from pathlib import Path

import numpy as np

from tcvae_ref.oracle import adapters
from tcvae_ref.oracle.records import FOLDER
from tcvae_ref.oracle.types import ARRAYS, ESTIMATORS, QUANTITIES, Case, CheckResult, Element, Report
from tcvae_ref.types import Array

WIDTH = 116
"""Columns of a line of code, before it is indented."""

MOST = 48
"""Entries of an array that are shown when the file of the case has them all."""

MOST_UNSAVED = 400
"""Entries that are shown when there is no file."""

# --- inputs ------------------------------------------------------------------------------------------------


def given(case: Case, name: str | None = None, folder: Path = FOLDER, *, weights: bool = True) -> list[str]:
    """Lines that define the inputs, bit for bit; a large case is read from its file, with a look at its corner.

    Parameters
    ----------
    case : Case
    name : str, optional
        Id of the saved case.
    folder : Path
        Where it was saved.
    weights : bool
        Whether alpha, beta and gamma are among the inputs.
    """
    largest = max(array.size for array in case.arrays.values())
    if name is not None and largest > MOST:
        lines = _loaded(case, name, folder)
    elif largest > MOST_UNSAVED:
        sizes = ", ".join(f"{key} {array.shape}" for key, array in case.arrays.items())
        lines = [f"# {sizes}: too large to print and not saved", *_corners(case)]
    else:
        lines = ["import numpy as np"]
        lines += [line for key, array in case.arrays.items() for line in assignment(key, array)]
    constants = case.constants if weights else {"dataset_size": case.dataset_size}
    names = ", ".join(constants)
    values = ", ".join(_number(value) for value in constants.values())
    return ["Given:", *_indented([*lines, f"{names} = {values}"])]


def _loaded(case: Case, name: str, folder: Path) -> list[str]:
    place = "" if folder == FOLDER else f", pathlib.Path({str(folder)!r})"
    lines = ["import pathlib"] if place else []
    lines += ["import numpy as np", "from tcvae_ref.oracle import records"]
    lines += [f"{', '.join(case.arrays)} = records.load({name!r}{place}).case.arrays.values()"]
    return [*lines, *_corners(case)]


def _corners(case: Case) -> list[str]:
    lines = []
    for key, array in case.arrays.items():
        shown = ", ".join(_number(x) for x in np.ravel(array)[:3])
        lines.append(f"# {key} is {array.shape} and begins {shown}, ...")
    return lines


def assignment(name: str, array: Array) -> list[str]:
    """`name = np.array(...)`, exact, broken to the width; an array of one number is written by it."""
    array = np.asarray(array, dtype=np.float64)
    bits = array.view(np.uint64) if array.size else array
    if array.size > 4 and (bits == bits.flat[0]).all():
        if bits.flat[0] == 0:
            return [f"{name} = np.zeros({array.shape})"]
        return [f"{name} = np.full({array.shape}, {_number(array.flat[0])})"]
    if array.ndim != 2 or not array.size:
        return [f"{name} = np.array({_listed(array)}).reshape({array.shape})"]
    whole = f"{name} = np.array({_listed(array)})"
    return [whole] if len(whole) <= WIDTH else [f"{name} = np.array([", *_rows(array), "])"]


def _listed(array: Array) -> str:
    if array.ndim == 0:
        return _number(float(array))
    return f"[{', '.join(_listed(row) for row in array)}]"


def _rows(array: Array) -> list[str]:
    """A line for each row, or several for a long one."""
    lines = []
    for row in array:
        line = "    ["
        for entry in row:
            word = f"{_number(entry)}, "
            if len(line) + len(word) > WIDTH:
                lines.append(line.rstrip())
                line = "     "
            line += word
        lines.append(f"{line.rstrip(', ')}],")
    return lines


def _number(value: float) -> str:
    """Python for a number: its shortest exact form."""
    if isinstance(value, int):
        return str(value)
    value = float(value)
    words = {"nan": "np.nan", "inf": "np.inf", "-inf": "-np.inf"}
    return words.get(repr(value), repr(value))


# --- the call ----------------------------------------------------------------------------------------------


def reproduction(report: Report, result: CheckResult, name: str | None = None, folder: Path = FOLDER) -> list[str]:
    """Lines that go on from `given`: the target's answer, the true value, and the command that runs it again."""
    example = result.counterexample
    lines = []
    if example is not None:
        lines = [*_call(report, result, example.case), *_reference(report.estimator, result, example.case)]
    shown = ["Reproduce with:", *_indented(lines)] if lines else []
    if name is None:
        return shown
    return [*shown, f"{'or' if shown else 'Reproduce with:'}  {replay(name, folder)}"]


def replay(name: str, folder: Path = FOLDER) -> str:
    """The command that runs a saved case again."""
    place = "" if folder == FOLDER else f" --cases {shlex.quote(str(folder))}"
    return f"tcvae-ref replay {name}{place}"


def _call(report: Report, result: CheckResult, case: Case) -> list[str]:
    """The target called with the inputs as tensors; nothing where that takes more than a call."""
    passed, name = _passed(report.mapping, case), report.target.rpartition(":")[2]
    if not passed or report.framework not in adapters.available() or not _NAME.fullmatch(name):
        return []
    imported, tensor = adapters.by_name(report.framework).in_python
    convert = f"t = lambda array: {tensor.format('array', result.dtype)}"
    lines = [imported, _found(report), convert, f"print('got', {name.split('.')[-1]}({passed}))"]
    return [line for line in lines if line]


_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _found(report: Report) -> str:
    """The line that imports a target; what is in a file or a class is found as the oracle finds it."""
    place, _, name = report.target.rpartition(":")
    if _NAME.fullmatch(place) and not place.endswith(".py") and name.isidentifier() and name[0].islower():
        return f"from {place} import {name}"
    factory, init = report.options.get("factory"), report.options.get("init")
    how = f"{factory if factory is None else str(factory)!r}{f', {dict(init)!r}' if init else ''}"
    return f"from tcvae_ref.oracle.lookup import find; {name.split('.')[-1]} = find({report.target!r}, {how})"


class _AsTensors(ast.NodeTransformer):
    """Puts `t(...)` round the arrays of a call."""

    def __init__(self, arrays: Collection[str]):
        self._arrays = arrays

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(f"t({node.id})", mode="eval").body if node.id in self._arrays else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        stacked = ast.unparse(ast.Tuple([*node.args], ast.Load()))
        return ast.parse(f"t(np.stack({stacked}, -1))", mode="eval").body


def _passed(mapping: str, case: Case) -> str:
    """What is passed to the target, "" where the mapping is not a call with the case's names."""
    try:
        call = ast.parse(mapping.partition(" -> ")[0].strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        return ""
    if not isinstance(call, ast.Call):
        return ""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    inner = [node for value in values for node in ast.walk(value)]
    names = {node.id for node in inner if isinstance(node, ast.Name)}
    calls = {ast.unparse(node.func) for node in inner if isinstance(node, ast.Call)}
    if not calls <= {"stack"} or not names - calls <= {*case.arrays, *case.constants}:
        return ""
    as_tensors = _AsTensors(case.arrays)
    given = [ast.unparse(as_tensors.visit(argument)) for argument in call.args]
    given += [f"{keyword.arg}={ast.unparse(as_tensors.visit(keyword.value))}" for keyword in call.keywords]
    return ", ".join(given)


# --- the true value ----------------------------------------------------------------------------------------

_LOG_VAR = {
    "log_var": "log_var",
    "log_std": "2 * log_std",
    "std": "2 * np.log(std)",
    "var": "np.log(var)",
}

_TERM = {"mi": "mutual_information", "tc": "total_correlation", "dwkl": "dimension_wise_kl"}


def _reference(estimator: str, result: CheckResult, case: Case) -> list[str]:
    """The quantity of the worst element, or its gradient, by the reference in float64."""
    example = result.counterexample
    if example is None or not example.elements or estimator not in ESTIMATORS:
        return []
    worst, names = example.elements[0], list(case.arrays)
    if worst.quantity not in QUANTITIES or worst.argument not in ("", *names):
        return []
    given, log_var, name = ", ".join(names), _LOG_VAR[case.parameterisation], estimator.replace("-", "_")
    if worst.quantity in ARRAYS:
        lines = [f"from tcvae_ref import log_qz_{name}"]
        lines += [f"parts = lambda {given}: log_qz_{name}(z, mu, {log_var}, dataset_size)"]
    else:
        lines = [f"from tcvae_ref import expected_log_qz_{name} as estimate, kl_terms"]
        lines += [f"parts = lambda {given}: kl_terms(z, mu, {log_var}, dataset_size, estimate)"]
    if worst.quantity == "kl_penalty":
        lines += ["from tcvae_ref import kl_to_standard_normal"]
        lines += [f"kl = lambda {given}: kl_to_standard_normal(mu, {log_var}).mean()"]
    lines += [f"true = lambda {given}: {_quantity(worst, given)}"]
    if not worst.argument:
        return [*lines, f"print('true {worst.quantity}', true({given}))"]
    gradient = f"grad(true, {names.index(worst.argument)})({given})"
    return [
        "from autograd import grad, numpy as np",
        *lines,
        f"print('true d {worst.quantity} / d {worst.argument}', {gradient})",
    ]


def _quantity(element: Element, given: str) -> str:
    """Python for a quantity, or for the scalar of it that is differentiated."""
    parts = f"parts({given})"
    if element.quantity == "log_qz":
        return f"{parts}.joint{'.mean()' if element.argument else ''}"
    if element.quantity == "log_qz_marginals":
        return f"{parts}.marginals{'.sum(axis=1).mean()' if element.argument else ''}"
    if element.quantity == "penalty":
        return f"sum(w * t for w, t in zip((alpha, beta, gamma), {parts}))"
    if element.quantity == "kl_penalty":
        return f"kl({given}) + (beta - 1) * {parts}.total_correlation"
    return f"{parts}.{_TERM[element.quantity]}"


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
