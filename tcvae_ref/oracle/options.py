"""The options of `check`, as one record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import estimators
from tcvae_ref.oracle.target import LOADING, Target, load
from tcvae_ref.oracle.types import DTYPES


@dataclass(frozen=True)
class Options:
    """What `check` is asked for; its docstring says what each is."""

    estimator: str = "auto"
    framework: str | None = None
    dtypes: Sequence[str] | None = None
    variants: Sequence[str] | None = None
    max_examples: int = 200
    seed: int = 0
    checks: Sequence[str] | None = None
    arguments: Mapping[str, str] | None = None
    parameterisation: str | None = None
    packed: str | None = None
    returns: Any = None
    weights: Mapping[str, float] | None = None
    bind: Mapping[str, Any] | None = None
    factory: str | Callable[[], Any] | None = None
    init: Mapping[str, Any] | None = None
    gradients: bool = True
    allow_unstable: bool = False
    diagnose: bool = True

    def validated(self, known_checks: Sequence[str]) -> "Options":
        """The same, each check, dtype and variant once.

        Raises
        ------
        InputError
            A name is unknown, a list is empty, or a number is no such number.
        """
        where = "check"
        checks.option(where, "estimator", self.estimator, ("auto", *estimators.names()))
        for name in self.checks or ():
            checks.option(where, "checks", name, known_checks)
        for dtype in self.dtypes or ():
            checks.option(where, "dtype", dtype, DTYPES)
        lists = {"dtypes": self.dtypes, "variants": self.variants, "checks": self.checks}
        for option, words in lists.items():
            if words is not None and not words:
                raise InputError(f"{where}: {option} is empty; name some, or leave it out for the default")
        return replace(
            self,
            max_examples=checks.whole_number(where, "max_examples", self.max_examples, 1, 1_000_000),
            seed=checks.whole_number(where, "seed", self.seed, 0),
            dtypes=self.dtypes and tuple(dict.fromkeys(self.dtypes)),
            variants=self.variants and tuple(dict.fromkeys(self.variants)),
            checks=self.checks and tuple(dict.fromkeys(self.checks)),
        )

    def load(self, target: str | Callable[..., Any]) -> Target:
        """The target, found and understood as these options say."""
        return load(target, **{name: getattr(self, name) for name in LOADING})

    @property
    def given(self) -> dict[str, Any]:
        """Those that are needed to run it again, as far as they can be kept."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and not callable(value)}
