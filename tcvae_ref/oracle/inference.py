"""The arguments of somebody's loss by the oracle's names: z, mu, a width, dataset_size, alpha, beta, gamma."""

import difflib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tcvae_ref.checks import InputError, option
from tcvae_ref.oracle.aliases import (
    ALIASES,
    ARGUMENT_OF,
    ARGUMENTS,
    PACKED,
    RECONSTRUCTIONS,
    ROLES,
    TENSORS,
    WEIGHTS,
    key,
    loose_key,
)
from tcvae_ref.oracle.foreign import attribute
from tcvae_ref.oracle.mapping import ArgumentMap, Slot
from tcvae_ref.oracle.types import PARAMETERISATIONS

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MOST_PLACES = 32
"""Of parameters that can be given by their place."""
_ALIKE = 0.7
"""How like an argument's name a parameter's is that may be it: `difflib`'s ratio."""


def map_arguments(
    where: str,
    function: Callable[..., Any],
    *,
    arguments: Mapping[str, str] | None = None,
    parameterisation: str | None = None,
    packed: str | None = None,
    bind: Mapping[str, Any] | None = None,
    besides: Iterable[str] = (),
) -> ArgumentMap:
    """What each parameter of a function receives, by its name where the options do not say.

    Parameters
    ----------
    where : str
        Begins every error message.
    function : callable
    arguments : mapping, optional
        Canonical argument -> name of the function's parameter, or its place from 0, for names that are not understood.
        What `*args` takes at place 4 is called args4.
    parameterisation : str, optional
        What the width is, whatever its name says: one of `PARAMETERISATIONS`.
    packed : str, optional
        `NAME:mu,log_std` for a parameter (M, D, 2) with both in its last axis in this order,
        `NAME:(mu,log_std)` for a tuple of both.
    bind : mapping, optional
        Parameter -> the value it always receives; dataset_size, where it has no such parameter, is the N it has inside.
    besides : iterable of str
        Those of `ROLES` that a parameter may be named as too, and none is.

    Raises
    ------
    InputError
        An option names what is not there, a parameter without default has no known meaning, or an argument has no
        parameter or more than one.
    """
    parameters = parameters_of(function)
    bound, named = dict(bind or {}), by_place(parameters, arguments or {})
    if parameterisation is not None:
        option(where, "parameterisation", parameterisation, PARAMETERISATIONS)
    slots = _asked_for(where, named, parameterisation, packed)
    parameters = _opened(parameters, (*slots, *bound))
    inside = bound.pop("dataset_size", None) if not _takes_size(parameters) else None
    _check_names(where, parameters, slots, bound)
    free = [p for p in parameters if is_named(p) and p.name not in slots and p.name not in bound]
    if not slots and not any(map(is_named, parameters)):
        return _without_names(where, parameters, parameterisation or "log_var", bound)
    by_position = [] if slots else _by_position(free, parameterisation or "log_var")
    slots |= {slot.parameter: slot for slot in by_position}
    slots |= _inferred(where, [p for p in free if p.name not in slots], slots, parameterisation)
    _check_complete(where, parameters, slots, bound, tuple(besides))
    slots |= {name: Slot(name, (), value) for name, value in bound.items()}
    mapped = _arranged(parameters, slots, "by position: no name is known" if by_position else "")
    if inside is None:
        return mapped
    if "dataset_size" in mapped.names:
        raise InputError(f"{where}: is told N, and dataset_size={inside!r} is bound; bind its own parameter or neither")
    return mapped._replace(size_inside=inside, note=f"dataset_size={inside!r} inside")


