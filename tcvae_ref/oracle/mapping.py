"""How a target is called: what each of its parameters receives, and how that is written on a command line."""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.checks import InputError
from tcvae_ref.oracle.aliases import ARGUMENT_OF, key


class Slot(NamedTuple):
    """What a parameter of a target receives."""

    parameter: str
    """"" if it has no name."""
    arguments: tuple[str, ...] = ()
    """One canonical argument, or the two that are packed into it, or none: it receives `value`."""
    value: Any = None
    stacked: bool = False
    """Whether the two are stacked in a last axis, and not a tuple."""

    @property
    def given(self) -> str:
        """What the parameter receives, in words of Python."""
        if not self.arguments:
            text = repr(self.value)
            return text if len(text) <= 60 and text.isprintable() else f"<{type(self.value).__name__}>"
        names = ", ".join(self.arguments)
        return f"stack({names})" if self.stacked else f"({names})" if len(self.arguments) > 1 else names


class ArgumentMap(NamedTuple):
    """How a target is called."""

    positional: tuple[Slot, ...]
    keyword: tuple[Slot, ...]
    parameterisation: str
    note: str = ""
    size_inside: Any = None
    """N, of a function that has it inside and takes none."""

    @property
    def names(self) -> frozenset[str]:
        """The canonical arguments that the target receives."""
        return frozenset(name for slot in (*self.positional, *self.keyword) for name in slot.arguments)

    @property
    def bound(self) -> dict[str, Any]:
        """Argument -> the value that a parameter of one of its names always receives."""
        fixed = [slot for slot in (*self.positional, *self.keyword) if not slot.arguments]
        known = {ARGUMENT_OF.get(key(slot.parameter)): slot.value for slot in fixed}
        if self.size_inside is not None:
            known["dataset_size"] = self.size_inside
        return {name: value for name, value in known.items() if name is not None and name not in self.names}

    def call(self, function: Callable[..., Any], values: Mapping[str, Any], stack: "Stack") -> Any:
        """Call a target with values by their canonical names."""
        return function(
            *[_received(slot, values, stack) for slot in self.positional],
            **{slot.parameter: _received(slot, values, stack) for slot in self.keyword},
        )

    def __str__(self) -> str:
        """The call as Python would write it: an argument of the same name is short until one has another."""
        texts: list[str] = []
        short = True
        for slot in (*self.positional, *self.keyword):
            short = short and slot not in self.keyword and slot.parameter in ("", slot.given)
            texts.append(slot.given if short else f"{slot.parameter}={slot.given}")
        return ", ".join(texts)


Stack = Callable[[Sequence[Any]], Any]
"""Tensors of one shape along a new last axis, as the adapter of their framework has it."""


def of_numpy(tensors: Sequence[Any]) -> Any:
    """NumPy's arrays along a new last axis."""
    return np.stack(tensors, -1)


def _received(slot: Slot, values: Mapping[str, Any], stack: Stack) -> Any:
    if not slot.arguments:
        return slot.value
    parts = [values[name] for name in slot.arguments]
    if len(parts) == 1:
        return parts[0]
    return stack(parts) if slot.stacked else tuple(parts)


def parse_pairs(where: str, text: str) -> dict[str, str]:
    """Pairs out of `name=value,name=value`.

    Raises
    ------
    InputError
        A part is not a pair, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise InputError(f"{where}: {part!r} is not a pair; write NAME=VALUE, with commas between pairs")
        if name in pairs:
            raise InputError(f"{where}: {name} is given twice; give it once")
        pairs[name] = value
    return pairs


def parse_bind(texts: Iterable[str], where: str = "bind") -> dict[str, Any]:
    """Values out of `name=literal` each; what is not a Python literal is a string.

    Raises
    ------
    InputError
        A text has no name or no =, or a name comes twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, literal = text.partition("=")
        name = name.strip()
        if not (name.isidentifier() and equals):
            raise InputError(f"{where}: {text!r} is not NAME=VALUE; write the parameter's name, = and a literal")
        if name in values:
            raise InputError(f"{where}: {name} is given twice; give it once")
        try:
            values[name] = ast.literal_eval(literal.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            values[name] = literal
        try:
            repr(values[name])
        except ValueError:  # in hexadecimal it may have more digits than Python writes down
            raise InputError(
                f"{where}: {name} is a number of {len(literal)} digits; give one that can be printed"
            ) from None
    return values
