"""Cases and evidence as strict JSON that keeps every bit: arrays as hex floats, nan and infinity as words."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref.oracle.types import PARAMETERISATIONS, Case, Counterexample, Element
from tcvae_ref.types import Array

DAMAGE = (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError)
"""What decoding content of the wrong form can raise."""


def number(value: float) -> float | str:
    """A float for JSON; "nan", "inf" and "-inf" are words."""
    value = float(value)
    return value if math.isfinite(value) else repr(value)


def plain(value: Any) -> Any:
    """Options as JSON can hold them: tuples as lists, NumPy's numbers as Python's, what JSON lacks by its repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return repr(value)


def text(value: Any) -> str:
    """Require a string."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def texts(content: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The entries of these names, each a string."""
    return {name: text(content[name]) for name in names}


def whole(value: Any) -> int:
    """Require an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def wholes(content: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The entries of these names, each an integer."""
    return {name: whole(content[name]) for name in names}


# --- arrays and cases --------------------------------------------------------------------------------------


def _nested(array: Array, written: Callable[[float], Any]) -> Any:
    if array.ndim == 0:
        return written(float(array))
    return [_nested(row, written) for row in array]


def array_to_json(array: Array) -> dict[str, Any]:
    """Shape, hex floats (which count), and plain numbers (for reading)."""
    array = np.asarray(array, dtype=np.float64)
    return {"shape": list(array.shape), "hex": _nested(array, float.hex), "values": _nested(array, number)}


def array_from_json(content: Mapping[str, Any]) -> Array:
    """The float64 array of `array_to_json`, from its hex floats."""
    shape = tuple(whole(size) for size in content["shape"])
    flat = np.ravel(np.asarray(content["hex"], dtype=object))
    return np.array([float.fromhex(entry) for entry in flat], dtype=np.float64).reshape(shape)


def case_to_json(case: Case) -> dict[str, Any]:
    """A case, its width under the name it has in the call."""
    return {
        "parameterisation": case.parameterisation,
        "dataset_size": int(case.dataset_size),
        **{name: number(getattr(case, name)) for name in ("alpha", "beta", "gamma")},
        "arrays": {name: array_to_json(array) for name, array in case.arrays.items()},
    }


def case_from_json(content: Mapping[str, Any]) -> Case:
    """The case of `case_to_json`, bit for bit."""
    name = text(content["parameterisation"])
    if name not in PARAMETERISATIONS:
        raise ValueError(f"parameterisation {name!r} is unknown")
    arrays = {key: array_from_json(array) for key, array in content["arrays"].items()}
    alpha, beta, gamma = (float(content[weight]) for weight in ("alpha", "beta", "gamma"))
    return Case(arrays["z"], arrays["mu"], arrays[name], whole(content["dataset_size"]), alpha, beta, gamma, name)


def require_usable(case: Case) -> None:
    """What every later step needs of the inputs.

    Raises
    ------
    ValueError
        Their shapes are not one (M, D), or a number is not finite, or dataset_size is below 1.
    """
    shapes = {array.shape for array in case.arrays.values()}
    if len(shapes) > 1 or len(case.z.shape) != 2 or not case.z.size:
        raise ValueError(f"the shapes of its arrays are {sorted(shapes)}, not one (M, D)")
    numbers = [*case.arrays.values(), np.array([case.alpha, case.beta, case.gamma])]
    if not all(np.isfinite(a).all() for a in numbers) or case.dataset_size < 1:
        raise ValueError("its inputs are not all finite, or dataset_size is below 1")


# --- evidence ----------------------------------------------------------------------------------------------

_FLOATS = ("got", "lower", "upper", "error", "allowed")


def _element_to_json(element: Element) -> dict[str, Any]:
    return {
        "quantity": element.quantity,
        "argument": element.argument,
        "index": [int(i) for i in element.index],
        **{name: number(getattr(element, name)) for name in _FLOATS},
        "ratio": number(element.ratio),
    }


def _element_from_json(content: Mapping[str, Any]) -> Element:
    index = tuple(whole(i) for i in content["index"])
    floats = (float(content[name]) for name in _FLOATS)
    return Element(text(content["quantity"]), text(content["argument"]), index, *floats)


def counterexample_to_json(example: Counterexample) -> dict[str, Any]:
    """The inputs and the evidence."""
    return {
        "inputs": case_to_json(example.case),
        "elements": [_element_to_json(element) for element in example.elements],
        "stage": example.stage,
        "allowance": [{"share": number(share), "from": words} for share, words in example.allowance],
        "message": example.message,
    }


def counterexample_from_json(content: Mapping[str, Any]) -> Counterexample:
    """The counterexample of `counterexample_to_json`."""
    return Counterexample(
        case_from_json(content["inputs"]),
        tuple(_element_from_json(element) for element in content["elements"]),
        text(content["stage"]),
        tuple((float(part["share"]), text(part["from"])) for part in content["allowance"]),
        text(content["message"]),
    )
