"""Convolution, transposed convolution and batch normalisation, with gradients.

Images are (M, H, W, C), channels last; kernels (k, k, C, K), where K are the channels of the code, which is what a
convolution makes of an image. The transposed convolution with a kernel is the adjoint of the convolution with it and
maps codes to images. k must be a multiple r s of the stride s: with blocks of s x s pixels as the pixels of a coarser
image, the convolution is then one of stride 1 with r x r taps,

    code = sum over taps a  shift_a( blocks(x) W_a ),

a product of large matrices. The taps' shifts are made before it (the blocks' neighbours are gathered, im2col) or
after it (the products of all taps are added up), whichever moves fewer numbers. Every step is linear and its adjoint is
here too, so that each is the derivative of the other, to any order. Float32 stays float32.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import autograd.numpy as np
import numpy
from autograd.extend import Box, defvjp, defvjp_argnums, primitive
from autograd.tracer import getval

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.types import Array

EPSILON = 1e-5
"""Added to the variance in batch normalisation, as PyTorch does."""


class Window(NamedTuple):
    """Squares of `reach` x `reach` pixels at every `step`-th pixel of an image with a border of `padding` zeros."""

    reach: int
    step: int
    padding: int

    def count(self, length: int) -> int:
        """Number of squares along a side of `length` pixels."""
        return (length + 2 * self.padding - self.reach) // self.step + 1

    def pairs(self, H: int, W: int) -> Iterator[tuple[Any, Any]]:
        """Indices (into the image, into the squares) of the pixels in place (a, b) of all squares, for each (a, b)."""
        rows, columns = ([self._line(a, length) for a in range(self.reach)] for length in (H, W))
        for a, (i, n) in enumerate(rows):
            for b, (j, o) in enumerate(columns):
                yield (slice(None), i, j), (slice(None), n, o, a, b)

    def _line(self, a: int, length: int) -> tuple[slice, slice]:
        """Pixels i = n step + a - padding inside the image, and their squares n, along one side."""
        offset = a - self.padding
        first = max(0, -(offset // self.step))
        end = max(first, min(self.count(length), (length - 1 - offset) // self.step + 1))
        start = first * self.step + offset
        return slice(start, start + (end - first) * self.step, self.step), slice(first, end)


@primitive  # type: ignore[untyped-decorator]
def patches(x: Array, window: Window) -> Any:
    """Every square of a window, patches[m, n, o, (a, b, c)] = x[m, n step + a - padding, o step + b - padding, c].

    Parameters
    ----------
    x : (M, H, W, C)
        Zero beyond its border.
    window : Window

    Returns
    -------
    patches : (M, H', W', reach^2 C)
    """
    M, H, W, C = x.shape
    shape = M, window.count(H), window.count(W), window.reach, window.reach, C
    result = (numpy.zeros if window.padding else numpy.empty)(shape, x.dtype)
    for pixels, places in window.pairs(H, W):
        result[places] = x[pixels]
    return result.reshape(*shape[:3], -1)


@primitive  # type: ignore[untyped-decorator]
def overlay(squares: Array, window: Window, H: int, W: int) -> Any:
    """Adjoint of `patches`: every square laid on the image and added up, what falls beyond the border left out.

    Parameters
    ----------
    squares : (M, H', W', reach^2 C)
    window : Window
    H, W : int
        Sides of the image.

    Returns
    -------
    x : (M, H, W, C)
    """
    squares = squares.reshape(*squares.shape[:3], window.reach, window.reach, -1)
    result = numpy.zeros((len(squares), H, W, squares.shape[-1]), squares.dtype)
    for pixels, places in window.pairs(H, W):
        if window.reach <= window.step:  # squares do not overlap
            result[pixels] = squares[places]
        else:
            result[pixels] += squares[places]
    return result


defvjp(patches, lambda ans, x, window: lambda g: overlay(g, window, *x.shape[1:3]), argnums=(0,))
defvjp(overlay, lambda ans, squares, window, H, W: lambda g: patches(g, window), argnums=(0,))


def _product(a: Array, B: Array) -> Array:
    """Matrix product over the last axis of a : (M, H, W, K), (K, L) -> (M, H, W, L)."""
    return np.reshape(np.matmul(np.reshape(a, (-1, B.shape[0])), B), (*a.shape[:3], B.shape[1]))


def _taps(kernel: Array, stride: int) -> Array:
    """Kernel as (r, r, s, s, C, K): first the tap, a block of pixels, then the pixel in the block."""
    k, _, C, K = kernel.shape
    r = k // stride
    return np.transpose(np.reshape(kernel, (r, stride, r, stride, C, K)), (0, 2, 1, 3, 4, 5))


def _gathers(kernel: Array, stride: int) -> bool:
    """Whether the taps' shifts cost less on the image's side of the product than on the code's."""
    k, _, C, K = kernel.shape
    return k == stride or stride * stride * C < K


def _image_side(kernel: Array, stride: int) -> Array:
    """Matrix (r^2 s^2 C, K) of a convolution that gathers first."""
    return np.reshape(_taps(kernel, stride), (-1, kernel.shape[3]))


