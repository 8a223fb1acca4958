"""What an adapter is: all that the oracle knows of a framework."""

import abc
import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.types import DTYPES, USUAL_DTYPES, Observed, TensorFunction
from tcvae_ref.types import Array


class Adapter(abc.ABC):
    """A framework, seen from the oracle. Its tensors have a `shape`.

    What is not abstract holds for most frameworks, and is changed by the adapter of another. Third parties register one
    under the entry-point group `tcvae_ref.adapters`: the entry's name is the framework's, its object the adapter
    (`tcvae_ref.extensions`; an example is in `EXTENDING.md`).
    """

    # --- what it is called, and what it can ----------------------------------------------------------------------

    name: str
    """Of the framework, as --framework takes it."""
    module: str
    """The module whose `exp`, `log` and `stack` take its tensors, in `sys.modules` while the framework is in use."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Top-level packages whose code and objects are the framework's, never a user's own: that of `module`."""
        return (self.module.partition(".")[0],)

    @property
    def distribution(self) -> str:
        """What pip installs."""
        return self.name

    def version(self) -> str:
        """The framework's version."""
        return str(importlib.import_module(self.packages[0]).__version__)

    @property
    def variants(self) -> tuple[str, ...]:
        """Ways to run a function, the plain one first: "eager", "compiled"."""
        return ("eager",)

    def compiles(self, variant: str) -> bool:
        """Whether each new shape costs a compilation; cases then keep to a few shapes."""
        return variant != self.variants[0]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Of `tcvae_ref.oracle.types.DTYPES`, those the framework computes in on this machine."""
        return DTYPES

    @property
    def usual_dtypes(self) -> tuple[str, ...]:
        """Those that a target is judged in where none is asked for."""
        return tuple(dtype for dtype in USUAL_DTYPES if dtype in self.dtypes)

    @property
    def differentiable(self) -> bool:
        """Whether the framework has gradients."""
        return True

    # --- tensors -------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy as the framework's tensor."""

    @abc.abstractmethod
    def array(self, tensor: Any) -> Array:
        """A tensor, or a number, read back as float64."""

    @abc.abstractmethod
    def is_tensor(self, value: Any) -> bool:
        """Whether this is the framework's tensor."""

    @abc.abstractmethod
    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""

    def stack(self, tensors: Sequence[Any]) -> Any:
        """Tensors of one shape along a new last axis, so that derivatives pass.

        Raises
        ------
        InputError
            `module` has none.
        """
        stack = getattr(sys.modules[self.module], "stack", None)
        if stack is None:
            raise checks.InputError(
                f"packed: the adapter of {self.name} has no stack, and {self.module} has none; write a function that "
                "takes mu and the width apart and packs them"
            )
        return stack(list(tensors), -1)

    @property
    def in_python(self) -> tuple[str, str]:
        """For code to paste: a line that imports, and how an array {0} becomes a tensor of dtype {1}."""
        return "from tcvae_ref.oracle import adapters", f"adapters.by_name({self.name!r}).tensor({{0}}, '{{1}}')"

    # --- functions -----------------------------------------------------------------------------------------------

    @abc.abstractmethod
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

    @abc.abstractmethod
    def warm_up(self) -> None:
        """Call each elementary function once on one number, in every dtype.

        For frameworks that choose a kernel at a function's first call; to be done before anything is judged.
        """

    def elementwise(self, name: str, array: Array, dtype: str) -> Array:
        """The exponential or logarithm of an array, computed in a dtype and read back as float64."""
        checks.option(f"{self.name} adapter", "function", name, ("exp", "log"))
        return self.array(getattr(importlib.import_module(self.module), name)(self.tensor(array, dtype)))

    # --- random numbers ------------------------------------------------------------------------------------------

    def random_state(self, seed: int) -> Any:
        """What its samplers draw from where they are handed it: NumPy's generator."""
        return np.random.default_rng(seed)

    @contextlib.contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Set the global generators that its samplers draw from, and put them back: NumPy's."""
        kept = np.random.get_state()  # noqa: NPY002 - somebody else's sampler draws from it
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(kept)  # noqa: NPY002
