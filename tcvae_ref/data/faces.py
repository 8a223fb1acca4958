"""The 3D Faces of the paper, from a file of yours: renders of the Basel face model, which may not be passed on."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.data.byte_arrays import map_bytes
from tcvae_ref.data.factors import ByteImages, Factor, FactorDataset, FactorGrid
from tcvae_ref.files import NpzReader
from tcvae_ref.types import ProgressHook

FACTORS = ("identity", "azimuth", "elevation", "lighting")
SIZES = (50, 21, 11, 11)
"""Numbers of values of the four factors in the tensor that the paper used."""


def read_faces(path: Path, progress: ProgressHook | None = None) -> FactorDataset:
    """Read a tensor of renders.

    Parameters
    ----------
    path : Path
        An npy, an npz with one array, or a pth with one tensor (torch is needed, and unpickles nothing but tensors):
        uint8 (identity, azimuth, elevation, lighting, height, width), 50 x 21 x 11 x 11 x 64 x 64 in the paper, which
        may also be flat, (127050, 64, 64). An npy is mapped, not read.
    progress : function, optional
        Called as progress(done, total), in images, where the file is read.

    Returns
    -------
    FactorDataset
        Its factors' values are their classes; the angles are not in the file.

    Raises
    ------
    InputError
        The file is damaged or of another kind, its array of another shape or dtype, or torch is needed and missing.
    OSError
        The file cannot be opened.
    """
    kind = path.suffix.lower()
    if kind in (".pth", ".pt"):
        images = _read_tensor(path)
    elif kind == ".npz":
        images = _read_archive(path, progress)
    elif kind == ".npy":
        images = map_bytes(path)
        _check(path, images.dtype, images.shape)
    else:
        raise InputError(f"{path}: ends in {kind or 'nothing'}; a .npy, .npz or .pth file is needed")
    sizes = images.shape[:4] if images.ndim == 6 else SIZES
    names = zip(FACTORS, sizes, strict=True)
    grid = FactorGrid(tuple(Factor(name, np.arange(float(size))) for name, size in names))
    picture = images.shape[-2:]
    rows = images.reshape(len(grid), picture[0] * picture[1])
    return FactorDataset(path.name, ByteImages(rows, picture), grid.factors, grid.classes())


def _check(path: Path, dtype: object, shape: tuple[int, ...]) -> None:
    flat = len(shape) == 3 and shape[0] == np.prod(SIZES)
    if str(dtype) != "uint8" or not (len(shape) == 6 or flat) or min(shape) < 1:
        raise InputError(
            f"{path}: holds {dtype} {shape}; uint8 (identity, azimuth, elevation, lighting, height, width) is needed, "
            f"{' x '.join(map(str, SIZES))} x 64 x 64 in the paper"
        )


def _read_archive(path: Path, progress: ProgressHook | None) -> NDArray[np.uint8]:
    with NpzReader(path) as archive:
        with zipfile.ZipFile(path) as names:
            held = sorted(member.removesuffix(".npy") for member in names.namelist())
        if len(held) != 1:
            raise InputError(f"{path}: holds {len(held)} arrays ({', '.join(held[:8])}); one is needed, of the images")
        shape, dtype, blocks = archive.blocks(held[0])
        _check(path, dtype, shape)
        images = np.empty(shape, dtype=np.uint8)
        done, each = 0, int(np.prod(shape[1:-2]))
        for block in blocks:
            images[done : done + len(block)] = block
            done += len(block)
            if progress is not None:
                progress(done * each, shape[0] * each)
    return images


def _read_tensor(path: Path) -> NDArray[np.uint8]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: torch is not installed, and reads this kind of file; pip install torch, or save the tensor as "
            "npy: numpy.save('faces.npy', tensor.numpy())"
        ) from None
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a file; give the name of a pth")
    with open(path, "rb"):  # a missing file is an OSError, as with the other kinds
        pass
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file leads torch to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: torch cannot read it as a tensor ({reason[0]}); save the tensor alone") from None
    dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_nested
    if not dense or tensor.is_meta:
        raise InputError(
            f"{path}: holds a {type(tensor).__name__}{' without values' if dense else ''}; a dense tensor with its "
            "values is needed, alone"
        )
    held = tensor.untyped_storage().nbytes()
    _check(path, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    if tensor.numel() > held:
        raise InputError(f"{path}: declares {tuple(tensor.shape)} and holds {held} bytes; save tensor.contiguous()")
    return tensor.contiguous().numpy()
