"""Convolutional encoder and decoder (paper, appendix: the networks for 3D Faces), for images of 64 x 64 pixels.

Encoder: 4x4 convolutions at stride 2 to 32, 32, 64, 64 channels, one of 4x4 over all that is left to 512, then 1x1 to
2 D; the decoder is its mirror image. Batch normalisation and ReLU follow every layer but the last of each. Layers
before a batch normalisation have no bias, which it would take away again (the released code keeps one, to no effect).
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import autograd.numpy as np
import numpy

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.convolution import batch_norm, conv2d, conv_transpose2d, fixed_norm
from tcvae_ref.networks import relu
from tcvae_ref.types import Array

SIDE = 64
"""Pixels along an image's side."""
MOMENTUM = 0.1
"""How far a step moves the running statistics towards the batch's."""


class Shape(NamedTuple):
    """A convolution's kernel side, stride and padding."""

    kernel: int
    stride: int
    padding: int


HALVE = Shape(4, 2, 1)
ALL = Shape(4, 4, 0)  # of 4 x 4 pixels
POINT = Shape(1, 1, 0)
SHAPES = (HALVE, HALVE, HALVE, HALVE, ALL, POINT)
"""The encoder's layers, from the image to the code; the decoder has them in reverse order."""
CHANNELS = (32, 32, 64, 64, 512)
"""Channels between the encoder's layers; the decoder has them in reverse order."""

Convolution = Callable[[Array, Array, int, int], Array]


def initial_encoder(channels: int, D: int, rng: numpy.random.Generator, dtype: str = "float32") -> list[Array]:
    """Draw kernels from N(0, 2 / inputs), with scale 1, shift 0 and bias 0 (He et al. 2015, eq. 10).

    Parameters
    ----------
    channels : int
        Of an image: 1 or 3.
    D : int
    rng : numpy.random.Generator
        The source of every draw.
    dtype : str
        "float32" or "float64".

    Returns
    -------
    parameters : list of arrays
        kernel (k, k, inputs, outputs), scale, shift of each layer with batch normalisation; kernel and bias (2 D,) of
        the last.

    Raises
    ------
    InputError, TypeError
        A number is not a positive whole one, or the dtype is unknown.
    """
    widths = _widths("initial_encoder", channels, D, 2 * D, dtype)
    terms = [shape.kernel**2 * width for shape, width in zip(SHAPES, widths[:-1], strict=True)]
    return _initial(_kernels(widths), terms, widths[1:], rng, dtype)


