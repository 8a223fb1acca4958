"""Keras 3: its tensors are its backend's, so everything is left to the backend's adapter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.types import Observed, TensorFunction
from tcvae_ref.types import Array


def _keras() -> Any:
    return common.framework("keras")


def _backend() -> Adapter:
    """The adapter of the backend that Keras runs on."""
    name = _keras().backend.backend()
    checks.option("keras adapter", "backend", name, ("torch", "jax", "tensorflow", "numpy"))
    return common.framework(f"tcvae_ref.oracle.adapters.{name}_adapter").ADAPTER


class KerasAdapter(Adapter):
    """Keras on whatever backend is active (KERAS_BACKEND)."""

    name = "keras"
    module = "keras"

    @property
    def variants(self) -> tuple[str, ...]:
        """The backend's."""
        return _backend().variants

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The backend's."""
        return _backend().dtypes

    @property
    def differentiable(self) -> bool:
        """Whether the backend is; NumPy is not."""
        return _backend().differentiable

    def compiles(self, variant: str) -> bool:
        """Whether the backend compiles."""
        return _backend().compiles(variant)

    def version(self) -> str:
        """Keras' version and the backend's."""
        backend = _backend()
        return f"{_keras().__version__} on {backend.name} {backend.version()}"

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy as the backend's tensor."""
        return _backend().tensor(array, dtype)

    def array(self, tensor: Any) -> Array:
        """A copy as float64."""
        return _backend().array(tensor)

    def is_tensor(self, value: Any) -> bool:
        """Whether this is the backend's tensor."""
        return _backend().is_tensor(value)

    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""
        return _backend().dtype_of(tensor)

    def stack(self, tensors: Sequence[Any]) -> Any:
        """As the backend does."""
        return _backend().stack(tensors)

    def warm_up(self) -> None:
        """The backend's elementary functions; Keras' own add nothing to be warmed up."""
        _backend().warm_up()

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """As the backend's adapter does."""
        return _backend().observe(function, arrays, constants, dtype, variant, gradients)

    def elementwise(self, name: str, array: Array, dtype: str) -> Array:
        """The exponential or logarithm of an array by `keras.ops`, which need not be the backend's."""
        checks.option("keras adapter", "function", name, ("exp", "log"))
        with np.errstate(all="ignore"):
            return self.array(getattr(_keras().ops, name)(self.tensor(array, dtype)))


ADAPTER = KerasAdapter()
