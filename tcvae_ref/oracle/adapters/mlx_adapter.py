"""MLX, as called and through mx.compile, on the CPU."""

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.types import Observed, TensorFunction
from tcvae_ref.types import Array


def _mx() -> Any:
    return common.framework("mlx.core")


class MlxAdapter(Adapter):
    """MLX on the CPU's stream: on the GPU it has no float64.

    MLX has no tape, so that a function is called again for each quantity that is differentiated.
    """

    name = "mlx"
    module = "mlx.core"
    distribution = "mlx[cpu]"
    variants = ("eager", "compiled")
    in_python = "import mlx.core as mx", "mx.array({0}, dtype=mx.{1})"

    def __init__(self) -> None:
        self._compiled = common.Recent()

    def version(self) -> str:
        """MLX's version."""
        return importlib.metadata.version("mlx")

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy."""
        checks.option(f"{self.name} adapter", "dtype", dtype, self.dtypes)
        through = np.float32 if dtype == "bfloat16" else np.float64
        mx = _mx()
        with mx.stream(mx.cpu):
            wide = mx.array(common.cast(array, through), dtype=getattr(mx, np.dtype(through).name))
            return wide.astype(getattr(mx, dtype))

    def array(self, tensor: Any) -> Array:
        """A copy as float64."""
        if not self.is_tensor(tensor):
            return common.number(tensor)
        mx = _mx()
        with mx.stream(mx.cpu):
            return np.array(tensor.astype(mx.float64), dtype=np.float64)

    def is_tensor(self, value: Any) -> bool:
        """Whether this is an mx.array."""
        return isinstance(value, _mx().array)

    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""
        return str(tensor.dtype).rpartition(".")[2]

    def warm_up(self) -> None:
        """Call each elementary function once on one number."""
        mx = _mx()
        with mx.stream(mx.cpu):
            for dtype in self.dtypes:
                one = self.tensor(np.ones(1), dtype)
                elementary = (mx.exp, mx.log, mx.sqrt, mx.rsqrt, mx.expm1, mx.log1p, mx.tanh, mx.sigmoid)
                mx.eval([function(one) for function in (*elementary, mx.logsumexp, mx.softmax)])

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """Call a function for its values, and again for the gradient of each quantity."""
        checks.option(f"{self.name} adapter", "variant", variant, self.variants)
        mx, fixed, wanted = _mx(), dict(constants), tuple(gradients)
        with mx.stream(mx.cpu):
            tensors = {name: self.tensor(array, dtype) for name, array in arrays.items()}
            run = functools.partial(_run, self, function, fixed, wanted)
            if self.compiles(variant):
                key = (sorted(constants.items()), wanted)
                run = self._compiled.get(function, key, lambda: mx.compile(run))
            outputs, found = common.attempt("the target", lambda: _evaluated(run(tensors)))
            return common.observed(self, arrays, outputs, found, gradients)

    def elementwise(self, name: str, array: Array, dtype: str) -> Array:
        """The exponential or logarithm of an array, computed in a dtype."""
        with _mx().stream(_mx().cpu):
            return super().elementwise(name, array, dtype)


Tensors = Mapping[str, Any]


def _run(
    adapter: MlxAdapter,
    function: TensorFunction,
    constants: Mapping[str, Any],
    wanted: Sequence[str],
    tensors: Tensors,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Outputs and gradients, as a graph that is not evaluated yet."""
    outputs = common.call(adapter, lambda: function(dict(tensors), constants))
    differentiated = [q for q in wanted if adapter.is_tensor(outputs.get(q))]
    return outputs, {q: _gradient(function, constants, tensors, q, outputs[q]) for q in differentiated}


def _gradient(
    function: TensorFunction, constants: Mapping[str, Any], tensors: Tensors, quantity: str, output: Any
) -> dict[str, Any]:
    mx, names = _mx(), list(tensors)

    def alone(*inputs: Any) -> list[Any]:
        return [function(dict(zip(names, inputs, strict=True)), constants)[quantity]]

    seed = mx.full(output.shape, common.cotangent(quantity, common.rows_of(tensors)), dtype=output.dtype)
    pulled = common.attempt(f"the gradient of {quantity}", lambda: mx.vjp(alone, list(tensors.values()), [seed])[1])
    return dict(zip(names, pulled, strict=True))


def _evaluated(tree: Any) -> Any:
    """Computed now, so that what fails fails inside the target's call."""
    _mx().eval(tree)
    return tree


ADAPTER = MlxAdapter()