def _takes_size(parameters: Sequence[inspect.Parameter]) -> bool:
    """Whether a parameter is called dataset_size, or any may be given."""
    return any(p.name == "dataset_size" for p in parameters) or _takes_any_keyword(parameters)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters of a function; of a module of a neural network, those of its `forward` or `call`."""
    for candidate in (function, attribute(function, "forward"), attribute(function, "call")):
        try:
            parameters = list(inspect.signature(candidate).parameters.values()) if callable(candidate) else []
        except Exception:  # whatever its attributes raise
            continue
        if any(map(is_named, parameters)):
            return parameters
    return _signature_or_open(function)


def _signature_or_open(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except Exception:
        return [
            inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]


def by_place(parameters: Sequence[inspect.Parameter], arguments: Mapping[str, str]) -> dict[str, str]:
    """Argument -> the name of its parameter, where it is given by its place."""
    positional = [p.name for p in parameters if p.kind in _POSITIONAL]
    rest = [f"{p.name}{k}" for p in parameters if p.kind is p.VAR_POSITIONAL for k in range(_MOST_PLACES)]
    names = {str(k): name for k, name in enumerate([*positional, *rest[len(positional) :]])}
    return {ours: names.get(theirs, theirs) for ours, theirs in arguments.items()}


def _opened(parameters: Sequence[inspect.Parameter], names: Iterable[str]) -> list[inspect.Parameter]:
    """Parameters, with those of `*args` up to the last that is named, as `by_place` does."""
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    places = {f"{rest}{k}": k for k in range(len(positional), _MOST_PLACES)} if rest else {}
    last = max((places[name] for name in names if name in places), default=-1)
    if last < 0:
        return list(parameters)
    only = inspect.Parameter.POSITIONAL_ONLY
    added = [inspect.Parameter(name, only) for name, k in places.items() if k <= last]
    others = [p for p in parameters if p.kind not in _POSITIONAL]
    return [*(p.replace(kind=only) for p in positional), *added, *others]


def is_named(parameter: inspect.Parameter) -> bool:
    """Whether it is one parameter, and not `*args` or `**kwargs`."""
    return parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether it is one parameter, and has no default."""
    return is_named(parameter) and parameter.default is inspect.Parameter.empty


def _takes_any_keyword(parameters: Iterable[inspect.Parameter]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _role(argument: str) -> str:
    return "width" if argument in PARAMETERISATIONS else argument


def _asked_for(
    where: str, arguments: Mapping[str, str], parameterisation: str | None, packed: str | None
) -> dict[str, Slot]:
    """Slots by parameter, as the options name them."""
    slots = [_packed_slot(where, packed)] if packed else []
    slots += [Slot(name, (option(where, "arguments", canonical, ARGUMENTS),)) for canonical, name in arguments.items()]
    roles = [_role(argument) for slot in slots for argument in slot.arguments]
    names = [slot.parameter for slot in slots]
    twice = [name for name in dict.fromkeys((*names, *roles)) if names.count(name) > 1 or roles.count(name) > 1]
    if twice:
        raise InputError(f"{where}: {twice[0]} is given twice in arguments and packed; give it once")
    widths = [a for slot in slots for a in slot.arguments if a in PARAMETERISATIONS]
    if widths and parameterisation not in (None, widths[0]):
        raise InputError(
            f"{where}: the width is {widths[0]} by name and parameterisation={parameterisation!r}; leave one out"
        )
    return {slot.parameter: slot for slot in slots}


def _packed_slot(where: str, text: str) -> Slot:
    match = re.fullmatch(r"\s*(\w+)\s*:\s*(\()?\s*(\w+)\s*,\s*(\w+)\s*(\))?\s*", text)
    parts = match.group(3, 4) if match else ()
    if not match or bool(match[2]) != bool(match[5]) or sorted(map(_role, parts)) != ["mu", "width"]:
        raise InputError(
            f"{where}: packed={text!r} is not understood; write NAME:mu,WIDTH for an array (M, D, 2) or "
            f"NAME:(mu,WIDTH) for a tuple, WIDTH one of {', '.join(PARAMETERISATIONS)}"
        )
    return Slot(match[1], parts, stacked=not match[2])


def _check_names(
    where: str, parameters: Sequence[inspect.Parameter], slots: Mapping[str, Slot], bound: Mapping[str, Any]
) -> None:
    """Require that the options name parameters which are there, each once."""
    names = [p.name for p in parameters if is_named(p)]
    for name in (*slots, *bound):
        if name in slots and name in bound:
            raise InputError(f"{where}: {name} is bound and is {slots[name]}; leave one out")
        if name not in names and not (_takes_any_keyword(parameters) and name.isidentifier()):
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where}: there is no parameter {name!r}; choose of ({', '.join(names)}){hint}")


def _without_names(
    where: str, parameters: Sequence[inspect.Parameter], parameterisation: str, bound: Mapping[str, Any]
) -> ArgumentMap:
    """The four arguments by position, or by keyword where only those are taken."""
    canonical = ("z", "mu", parameterisation, "dataset_size")
    constants = tuple(Slot(name, (), value) for name, value in bound.items())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        slots = tuple(Slot("", (name,)) for name in canonical)
        return ArgumentMap(slots, constants, parameterisation, "by position: the signature has no names")
    if _takes_any_keyword(parameters):
        slots = tuple(Slot(name, (name,)) for name in canonical)
        return ArgumentMap((), (*slots, *constants), parameterisation)
    raise InputError(
        f"{where}: takes no arguments; z, mu and a width are needed, like {where.rpartition(':')[2]}(z, mu, log_var, N)"
    )


