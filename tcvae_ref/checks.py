"""Every error about an argument: what was given, what is allowed, what to do.

Arguments are rejected, never repaired: nothing is clipped, cast or broadcast. Shapes are read from
`.shape`, because under autograd an array travels in a box.
"""

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from autograd.extend import Box

from tcvae_ref.types import Array


class InputError(ValueError):
    """An argument, option or file that cannot be used as given."""


class NotFinite(InputError):
    """Numbers that are nan or infinite, or so large that what follows would be."""


class InputTypeError(InputError, TypeError):
    """An argument of the wrong kind; a TypeError to those who expect one."""


_LONGEST = 2000
"""Characters of an error message that are shown."""


def one_line(text: str) -> str:
    """A message for a terminal: what would break its line or move it, out of a file's names, is written as an escape.

    One that is longer than a screen is shortened in its middle.
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 500]} ... {plain[-495:]}"


def value_of(array: Any) -> Any:
    """Take an array out of autograd's boxes (one box per level of differentiation)."""
    while isinstance(array, Box):
        array = array._value
    return array


def not_differentiated(where: str, *values: Any) -> list[Any]:
    """Require values outside autograd's boxes: what a derivative that is not itself differentiable is computed from."""
    if any(isinstance(value, Box) for value in values):
        raise InputError(
            f"{where}: a second derivative is asked for, only first derivatives are there; "
            "use the function of the same name in tcvae_ref"
        )
    return list(values)


def differentiated_once(where: str, *values: Any) -> list[Any]:
    """Take arguments out of their boxes, which must all be of one differentiation.

    Raises
    ------
    InputError
        An argument is being differentiated a second time, or two by different derivatives.
    """
    boxes = [value for value in values if isinstance(value, Box)]
    not_differentiated(where, *(box for box in boxes if box._trace != boxes[0]._trace))
    return not_differentiated(where, *(v._value if isinstance(v, Box) else v for v in values))


def not_masked(where: str, **named: Any) -> None:
    """Refuse masked arrays, whose masked entries would be taken for data, and matrices, whose product is another."""
    for name, array in named.items():
        if isinstance(value_of(array), np.matrix):
            raise InputTypeError(f"{where}: {name} is a numpy.matrix; an array is needed: numpy.asarray({name})")
        if isinstance(value_of(array), np.ma.MaskedArray):
            raise InputTypeError(
                f"{where}: {name} is a masked array, whose mask would be lost; leave out what is masked, or fill it: "
                f"numpy.asarray({name})"
            )


def arrays(where: str, **named: Array) -> None:
    """Require floating arrays of one dtype, float64 or float32, with finite entries.

    Raises
    ------
    InputTypeError
        An argument is not an array, or a masked one, or the dtypes differ or are not float64 or float32, in the
        machine's own order of bytes.
    InputError
        An entry is nan or infinite.
    """
    for name, array in named.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise InputTypeError(
                f"{where}: {name} is a {type(array).__name__}; an array is needed: numpy.asarray({name})"
            )
        if not isinstance(value_of(array).dtype, np.dtype):
            kind = f"{type(array).__module__}.{type(array).__qualname__}"
            raise InputTypeError(
                f"{where}: {name} is a {kind}; a NumPy array is needed: of a PyTorch tensor, "
                f"{name}.detach().cpu().numpy()"
            )
    not_masked(where, **named)
    dtypes = {name: str(value_of(array).dtype) for name, array in named.items()}  # a box says float64 of >f8
    if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {"float64", "float32"}:
        given = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise InputTypeError(f"{where}: dtypes are {given}; all must be float64 or all float32: convert with .astype")
    for name, array in named.items():
        finite = np.isfinite(value_of(array))
        if not finite.all():
            first = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise NotFinite(
                f"{where}: {name} has {int((~finite).sum())} nan or infinite of {finite.size} entries, "
                f"the first at {first}; finite values are needed: look where {name} was computed"
            )


def _one_shape(where: str, axes: tuple[str, ...], **named: Array) -> None:
    """Require one shape for all arrays, with these axes, none of them empty."""
    shapes = {name: tuple(array.shape) for name, array in named.items()}
    first = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(first) != len(axes) or 0 in first:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(
            f"{where}: shapes are {given}; all must be one ({', '.join(axes)}), each at least 1: nothing is broadcast"
        )


def matrices(where: str, **named: Array) -> None:
    """Require finite two-dimensional arrays of one shape and dtype, with at least one row and column."""
    arrays(where, **named)
    _one_shape(where, ("rows", "columns"), **named)


def vectors(where: str, **named: Array) -> None:
    """Require finite one-dimensional arrays of one length, at least 1, and dtype."""
    arrays(where, **named)
    _one_shape(where, ("N",), **named)


def batch_means(where: str, estimator: Any, *means: Any) -> None:
    """Require numbers, as `expected_log_qz_*` give, not a value for each sample, as `log_qz_*` do."""
    shapes = [np.shape(value_of(mean)) for mean in means]
    if any(shapes):
        name = getattr(estimator, "__name__", type(estimator).__name__)
        raise InputError(
            f"{where}: {name} gives values of shapes {', '.join(map(str, shapes))}; batch means, two numbers, are "
            "needed: expected_log_qz_mss and the like, not log_qz_mss"
        )


def log_variances(where: str, **named: Array) -> None:
    """Require logarithms of variances whose standard deviation and its inverse are finite numbers of their dtype."""
    for name, array in named.items():
        values = value_of(array)
        most = 1400.0 if values.dtype == np.float64 else 170.0
        extreme = values.flat[np.argmax(np.abs(values))]
        if abs(extreme) > most:
            raise NotFinite(
                f"{where}: {name} reaches {extreme:g}; in {values.dtype} it must lie within -{most:g} and {most:g}: "
                "rescale, or look where it was computed"
            )


