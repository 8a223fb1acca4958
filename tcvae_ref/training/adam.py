"""The Adam optimiser (Kingma & Ba 2015, algorithm 1)."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from tcvae_ref.checks import InputError, NotFinite, whole_number
from tcvae_ref.types import Array

_BLOCK = 1 << 15  # numbers updated at a time: the temporaries stay in the cache


AdamUpdate: TypeAlias = Callable[[Array, Array, Array, Array, tuple[float, ...]], None]
"""`adam_update`, or another function of its signature."""


class AdamState(NamedTuple):
    """Running moments of the gradient, one array for each parameter array."""

    first: list[Array]
    second: list[Array]


def initial_adam_state(parameters: list[Array]) -> AdamState:
    """Zero moments.

    Parameters
    ----------
    parameters : list of arrays

    Returns
    -------
    AdamState
        Arrays of the parameters' shapes and dtypes.
    """
    return AdamState([np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters])


def require_finite(terms: Array | float, *gradient: Array) -> None:
    """Require a loss and a gradient that Adam's moments can take in: nan or infinity would stay there for good.

    Parameters
    ----------
    terms : array or float
        The loss, or what it is made of.
    *gradient : arrays
        One for each parameter array.

    Raises
    ------
    NotFinite
        One holds nan or infinity, or its squares add up to infinity.
    """
    for name, values in (("loss", [terms]), ("gradient", gradient)):
        if not all(np.isfinite(np.vdot(value, value)) for value in values):
            raise NotFinite(f"the {name}, or the square of its norm, is not finite")


def adam_update(p: Array, g: Array, m: Array, v: Array, numbers: tuple[float, ...]) -> None:
    """Update one parameter array and its moments in place, block by block.

    m <- b1 m + r1 g,    v <- b2 v + r2 g^2,    p <- p - rate m / (sqrt(v) + epsilon)

    Parameters
    ----------
    p, g, m, v : (n,)
        Parameters, gradient, first and second moments.
    numbers : tuple of float
        b1, b2, r1, r2, rate, epsilon.
    """
    beta1, beta2, rest1, rest2, rate, epsilon = numbers
    scratch = np.empty(min(_BLOCK, p.size), p.dtype)
    for start in range(0, p.size, _BLOCK):
        p_b, g_b, m_b, v_b = (a[start : start + _BLOCK] for a in (p, g, m, v))
        t = scratch[: p_b.size]
        m_b *= beta1
        m_b += np.multiply(g_b, rest1, out=t)
        v_b *= beta2
        np.multiply(g_b, g_b, out=t)
        t *= rest2
        v_b += t
        np.sqrt(v_b, out=t)
        t += epsilon
        np.divide(m_b, t, out=t)
        t *= rate
        p_b -= t


def adam_step(
    parameters: list[Array],
    gradient: list[Array],
    state: AdamState,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    update: AdamUpdate = adam_update,
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
    update : function
        `adam_update`, or another function of its signature.

    Raises
    ------
    InputError
        Numbers of arrays, shapes or dtypes differ, parameters or moments are not contiguous, or step < 1.
    """
    whole_number("adam_step", "step", step, 1)
    lengths = [len(arrays) for arrays in (parameters, gradient, state.first, state.second)]
    if len(set(lengths)) > 1:
        raise InputError(
            f"adam_step: parameters, gradient and the two moments are {lengths} arrays; as many of each are needed: "
            "initial_adam_state(parameters)"
        )
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
    numbers = (beta1, beta2, 1.0 - beta1, 1.0 - beta2, rate, root * epsilon)
    for arrays in zip(parameters, gradient, state.first, state.second, strict=True):
        p, g, m, v = (array.reshape(-1) for array in arrays)  # views: the arrays are contiguous
        update(p, g, m, v, numbers)
