"""What somebody's loss returns by the oracle's names: log_qz, log_qz_marginals, mi, tc, dwkl, penalty, kl_penalty."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tcvae_ref.checks import InputError, option
from tcvae_ref.oracle.mapping import parse_pairs
from tcvae_ref.oracle.types import PENALTIES, QUANTITIES, TargetFault

IGNORED = "-"
"""In place of a quantity: a part of the result that is not judged."""

Returns: TypeAlias = tuple[str, ...] | dict[str, str | int] | None
"""Quantities by position; or quantity -> the name (or the position) of the part that holds it; or by known names."""

RESULT_ALIASES: dict[str, tuple[str, ...]] = {
    "log_qz": ("log_qz", "log_q_z", "joint", "log_joint"),
    "log_qz_marginals": ("log_qz_marginals", "log_qz_d", "log_qz_dims", "log_q_z_d", "marginals", "log_marginals"),
    "mi": (
        *("mi", "mi_loss", "mutual_info", "mutual_information", "mutual_info_loss", "index_code_mi"),
        *("index_code_mutual_information", "mi_term"),
    ),
    "tc": ("tc", "tc_loss", "total_correlation", "total_corr", "total_correlation_loss", "tc_term"),
    "dwkl": (
        *("dwkl", "dw_kl", "dw_kl_loss", "dwkl_loss", "dimension_wise_kl", "dimensionwise_kl", "dim_wise_kl", "kl_dim"),
        *("dimension_wise_kl_loss", "dw_kl_term"),
    ),
    "penalty": ("penalty", "loss"),
    "kl_penalty": ("kl_penalty",),
}
"""Quantity -> the names it goes by in public code; case, underscores, hyphens and spaces do not matter."""

_SHAPES = {"log_qz": ("M",), "log_qz_marginals": ("M", "D")}


def _key(name: Any) -> str:
    return str(name).lower().translate({ord(c): None for c in "_- "})


_QUANTITY_OF = {_key(alias): quantity for quantity, names in RESULT_ALIASES.items() for alias in names}


def parse_returns(where: str, returns: Any, known: Sequence[str] = QUANTITIES) -> Returns:
    """The option `returns`, of quantities that are known: "mi,tc,-", "tc=total,mi=index_mi", a sequence or a mapping.

    Raises
    ------
    InputError
        It names no quantity, an unknown one, or one twice.
    """
    if returns is None:
        return None
    if isinstance(returns, str):
        returns = parse_pairs(f"{where}: returns", returns) if "=" in returns else returns.split(",")
    if isinstance(returns, Mapping):
        named = {option(where, "returns", key, known): part for key, part in returns.items()}
    else:
        words = [option(where, "returns", word.strip(), (*known, IGNORED)) for word in returns]
        named = {word: word for word in words if word != IGNORED}
        twice = [word for word in named if words.count(word) > 1]
        if twice:
            raise InputError(f"{where}: returns names {twice[0]} twice; use {IGNORED!r} for a part that is not judged")
    if not named:
        raise InputError(f"{where}: returns={returns!r} names no quantity; choose of {', '.join(known)}")
    return named if isinstance(returns, Mapping) else tuple(words)


def named_quantities(returns: Returns) -> tuple[str, ...] | None:
    """The quantities that the option `returns` names, None without it."""
    return None if returns is None else tuple(name for name in returns if name != IGNORED)


def name_results(result: Any, returns: Returns, *, with_penalty: bool) -> dict[str, Any]:
    """The quantities in what a target returned; unknown parts are left out.

    Parameters
    ----------
    result : tensor, number, mapping, tuple, or an object with attributes
    returns : Returns
        From `parse_returns`.
    with_penalty : bool
        Whether the weights of a penalty are known; a single result is then the penalty, else the TC.

    Raises
    ------
    TargetFault
        The result is nothing of that, or no quantity is found in it.
    """
    _refuse_unfinished(result)
    if _is_numeric(result):
        return _single(result, returns, "penalty" if with_penalty else "tc")
    if not isinstance(result, Mapping) and isinstance(result, Sequence) and not isinstance(result, str | bytes):
        if isinstance(returns, tuple):
            return _by_position(result, returns)
        if not hasattr(result, "_fields"):
            return _from_tuple(result, returns)
    names = _names(result)
    asked = returns if isinstance(returns, dict) else _by_known_name(result, names, with_penalty)
    if isinstance(returns, tuple):
        asked = {quantity: name for quantity, name in asked.items() if quantity in returns}
    return _taken(result, names, asked, returns)


def passed_over(result: Any, *, with_penalty: bool) -> str:
    """What to say of the numbers in a result, returned by name, that `name_results` takes for nothing; "" if none."""
    if _is_numeric(result) or (isinstance(result, Sequence) and not hasattr(result, "_fields")):
        return ""
    names = _names(result)
    taken = _by_known_name(result, names, with_penalty)
    others = [name for name in names if name not in taken.values() and _is_numeric(_part(result, name))]
    if not others:
        return ""
    penalty = any(_QUANTITY_OF.get(_key(name)) in PENALTIES for name in others)
    weights = "; --weights beta=6 says what makes up a penalty" if penalty else ""
    known = "".join(f"{quantity}={name}," for quantity, name in taken.items())
    return (
        f"returned, and not judged: {', '.join(map(str, others))}; to say what one is, "
        f"--returns {known}QUANTITY={others[-1]}{weights}"
    )


def _refuse_unfinished(result: Any) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise TargetFault("returned a coroutine; a result is needed: write def, not async def")
    if inspect.isgenerator(result):
        raise TargetFault("returned a generator; a result is needed: return, not yield")
    if result is None:
        raise TargetFault("returned None; a mapping of mi, tc, dwkl or a scalar is needed: is a return missing?")


def _is_numeric(value: Any) -> bool:
    return hasattr(value, "shape") or (isinstance(value, int | float) and not isinstance(value, bool))


def _single(result: Any, returns: Returns, otherwise: str) -> dict[str, Any]:
    names = named_quantities(returns) or (otherwise,)
    if len(returns or names) != 1:
        raise TargetFault(f"returned a single result; --returns names {len(returns or names)} parts: name one")
    return {names[0]: result}


def _by_position(result: Sequence[Any], returns: tuple[str, ...]) -> dict[str, Any]:
    if len(result) != len(returns):
        raise TargetFault(
            f"returned a {_kind(result)} of {len(result)}; --returns names {len(returns)} parts: "
            f"name all {len(result)}, with {IGNORED!r} to ignore one"
        )
    return _numbers({name: part for name, part in zip(returns, result, strict=True) if name != IGNORED})


def _from_tuple(result: Sequence[Any], returns: Returns) -> dict[str, Any]:
    if not returns:
        example = ("mi", "tc", "dwkl", *[IGNORED] * len(result))[: max(1, len(result))]
        raise TargetFault(
            f"returned a {_kind(result)} of {len(result)}; name its parts with --returns={','.join(example)} "
            f"(use {IGNORED!r} to ignore one)"
        )
    return _taken(result, list(range(len(result))), returns if isinstance(returns, dict) else {}, returns)


def _kind(result: Any) -> str:
    return "tuple" if isinstance(result, tuple) else "list" if isinstance(result, list) else type(result).__name__


def _names(result: Any) -> list[Any]:
    """Keys of a mapping, fields of a NamedTuple, or public attributes of an object, methods excepted."""
    if isinstance(result, Mapping):
        return list(result)
    if isinstance(result, str | bytes) or not (hasattr(result, "__dict__") or hasattr(result, "__slots__")):
        raise TargetFault(f"returned a {_kind(result)}; a mapping of mi, tc, dwkl or a scalar is needed")
    fields = getattr(result, "_fields", None)
    if fields is not None:
        return list(fields)
    return [n for n in dir(result) if not n.startswith("_") and not callable(inspect.getattr_static(result, n))]


def _part(result: Any, name: Any) -> Any:
    return result[name] if isinstance(name, int) or isinstance(result, Mapping) else getattr(result, name)


def _by_known_name(result: Any, names: Sequence[Any], with_penalty: bool) -> dict[str, Any]:
    """Quantity -> name of the part that is known to be it; a quantity's own name goes before its aliases."""
    found: dict[str, list[Any]] = {}
    for name in names:
        quantity = _QUANTITY_OF.get(_key(name), "")
        if quantity and (with_penalty or quantity not in PENALTIES) and _part(result, name) is not None:
            found.setdefault(quantity, []).append(name)
    asked: dict[str, Any] = {}
    for quantity, candidates in found.items():
        chosen = [name for name in candidates if name == quantity] or candidates
        if len(chosen) > 1:
            raise TargetFault(
                f"returned {' and '.join(map(str, chosen))}, each {quantity} by name; "
                f"say which: --returns {quantity}={chosen[0]}"
            )
        asked[quantity] = chosen[0]
    return asked


