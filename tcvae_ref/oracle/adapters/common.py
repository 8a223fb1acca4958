"""What the adapters share: calling a target, judging what it returned, and saying what it raised."""

import importlib
import math
import numbers
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from tcvae_ref.oracle import adapters
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.foreign import said
from tcvae_ref.oracle.types import ARRAYS, Observed, TargetFault
from tcvae_ref.types import Array

__all__ = ["Recent", "attempt", "call", "cast", "cotangent", "number", "observed", "rows_of", "unchanged"]

_NEVER_THE_USERS = ("ml_dtypes", "scipy")
"""Packages that frameworks call, beside their own."""

_LONGEST = 300
"""Characters of a foreign message that are quoted: frameworks' go on for pages."""


def framework(name: str) -> Any:
    """A framework's module, imported when first needed."""
    return importlib.import_module(name)


# --- what a target raises ----------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _users(frames: Sequence[TracebackType]) -> list[TracebackType]:
    """Those that are in nobody else's code."""
    others = {*adapters.packages(), *_NEVER_THE_USERS, *sys.stdlib_module_names}
    names = [str(frame.tb_frame.f_globals.get("__name__", "")) for frame in frames]
    theirs = [name.partition(".")[0] in others or name.startswith("tcvae_ref.oracle") for name in names]
    return [frame for frame, foreign in zip(frames, theirs, strict=True) if not foreign]


def _frames(trace: TracebackType | None) -> list[TracebackType]:
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _where(error: BaseException) -> str:
    """file:line in the user's code, the innermost; of code that a framework rewrote, the original's line."""
    metadata = getattr(error, "ag_error_metadata", None)  # TensorFlow's AutoGraph
    if metadata is not None and metadata.translated_stack:
        own = [f for f in metadata.translated_stack if f.is_converted] or metadata.translated_stack
        return f"{own[-1].filename}:{own[-1].lineno}"
    stack = getattr(error, "real_stack", None)  # TorchDynamo
    if isinstance(stack, traceback.StackSummary) and stack:
        return f"{stack[-1].filename}:{stack[-1].lineno}"
    frames = _frames(error.__traceback__)
    own = _users(frames) or frames
    return f"{own[-1].tb_frame.f_code.co_filename}:{own[-1].tb_lineno}" if own else "unknown line"


def _what(error: BaseException) -> str:
    """An exception's type and message in a line; AutoGraph's without the traceback it writes into the message."""
    metadata = getattr(error, "ag_error_metadata", None)
    text = f"{type(error).__name__}: {said(str, error)}" if metadata is None else str(metadata.cause_message)
    return _one_line(text).removesuffix(":")


def fault(doing: str, error: BaseException) -> TargetFault:
    """The fault that an exception amounts to: what was done, its type and message, and the user's line."""
    return TargetFault(f"{doing} raised {_what(error)} at {_where(error)}")


def attempt(doing: str, function: Callable[[], Any]) -> Any:
    """Call a function of which any exception is the target's fault.

    Floating-point flags are off: a nan is reported where it is returned, not where it arose.

    Parameters
    ----------
    doing : str
        What the fault's message begins with: "the target", "the gradient of tc".
    function : callable
        Of no arguments.

    Returns
    -------
    object
        What it returns.

    Raises
    ------
    TargetFault
        It raised: the type, the message in a line, and the line of the user's code.
    """
    try:
        with np.errstate(all="ignore"):
            return function()
    except TargetFault:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise fault(doing, error) from error


# --- what a target returns ---------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Whether this is a real number outside any tensor; a bool is not one."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _floating(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "longdouble"))


def _complaint(adapter: Adapter, value: Any) -> str:
    """Why a value cannot be judged; empty where it can."""
    if adapter.is_tensor(value):
        dtype = adapter.dtype_of(value)
        return "" if _floating(dtype) else f"a tensor of dtype {dtype}"
    return "" if is_number(value) else f"{said(repr, value)[:80]} ({type(value).__name__})"


def checked(adapter: Adapter, outputs: Any) -> dict[str, Any]:
    """Outputs as a dictionary of floating tensors and numbers.

    Raises
    ------
    TargetFault
        An output is something else.
    """
    if not isinstance(outputs, Mapping):
        raise TargetFault(f"the target returned {said(repr, outputs)[:80]} ({type(outputs).__name__}), not a mapping")
    for name, value in outputs.items():
        complaint = _complaint(adapter, value)
        if complaint:
            raise TargetFault(f"{name} is {complaint}; a floating tensor of the framework or a number is needed")
    return dict(outputs)