def _by_position(free: Sequence[inspect.Parameter], parameterisation: str) -> list[Slot]:
    """The slots of exactly four required positional parameters of which no name is known, else none."""
    required = [p for p in free if is_required(p)]
    if len(required) != 4 or any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in required):
        return []
    if any(_meaning(p, level) or key(p.name) in PACKED for p in required for level in (key, loose_key)):
        return []
    canonical = ("z", "mu", parameterisation, "dataset_size")
    return [Slot(p.name, (name,)) for p, name in zip(required, canonical, strict=True)]


def _meaning(parameter: inspect.Parameter, key_of: Callable[[str], str]) -> str:
    """The canonical argument that a parameter's name stands for, "" if none or if its default is of another kind."""
    argument = ARGUMENT_OF.get(key_of(parameter.name), "")
    default = parameter.default
    if default is inspect.Parameter.empty or default is None:
        return argument
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    return argument if is_number and argument not in TENSORS else ""


def _inferred(
    where: str, free: Sequence[inspect.Parameter], asked: Mapping[str, Slot], parameterisation: str | None
) -> dict[str, Slot]:
    """Slots of the parameters whose names are known, for the arguments that the options leave open."""
    found: dict[str, Slot] = {}
    for key_of in (key, loose_key):
        taken = {_role(a) for slot in (*asked.values(), *found.values()) for a in slot.arguments}
        by_role: dict[str, list[inspect.Parameter]] = {}
        for parameter in free:
            role = _role(_meaning(parameter, key_of))
            if role and role not in taken and parameter.name not in found:
                by_role.setdefault(role, []).append(parameter)
        for role, candidates in by_role.items():
            chosen = _only_one(where, role, candidates, strict=key_of is key)
            if chosen:
                name = parameterisation if role == "width" and parameterisation else _meaning(chosen, key_of)
                found[chosen.name] = Slot(chosen.name, (name,))
    roles = {_role(a) for slot in (*asked.values(), *found.values()) for a in slot.arguments}
    packed = [] if roles & {"mu", "width"} else [p.name for p in free if key(p.name) in PACKED]
    if len(packed) == 1:
        found[packed[0]] = _inferred_packed(where, packed[0], parameterisation)
    return found


def _only_one(
    where: str, role: str, candidates: Sequence[inspect.Parameter], *, strict: bool
) -> inspect.Parameter | None:
    required = [p for p in candidates if is_required(p)]
    chosen = required or list(candidates)
    if len(chosen) == 1:
        return chosen[0]
    if not strict:
        return None
    names = " and ".join(p.name for p in chosen)
    example = PARAMETERISATIONS[0] if role == "width" else role
    raise InputError(
        f"{where}: {names} can each be the {role}; name one in arguments, like --args {example}={chosen[0].name}, "
        f"and bind the other, like --bind {chosen[1].name}=VALUE"
    )


def _inferred_packed(where: str, name: str, parameterisation: str | None) -> Slot:
    if parameterisation is None:
        raise InputError(
            f"{where}: {name} seems to hold mu and a width, and its name does not say which width; give packed, like "
            f"--packed {name}:mu,log_var for an array (M, D, 2) or --packed '{name}:(mu,log_var)' for a tuple; where "
            "that is the width, log_std, std or var"
        )
    return Slot(name, ("mu", parameterisation), stacked=True)


def _check_complete(
    where: str,
    parameters: Sequence[inspect.Parameter],
    slots: Mapping[str, Slot],
    bound: Mapping[str, Any],
    besides: Sequence[str],
) -> None:
    """Require a parameter for z, mu and the width, and a meaning for each parameter without default."""
    roles = {_role(argument) for slot in slots.values() for argument in slot.arguments}
    missing = [role for role in ("z", "mu", "width") if role not in roles]
    unknown = [p.name for p in parameters if is_required(p) and p.name not in slots and p.name not in bound]
    if not missing:
        _refuse_whole_losses(where, unknown, told="dataset_size" in roles)
    if not missing and not unknown:
        return
    others = [name for name in ("dataset_size", *WEIGHTS, *besides) if name not in roles]
    named = _guessed(unknown, missing, others)
    rest = [name for name in unknown if name not in named.values()]
    complaints = [_without(parameters, missing)] if missing else []
    if rest or not missing:
        have = "has" if len(unknown) == 1 else "have"
        complaints.append(f"{', '.join(unknown)} {have} no default and no known meaning")
    raise InputError(f"{where}: {', and '.join(complaints)}; {_remedy(named, rest, others)}")


