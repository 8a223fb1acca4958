"""One module for each framework; `base` says what an adapter is.

Importing this package imports no framework but NumPy and autograd, which the reference itself needs.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tcvae_ref import checks, extensions
from tcvae_ref.oracle.adapters import references
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.foreign import looked_at

BUILT_IN = ("torch", "jax", "tensorflow", "keras", "mlx", "autograd", "numpy")
"""Names in the order in which a framework is looked for: those that others are built on come last."""


def _built_in(name: str) -> Adapter:
    adapter: Adapter = importlib.import_module(f"{__name__}.{name}_adapter").ADAPTER
    return adapter


def _third_parties() -> tuple[str, ...]:
    return extensions.names("adapter", BUILT_IN)


_NEEDED = (*Adapter.__annotations__, *(name for name in vars(Adapter) if not name.startswith("_")))
"""What another package's must have, and has where it inherits from `Adapter`."""


def _load(name: str) -> Adapter:
    adapter: Adapter = extensions.load("adapter", name, _NEEDED)
    return adapter


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def available() -> tuple[str, ...]:
    """Names of all adapters, of frameworks installed or not."""
    return (*BUILT_IN, *_third_parties())


def installed() -> tuple[str, ...]:
    """Names of the adapters whose framework is installed; of a third party's adapter that is taken for granted."""
    return (*(name for name in BUILT_IN if _is_installed(name)), *_third_parties())


def by_name(name: str) -> Adapter:
    """An adapter by its framework's name.

    Raises
    ------
    InputError
        There is no such adapter, its framework is not installed, or a third party's cannot be loaded.
    """
    checks.option("by_name", "framework", name, available())
    if name not in BUILT_IN:
        return _load(name)
    adapter = _built_in(name)
    if not _is_installed(name):
        raise checks.InputError(f"by_name: framework={name!r} is not installed; pip install '{adapter.distribution}'")
    return adapter


def chosen(where: str, functions: Sequence[Any], framework: str | None) -> Adapter:
    """The adapter that is named, or that of the framework which the first function to show one uses.

    Raises
    ------
    InputError
        As `by_name`, or no function shows its framework.
    """
    if framework:
        return by_name(framework)
    for function in functions:
        with looked_at(where):
            found = guess(function)
        if found is not None:
            return found
    raise checks.InputError(
        f"{where}: its framework cannot be told from its code; "
        f"name it with --framework: one of {', '.join(available())}"
    )


def _known() -> tuple[Adapter, ...]:
    """The built-in adapters, and other packages' of frameworks that this process has imported.

    Of those only what has its own package or a package of its name in `sys.modules` is loaded: looking imports nothing.
    """
    entries = extensions.entries("adapter", BUILT_IN)
    near = [name for name, e in entries.items() if {name, e.module.partition(".")[0]} & sys.modules.keys()]
    theirs = extensions.usable(near, _load).values()
    return (*map(_built_in, BUILT_IN), *(adapter for adapter in theirs if adapter.module in sys.modules))


def in_use() -> tuple[Adapter, ...]:
    """Adapters of the frameworks that this process has imported, in the order of `BUILT_IN`, third parties' last."""
    return tuple(adapter for adapter in _known() if adapter.module in sys.modules)


def packages() -> dict[str, str]:
    """Top-level package -> the framework it belongs to, of all that are known."""
    return {package: adapter.name for adapter in _known() for package in adapter.packages}


def guess(function: Callable[..., Any]) -> Adapter | None:
    """The adapter of the framework a function is written for, found without calling it.

    1. The names the function refers to, in its body, its annotations, its closure and its imports, are looked up in
       its globals. A module counts for its top-level package; a class, a function or an object for the package its
       type or itself was defined in.
    2. The functions of the user's own that it refers to are read as well, one level down.
    3. Where none of these is a framework (the body has methods only, `z.exp()`), everything in the globals counts.
    4. NumPy gives way to any other framework, for it serves for constants; a Keras function's backend gives way to
       Keras. What then remains is the answer if it is one framework.

    Decorated, partial, jitted and bound functions are unwrapped; of an object that is called, its `__call__` or
    `forward` is read.

    Returns
    -------
    Adapter or None
        None where nothing, or more than one framework, is referred to.
    """
    found = references.frameworks(function, packages())
    if "keras" in found and len(found) == 2 and "keras" in sys.modules:
        found -= {sys.modules["keras"].backend.backend()}
    return next((adapter for adapter in _known() if {adapter.name} == found), None)