def _taken(result: Any, names: Sequence[Any], asked: Mapping[str, Any], returns: Returns) -> dict[str, Any]:
    """The parts that were asked for, of which there must be all, and one."""
    of_text = {str(name): name for name in names}
    named = {q: _part(result, of_text[str(name)]) for q, name in asked.items() if str(name) in of_text}
    missing = [quantity for quantity in named_quantities(returns) or () if quantity not in named]
    given = f"returned {', '.join(of_text) or 'nothing'}"
    if missing and isinstance(returns, dict):
        raise TargetFault(f"{given}; {returns[missing[0]]}, named as {missing[0]}, is not among them")
    if missing:
        raise TargetFault(f"{given}; {missing[0]} is not among them: say which it is: --returns {missing[0]}=NAME")
    if not named:
        penalty = any(_QUANTITY_OF.get(_key(name)) in PENALTIES for name in names)
        hint = ", or give the weights that make up the penalty: --weights beta=6" if penalty else ""
        raise TargetFault(f"{given}; none is known: say which is which: --returns tc=NAME,mi=NAME{hint}")
    return _numbers(named)


def _numbers(named: dict[str, Any]) -> dict[str, Any]:
    """Require tensors or numbers."""
    for quantity, value in named.items():
        if not _is_numeric(value):
            raise TargetFault(f"returned {quantity} as a {_kind(value)}; a tensor or a number is needed")
    return named