def _without(parameters: Sequence[inspect.Parameter], missing: Sequence[str]) -> str:
    names = ", ".join(p.name for p in parameters if is_named(p)) or "none"
    what = " or ".join(missing).replace("width", f"the width ({', '.join(PARAMETERISATIONS)})")
    return f"no parameter of ({names}) is known to be {what}"


def _remedy(named: Mapping[str, str], rest: Sequence[str], others: Sequence[str]) -> str:
    """What to write: guesses of what is what, and for each parameter that is left."""
    remedies = []
    if named:
        pairs = ",".join(f"{ours}={name}" for ours, name in named.items())
        remedies.append(f"name it in arguments, like --args {pairs}")
    if rest:
        binds = " ".join(f"--bind {name}=VALUE" for name in rest)
        remedies.append(f"bind {'what is left' if named else 'a value'}, like {binds}")
    left = [name for name in others if name not in (*named, *WEIGHTS)]
    other = f", or name what it is, like --args {left[0]}={rest[0]}" if rest and left else ""
    also = f" (or {', '.join(left[1:])})" if other and left[1:] else ""
    return f"{', and '.join(remedies)}{other}{also}"


def _refuse_whole_losses(where: str, unknown: Sequence[str], *, told: bool) -> None:
    """Require that no parameter is a reconstruction; `told` is whether it takes N."""
    around = {name: role for name in unknown for role, names in ROLES.items() if key(name) in names}
    if set(around.values()) & RECONSTRUCTIONS:
        size = "" if told else " --dataset-size N"
        raise InputError(
            f"{where}: {' and '.join(around)} {'is' if len(around) == 1 else 'are'} of a whole loss, with its "
            "reconstruction; this command judges the penalty alone. "
            f"For the whole: tcvae-ref check-step --loss {where}{size}"
        )


def _guessed(unknown: Sequence[str], missing: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Argument -> the parameter that may be it: likest to its names, or left over; NAME for what is missing else."""
    candidates = [*missing, *others, *(PARAMETERISATIONS if "width" in missing else ())]
    words = {key(alias): one for one in candidates for alias in (*ALIASES.get(one, ()), *ROLES.get(one, ()))}
    found: dict[str, str] = {}
    for name in unknown:
        near = difflib.get_close_matches(key(name), words, n=1, cutoff=_ALIKE)
        if near and _role(words[near[0]]) not in map(_role, found):
            found[words[near[0]]] = name
    still = [role for role in missing if role not in map(_role, found)]
    rest = [name for name in unknown if name not in found.values()]
    left_over = rest if len(rest) <= len(still) else []
    for role, name in itertools.zip_longest(still, left_over, fillvalue="NAME"):
        found[PARAMETERISATIONS[0] if role == "width" else role] = name
    return found


def _arranged(parameters: Sequence[inspect.Parameter], slots: Mapping[str, Slot], note: str) -> ArgumentMap:
    """Slots by position as far as that goes (not every framework differentiates keywords), then by keyword."""
    positional: list[Slot] = []
    keyword: list[Slot] = []
    for parameter in filter(is_named, _with_defaults_needed(parameters, slots)):
        slot = slots.get(parameter.name)
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(Slot("", *slot[1:]) if slot else Slot("", (), parameter.default))
        elif slot is not None:
            by_position = parameter.kind is not inspect.Parameter.KEYWORD_ONLY and not keyword
            by_position = by_position and len(positional) == _place(parameters, parameter)
            (positional if by_position else keyword).append(slot)
    names = {p.name for p in parameters if is_named(p)}
    keyword += [slot for name, slot in slots.items() if name not in names]
    width = next(a for slot in slots.values() for a in slot.arguments if a in PARAMETERISATIONS)
    return ArgumentMap(tuple(positional), tuple(keyword), width, note)


def _place(parameters: Sequence[inspect.Parameter], parameter: inspect.Parameter) -> int:
    return [p.name for p in parameters].index(parameter.name)


def _with_defaults_needed(
    parameters: Sequence[inspect.Parameter], slots: Mapping[str, Slot]
) -> list[inspect.Parameter]:
    """Parameters without the positional-only ones after the last that is in a slot: they keep their defaults."""
    only = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    last = max((i for i, p in enumerate(only) if p.name in slots), default=-1)
    return [p for p in parameters if p not in only[last + 1 :]]
