"""Other packages: which versions of them are there, and what they add.

That may be estimators and their weights, data sets, scores, adapters to frameworks and named mistakes. A package says
in its pyproject.toml what it brings,

    [project.entry-points."tcvae_ref.scores"]
    active-codes = "my_package:ACTIVE_CODES"

and from then on the name is known wherever names of that kind are. Nothing of the package is imported before the name
is asked for. `EXTENDING.md` in this folder has an example of each kind.
"""

import importlib.metadata
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tcvae_ref import checks
from tcvae_ref.checks import InputError

GROUPS = {
    "estimator": "tcvae_ref.estimators",
    "weights": "tcvae_ref.weights",
    "data set": "tcvae_ref.data",
    "score": "tcvae_ref.scores",
    "adapter": "tcvae_ref.adapters",
    "mistake": "tcvae_ref.mistakes",
}
"""The kinds, and the entry-point group of each."""


def entries(kind: str, own: Collection[str] = ()) -> dict[str, importlib.metadata.EntryPoint]:
    """Other packages' entries of a kind by name; the names of this package's `own` cannot be replaced."""
    return {entry.name: entry for entry in _found(kind) if entry.name not in own}


def _found(kind: str) -> list[importlib.metadata.EntryPoint]:
    """All entries of a kind: the files of every installed package are looked through, in some milliseconds."""
    return list(importlib.metadata.entry_points(group=GROUPS[checks.option("extensions", "kind", kind, GROUPS)]))


def names(kind: str, own: Collection[str] = ()) -> tuple[str, ...]:
    """The names of `entries`; imports nothing of theirs."""
    return tuple(entries(kind, own))


class LeftOut(UserWarning):
    """Something of another package cannot be used, and is left out."""


def usable(names: Iterable[str], use: Callable[[str], Any]) -> dict[str, Any]:
    """What other packages add, by these names, each as use(name) gives it.

    What use(name) refuses is left out with a warning: no package takes away what others add, or what is here.
    """
    found = {}
    for name in names:
        try:
            found[name] = use(name)
        except InputError as error:
            warnings.warn(f"left out: {error}", LeftOut, stacklevel=2)
    return found


def versions(*packages: str, absent: str | None = None) -> dict[str, str]:
    """Package -> its version; of one that is not installed what `absent` says, or nothing."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if absent is not None:
                found[package] = absent
    return found


def load(kind: str, name: str, attributes: Collection[str] = ()) -> Any:
    """Import what another package adds.

    Parameters
    ----------
    kind : str
        One of `GROUPS`.
    name : str
        One of `names`.
    attributes : collection of str
        What it must have.

    Returns
    -------
    object
        As the entry point has it.

    Raises
    ------
    InputError
        No package adds it or several do, importing it raises an exception, or it lacks an attribute.
    """
    found = _found(kind)
    checks.option("extensions", kind, name, [entry.name for entry in found])
    entry, *others = {entry.value: entry for entry in found if entry.name == name}.values()
    if others:
        values = ", ".join(sorted(one.value for one in (entry, *others)))
        raise InputError(f"{kind} {name!r}: several packages add it: {values}; uninstall all of them but one")
    try:
        thing = entry.load()
    except Exception as error:
        raise InputError(
            f"{kind} {name!r}: loading its entry point {entry.value!r} raised {type(error).__name__}: {error}; "
            "repair or uninstall the package that brings it"
        ) from error
    missing = [attribute for attribute in attributes if not hasattr(thing, attribute)]
    if missing:
        raise InputError(
            f"{kind} {name!r}: its entry point {entry.value!r} has no {', '.join(missing)}; tcvae_ref/EXTENDING.md "
            "says what it must have"
        )
    return thing
