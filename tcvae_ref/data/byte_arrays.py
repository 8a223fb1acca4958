"""Arrays of bytes in npy files: mapped into memory if the header is honest, and written row by row."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, read_npy_header
from tcvae_ref.types import ProgressHook

if TYPE_CHECKING:
    from hashlib import _Hash
Hash: TypeAlias = "_Hash"

_BLOCK = 1 << 26  # bytes read between two reports of progress
_SEAL = b"SHA-256 of rows:"
"""After the bytes of an array that was written here, before their checksum; other readers of npy do not look there."""
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size


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
    if min(shape, default=1) < 1 or (math.prod(shape) != held and not _seal(path, start + math.prod(shape))):
        raise InputError(f"{path}: declares {shape} uint8 and holds {held} bytes; the file is damaged or empty")
    try:
        return np.memmap(path, np.uint8, "r", start, shape)
    except (TypeError, ValueError) as error:  # more axes than NumPy has, or True for the length of one
        raise InputError(
            f"{path}: declares a shape of {len(shape)} axes ({error}); the file is damaged: copy or download it again"
        ) from None


def read_sealed(path: Path, progress: ProgressHook | None = None) -> "tuple[NDArray[np.uint8], Hash | None]":
    """Map rows as `map_bytes` does, all of them read and compared with their checksum.

    Parameters
    ----------
    path : Path
    progress : function, optional
        Called as progress(done, total), in rows.

    Returns
    -------
    rows : (N, ...) uint8
    hashed : hash or None
        The SHA-256 of the rows, for whoever would read them again for it; None where the file has no checksum.

    Raises
    ------
    InputError
        As `map_bytes`, or the rows are not those that were written.
    """
    rows = map_bytes(path)
    seal = _seal(path, path.stat().st_size - _SEAL_BYTES)
    if not seal:
        return rows, None
    digest = hash_rows(rows, progress)
    if seal != _SEAL + digest.digest():
        raise InputError(f"{path}: its bytes are not those that were written, its checksum does not fit; remove it")
    return rows, digest


def hash_rows(rows: NDArray[Any], progress: ProgressHook | None = None) -> Hash:
    """The SHA-256 of rows, which may be mapped from a file larger than memory: they are read block by block."""
    digest, step = hashlib.sha256(), max(1, _BLOCK * len(rows) // max(1, rows.nbytes))
    for start in range(0, len(rows), step):
        digest.update(np.ascontiguousarray(rows[start : start + step]).data)
        if progress is not None:
            progress(min(start + step, len(rows)), len(rows))
    return digest


def _seal(path: Path, start: int) -> bytes:
    """The checksum with its name, if the file's last bytes, from `start` on, are one; else nothing."""
    if start < 0 or path.stat().st_size != start + _SEAL_BYTES:
        return b""
    with open(path, "rb") as file:
        file.seek(start)
        content = file.read()
    return content if content.startswith(_SEAL) else b""


def write_bytes(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> None:
    """Write an npy file of `shape`, atomically, from blocks along its first axis; their checksum after them."""
    with atomic_write(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        digest = hashlib.sha256()
        for block in blocks:
            rows = np.ascontiguousarray(block).data
            file.write(rows)
            digest.update(rows)
        file.write(_SEAL + digest.digest())