def initial_decoder(D: int, channels: int, rng: numpy.random.Generator, dtype: str = "float32") -> list[Array]:
    """Draw kernels from N(0, 2 / inputs), with scale 1, shift 0 and bias 0 (He et al. 2015, eq. 10).

    Parameters
    ----------
    D, channels, rng, dtype
        As for `initial_encoder`.

    Returns
    -------
    parameters : list of arrays
        kernel (k, k, outputs, inputs), scale, shift of each layer with batch normalisation; kernel and bias
        (channels,) of the last.

    Raises
    ------
    InputError, TypeError
        A number is not a positive whole one, or the dtype is unknown.
    """
    widths = _widths("initial_decoder", channels, D, D, dtype)
    terms = [(shape.kernel // shape.stride) ** 2 * width for shape, width in zip(SHAPES, widths[1:], strict=True)]
    return _initial(_kernels(widths)[::-1], terms[::-1], widths[-2::-1], rng, dtype)


def _widths(where: str, channels: int, D: int, code: int, dtype: str) -> list[int]:
    """Channels from the image to the code."""
    checks.whole_number(where, "channels", channels, 1)
    checks.whole_number(where, "D", D, 1)
    checks.option(where, "dtype", dtype, ("float32", "float64"))
    return [channels, *CHANNELS, code]


def _kernels(widths: list[int]) -> list[tuple[int, int, int, int]]:
    """Shapes of the kernels from the image to the code."""
    pairs = itertools.pairwise(widths)
    return [(shape.kernel, shape.kernel, *pair) for shape, pair in zip(SHAPES, pairs, strict=True)]


def _initial(
    kernels: list[tuple[int, int, int, int]],
    terms: list[int],
    outputs: list[int],
    rng: numpy.random.Generator,
    dtype: str,
) -> list[Array]:
    """Kernels of these shapes, each followed by scale and shift, the last by its bias.

    `terms` is the number of products in each layer's sums, `outputs` its number of channels.
    """
    parameters: list[Array] = []
    for shape, count, width in zip(kernels, terms, outputs, strict=True):
        kernel = math.sqrt(2.0 / count) * rng.standard_normal(shape)
        parameters += [kernel.astype(dtype), numpy.ones(width, dtype), numpy.zeros(width, dtype)]
    return [*parameters[:-2], parameters[-1]]  # the last layer has a bias only


def encoder_statistics(dtype: str = "float32") -> list[Array]:
    """Running mean 0 and variance 1, before any step, of each of the encoder's batch normalisations."""
    return [array for width in CHANNELS for array in (numpy.zeros(width, dtype), numpy.ones(width, dtype))]


def decoder_statistics(dtype: str = "float32") -> list[Array]:
    """Running mean 0 and variance 1, before any step, of each of the decoder's batch normalisations."""
    return [array for width in CHANNELS[::-1] for array in (numpy.zeros(width, dtype), numpy.ones(width, dtype))]


def encode(
    parameters: list[Array], statistics: list[Array], x: Array, learning: bool
) -> tuple[Array, Array, list[Array]]:
    """Parameters of q(z|n), and the statistics moved by the batch.

    Parameters
    ----------
    parameters : list of arrays
        As `initial_encoder` gives them.
    statistics : list of arrays
        As `encoder_statistics` gives them: running mean and variance of each batch normalisation.
    x : (M, channels 64 64)
        Images, flat, in the order channel, row, column.
    learning : bool
        True: the batch's own statistics normalise, and the running ones move towards them by `MOMENTUM` (the variance
        with divisor n - 1). False: the running ones normalise, and stay.

    Returns
    -------
    mu, log_var : (M, D)
    statistics : list of arrays
        New arrays if learning; outside of differentiation.

    Raises
    ------
    InputError
        x or the lists do not fit; or learning from a single image.
    """
    channels = parameters[0].shape[2]
    if len(x.shape) != 2 or x.shape[1] != channels * SIDE * SIDE:
        raise InputError(
            f"encode: x has shape {tuple(x.shape)}; (M, {channels * SIDE * SIDE}) is needed, images of {SIDE} x {SIDE} "
            f"pixels and {channels} channels, flat in the order channel, row, column"
        )
    images = np.transpose(np.reshape(x, (-1, channels, SIDE, SIDE)), (0, 2, 3, 1))
    code, statistics = _layers("encode", conv2d, SHAPES, parameters, statistics, images, learning)
    flat = np.reshape(code, (len(x), -1))
    D = flat.shape[1] // 2
    return flat[:, :D], flat[:, D:], statistics


def decode(parameters: list[Array], statistics: list[Array], z: Array, learning: bool) -> tuple[Array, list[Array]]:
    """Logits of p(x|z), and the statistics moved by the batch.

    Parameters
    ----------
    parameters : list of arrays
        As `initial_decoder` gives them.
    statistics : list of arrays
        As `decoder_statistics` gives them.
    z : (M, D)
    learning : bool
        As for `encode`.

    Returns
    -------
    logits : (M, channels 64 64)
        Flat, in the order channel, row, column.
    statistics : list of arrays
        New arrays if learning; outside of differentiation.

    Raises
    ------
    InputError
        z or the lists do not fit; or learning from a single code.
    """
    D = parameters[0].shape[3]
    if len(z.shape) != 2 or z.shape[1] != D:
        raise InputError(f"decode: z has shape {tuple(z.shape)}; (M, {D}) is needed")
    code = np.reshape(z, (-1, 1, 1, D))
    images, statistics = _layers("decode", conv_transpose2d, SHAPES[::-1], parameters, statistics, code, learning)
    return np.reshape(np.transpose(images, (0, 3, 1, 2)), (len(z), -1)), statistics


def _layers(
    where: str,
    convolution: Convolution,
    shapes: tuple[Shape, ...],
    parameters: list[Array],
    statistics: list[Array],
    h: Array,
    learning: bool,
) -> tuple[Array, list[Array]]:
    """Every layer of a network in turn, and the statistics after it."""
    norms = len(shapes) - 1
    if len(parameters) != 3 * norms + 2 or len(statistics) != 2 * norms:
        raise InputError(
            f"{where}: {len(parameters)} parameter arrays and {len(statistics)} statistics; {3 * norms + 2} and "
            f"{2 * norms} are needed, as initial_{where}r and {where}r_statistics give them"
        )
    moved: list[Array] = []
    for i, (_, stride, padding) in enumerate(shapes[:-1]):
        kernel, scale, shift = parameters[3 * i : 3 * i + 3]
        h = convolution(h, kernel, stride, padding)
        running = statistics[2 * i : 2 * i + 2]
        if learning:
            n = math.prod(h.shape[:3])
            h, mean, variance = batch_norm(h, scale, shift)
            moved += [_moved(running[0], mean), _moved(running[1], variance * (n / (n - 1)))]
        else:
            h = fixed_norm(h, scale, shift, *running)
        h = relu(h)
    kernel, bias = parameters[-2:]
    _, stride, padding = shapes[-1]
    return convolution(h, kernel, stride, padding) + bias, moved if learning else statistics


def _moved(running: Array, of_batch: Array) -> Array:
    """Running statistic after a step."""
    return (1 - MOMENTUM) * running + MOMENTUM * of_batch