def _code_side(kernel: Array, stride: int) -> Array:
    """Matrix (s^2 C, r^2 K) of a convolution that adds up last; in overlaying, the taps run backwards."""
    taps = np.rot90(_taps(kernel, stride), 2)
    return np.reshape(np.transpose(taps, (2, 3, 4, 0, 1, 5)), (stride * stride * kernel.shape[2], -1))


def conv2d(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """Convolution, code[m, n, o, q] = sum_abc x[m, n s + a - p, o s + b - p, c] kernel[a, b, c, q].

    A cross-correlation, as everywhere in the field (`torch.nn.functional.conv2d`, with other axes); s is the stride,
    p the padding with zeros.

    Parameters
    ----------
    x : (M, H, W, C)
    kernel : (k, k, C, K)
    stride, padding : int
        k and both of H + 2 padding, W + 2 padding are multiples of the stride.

    Returns
    -------
    code : (M, H', W', K), H' = (H + 2 padding - k) / stride + 1

    Raises
    ------
    InputError, TypeError
        The shapes do not fit, or the dtypes differ.
    """
    _check("conv2d", x, kernel, 2, stride, padding)
    H, W = x.shape[1:3]
    k = kernel.shape[0]
    taps = k // stride
    if any(n < k or n % stride for n in (H + 2 * padding, W + 2 * padding)):
        raise InputError(
            f"conv2d: images of {H} x {W} pixels with padding={padding}; both sides with their padding must be "
            f"multiples of stride={stride} and at least the kernel's {k}: pad or crop the images"
        )
    blocks = patches(x, Window(stride, stride, padding))
    if _gathers(kernel, stride):
        neighbours = patches(blocks, Window(taps, 1, 0)) if taps > 1 else blocks
        return _product(neighbours, _image_side(kernel, stride))
    products = _product(blocks, _code_side(kernel, stride))
    return overlay(products, Window(taps, 1, taps - 1), *(n - taps + 1 for n in blocks.shape[1:3]))


def conv_transpose2d(code: Array, kernel: Array, stride: int, padding: int) -> Array:
    """Transposed convolution, image[m, i, j, c] = sum code[m, n, o, q] kernel[a, b, c, q].

    The sum is over q and all n, a with n s + a - p = i, all o, b with o s + b - p = j: the adjoint of `conv2d` with the
    same kernel (`torch.nn.functional.conv_transpose2d`, with other axes).

    Parameters
    ----------
    code : (M, H', W', K)
    kernel : (k, k, C, K)
    stride, padding : int
        k is a multiple of the stride.

    Returns
    -------
    image : (M, H, W, C), H = (H' - 1) stride + k - 2 padding

    Raises
    ------
    InputError, TypeError
        The shapes do not fit, or the dtypes differ.
    """
    _check("conv_transpose2d", code, kernel, 3, stride, padding)
    taps = kernel.shape[0] // stride
    coarse = [n - 1 + taps for n in code.shape[1:3]]
    H, W = (n * stride - 2 * padding for n in coarse)
    if min(H, W) < 1:
        raise InputError(
            f"conv_transpose2d: padding={padding} leaves nothing of {H + 2 * padding} x {W + 2 * padding} pixels; "
            "lower it"
        )
    if _gathers(kernel, stride):
        squares = _product(code, np.transpose(_image_side(kernel, stride)))
        blocks = overlay(squares, Window(taps, 1, 0), *coarse) if taps > 1 else squares
    else:
        blocks = _product(patches(code, Window(taps, 1, taps - 1)), np.transpose(_code_side(kernel, stride)))
    return overlay(blocks, Window(stride, stride, padding), H, W)


def _check(where: str, x: Array, kernel: Array, axis: int, stride: int, padding: int) -> None:
    """Require a square kernel, a stride that divides its side, and images or codes with the channels of its `axis`."""
    checks.whole_number(where, "stride", stride, 1)
    checks.whole_number(where, "padding", padding, 0)
    if x.dtype != kernel.dtype:
        raise checks.InputTypeError(
            f"{where}: dtypes are {x.dtype} and kernel {kernel.dtype}; both must be the same: convert with .astype"
        )
    shape = tuple(kernel.shape)
    if len(shape) != 4 or shape[0] != shape[1] or shape[0] % stride:
        raise InputError(
            f"{where}: the kernel has shape {shape} at stride={stride}; (k, k, C, K) is needed, with k a multiple of "
            "the stride: fill it up with zeros"
        )
    if len(x.shape) != 4 or x.shape[3] != shape[axis]:
        raise InputError(
            f"{where}: the first argument has shape {tuple(x.shape)} and the kernel {shape}; "
            f"(M, H, W, {shape[axis]}) is needed, channels last"
        )


def _check_channels(where: str, x: Array, **per_channel: Array) -> None:
    """Require images, and arrays of one number for each of their channels, all of one dtype."""
    shape = tuple(x.shape)
    if len(shape) != 4:
        raise InputError(f"{where}: x has shape {shape}; (M, H, W, C) is needed, channels last")
    for name, array in per_channel.items():
        if tuple(array.shape) != shape[3:]:
            raise InputError(
                f"{where}: {name} has shape {tuple(array.shape)} and x {shape}; {shape[3:]} is needed, one number for "
                "each channel: nothing is broadcast"
            )
        if array.dtype != x.dtype:
            raise checks.InputTypeError(
                f"{where}: dtypes are x {x.dtype} and {name} {array.dtype}; all must be the same: convert with .astype"
            )


class Normalised(NamedTuple):
    """A batch-normalised array, and what it was normalised with."""

    y: Array
    mean: Array
    """(C,), a plain number per channel, outside of differentiation."""
    variance: Array
    """(C,), with divisor n, as `mean` is."""


def _channel_sums(a: Array, C: int, b: Array | None = None) -> Array:
    """Sum of a, or of a b, for each channel : (M, H W C) -> (C,); over the batch first, in long lines."""
    sums = numpy.sum(a, axis=0) if b is None else numpy.einsum("mk,mk->k", a, b)  # over the batch
    return numpy.sum(sums.reshape(-1, C), axis=0, dtype=numpy.float64).astype(a.dtype)  # over pixels


def _lines(per_channel: Array, rows: Array) -> Array:
    """A number for each channel, repeated for every pixel of a row of `rows` : (C,) -> (H W C,)."""
    return numpy.tile(per_channel, rows.shape[1] // len(per_channel))


@primitive  # type: ignore[untyped-decorator]
def _scaled(x: Array, scale: Array, shift: Array, centred: Array, inverse_std: Array) -> Any:
    """Batch x, normalised, given how far it is from its mean and the inverse of its standard deviation."""
    y = centred * _lines(scale * inverse_std, centred)
    y += _lines(shift, centred)
    return y.reshape(x.shape)


def _scaled_vjp(argnums: Any, answer: Array, arguments: Any, options: Any) -> Any:
    """Derivatives of `batch_norm`, those of mean and variance included.

    With u the normalised batch and means over the n numbers of a channel:
    dx = scale / std (g - mean(g) - u mean(g u)),    dscale = sum(g u),    dshift = sum(g).
    """
    x, scale, _, centred, inverse_std = (getval(a) for a in arguments)

    def vjp(g: Array) -> Any:
        if any(isinstance(a, Box) for a in (g, *arguments)):
            raise InputError("batch_norm: a second derivative is asked for; only first derivatives are there")
        C, n = len(scale), x.size // len(scale)
        g = g.reshape(centred.shape)
        d_shift = _channel_sums(g, C)
        d_scale = _channel_sums(g, C, centred) * inverse_std
        d_x = centred * _lines(-d_scale * inverse_std / n, centred)
        d_x += g
        d_x -= _lines(d_shift / n, centred)
        d_x *= _lines(scale * inverse_std, centred)
        gradients = d_x.reshape(x.shape), d_scale, d_shift
        return tuple(gradients[k] for k in argnums)

    return vjp


defvjp_argnums(_scaled, _scaled_vjp)


def batch_norm(x: Array, scale: Array, shift: Array) -> Normalised:
    """Normalised batch, y = scale (x - mean) / sqrt(variance + 1e-5) + shift (Ioffe & Szegedy 2015, algorithm 1).

    Mean and variance (divisor n) are those of the n numbers of each channel, over the batch and all pixels; the
    gradient takes into account that they depend on x. First derivatives only.

    Parameters
    ----------
    x : (M, H, W, C)
    scale, shift : (C,)

    Returns
    -------
    Normalised

    Raises
    ------
    InputError, TypeError
        The shapes do not fit, or the dtypes differ; n is 1, which has no variance; or a second derivative is asked for.
    """
    _check_channels("batch_norm", x, scale=scale, shift=shift)
    values = getval(x)
    C, n = values.shape[-1], values.size // values.shape[-1]
    if n < 2:
        raise InputError(
            f"batch_norm: x has shape {values.shape}; at least 2 numbers per channel are needed: enlarge the batch"
        )
    rows = values.reshape(len(values), -1)
    mean = _channel_sums(rows, C) / n
    centred = rows - _lines(mean, rows)
    variance = _channel_sums(centred, C, centred) / n
    y = _scaled(x, scale, shift, centred, 1.0 / numpy.sqrt(variance + EPSILON))
    return Normalised(y, mean, variance)


def fixed_norm(x: Array, scale: Array, shift: Array, mean: Array, variance: Array) -> Array:
    """Batch norm with given statistics, y = scale (x - mean) / sqrt(variance + 1e-5) + shift.

    Parameters
    ----------
    x : (M, H, W, C)
    scale, shift, mean, variance : (C,)

    Raises
    ------
    InputError, TypeError
        The shapes do not fit, or the dtypes differ.
    """
    _check_channels("fixed_norm", x, scale=scale, shift=shift, mean=mean, variance=variance)
    return (x - mean) * (scale / np.sqrt(variance + EPSILON)) + shift
