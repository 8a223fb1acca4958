"""dSprites files: the official npz and others of its form, read without pickle and held at one bit per pixel."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.data.dsprites import FACTORS, SHAPES, check_sprite_values, render_plane
from tcvae_ref.data.factors import MOST_VALUES, Factor, FactorDataset, PackedImages
from tcvae_ref.files import NpzReader, NpzWriter, atomic_write
from tcvae_ref.types import ProgressHook

FIDELITY = 0.999
"""The share of real images that the re-rendering must reproduce bit by bit."""


def read_npz(path: Path, progress: ProgressHook | None = None) -> FactorDataset:
    """Read a data set of binary images with their factors.

    Parameters
    ----------
    path : Path
        An npz with imgs (N, height, width) of 0 and 1, latents_classes (N, K) and latents_values (N, K); for
        dSprites K is 6 (colour first) or 5 (without it). Other arrays, such as a pickle named metadata, are not
        touched.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    FactorDataset
        Classes renumbered 0, 1, ... in the order of the file's.

    Raises
    ------
    InputError
        The file is damaged, of another kind, or its arrays do not fit each other.
    OSError
        The file cannot be opened.
    """
    with NpzReader(path) as archive:
        archive.require("imgs", "latents_classes", "latents_values")
        images = _read_images(archive, progress)
        classes = archive.array("latents_classes")
        values = archive.array("latents_values")
    N = len(images)
    if classes.ndim != 2 or classes.shape != values.shape or len(classes) != N or 0 in classes.shape:
        raise InputError(
            f"{path}: {N} images, latents_classes {classes.shape} and latents_values {values.shape}; "
            "both must be (images, factors)"
        )
    if classes.dtype.kind not in "iu" or values.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: latents_classes is {classes.dtype} and latents_values {values.dtype}; latents_classes must be "
            "integers and latents_values finite real numbers"
        )
    with np.errstate(over="ignore"):  # a long double may be beyond: infinite, and refused
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: latents_values holds nan or infinity; latents_values must be finite real numbers")
    names = _factor_names(classes.shape[1])
    factors, columns = [], []
    for k, name in enumerate(names):
        _, first, column = np.unique(classes[:, k], return_index=True, return_inverse=True)
        factor = Factor(name, values[first, k])
        if not np.allclose(factor.values[column], values[:, k], rtol=0.0, atol=1e-12):
            raise InputError(f"{path}: one class of {name} has several values in latents_values")
        factors.append(factor)
        columns.append(column)
    if max(factor.size for factor in factors) > MOST_VALUES:
        raise InputError(f"{path}: a factor has more than {MOST_VALUES} values; is latents_classes continuous?")
    return FactorDataset(path.name, images, tuple(factors), np.stack(columns, axis=1).astype(np.uint16))


def _read_images(archive: NpzReader, progress: ProgressHook | None) -> PackedImages:
    shape, dtype, blocks = archive.blocks("imgs")
    if len(shape) != 3 or dtype not in (np.uint8, np.bool_) or 0 in shape or (shape[1] * shape[2]) % 8:
        raise InputError(
            f"{archive.path}: imgs is {dtype} {shape}; binary images (N, height, width) in uint8 are needed, "
            "height x width a multiple of 8"
        )
    N, height, width = shape
    rows = np.empty((N, height * width // 8), dtype=np.uint8)
    done = 0
    for block in blocks:
        images = block.reshape(len(block), -1).view(np.uint8)
        if images.max() > 1:
            n = done + int(np.argmax(images.max(axis=1) > 1))
            raise InputError(
                f"{archive.path}: image {n} has a pixel of {images.max()}; pixels are 0 or 1: threshold the images"
            )
        rows[done : done + len(block)] = np.packbits(images, axis=1)
        done += len(block)
        if progress is not None:
            progress(done, N)
    return PackedImages(rows, (height, width))


def _factor_names(K: int) -> list[str]:
    sprite_names = [factor.name for factor in FACTORS]
    if len(sprite_names) + 1 == K:
        return ["color", *sprite_names]
    return sprite_names if len(sprite_names) == K else [f"factor {k}" for k in range(K)]


def write_npz(path: Path, data: FactorDataset, progress: ProgressHook | None = None) -> None:
    """Write a data set in the form of the official file (without colour and metadata), atomically.

    Parameters
    ----------
    path : Path
    data : FactorDataset
    progress : function, optional
        Called as progress(done, total), in images.

    Raises
    ------
    InputError
        The images are not binary.
    """
    if not isinstance(data.images, PackedImages):
        raise InputError(f"{data.name}: has grey or colour images; a file of this form holds binary ones")
    N, (height, width) = len(data), data.images.shape

    def images() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, N, 1024):
            yield data.images.take(slice(start, start + 1024), "uint8").reshape(-1, height, width)
            if progress is not None:
                progress(min(start + 1024, N), N)

    with atomic_write(path) as file, NpzWriter(file, compressed=True) as archive:
        archive.blocks("imgs", (N, height, width), np.uint8, images())
        archive.array("latents_classes", data.classes.astype(np.int64))
        archive.array("latents_values", data.values())


class Fidelity(NamedTuple):
    """How many images of a file the re-rendering reproduces bit by bit."""

    images: int
    identical: int
    by_shape: dict[str, float]
    """Share of identical images of each shape."""
    differing_pixels: dict[int, int]
    """Number of images by the number of their pixels that differ; identical ones left out."""

    @property
    def share(self) -> float:
        """Identical images over all images."""
        return self.identical / self.images


def fidelity(data: FactorDataset, progress: ProgressHook | None = None) -> Fidelity:
    """Render every image of `data` from its factor values and compare.

    Parameters
    ----------
    data : FactorDataset
        64 x 64 images whose factors include shape (1, 2, 3), scale, orientation, posX and posY.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    Fidelity

    Raises
    ------
    InputError
        The data are not dSprites: another picture size, other factors, or values no sprite is drawn at.
    """
    by_name = {factor.name: k for k, factor in enumerate(data.factors)}
    wanted = [factor.name for factor in FACTORS]
    binary = isinstance(data.images, PackedImages)
    if not binary or data.images.shape != (64, 64) or not set(wanted) <= set(by_name):
        raise InputError(
            f"{data.name}: {data.images.shape} {'binary' if binary else 'grey or colour'} images with "
            f"{', '.join(by_name) or 'no factors'}; dSprites has (64, 64) binary images with {', '.join(wanted)}"
        )
    columns = data.classes[:, [by_name[name] for name in wanted]].astype(np.int64)
    factors = [data.factors[by_name[name]] for name in wanted]
    check_sprite_values(data.name, factors)
    shape, scale, orientation, posX, posY = (factor.values for factor in factors)
    sprite = np.ravel_multi_index(tuple(columns[:, :3].T), (len(shape), len(scale), len(orientation)))
    order = np.argsort(sprite, kind="stable")
    differing = np.empty(len(data), dtype=np.int64)
    for group in np.split(order, np.flatnonzero(np.diff(sprite[order])) + 1):
        a, b, c, *_ = columns[group[0]]
        plane = render_plane(int(shape[a]) - 1, scale[b], orientation[c], posX, posY)
        ours = plane[columns[group, 3], columns[group, 4]]
        real = data.images.rows[group].view(">u8").reshape(ours.shape)
        differing[group] = np.bitwise_count(ours ^ real.astype(np.uint64)).sum(axis=1)
        if progress is not None:
            progress(int(np.searchsorted(sprite[order], sprite[group[0]], "right")), len(data))
    same = differing == 0
    shares = {SHAPES[int(value) - 1]: float(same[columns[:, 0] == k].mean()) for k, value in enumerate(shape)}
    counts = np.bincount(differing[~same]) if not same.all() else np.zeros(0, dtype=np.int64)
    histogram = {int(pixels): int(counts[pixels]) for pixels in np.flatnonzero(counts)}
    return Fidelity(len(data), int(same.sum()), shares, histogram)
