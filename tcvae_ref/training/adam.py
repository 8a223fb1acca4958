"""The Adam optimiser (Kingma & Ba 2015, algorithm 1)."""

import math
from typing import NamedTuple

import numpy as np

from tcvae_ref.checks import InputError, whole_number
from tcvae_ref.types import Array

_BLOCK = 1 << 15  # numbers updated at a time: the temporaries stay in the cache


class AdamState(NamedTuple):
    """Running moments of the gradient, one array for each parameter array."""

    first: list[Array]
    second: list[Array]


def initial_adam_state(parameters: list[Array]) -> AdamState:
    """Zero moments."""
    return AdamState([np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters])


def adam_step(
    parameters: list[Array],
    gradient: list[Array],
    state: AdamState,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> None:
    """Descend along the gradient, changing parameters and moments in place.

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2,
    p <- p - lr  m / (1 - b1^t)  /  ( sqrt(v / (1 - b2^t)) + epsilon )

    Parameters
    ----------
    parameters, gradient : lists of arrays
        Of the same shapes and dtype.
    state : AdamState
    step : int
        t, counted from 1.
    learning_rate, beta1, beta2, epsilon : float

    Raises
    ------
    InputError
        Shapes or dtypes differ, parameters or moments are not contiguous, or step < 1.
    """
    whole_number("adam_step", "step", step, 1)
    for arrays in zip(parameters, gradient, state.first, state.second, strict=True):
        p, g, m, v = arrays
        if {(a.shape, a.dtype) for a in arrays} != {(p.shape, p.dtype)} or not all(
            a.flags.c_contiguous for a in (p, m, v)
        ):
            raise InputError(
                f"adam_step: parameter, gradient and moments are {[f'{a.dtype} {a.shape}' for a in arrays]}; all must "
                "be of one shape and dtype, the parameter and moments contiguous: they are changed in place"
            )
    root = math.sqrt(1.0 - beta2**step)  # sqrt(v / (1 - b2^t)) + eps  =  (sqrt(v) + root eps) / root
    rate = learning_rate * root / (1.0 - beta1**step)
    scratch = np.empty(_BLOCK, parameters[0].dtype)
    for arrays in zip(parameters, gradient, state.first, state.second, strict=True):
        flat = [array.reshape(-1) for array in arrays]  # views: the arrays are contiguous
        for start in range(0, flat[0].size, _BLOCK):
            p, g, m, v = (a[start : start + _BLOCK] for a in flat)
            t = scratch[: p.size]
            m *= beta1
            m += np.multiply(g, 1.0 - beta1, out=t)
            v *= beta2
            np.multiply(g, g, out=t)
            t *= 1.0 - beta2
            v += t
            np.sqrt(v, out=t)
            t += root * epsilon
            np.divide(m, t, out=t)
            t *= rate
            p -= t
