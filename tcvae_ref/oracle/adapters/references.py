"""Which frameworks a function's code refers to."""

import dis
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

Packages = Mapping[str, str]
"""Top-level package -> the framework it belongs to."""


def frameworks(function: Any, packages: Packages) -> set[str]:
    """The frameworks a function refers to (`tcvae_ref.oracle.adapters.guess` has the rules); NumPy only if alone."""
    plain = _plain(function)
    if plain is None:
        return _of_value(function, packages)
    found = _of_value(function, packages) | _within(plain, packages, levels=1)
    if not found:
        found = {name for value in plain.__globals__.values() for name in _of_value(value, packages)}
    return found - {"numpy"} or found


def _plain(function: Any) -> types.FunctionType | None:
    """The Python function behind decorators, partial application, methods and callable objects."""
    for _ in range(10):  # wrappers can refer to each other
        if isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__"):
            return function
        inner = _inner(function)
        if inner is None:
            return function if isinstance(function, types.FunctionType) else None
        function = inner
    return None


def _inner(function: Any) -> Any:
    """What a wrapper wraps."""
    if isinstance(function, functools.partial):
        return function.func
    for attribute in ("__wrapped__", "python_function", "__func__"):
        inner = inspect.getattr_static(function, attribute, None)
        if inner is not None:
            return getattr(function, attribute, None)
    kind = type(function)
    forward = inspect.getattr_static(kind, "forward", None)  # torch.nn.Module
    return forward or inspect.getattr_static(kind, "call", None) or inspect.getattr_static(kind, "__call__", None)


def _within(function: types.FunctionType, packages: Packages, levels: int) -> set[str]:
    """Frameworks in a function's code, and in the users' functions it calls."""
    found = {packages[package] for package in _imports(function.__code__) if package in packages}
    for value in _referred(function):
        its = _of_value(value, packages)
        found |= its
        inner = _plain(value) if callable(value) and not its else None
        if levels and inner is not None:
            found |= _within(inner, packages, levels - 1)
    return found


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those defined inside it: lambdas, comprehensions, inner functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imports(code: types.CodeType) -> Iterator[str]:
    for part in _codes(code):
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                yield str(instruction.argval).partition(".")[0]


def _referred(function: types.FunctionType) -> Iterator[Any]:
    """Objects a function's names stand for."""
    names = {name for part in _codes(function.__code__) for name in part.co_names}
    yield from (function.__globals__[name] for name in names if name in function.__globals__)
    annotations = function.__annotations__.values()
    for text in (a for a in annotations if isinstance(a, str)):
        yield function.__globals__.get(text.partition(".")[0])
    yield from (a for a in annotations if not isinstance(a, str))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _of_value(value: Any, packages: Packages) -> set[str]:
    """The framework an object belongs to, or none, as where its attributes cannot be read."""
    try:
        return {packages[package] for package in _packages_of(value) if package in packages}
    except Exception:  # whatever they raise
        return set()


def _packages_of(value: Any) -> list[str]:
    if isinstance(value, types.ModuleType):
        names = [value.__name__]
    elif inspect.getattr_static(value, "_is_autograd_primitive", False) is True:  # its name is NumPy's
        names = ["autograd"]
    else:
        own = getattr(value, "__module__", None)  # of a compiled function, its type has no word of the framework
        names = [own if isinstance(own, str) else "", *(str(kind.__module__) for kind in type(value).__mro__)]
    return [name.partition(".")[0] for name in names]
