"""TensorFlow, eager and through tf.function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.types import Observed, TargetFault, TensorFunction
from tcvae_ref.types import Array


def _tf() -> Any:
    return common.framework("tensorflow")


class TensorflowAdapter(Adapter):
    """TensorFlow 2."""

    name = "tensorflow"
    module = "tensorflow"
    variants = ("eager", "graph")
    in_python = "import tensorflow as tf", "tf.constant({0}, dtype=tf.{1})"

    def __init__(self) -> None:
        self._graphs = common.Recent()

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy; bfloat16 through float32."""
        checks.option(f"{self.name} adapter", "dtype", dtype, self.dtypes)
        through = "float32" if dtype == "bfloat16" else dtype
        return _tf().cast(_tf().constant(common.cast(array, through)), dtype)

    def array(self, tensor: Any) -> Array:
        """A copy as float64."""
        if not self.is_tensor(tensor):
            return common.number(tensor)
        return np.array(_tf().cast(tensor, "float64").numpy())

    def is_tensor(self, value: Any) -> bool:
        """Whether this is a tensor or a variable."""
        return isinstance(value, _tf().Tensor | _tf().Variable)

    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""
        return str(tensor.dtype.name)

    def warm_up(self) -> None:
        """Call each elementary function once on one number."""
        tf = _tf()
        elementary = (tf.exp, tf.math.log, tf.sqrt, tf.math.rsqrt, tf.math.expm1, tf.math.log1p, tf.tanh, tf.sigmoid)
        for dtype in self.dtypes:
            one = self.tensor(np.ones(1), dtype)
            for function in (*elementary, tf.reduce_logsumexp, tf.nn.softmax, tf.nn.log_softmax):
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
        """Call a function once under a persistent tape, and ask the tape once for each quantity."""
        checks.option(f"{self.name} adapter", "variant", variant, self.variants)
        tensors = {name: self.tensor(array, dtype) for name, array in arrays.items()}
        if self.compiles(variant):
            key = (sorted(constants.items()), tuple(gradients))
            graph = self._graphs.get(function, key, lambda: _Graph(self, function, dict(constants), tuple(gradients)))
            outputs, found = graph(tensors)
        else:
            outputs, found = _taped(self, function, constants, tuple(gradients), tensors)
        return common.observed(self, arrays, outputs, found, gradients)

    def elementwise(self, name: str, array: Array, dtype: str) -> Array:
        """The exponential or logarithm of an array, computed in a dtype."""
        checks.option(f"{self.name} adapter", "function", name, ("exp", "log"))
        return self.array(getattr(_tf().math, name)(self.tensor(array, dtype)))


def _gradient(tape: Any, quantity: str, output: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    seed = _tf().ones_like(output) * common.cotangent(quantity, common.rows_of(tensors))
    pulled: dict[str, Any] = common.attempt(
        f"the gradient of {quantity}", lambda: tape.gradient(output, dict(tensors), output_gradients=seed)
    )
    return {name: None if g is None else _tf().convert_to_tensor(g) for name, g in pulled.items()}


def _taped(
    adapter: TensorflowAdapter,
    function: TensorFunction,
    constants: Mapping[str, Any],
    wanted: Sequence[str],
    tensors: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    with _tf().GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(list(tensors.values()))
        outputs = common.call(adapter, lambda: function(tensors, constants))
    differentiated = [q for q in wanted if q in outputs and adapter.is_tensor(outputs[q])]
    return outputs, {q: _gradient(tape, q, outputs[q], tensors) for q in differentiated}


class _Graph:
    """A target and its gradients as one tf.function.

    Numbers travel as float64 constants under a name of their own: tf.function would make float32 tensors of them.
    """

    def __init__(
        self, adapter: TensorflowAdapter, function: TensorFunction, constants: Mapping[str, Any], wanted: Sequence[str]
    ) -> None:
        self._adapter, self._wanted, self._constants = adapter, wanted, constants
        self._function = self._converted(function)
        self._cause: BaseException | None = None
        """Of the last fault: TensorFlow cuts it off when it shortens the traceback."""
        self._traced = _tf().function(self._body, autograph=False)

    @staticmethod
    def _converted(function: TensorFunction) -> Callable[..., Any]:
        """With Python's control flow turned into the graph's, as tf.function does by default."""
        convert = getattr(getattr(_tf(), "__internal__", None), "autograph", None)
        return convert.tf_convert(function, convert.control_status_ctx()) if convert else function

    def _body(self, tensors: Mapping[str, Any]) -> Any:
        try:
            outputs, found = _taped(self._adapter, self._function, self._constants, self._wanted, tensors)
        except TargetFault as fault:
            self._cause = fault.__cause__
            raise
        known = {q: {name: g for name, g in by_name.items() if g is not None} for q, by_name in found.items()}
        tensor_outputs = {q: v for q, v in outputs.items() if self._adapter.is_tensor(v)}
        numbers = {q: _tf().constant(float(v), "float64") for q, v in outputs.items() if q not in tensor_outputs}
        return tensor_outputs, numbers, known

    def __call__(self, tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        self._cause = None
        try:
            outputs, numbers, found = common.attempt("the target", lambda: self._traced(tensors))
        except TargetFault as fault:
            raise fault from self._cause or fault.__cause__
        return {**outputs, **{q: float(v) for q, v in numbers.items()}}, found


ADAPTER = TensorflowAdapter()
