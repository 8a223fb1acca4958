"""HIPS autograd, the reference's own framework."""

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from autograd.core import VJPNode, backward_pass
from autograd.tracer import isbox, new_box, trace_stack

from tcvae_ref import checks
from tcvae_ref.oracle.adapters import common
from tcvae_ref.oracle.adapters.numpy_adapter import NumpyAdapter
from tcvae_ref.oracle.types import Observed, TensorFunction
from tcvae_ref.types import Array


class AutogradAdapter(NumpyAdapter):
    """NumPy arrays, in boxes while they are differentiated."""

    name = "autograd"
    module = "autograd.numpy"
    differentiable = True

    def version(self) -> str:
        """The version of autograd."""
        return importlib.metadata.version("autograd")

    def array(self, tensor: Any) -> Array:
        """A copy as float64, out of its boxes."""
        return super().array(_unboxed(tensor))

    def is_tensor(self, value: Any) -> bool:
        """Whether this is an array or a box round one."""
        return isbox(value) or super().is_tensor(value)

    def dtype_of(self, tensor: Any) -> str:
        """The name of an array's dtype."""
        return super().dtype_of(np.asarray(_unboxed(tensor)))

    def observe(
        self,
        function: TensorFunction,
        arrays: Mapping[str, Array],
        constants: Mapping[str, Any],
        dtype: str,
        variant: str,
        gradients: Sequence[str],
    ) -> Observed:
        """Call a function once, in boxes where gradients are wanted, then go back once for each quantity."""
        checks.option(f"{self.name} adapter", "variant", variant, self.variants)
        tensors = {name: self.tensor(array, dtype) for name, array in arrays.items()}
        if not gradients:
            outputs = common.call(self, lambda: function(tensors, constants))
            common.unchanged(self, arrays, tensors)
            return common.observed(self, arrays, outputs, {}, ())
        with trace_stack.new_trace() as trace:
            # All arguments hang on one root, a dictionary: `backward_pass` returns the gradient of one root only.
            root = new_box(tensors, trace, VJPNode.new_root())
            boxes = {name: root[name] for name in tensors}
            outputs = common.call(self, lambda: function(boxes, constants))
            common.unchanged(self, arrays, tensors)
        found = {}
        for quantity in gradients:
            box: Any = outputs.get(quantity)
            if isbox(box) and box._trace == trace:
                weight = common.cotangent(quantity, common.rows_of(arrays))
                found[quantity] = common.attempt(f"the gradient of {quantity}", functools.partial(_pull, box, weight))
        return common.observed(self, arrays, outputs, found, gradients)


def _unboxed(value: Any) -> Any:
    while isbox(value):
        value = value._value
    return value


def _pull(box: Any, weight: float) -> Any:
    """The gradient in the root, from a box whose entries weigh so much each."""
    seed = np.full(np.shape(box._value), weight, dtype=np.asarray(box._value).dtype)
    return backward_pass(seed if seed.ndim else seed[()], box._node)


ADAPTER = AutogradAdapter()
