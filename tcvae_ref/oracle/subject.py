"""A target as it is judged: in one dtype and variant, as one estimator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tcvae_ref.oracle import tolerance
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.target import Target
from tcvae_ref.oracle.tolerance import allowances
from tcvae_ref.oracle.types import Allowances, Case, Observed, Primitives, TensorFunction
from tcvae_ref.types import Array


@dataclass(frozen=True)
class Subject:
    """A target in one dtype and variant, and what it is taken to compute."""

    function: TensorFunction
    adapter: Adapter
    variant: str
    dtype: str
    estimator: str
    parameterisation: str
    primitives: Primitives
    weights: Mapping[str, float] = field(default_factory=dict)
    """Those of alpha, beta and gamma that the target has inside."""
    dataset_size: int | None = None
    """N where the target has it inside."""
    quantities: tuple[str, ...] = ()
    """What the target returns, once it was called."""

    @classmethod
    def of(
        cls, target: Target, adapter: Adapter, variant: str, dtype: str, estimator: str, primitives: Primitives
    ) -> "Subject":
        """A target with the weights and the N that it has inside; alpha and gamma are 1 where nothing is said."""
        inside = target.fixed_weights or {}
        weights = {w: 1.0 for w in ("alpha", "gamma") if w not in target.takes_weights} | inside
        how = (adapter, variant, dtype, estimator, target.parameterisation, primitives)
        return cls(replace(target, stack=adapter.stack).function, *how, weights, target.dataset_size)

    def receive(self, case: Case) -> Case:
        """The case as the framework receives it: arrays rounded to the dtype and read back, weights and N as inside."""
        as_sent = received(case, self.adapter, self.dtype, self.parameterisation)
        if self.dataset_size is not None:
            N = find(self.estimator).dataset_size(len(case.z), self.dataset_size)
            as_sent = as_sent._replace(dataset_size=N)
        return as_sent._replace(**self.weights)  # type: ignore[arg-type]  # they are floats

    def observe(self, received: Case, gradients: Sequence[str] = ()) -> Observed:
        """Call the target; TargetFault where it returns what cannot be judged."""
        return self.adapter.observe(
            self.function, received.arrays, received.constants, self.dtype, self.variant, gradients
        )

    def allowances(self, received: Case, *, expanded: bool = False, gradients: bool = True) -> Allowances:
        """What may be off, in this dtype."""
        return allowances(received, self.estimator, self.dtype, self.primitives, expanded=expanded, gradients=gradients)


WIDTHS: dict[str, Callable[[Array], Array]] = {
    "log_var": lambda log_var: log_var,
    "log_std": lambda log_var: 0.5 * log_var,
    "std": lambda log_var: np.exp(0.5 * log_var),
    "var": lambda log_var: np.exp(log_var),
}
"""What a target may be given -> it, from log sigma^2."""


def received(case: Case, adapter: Adapter, dtype: str, parameterisation: str) -> Case:
    """A case with the width in a target's parameterisation, rounded to a dtype and read back."""
    spread = case.spread
    if case.parameterisation != parameterisation:
        spread = WIDTHS[parameterisation](tolerance.log_variances(case))
    z, mu, spread = (adapter.array(adapter.tensor(a, dtype)) for a in (case.z, case.mu, spread))
    return case._replace(z=z, mu=mu, spread=spread, parameterisation=parameterisation)
