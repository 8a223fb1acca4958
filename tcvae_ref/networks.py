"""Fully connected encoder and decoder (paper, appendix: the networks for dSprites).

The paper's hidden layers are 1200, 1200 in the encoder and 1200, 1200, 1200 in the decoder, with D = 10.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import autograd.numpy as np
import numpy
from autograd.extend import defvjp, primitive

from tcvae_ref import checks
from tcvae_ref.types import Array, Layer, Layers


class Networks(NamedTuple):
    """The parameters of a variational autoencoder."""

    encoder: Layers
    """P pixels -> hidden layers -> 2 D numbers: mu, then log_var."""
    decoder: Layers
    """D numbers -> hidden layers -> P logits."""


def layer_sizes(
    pixels: int, encoder_hidden: Sequence[int], decoder_hidden: Sequence[int], D: int
) -> tuple[list[int], list[int]]:
    """Widths of all layers of the encoder and of the decoder, inputs and outputs included."""
    return [pixels, *encoder_hidden, 2 * D], [D, *decoder_hidden, pixels]


def initial_layers(sizes: Sequence[int], rng: numpy.random.Generator, dtype: str = "float32") -> Layers:
    """Draw W from N(0, 2 / inputs), with b = 0 (He et al. 2015, eq. 10: made for ReLU).

    Parameters
    ----------
    sizes : sequence of int
        Widths [inputs, hidden ..., outputs].
    rng : numpy.random.Generator
        The source of every draw.
    dtype : str
        "float32" or "float64".

    Returns
    -------
    layers : list of (W, b)
        W : (inputs, outputs), b : (outputs,).

    Raises
    ------
    InputError, TypeError
        A width is not a positive whole number.
    """
    for width in sizes:
        checks.whole_number("initial_layers", "layer width", width, 1)
    checks.option("initial_layers", "dtype", dtype, ("float32", "float64"))
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        W = math.sqrt(2.0 / inputs) * rng.standard_normal((inputs, outputs))
        layers.append((W.astype(dtype), numpy.zeros(outputs, dtype)))
    return layers


@primitive  # type: ignore[untyped-decorator]
def relu(a: Array) -> Any:
    """max(a, 0), a primitive for its derivative, 0 at 0: autograd's own turns float32 into float64."""
    return numpy.maximum(a, 0)


defvjp(relu, lambda ans, a: lambda g: g * (ans > 0))


@primitive  # type: ignore[untyped-decorator]
def tanh(a: Array) -> Any:
    """tanh(a), a primitive for its derivative 1 - tanh(a)^2: autograd's own recomputes it as 1 / cosh(a)^2."""
    return numpy.tanh(a)


defvjp(tanh, lambda ans, a: lambda g: g * (1.0 - ans**2))


def relu_layer(h: Array, W: Array, b: Array) -> Array:
    """max(h W + b, 0) : (M, inputs), (inputs, outputs), (outputs,) -> (M, outputs)."""
    return relu(np.matmul(h, W) + b)


def tanh_layer(h: Array, W: Array, b: Array) -> Array:
    """tanh(h W + b) : (M, inputs), (inputs, outputs), (outputs,) -> (M, outputs)."""
    return tanh(np.matmul(h, W) + b)


def linear_layer(h: Array, W: Array, b: Array) -> Array:
    """Product and bias, h W + b : (M, inputs), (inputs, outputs), (outputs,) -> (M, outputs)."""
    return np.matmul(h, W) + b


def encode(encoder: Layers, x: Array, hidden_layer: Layer = relu_layer) -> tuple[Array, Array]:
    """Parameters of q(z|n): hidden layers with ReLU, the last layer linear and split in two.

    Parameters
    ----------
    encoder : Layers
    x : (M, P)
    hidden_layer : function
        `relu_layer`, or another function of its signature.

    Returns
    -------
    mu, log_var : (M, D)
    """
    *hidden, (W, b) = encoder
    h = x
    for W_h, b_h in hidden:
        h = hidden_layer(h, W_h, b_h)
    h = linear_layer(h, W, b)
    D = len(b) // 2
    return h[:, :D], h[:, D:]


def decode(decoder: Layers, z: Array, hidden_layer: Layer = tanh_layer, output_layer: Layer = linear_layer) -> Array:
    """Bernoulli logits of p(x|z): hidden layers with tanh, the last layer linear.

    Parameters
    ----------
    decoder : Layers
    z : (M, D)
    hidden_layer : function
        `tanh_layer`, or another function of its signature.
    output_layer : function
        `linear_layer`, or another function of its signature.

    Returns
    -------
    logits : (M, P)
    """
    *hidden, (W, b) = decoder
    h = z
    for W_h, b_h in hidden:
        h = hidden_layer(h, W_h, b_h)
    return output_layer(h, W, b)
