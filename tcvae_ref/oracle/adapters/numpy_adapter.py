"""NumPy: values only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.types import Observed, TensorFunction
from tcvae_ref.types import Array


class NumpyAdapter(Adapter):
    """NumPy. bfloat16 is left out: it is another package's, and NumPy has no arithmetic of its own for it."""

    name = "numpy"
    module = "numpy"
    dtypes = ("float64", "float32", "float16")
    differentiable = False
    in_python = "", "{0}.astype(np.{1})"

    def version(self) -> str:
        """NumPy's version."""
        return np.__version__

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy in a dtype."""
        checks.option(f"{self.name} adapter", "dtype", dtype, self.dtypes)
        return common.cast(array, dtype)

    def array(self, tensor: Any) -> Array:
        """A copy as float64."""
        return np.array(tensor, dtype=np.float64) if self.is_tensor(tensor) else common.number(tensor)

    def is_tensor(self, value: Any) -> bool:
        """Whether this is an array, or the scalar that a reduction returns."""
        return isinstance(value, np.ndarray | np.generic)

    def dtype_of(self, tensor: Any) -> str:
        """The name of an array's dtype."""
        return str(tensor.dtype.name)

    def warm_up(self) -> None:
        """Call each elementary function once."""
        with np.errstate(all="ignore"):
            for dtype in self.dtypes:
                one = np.ones(1, dtype)
                for function in (np.exp, np.log, np.sqrt, np.expm1, np.log1p, np.tanh):
                    function(one)

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """Call a function; there are no gradients to be had."""
        checks.option(f"{self.name} adapter", "variant", variant, self.variants)
        if gradients:
            raise checks.InputError(
                f"{self.name} adapter: gradients of {', '.join(gradients)} are asked for, NumPy has none; "
                "ask for values only, or judge the function under autograd"
            )
        tensors = {name: self.tensor(array, dtype) for name, array in arrays.items()}
        outputs = common.call(self, lambda: function(tensors, constants))
        common.unchanged(self, arrays, tensors)
        return common.observed(self, arrays, outputs, {}, ())

    def elementwise(self, name: str, array: Array, dtype: str) -> Array:
        """The exponential or logarithm of an array, computed in a dtype."""
        checks.option(f"{self.name} adapter", "function", name, ("exp", "log"))
        with np.errstate(all="ignore"):
            return np.array(getattr(np, name)(common.cast(array, dtype)), dtype=np.float64)


ADAPTER = NumpyAdapter()
