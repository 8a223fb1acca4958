"""Data sets that know how they were generated: images with the factors behind each of them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError, labels, whole_number
from tcvae_ref.data.byte_arrays import Hash

MOST_VALUES = 2**16
"""Classes are kept in 16 bits."""
MOST_IMAGES = 2**31 - 1


class Factor(NamedTuple):
    """One factor of variation and the values it takes."""

    name: str
    values: NDArray[np.float64]
    """(size,), in the order of the classes 0 ... size - 1."""

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class FactorGrid:
    """Every combination of some factors' values, the last factor varying fastest (C order)."""

    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        for factor in self.factors:
            whole_number("FactorGrid", f"number of values of {factor.name}", factor.size, 1, MOST_VALUES)
        whole_number("FactorGrid", "number of images", math.prod(self.sizes), 1, MOST_IMAGES)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each factor."""
        return tuple(factor.size for factor in self.factors)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def classes(self) -> NDArray[np.uint16]:
        """Class of each factor at each grid point : (N, K)."""
        axes = np.indices(self.sizes, dtype=np.uint16)
        return axes.reshape(len(self.sizes), -1).T.copy()


class PackedImages:
    """Binary images held at one bit per pixel.

    Parameters
    ----------
    rows : (N, bytes) uint8
        Each image's pixels in C order, eight to a byte, the first in the highest bit (`numpy.packbits`).
    shape : (height, width)
        Pixels of one image; their number is a multiple of eight.
    """

    def __init__(self, rows: NDArray[np.uint8], shape: tuple[int, int]):
        pixels = shape[0] * shape[1]
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] * 8 != pixels:
            raise InputError(
                f"PackedImages: rows are {rows.dtype} {rows.shape} for images of {shape}; "
                f"(N, {pixels // 8}) uint8 is needed: numpy.packbits(images.reshape(N, -1), axis=1)"
            )
        self.rows = rows
        self.shape = shape

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return int(self.rows.nbytes)

    def take(self, index: Any, dtype: str = "float32") -> NDArray[Any]:
        """Images at `index` (integers or a slice), flattened to (M, pixels), each pixel 0 or 1."""
        return np.unpackbits(self.rows[index], axis=-1).astype(dtype)


class ByteImages:
    """Grey or colour images held at one byte per value.

    Parameters
    ----------
    rows : (N, values) uint8
        Each image's values in C order: height, width; or channel, height, width. An array mapped from a file will do.
    shape : (height, width) or (3, height, width)
        A grey or a colour (red, green, blue) image.
    hashed : hash, optional
        The SHA-256 of the rows, where they were read for it already.
    """

    def __init__(self, rows: NDArray[np.uint8], shape: tuple[int, ...], hashed: "Hash | None" = None):
        if len(shape) not in (2, 3) or min(shape) < 1 or (len(shape) == 3 and shape[0] != 3):
            raise InputError(f"ByteImages: images of {shape}; (height, width) or (3, height, width) is needed")
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != math.prod(shape):
            raise InputError(
                f"ByteImages: rows are {rows.dtype} {rows.shape} for images of {shape}; "
                f"(N, {math.prod(shape)}) uint8 is needed: images.reshape(N, -1), channels before rows of pixels"
            )
        self.rows = rows
        self.shape = shape
        self.hashed = hashed

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pixels(self) -> int:
        """Values of one image: its pixels, times three in colour."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Memory held, bytes; at most, where the rows are mapped from a file."""
        return int(self.rows.nbytes)

    def take(self, index: Any, dtype: str = "float32") -> NDArray[Any]:
        """Images at `index` (integers or a slice), flattened to (M, pixels), each value byte / 255 in [0, 1]."""
        return np.divide(self.rows[index], 255, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class FactorDataset:
    """Images, and for each of them the class of every factor (of none, where K = 0)."""

    name: str
    images: PackedImages | ByteImages
    factors: tuple[Factor, ...]
    classes: NDArray[np.uint16]
    """(N, K): the image's class of each factor, an index into that factor's values."""
    weights: NDArray[np.float64] | None = None
    """(N,): p(n), summing to 1; None: every image has probability 1/N."""

    def __post_init__(self) -> None:
        N = len(self.images)
        labels(self.name, "classes", self.classes, N, len(self.factors))
        for factor, column in zip(self.factors, self.classes.T, strict=True):
            if N and not (int(column.min()) >= 0 and int(column.max()) < factor.size):
                raise InputError(
                    f"{self.name}: classes of {factor.name} lie in [{column.min()}, {column.max()}]; 0 to "
                    f"{factor.size - 1} are needed, for its {factor.size} values"
                )
        if self.weights is not None and (
            self.weights.shape != (N,)
            or not (self.weights >= 0).all()
            or not math.isclose(self.weights.sum(), 1.0, rel_tol=1e-9)
        ):
            raise InputError(
                f"{self.name}: weights have shape {self.weights.shape} and sum to {self.weights.sum():g}; ({N},) is "
                "needed, the probability of each image: none negative, their sum 1"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each factor."""
        return tuple(factor.size for factor in self.factors)

    def __len__(self) -> int:
        return len(self.images)

    def values(self) -> NDArray[np.float64]:
        """Value of each factor at each image : (N, K)."""
        values = np.empty(self.classes.shape)
        for k, factor in enumerate(self.factors):
            values[:, k] = factor.values[self.classes[:, k]]
        return values


def checked_sizes(where: str, sizes: Sequence[Any], names: Sequence[str]) -> tuple[int, ...]:
    """Require one positive whole number per factor."""
    if len(sizes) != len(names):
        raise InputError(f"{where}: {len(sizes)} sizes are given; {len(names)} are needed: {' x '.join(names)}")
    return tuple(whole_number(where, name, size, 1, MOST_VALUES) for name, size in zip(names, sizes, strict=True))
