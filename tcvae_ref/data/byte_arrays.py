"""Arrays of bytes in npy files: mapped into memory if the header is honest, and written row by row."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, read_npy_header


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """Map an array of bytes from an npy file, read-only; nothing is read until it is used.

    Raises
    ------
    InputError
        The file is no npy, or holds other than bytes in C order, or fewer or more of them than its header declares,
        or declares no shape of an array.
    OSError
        The file cannot be opened.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a file; give the name of an npy")
    with open(path, "rb") as file:
        try:
            shape, fortran, dtype = read_npy_header(file)
        except Exception as error:  # NumPy's parser raises whatever a damaged header leads it to
            raise InputError(f"{path}: not an npy file ({error}); copy or download it again") from None
        start = file.tell()
    if dtype != np.uint8 or (fortran and len(shape) > 1):
        order = " in Fortran order" if fortran else ""
        raise InputError(f"{path}: holds {dtype} {shape}{order}; uint8 in C order is needed: numpy.ascontiguousarray")
    held = path.stat().st_size - start
    if min(shape, default=1) < 1 or math.prod(shape) != held:
        raise InputError(f"{path}: declares {shape} uint8 and holds {held} bytes; the file is damaged or empty")
    try:
        return np.memmap(path, np.uint8, "r", start, shape)
    except (TypeError, ValueError) as error:  # more axes than NumPy has, or True for the length of one
        raise InputError(
            f"{path}: declares a shape of {len(shape)} axes ({error}); the file is damaged: copy or download it again"
        ) from None


def write_bytes(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> None:
    """Write an npy file of `shape`, atomically, from blocks along its first axis."""
    with atomic_write(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
