"""PyTorch, eager and through torch.compile."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.types import Observed, TargetFault, TensorFunction
from tcvae_ref.types import Array


def _torch() -> Any:
    return common.framework("torch")


class TorchAdapter(Adapter):
    """PyTorch on the CPU."""

    name = "torch"
    module = "torch"
    variants = ("eager", "compiled")
    in_python = "import torch; torch.set_printoptions(precision=17)", "torch.tensor({0}, dtype=torch.{1})"

    def __init__(self) -> None:
        self._compiled = common.Recent()

    def tensor(self, array: Array, dtype: str) -> Any:
        """A copy on the CPU."""
        checks.option(f"{self.name} adapter", "dtype", dtype, self.dtypes)
        through = np.float32 if dtype == "bfloat16" else np.float64
        copy = common.cast(array, through)
        return _torch().from_numpy(copy).to(getattr(_torch(), dtype))

    def array(self, tensor: Any) -> Array:
        """A copy as float64."""
        if not self.is_tensor(tensor):
            return common.number(tensor)
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().to(_torch().float64)
        return np.array(plain.numpy())

    def is_tensor(self, value: Any) -> bool:
        """Whether this is a torch.Tensor."""
        return isinstance(value, _torch().Tensor)

    def dtype_of(self, tensor: Any) -> str:
        """The name of a tensor's dtype."""
        return str(tensor.dtype).removeprefix("torch.")

    def warm_up(self) -> None:
        """Call each elementary function once on one number.

        MKL picks a function's kernel at its first call; where two threads race there, one of them may be left with
        a low-accuracy kernel for that call: https://github.com/pytorch/pytorch/issues/188792.
        """
        torch = _torch()
        elementary = (torch.exp, torch.exp2, torch.log, torch.log2, torch.sqrt, torch.rsqrt, torch.expm1, torch.log1p)
        others = (torch.tanh, torch.sigmoid, torch.erf, torch.nn.functional.softplus, torch.reciprocal)
        along = (torch.logsumexp, torch.softmax, torch.log_softmax, torch.logcumsumexp)
        for dtype in self.dtypes:
            one = self.tensor(np.ones(1), dtype)
            for function in (*elementary, *others):
                function(one)
            for function in along:
                function(one, 0)
            torch.pow(one, one)

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """Call a function once, then go back once for each quantity."""
        checks.option(f"{self.name} adapter", "variant", variant, self.variants)
        tensors = {name: self.tensor(a, dtype).requires_grad_(bool(gradients)) for name, a in arrays.items()}
        rows = common.rows_of(arrays)
        if not self.compiles(variant):
            run = _closed(function, constants)
            with _torch().enable_grad():
                outputs = common.call(self, lambda: run(tensors))
                common.unchanged(self, arrays, tensors)
                found = self._gradients(outputs, tensors, gradients, rows)
        else:
            with _quiet_compilation(), _torch().enable_grad():
                outputs, found = self._compiled_pass(function, constants, tensors, gradients, rows, None)
        return common.observed(self, arrays, outputs, found, gradients)

    def _compiled_pass(
        self,
        function: TensorFunction,
        constants: Mapping[str, Any],
        tensors: Mapping[str, Any],
        wanted: Sequence[str],
        rows: int,
        only: str | None,
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Outputs and gradients, of all quantities or of one only.

        A compiled graph is pulled back as a whole, with 0 for the other outputs, and 0 times an infinite derivative
        is nan. A gradient that is not finite is therefore taken again from a graph with that output alone: another
        quantity's fault must not show in it.
        """
        key = (sorted(constants.items()), only)
        run = self._compiled.get(function, key, lambda: _compile(function, constants, only))
        try:
            outputs = common.call(self, lambda: run(tensors))
        except TargetFault as fault:
            _require_compiler(fault)
            raise
        found = self._gradients(outputs, tensors, wanted, rows)
        if len(outputs) > 1:
            for quantity in [q for q, by_name in found.items() if not _finite(by_name)]:
                alone = self._compiled_pass(function, constants, tensors, [quantity], rows, quantity)
                found.update(alone[1])
        return outputs, found

    def _gradients(
        self, outputs: Mapping[str, Any], tensors: Mapping[str, Any], wanted: Sequence[str], rows: int
    ) -> dict[str, dict[str, Any]]:
        torch, inputs, found = _torch(), list(tensors.values()), {}
        for quantity in wanted:
            output: Any = outputs.get(quantity)
            if not self.is_tensor(output) or not output.requires_grad:
                continue
            seed = torch.full_like(output.detach(), common.cotangent(quantity, rows))
            pull = functools.partial(torch.autograd.grad, output, inputs, seed, retain_graph=True, allow_unused=True)
            pulled = common.attempt(f"the gradient of {quantity}", pull)
            found[quantity] = dict(zip(tensors, pulled, strict=True))
        return found

    def random_state(self, seed: int) -> Any:
        """PyTorch's generator."""
        return _torch().Generator().manual_seed(seed)

    @contextlib.contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """PyTorch's and NumPy's global generators."""
        with _torch().random.fork_rng(devices=[]), super().seeded(seed):
            _torch().default_generator.manual_seed(seed % 2**63)
            yield


def _closed(
    function: TensorFunction, constants: Mapping[str, Any], only: str | None = None
) -> Callable[[Mapping[str, Any]], Any]:
    def run(tensors: Mapping[str, Any]) -> Any:
        outputs = function(tensors, constants)
        return outputs if only is None else {only: outputs[only]}

    return run


def _compile(function: TensorFunction, constants: Mapping[str, Any], only: str | None) -> Any:
    run = _closed(function, dict(constants), only)
    # TorchDynamo counts recompilations, and keeps what it compiled, by code object: each function gets its own.
    run.__code__ = run.__code__.replace()
    return _torch().compile(run, fullgraph=False, dynamic=None)


def _require_compiler(fault: TargetFault) -> None:
    """Not the target's fault: torch.compile found no C++ compiler.

    Raises
    ------
    InputError
        In place of the fault.
    """
    inner = getattr(fault.__cause__, "inner_exception", None)
    if type(inner).__name__ == "InvalidCxxCompiler":
        raise checks.InputError(
            "torch adapter: variant='compiled' needs a C++ compiler and none was found; "
            "install g++, or name one in the environment: CXX, or leave the variant out"
        ) from fault


def _finite(by_name: Mapping[str, Any]) -> bool:
    return all(g is None or bool(_torch().isfinite(g).all()) for g in by_name.values())


def _known(config: Any, **settings: Any) -> Any:
    return config.patch(**{name: value for name, value in settings.items() if hasattr(config, name)})


@contextlib.contextmanager
def _quiet_compilation() -> Iterator[None]:
    """Compilation that neither warns, nor gives up and runs eagerly after a few shapes, nor forbids a second backward.

    Buffers that the backward pass may overwrite ("donated") would make `retain_graph` an error.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamo = common.framework("torch._dynamo").config
        functorch = common.framework("torch._functorch.config")
        with (
            _known(dynamo, recompile_limit=256, cache_size_limit=256, accumulated_recompile_limit=4096),
            _known(functorch, donated_buffer=False),
        ):
            yield


ADAPTER = TorchAdapter()