def samples_and_posteriors(where: str, z: Array, mu: Array, log_var: Array) -> None:
    """Require samples z : (S, D) and posteriors mu, log_var : (N, D) of the same D."""
    arrays(where, z=z, mu=mu, log_var=log_var)
    _one_shape(where, ("N", "D"), mu=mu, log_var=log_var)
    _one_shape(where, ("S", "D"), z=z)
    log_variances(where, log_var=log_var)
    if z.shape[1] != mu.shape[1]:
        raise InputError(
            f"{where}: z has {z.shape[1]} dimensions and mu has {mu.shape[1]}; "
            "z : (S, D) and mu, log_var : (N, D) share D"
        )


def labels(where: str, name: str, array: Any, rows: int, columns: int | None = None) -> None:
    """Require an integer array (rows, columns); with None, of any number of columns."""
    not_masked(where, **{name: array})
    kind = getattr(getattr(array, "dtype", None), "kind", None)
    shape = getattr(array, "shape", None)
    fits = shape is not None and len(shape) == 2 and shape[0] == rows and columns in (None, shape[1])
    if kind is None or kind not in "iu" or not fits:
        given = type(array).__name__ if kind is None else f"{array.dtype} {shape}"
        K = "" if columns is None else f", K={columns}"
        raise InputError(f"{where}: {name} are {given}; integers (N, K) with N={rows}{K} are needed")


def one_per_row(where: str, rows: int, **named: Array) -> None:
    """Require finite arrays with one number for each of `rows` samples."""
    arrays(where, **named)
    for name, array in named.items():
        if tuple(array.shape) != (rows,):
            raise InputError(
                f"{where}: {name} has shape {tuple(array.shape)}; ({rows},) is needed, one number for each sample"
            )


def unit_interval(where: str, **named: Array) -> None:
    """Require entries between 0 and 1."""
    for name, array in named.items():
        low, high = np.min(value_of(array)), np.max(value_of(array))
        if low < 0 or high > 1:
            raise InputError(
                f"{where}: {name} lies in [{low:g}, {high:g}]; it must lie in [0, 1]: scale or threshold it"
            )


LARGEST_DATA_SET = 2**63 - 1
"""Beyond it the weights of stratified sampling leave the range in which float32 keeps the estimates' digits."""
LARGEST_BATCH = 2**30
"""Its square is what a matrix of weights may hold."""


def _digits(number: int) -> str:
    """A whole number, in short where it has more digits than anybody reads."""
    return str(number) if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"


def whole_number(where: str, name: str, value: Any, least: int, most: int | None = None) -> int:
    """Require an integer from `least` to `most`, and return it as Python's; a float or a bool is not one."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputTypeError(f"{where}: {name}={value!r} is a {type(value).__name__}; a whole number is needed")
    if number < least:
        raise InputError(f"{where}: {name}={_digits(number)} is too small; it must be at least {least}")
    if most is not None and number > most:
        raise InputError(f"{where}: {name}={_digits(number)} is too large; it must be at most {most}")
    return number


def data_set_size(where: str, name: str, value: Any) -> int:
    """Require how many inputs a data set has, from 1 to `LARGEST_DATA_SET`."""
    return whole_number(where, name, value, 1, LARGEST_DATA_SET)


def real_number(where: str, name: str, value: Any, least: float = -math.inf, *, above: bool = False) -> float:
    """Require a finite real number, at least `least` (or strictly above it)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise InputTypeError(f"{where}: {name}={value!r} is a {type(value).__name__}; a number is needed")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < least or (above and number == least):
        rule = "finite" if least == -math.inf else f"finite and {'above' if above else 'at least'} {least:g}"
        raise InputError(f"{where}: {name}={number:g} is not allowed; it must be {rule}")
    return number


def batch_without_replacement(where: str, batch_size: int, dataset_size: int) -> tuple[int, int]:
    """Require 2 <= M <= N, what stratified sampling needs of a batch of M out of N; return both as Python's."""
    batch_size = whole_number(where, "batch size M", batch_size, 1, LARGEST_BATCH)
    dataset_size = data_set_size(where, "dataset_size", dataset_size)
    if batch_size < 2:
        raise InputError(f"{where}: batch size M={batch_size} is too small; the weights divide by M - 1, so M >= 2")
    if batch_size > dataset_size:
        raise InputError(
            f"{where}: batch size M={batch_size} exceeds dataset_size={dataset_size}; "
            "a batch is drawn without replacement, so M <= N"
        )
    return batch_size, dataset_size


def whole_data_set(where: str, posteriors: int, dataset_size: int) -> int:
    """Require as many posteriors as the data set has inputs, what an exact aggregate needs; return N."""
    dataset_size = data_set_size(where, "dataset_size", dataset_size)
    if posteriors != dataset_size:
        raise InputError(
            f"{where}: {posteriors} posteriors are given and dataset_size={dataset_size}; the exact aggregate "
            "needs all of them: encode the whole data set, or use an estimator for a batch"
        )
    return dataset_size


def option(where: str, name: str, value: str, allowed: Iterable[str]) -> str:
    """Require one of the `allowed` words; the error suggests the nearest."""
    words = list(allowed)
    if value not in words:
        near = difflib.get_close_matches(str(value), words, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where}: {name}={value!r} is unknown; choose one of {', '.join(words)}{hint}")
    return value