def check_shapes(values: Mapping[str, Any], M: int, D: int) -> None:
    """Require log_qz : (M,), log_qz_marginals : (M, D) and scalars.

    Raises
    ------
    TargetFault
        A quantity has another shape; all of them are named.
    """
    complaints = [_shape_complaint(name, tuple(getattr(v, "shape", ())), M, D) for name, v in values.items()]
    wrong = list(filter(None, complaints))
    if wrong:
        raise TargetFault("; ".join(wrong))


def _shape_complaint(quantity: str, shape: tuple[int, ...], M: int, D: int) -> str:
    """What is wrong with a shape and what to do, "" if nothing is."""
    axes = _SHAPES.get(quantity, ())
    needed = tuple({"M": M, "D": D}[axis] for axis in axes)
    if shape == needed:
        return ""
    given = f"returned {quantity} of shape {shape}"
    if axes:
        return f"{given}, ({', '.join(axes)}{',' if len(axes) == 1 else ''}) = {needed} is needed"
    if all(length == 1 for length in shape):
        return f"{given}, a scalar of shape () is needed: take .squeeze() or .sum()"
    like = {(M,): "log_qz", (M, D): "log_qz_marginals"}.get(shape, "")
    hint = f" (if it is {like}, say so: --returns {like})" if like else ""
    return f"{given}, a scalar is needed: an average over the batch is needed{hint}"
