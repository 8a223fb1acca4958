"""Somebody's beta-TCVAE loss as the oracle calls it: found by its name, arguments and results mapped."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from tcvae_ref.checks import InputError, option, real_number
from tcvae_ref.oracle.aliases import WEIGHTS
from tcvae_ref.oracle.foreign import looked_at
from tcvae_ref.oracle.inference import map_arguments
from tcvae_ref.oracle.lookup import Factory, find, shown_name
from tcvae_ref.oracle.mapping import ArgumentMap, Stack, of_numpy
from tcvae_ref.oracle.returns import Returns, check_shapes, name_results, named_quantities, parse_returns, passed_over
from tcvae_ref.oracle.types import PENALTIES

FEWEST = 7
"""The least N that a target is held to where it is bound."""


@dataclass(frozen=True)
class Target:
    """A loss behind its argument and return mapping."""

    name: str
    callable: Callable[..., Any]
    arguments: ArgumentMap
    returns: Returns = None
    fixed_weights: dict[str, float] | None = None
    """Weights of the penalty that the target has inside, and that cases must have too; None if none is known."""
    stack: Stack = of_numpy
    """Of its framework's adapter; NumPy's before there is one."""

    def function(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        """Call the target: a `TensorFunction`, which frameworks can trace.

        Raises
        ------
        TargetFault
            It returned what no quantity is found in, or a quantity of a wrong shape.
        """
        result = self.result(tensors, constants)
        values = name_results(result, self.returns, with_penalty=self._with_penalty)
        M, D = tensors["z"].shape
        check_shapes(values, int(M), int(D))
        return values

    def result(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        """What the target itself returns."""
        return self.arguments.call(self.callable, {**tensors, **constants}, self.stack)

    def passed_over(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> str:
        """What to say of parts of a result that are not judged though no option leaves them out; "" if none are."""
        if self.returns is not None:
            return ""
        return passed_over(self.result(tensors, constants), with_penalty=self._with_penalty)

    @property
    def _with_penalty(self) -> bool:
        return bool(self.takes_weights) or self.fixed_weights is not None

    @property
    def parameterisation(self) -> str:
        """What the target takes as width, and the name of that tensor."""
        return self.arguments.parameterisation

    @property
    def takes_dataset_size(self) -> bool:
        """Whether the target is told N."""
        return "dataset_size" in self.arguments.names

    @property
    def dataset_size(self) -> int | None:
        """N that a parameter of that name is bound to; None where the target is told N, or nothing is said of it.

        A number below `FEWEST` is less than the batches are that estimators are told apart by, and may count else.
        """
        bound = self.arguments.bound.get("dataset_size")
        return int(bound) if isinstance(bound, numbers.Integral) and int(bound) >= FEWEST else None

    @property
    def takes_weights(self) -> tuple[str, ...]:
        """Those of alpha, beta and gamma that are arguments."""
        return tuple(name for name in WEIGHTS if name in self.arguments.names)

    @property
    def quantities(self) -> tuple[str, ...] | None:
        """What the target returns; None before the first call unless an option says it."""
        return named_quantities(self.returns)

    @property
    def mapping(self) -> str:
        """The signature as it was understood, in one line."""
        return self.mapping_to(self.quantities or ("...",))

    def mapping_to(self, quantities: Sequence[str]) -> str:
        """The signature as it was understood, with the quantities that a call returned."""
        text = f"{self.name.rpartition(':')[2]}({self.arguments}) -> {', '.join(quantities)}"
        enter = {"penalty": tuple(self.fixed_weights or ()), "kl_penalty": ("beta",)}
        named = [name for quantity in quantities for name in enter.get(quantity, ())]
        inside = {name: value for name, value in (self.fixed_weights or {}).items() if name in named}
        if inside:
            text += f" with {', '.join(f'{name}={value:g}' for name, value in inside.items())} inside"
        return f"{text} ({self.arguments.note})" if self.arguments.note else text


def load(
    target: str | Callable[..., Any],
    *,
    factory: Factory = None,
    init: Mapping[str, Any] | None = None,
    arguments: Mapping[str, str] | None = None,
    parameterisation: str | None = None,
    packed: str | None = None,
    bind: Mapping[str, Any] | None = None,
    returns: str | Sequence[str] | Mapping[str, str | int] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Target:
    """Somebody's loss, found and understood.

    Parameters
    ----------
    target : str or callable
        `package.module:function` (from the working directory too) or `path/file.py:function`; also
        `...:Class.method`, and a class or an object whose instance is called.
    factory : str, callable or True, optional
        Called without arguments, gives the instance of the class; without it the class is called so. True: the
        target itself is called so, and gives the loss.
    init : mapping, optional
        Arguments of the class, or of the factory, by name.
    arguments, parameterisation, packed, bind
        See `inference.map_arguments`.
    returns : optional
        See `returns.parse_returns`.
    weights : mapping, optional
        alpha, beta, gamma that the target has inside if it returns the penalty; 1 for those left out.

    Raises
    ------
    InputError
        The target cannot be imported, found or called, or an option does not fit it.
    """
    name = shown_name(target)
    function = find(target, factory, init)
    with looked_at(name):
        if not callable(function):
            raise InputError(f"{name}: is a {type(function).__name__}, not callable; name a function or method")
        mapped = map_arguments(
            name, function, arguments=arguments, parameterisation=parameterisation, packed=packed, bind=bind
        )
        parsed = parse_returns(name, returns)
        fixed = _fixed_weights(name, mapped, weights)
        penalties = [quantity for quantity in PENALTIES if quantity in (parsed or ())]
        if penalties and fixed is None and "beta" not in mapped.names:
            remedy = "give the weights it has inside, like --weights beta=6"
            raise InputError(f"{name}: returns {penalties[0]} and takes no beta; {remedy}")
        return Target(name, function, mapped, parsed, fixed)


LOADING = tuple(signature(load).parameters)[1:]
"""The options of `load`, which `check` and others pass on."""


def _fixed_weights(where: str, mapped: ArgumentMap, given: Mapping[str, float] | None) -> dict[str, float] | None:
    """The weights that a target does not take: as given or bound, 1 for the others; None if none is known."""
    weights = {option(where, "weights", key, WEIGHTS): real_number(where, key, v) for key, v in (given or {}).items()}
    for name in weights:
        if name in mapped.names:
            raise InputError(
                f"{where}: weights fixes {name}, which is an argument of the target; leave it out or bind it"
            )
    inside = {name: float(mapped.bound[name]) for name in WEIGHTS if type(mapped.bound.get(name)) in (int, float)}
    weights = inside | weights
    taken = [name for name in WEIGHTS if name in mapped.names]
    if (not weights and not taken) or len(taken) == len(WEIGHTS):
        return None
    return {name: weights.get(name, 1.0) for name in WEIGHTS if name not in taken}