def call(adapter: Adapter, function: Callable[[], Any]) -> dict[str, Any]:
    """The checked outputs of a target's call.

    Parameters
    ----------
    adapter : Adapter
    function : callable
        Of no arguments: calls the target.

    Returns
    -------
    dict
        Quantity -> floating tensor or number.

    Raises
    ------
    TargetFault
        It raised, or an output is something else.
    """
    return checked(adapter, attempt("the target", function))


def unchanged(adapter: Adapter, arrays: Mapping[str, Array], tensors: Mapping[str, Any]) -> None:
    """Require that a target has left its arguments as they were.

    Parameters
    ----------
    adapter : Adapter
    arrays : mapping
        The arguments before the call.
    tensors : mapping
        What the target was called with.

    Raises
    ------
    TargetFault
        It wrote to one of them.
    """
    for name, array in arrays.items():
        now = adapter.array(tensors[name])
        if np.array_equal(now, array, equal_nan=True):
            continue
        sent = adapter.array(adapter.tensor(array, adapter.dtype_of(tensors[name])))  # rounded, where it had to be
        if not np.array_equal(now, sent, equal_nan=True):
            raise TargetFault(f"the target writes to its argument {name}; work on a copy, such as {name} + 0")


def cotangent(quantity: str, rows: int) -> float:
    """What each entry of an output weighs in the scalar that is differentiated: batch means for arrays.

    Parameters
    ----------
    quantity : str
    rows : int
        M.

    Returns
    -------
    float
        1/M for `log_qz` and `log_qz_marginals`, 1 for scalars.
    """
    return 1.0 / rows if quantity in ARRAYS else 1.0


def rows_of(arrays: Mapping[str, Array]) -> int:
    """The batch size M.

    Parameters
    ----------
    arrays : mapping of (M, D)

    Returns
    -------
    int
    """
    return int(next(iter(arrays.values())).shape[0])


def observed(
    adapter: Adapter,
    arrays: Mapping[str, Array],
    outputs: Mapping[str, Any],
    gradients: Mapping[str, Mapping[str, Any]],
    wanted: Sequence[str],
) -> Observed:
    """Everything read back as float64.

    An argument is detached from a quantity when the framework has no gradient for it, or one whose entries are all
    exactly 0. Frameworks differ in whether they can tell these two apart, so the oracle does not.

    Parameters
    ----------
    adapter : Adapter
    arrays : mapping
        The arguments.
    outputs : mapping
        Checked.
    gradients : mapping
        Quantity -> argument -> tensor, or None where there is no dependence; numbers and absent quantities left out.
    wanted : sequence of str
        Quantities whose gradients were asked for.

    Returns
    -------
    Observed
    """
    read: dict[str, dict[str, Array]] = {}
    for quantity in wanted:
        if quantity in outputs:
            found = {name: gradients.get(quantity, {}).get(name) for name in arrays}
            read[quantity] = {
                name: np.zeros(np.shape(arrays[name])) if g is None else adapter.array(g) for name, g in found.items()
            }
    detached = {q: tuple(name for name, g in by_name.items() if not g.any()) for q, by_name in read.items()}
    numbers_ = [q for q, value in outputs.items() if not adapter.is_tensor(value)]
    if adapter.differentiable:
        detached.update({q: tuple(arrays) for q in numbers_})
    return Observed(
        values={q: adapter.array(value) for q, value in outputs.items()},
        gradients=read,
        dtypes={q: "float" if q in numbers_ else adapter.dtype_of(value) for q, value in outputs.items()},
        detached=detached,
    )


def cast(array: Array, dtype: Any) -> Array:
    """A copy in one of NumPy's dtypes; what is too large for it becomes infinite, silently.

    Parameters
    ----------
    array : ndarray
    dtype : dtype

    Returns
    -------
    ndarray
    """
    with np.errstate(all="ignore"):
        return np.array(array, dtype=dtype)


def number(value: Any) -> Array:
    """A number as a float64 array of no dimensions; an integer too large for one is infinite.

    Parameters
    ----------
    value : number

    Returns
    -------
    ndarray of shape ()
    """
    try:
        return np.asarray(float(value))
    except OverflowError:
        return np.asarray(math.inf)


# --- compiled functions ------------------------------------------------------------------------------------


class Recent:
    """The last few things built for a function and its constants.

    The function is held with what was built from it, which refers to it anyway: a weak reference would never die.
    """

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[int, str], tuple[Any, Any]] = OrderedDict()

    def get(self, function: Any, key: Any, build: Callable[[], Any]) -> Any:
        """What was built for this function and key, built now if it is not there."""
        index = (id(function), repr(key))
        if index not in self._entries:
            self._entries[index] = (function, build())
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        self._entries.move_to_end(index)
        return self._entries[index][1]
