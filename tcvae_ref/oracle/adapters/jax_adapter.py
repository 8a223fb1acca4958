"""JAX, op by op and through jax.jit."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.types import DTYPES, USUAL_DTYPES, Observed, TensorFunction
from tcvae_ref.types import Array


def _jax() -> Any:
    return common.framework("jax")


def _jnp() -> Any:
    return common.framework("jax.numpy")


class JaxAdapter(Adapter):
    """JAX on its default device. Without x64 there is no float64: it is refused, never computed in float32."""

    name = "jax"
    module = "jax.numpy"
    packages = "jax", "jaxlib"
    variants = "eager", "jit"
    usual_dtypes = USUAL_DTYPES
    """Also float64 where it is switched off: `tensor` says how to switch it on."""
    in_python = "import jax; jax.config.update('jax_enable_x64', True)", "jax.numpy.asarray({0}, dtype='{1}')"

    def __init__(self) -> None:
        self._jitted = common.Recent()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """float64 only where x64 is enabled."""
        return DTYPES if _jax().config.jax_enable_x64 else tuple(d for d in DTYPES if d != "float64")

    def compiles(self, variant: str) -> bool:
        """Always: without jit each operation is compiled for each new shape, some seconds for a loss."""
        return True

    def _dtype(self, dtype: str) -> str:
        if dtype == "float64" and "float64" not in self.dtypes:
            raise checks.InputError(
                "jax adapter: float64 is the default dtype, and JAX has it switched off: it would compute in float32; "
                "set JAX_ENABLE_X64=1 in the environment before JAX is imported, or take --dtype float32"
            )
        return checks.option(f"{self.name} adapter", "dtype", dtype, self.dtypes)

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy on the default device."""
        dtype = self._dtype(dtype)
        through = np.float32 if dtype == "bfloat16" else dtype
        return _jnp().array(common.cast(array, through), dtype=dtype, copy=True)

    def array(self, tensor: Any) -> Array:
        """A copy as float64."""
        if not self.is_tensor(tensor):
            return common.number(tensor)
        plain = np.asarray(tensor)
        through = np.float64 if plain.dtype == np.float64 else np.float32  # bfloat16 is not NumPy's own
        return np.array(plain.astype(through), dtype=np.float64)

    def is_tensor(self, value: Any) -> bool:
        """Whether this is a jax.Array, or a tracer that stands for one."""
        return isinstance(value, _jax().Array)

    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""
        return str(tensor.dtype.name)

    def warm_up(self) -> None:
        """Compile exp and log: XLA brings its own code, there is no kernel to be chosen at the first call."""
        for dtype in self.dtypes:
            one = self.tensor(np.ones(1), dtype)
            for name in ("exp", "log"):
                getattr(_jnp(), name)(one).block_until_ready()

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """Call a function once and pull back each quantity; under jit, values and gradients in one program."""
        checks.option(f"{self.name} adapter", "variant", variant, self.variants)
        tensors = {name: self.tensor(array, dtype) for name, array in arrays.items()}
        run = functools.partial(_run, self, function, dict(constants))
        wanted = tuple(gradients)
        if variant == "jit":
            key = (sorted(constants.items()), wanted)
            program = self._jitted.get(function, key, lambda: _jax().jit(functools.partial(_all_at_once, run, wanted)))
            outputs, found = common.attempt("the target", lambda: program(tensors))
        else:
            outputs, found = _op_by_op(run, wanted, tensors)
        return common.observed(self, arrays, _numbers_back(outputs), found, wanted)

    def random_state(self, seed: int) -> Any:
        """A key."""
        return _jax().random.key(seed)


Tensors = Mapping[str, Any]
Run = Callable[[Tensors], dict[str, Any]]


@functools.lru_cache(maxsize=1)
def _number_type() -> Any:
    """A leaf-less tree that carries a Python number through jit, which would make a tensor of it."""

    class Number:
        def __init__(self, value: Any) -> None:
            self.value = value

    _jax().tree_util.register_pytree_node(Number, lambda n: ((), n.value), lambda value, _: Number(value))
    return Number


def _run(adapter: JaxAdapter, function: TensorFunction, constants: Mapping[str, Any], tensors: Tensors) -> Any:
    outputs = common.call(adapter, lambda: function(dict(tensors), constants))
    return {q: v if adapter.is_tensor(v) else _number_type()(v) for q, v in outputs.items()}


def _numbers_back(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {q: v.value if isinstance(v, _number_type()) else v for q, v in outputs.items()}


def _pullback(run: Run, wanted: Sequence[str], tensors: Tensors) -> tuple[Any, Any, Any]:
    """The wanted outputs that are tensors, their pullback, and all outputs."""

    def split(tensors: Tensors) -> Any:
        outputs = run(tensors)
        return {q: outputs[q] for q in wanted if not isinstance(outputs.get(q, _number_type()(0)), _number_type())}, (
            outputs
        )

    primal, pull, outputs = common.attempt("the target", lambda: _jax().vjp(split, tensors, has_aux=True))
    return primal, pull, outputs


def _pulled(pull: Any, primal: Mapping[str, Any], quantity: str, tensors: Tensors) -> Any:
    rows = common.rows_of(tensors)
    seeds = {q: _jnp().full_like(v, common.cotangent(q, rows) if q == quantity else 0.0) for q, v in primal.items()}
    return common.attempt(f"the gradient of {quantity}", lambda: pull(seeds)[0])


def _op_by_op(run: Run, wanted: Sequence[str], tensors: Tensors) -> tuple[Any, Any]:
    """Outputs and gradients from one call.

    The other quantities are pulled back with 0, and 0 times an infinite derivative is nan. A gradient that is not
    finite is therefore taken again, alone: another quantity's fault must not show in it.
    """
    if not wanted:
        return run(tensors), {}
    primal, pull, outputs = _pullback(run, wanted, tensors)
    found = {}
    for quantity in primal:
        gradient = _pulled(pull, primal, quantity, tensors)
        if len(primal) > 1 and not all(bool(_jnp().isfinite(g).all()) for g in gradient.values()):
            alone, pull_alone, _ = _pullback(run, [quantity], tensors)
            gradient = _pulled(pull_alone, alone, quantity, tensors)
        found[quantity] = gradient
    return outputs, found


def _all_at_once(run: Run, wanted: Sequence[str], tensors: Tensors) -> tuple[Any, Any]:
    """Outputs and gradients as one traced program: a pullback for each quantity, which XLA merges."""
    found = {}
    for quantity in wanted:
        primal, pull, _ = _pullback(run, [quantity], tensors)
        if primal:
            found[quantity] = _pulled(pull, primal, quantity, tensors)
    return run(tensors), found


ADAPTER = JaxAdapter()
