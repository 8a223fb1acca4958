"""The gradient of a loss by many arrays at once."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from autograd.core import VJPNode, add_outgrads
from autograd.tracer import isbox, new_box, toposort, trace_stack

from tcvae_ref.types import Array, Scalar

Aux = TypeVar("Aux")


def gradient_and_aux(
    loss_and_aux: Callable[..., tuple[Scalar, Aux]], arrays: Sequence[Array], *rest: Any
) -> tuple[list[Array], Aux]:
    """Gradients of a scalar by each of several arrays, and what is returned beside it.

    The same numbers as `autograd.differential_operators.grad_and_aux` of a list. There, taking an array out of the list
    is itself an operation, whose derivative fills zeros for every array of the list. Each array boxed by itself saves
    these passes through the memory of all parameters.

    Parameters
    ----------
    loss_and_aux : function
        Called as loss_and_aux(arrays, *rest); the second of what it returns is to hold plain numbers.
    arrays : sequence of arrays
    *rest
        Not differentiated by.

    Returns
    -------
    gradients : list of arrays
        Zeros for an array that the loss does not depend on.
    aux
    """
    roots = [VJPNode.new_root() for _ in arrays]
    with trace_stack.new_trace() as trace:
        loss, aux = loss_and_aux([new_box(a, trace, root) for a, root in zip(arrays, roots, strict=True)], *rest)
    found: dict[VJPNode, Array] = {}
    if isbox(loss):
        flowing = {loss._node: (np.ones_like(loss._value), False)}
        for node in toposort(loss._node):
            gradient, _ = flowing.pop(node)
            if not node.parents:
                found[node] = gradient
            for parent, part in zip(node.parents, node.vjp(gradient), strict=True):
                flowing[parent] = add_outgrads(flowing.get(parent), part)
    return [found[root] if root in found else np.zeros_like(a) for a, root in zip(arrays, roots, strict=True)], aux
