"""What an adapter is: the few things the oracle needs from a framework."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tcvae_ref.oracle.types import Observed, TensorFunction
from tcvae_ref.types import Array


class Adapter(Protocol):
    """A framework, seen from the oracle. Its tensors have a `shape`.

    Third parties register one under the entry-point group `tcvae_ref.adapters`: the entry's name is the framework's,
    its object the adapter (`tcvae_ref.extensions`; an example is in `EXTENDING.md`).
    """

    name: str
    """Of the framework, as --framework takes it."""
    module: str
    """The module in `sys.modules` that shows that the framework is in use."""
    variants: tuple[str, ...]
    """Ways to run a function, the plain one first: "eager", "compiled"."""
    dtypes: tuple[str, ...]
    """Of `tcvae_ref.oracle.types.DTYPES`, those the framework computes in on this machine."""
    differentiable: bool
    """Whether the framework has gradients."""

    def compiles(self, variant: str) -> bool:
        """Whether each new shape costs a compilation; cases then keep to a few shapes."""

    def version(self) -> str:
        """The framework's version."""

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy as the framework's tensor."""

    def array(self, tensor: Any) -> Array:
        """A tensor, or a number, read back as float64."""

    def is_tensor(self, value: Any) -> bool:
        """Whether this is the framework's tensor."""

    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """Call a function, and differentiate it.

        Parameters
        ----------
        function : TensorFunction
        arrays : mapping of (M, D) float64
            Representable in `dtype`.
        constants : mapping
        dtype, variant : str
        gradients : sequence of str
            Quantities whose gradients are wanted, of those that are returned: scalars as they are, `log_qz` by the
            batch mean, `log_qz_marginals` by the batch mean of the sum over d.

        Raises
        ------
        TargetFault
            The function raised, or returned what cannot be read as numbers. The message says what, in a line.
        """

    def warm_up(self) -> None:
        """Call each elementary function once on one number, in every dtype.

        For frameworks that choose a kernel at a function's first call; to be done before anything is judged.
        """

    def elementwise(self, name: str, array: Array, dtype: str) -> Array:
        """The exponential or logarithm of an array, computed in a dtype and read back as float64."""
