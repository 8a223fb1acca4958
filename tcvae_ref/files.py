"""Files that are whole or not there, and zip archives that are read without trust."""

import errno
import fcntl
import glob
import hashlib
import io
import json
import lzma
import math
import os
import secrets
import stat
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError

_BLOCK = 1 << 22  # bytes read or written at a time
_LARGEST_TEXT = 1 << 28  # bytes; an evaluation of a million factors has fewer
_MOST_PACKED = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # bytes that one byte of an archive can stand for
_LONGEST_HEADER = 1 << 16  # bytes; NumPy parses 10,000 characters
_PARTIAL = ".partial"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What flock answers on file systems that have none."""
CHECKSUM = "checksum"
"""Name, in a sealed JSON object, of the SHA-256 of all its other entries."""
SUMS = "SHA256SUMS"
"""In a folder: the SHA-256 of files in it, as `sha256sum --check` reads them."""


def real_path(path: Path) -> Path:
    """A path in full, links followed as far as they lead; `Path.resolve` raises where they lead in a circle."""
    return Path(os.path.realpath(path))


def check_writable(path: Path) -> Path:
    """Where a file at `path` would be written, links followed; a clear error now rather than after the work.

    Raises
    ------
    InputError
        `path` is a folder or another thing that is not a file.
    OSError
        Its folder is missing or cannot be written.
    """
    target = real_path(path)
    if not target.name or (target.exists() and not target.is_file()):
        raise InputError(f"{path}: is not a file; give the name of a file to write")
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    _check_access(target.parent, path)
    return target


def check_folder(path: Path) -> None:
    """Require a folder that files can be written to, or that can be made.

    Raises
    ------
    InputError
        `path` is not a folder.
    OSError
        It, or the folder it would be made in, cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is not a folder; give the name of a folder to write to")
    present = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not present.is_dir():
        raise InputError(f"{path}: {present} is not a folder; choose another place")
    _check_access(present, path)


def _check_access(folder: Path, wanted: Path) -> None:
    if not os.access(folder, os.W_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(wanted))


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name only when it is complete and on the disk.

    A failure or a kill at any moment leaves what was at `path` before, or nothing; after a kill a file
    `.NAME.*.partial` may remain beside it, until the next write of that name. A symbolic link is followed. Of several
    writers of one name, in threads or processes, or on machines that share the folder, each writes a whole file.

    Raises
    ------
    InputError
        `path` is a folder or another thing that is not a file.
    OSError
        The folder is missing or cannot be written, or the disk is full.
    """
    target = check_writable(path)
    clear_away(target.parent, target.name)
    partial = None
    try:
        partial, opened = _open_partial(target)
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, target)
    except BaseException as error:
        if partial is not None:
            with suppress(OSError):  # of a disk that fails the first error says more
                partial.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            ours = error.filename is None or Path(os.fsdecode(error.filename)).suffix == _PARTIAL
            error.filename = str(path) if ours else error.filename
        raise


def lock_file(path: Path) -> IO[bytes]:
    """Open a file that is there to be locked, and make it where it is missing; nothing is written to it.

    Raises
    ------
    InputError
        A link or another thing that is not a file has its name: neither is followed or waited for.
    OSError
        It cannot be made.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise InputError(f"{path}: is not a file; remove it, it is only there to be locked") from None
    file = os.fdopen(number, "wb")
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise InputError(f"{path}: is not a file; remove it, it is only there to be locked")
    return file


def _open_partial(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside `target`, locked, so that `clear_away` sees that its writer lives."""
    while True:
        partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
        file = open(partial, "xb")  # noqa: SIM115
        with suppress(BlockingIOError):  # `clear_away` came between
            if not _lock(file) or os.fstat(file.fileno()).st_nlink:
                return partial, file
        file.close()


def clear_away(folder: Path, name: str) -> None:
    """Remove what killed writers of a file left; what a living one writes stays, and all where there are no locks."""
    for partial in folder.glob(f".{glob.escape(name)}.*{_PARTIAL}"):
        with suppress(OSError), open(partial, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def _lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Lock a file until `_unlock` or its end : False on a file system without locks, such as some network folders.

    Raises
    ------
    BlockingIOError
        Another process holds it, and it is not waited for.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _unlock(file: IO[bytes]) -> None:
    """Give a lock back at once: a child forked meanwhile would keep it with its copy of the file."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Hold a folder for this process alone, and clear away what killed writers of some files left in it.

    On a file system without locks it is not held, and that is said on standard error.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        The files written only under this lock; whatever else is in the folder is not touched.

    Raises
    ------
    InputError
        Another process holds it.
    """
    with lock_file(folder / ".lock") as file:
        try:
            held = _lock(file)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another process is writing to it; wait until it has finished, or choose another folder"
            ) from None
        if not held:
            print(
                f"note: {folder}: its file system has no locks; see to it that no other process writes there meanwhile",
                file=sys.stderr,
            )
        try:
            for name in names:
                clear_away(folder, name)
            yield
        finally:
            _unlock(file)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process holds the file `lock`, and hold it; without effect where there are no locks."""
    with lock_file(lock) as file:
        _lock(file, wait=True)
        try:
            yield
        finally:
            _unlock(file)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; floats keep every digit, and nan or infinity is an error."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_text_file(path: Path) -> bytes:
    """Read a file of some text, whole; what is no file is not opened, for a pipe is waited for and a device never ends.

    Raises
    ------
    InputError
        It is no file, or longer than any text this package reads.
    OSError
        It cannot be read.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a file; give the name of one")
    size = path.stat().st_size
    if size > _LARGEST_TEXT:
        raise InputError(f"{path}: has {size:,} bytes; at most {_LARGEST_TEXT:,} are read: is it the right file?")
    return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        The file is not a JSON object in UTF-8.
    """
    text = read_text_file(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); restore the file or start a new run") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; a JSON object is needed")
    return content


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of itself, which `check_seal` compares."""
    return {**content, CHECKSUM: _checksum(content)}


def check_seal(path: Path, content: dict[str, Any], remedy: str) -> None:
    """Require that a JSON object read from `path` is as it was sealed; one without a checksum is taken as it is.

    Raises
    ------
    InputError
        It is not.
    """
    if CHECKSUM in content and content[CHECKSUM] != _checksum(content):
        raise InputError(
            f"{path}: was changed since it was written, its checksum does not fit; {remedy}, or remove {CHECKSUM!r} "
            "from it if the change was meant"
        )


def _checksum(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_sums(folder: Path, names: Sequence[str]) -> None:
    """Write the checksums of those of some files that are there."""
    there = [name for name in names if (folder / name).is_file()]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in there]
    with atomic_write(folder / SUMS) as file:
        file.write("".join(lines).encode())


def check_sums(folder: Path, remedy: str) -> None:
    """Require that files are as they were when `write_sums` wrote down their checksums, if it did.

    Raises
    ------
    InputError
        One is missing or was changed.
    """
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_bytes().splitlines():
        digest, _, name = line.decode(errors="replace").partition("  ")
        path = folder / Path(name).name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{path}: was changed since it was written, its checksum in {SUMS} does not fit; {remedy}, or remove "
                f"{SUMS} if the change was meant"
            )


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # an "encrypted" member, an unknown compression, nesting without end
    tokenize.TokenError,  # from NumPy's reading of an old header
    KeyError,
)
"""What reading a damaged archive can raise."""


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype, from the beginning of an npy; no more than a header is read.

    NumPy's own reader takes the header's length from the file at its word, up to 4 GB of it.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its format has version {version[0]}.{version[1]}, which is unknown")
    length = file.read(2 if version == (1, 0) else 4)
    if int.from_bytes(length, "little") > _LONGEST_HEADER:
        raise ValueError(f"its header has {int.from_bytes(length, 'little'):,} bytes")
    header = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(header)


class NpzReader:
    """An npz archive whose arrays are read by name, without pickle, and only if their headers are honest.

    Use as a context manager. Every failure is an InputError that names the file.
    """

    def __init__(self, path: Path):
        self.path = path
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file; give the name of an npz")
        try:
            self._zip = zipfile.ZipFile(path)
            self._compare_names()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except (*_DAMAGE, OSError) as error:
            raise InputError(f"{path}: not a complete npz archive ({error}); copy or download it again") from None

    def __enter__(self) -> "NpzReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def _compare_names(self) -> None:
        """Let zipfile compare each member's two names, at its place and in the directory: neither has a checksum."""
        try:
            for member in self._zip.infolist():
                self._zip.open(member).close()
        except BaseException:
            self._zip.close()
            raise

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._zip.namelist()

    def require(self, *names: str) -> None:
        """Require arrays of these names."""
        held = {member.removesuffix(".npy") for member in self._zip.namelist()}
        missing = [name for name in names if name not in self]
        if missing:
            raise InputError(
                f"{self.path}: holds {', '.join(sorted(held)[:8]) or 'nothing'}; "
                f"{', '.join(missing)} is missing: is it the right file?"
            )

    def blocks(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], Iterator[NDArray[Any]]]:
        """Shape and dtype of an array, and an iterator over blocks of whole rows along its first axis."""
        shape, dtype, _, blocks = self._stored(name, fortran=False)
        return shape, dtype, blocks

    def array(self, name: str) -> NDArray[Any]:
        """Read a whole array, in either order."""
        shape, dtype, fortran, blocks = self._stored(name, fortran=True)
        parts = list(blocks)
        array = np.concatenate(parts) if parts else np.empty(0, dtype)
        return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)

    def _stored(
        self, name: str, *, fortran: bool
    ) -> tuple[tuple[int, ...], np.dtype[Any], bool, Iterator[NDArray[Any]]]:
        """Shape, dtype, whether in Fortran order, and blocks of whole rows along the axis that varies slowest."""
        self.require(name)
        with ExitStack() as refused:
            with self._guarded(name):
                info = self._zip.getinfo(f"{name}.npy")
                file = refused.enter_context(self._zip.open(info))
                shape, dtype, order, header = self._header(name, file)
                order = order and len(shape) > 1
                stored = shape[::-1] if order else shape
                rows, row_shape = (stored[0], stored[1:]) if stored else (1, ())
                row_bytes = math.prod(row_shape) * dtype.itemsize
                np.empty((0, *row_shape), dtype)  # a shape NumPy can hold
            if header + rows * row_bytes != info.file_size:
                raise InputError(
                    f"{self.path}: {name} declares {shape} {dtype} and holds {info.file_size - header} bytes; "
                    "the file is damaged"
                )
            packed = min(info.compress_size, self.path.stat().st_size)
            if info.file_size > packed * _MOST_PACKED.get(info.compress_type, math.inf):
                raise InputError(
                    f"{self.path}: {name} declares {shape} {dtype}, {info.file_size:,} bytes, and the {packed:,} bytes "
                    "there are cannot hold them; the file is damaged"
                )
            if order and not fortran:
                raise InputError(f"{self.path}: {name} is in Fortran order; save numpy.ascontiguousarray of it")
            refused.pop_all()  # from here on the iterator closes the file
        step = max(1, _BLOCK // max(row_bytes, 1))

        def read() -> Iterator[NDArray[Any]]:
            with self._guarded(name), file:
                for start in range(0, rows, step):
                    count = min(step, rows - start)
                    data = file.read(count * row_bytes)
                    yield np.frombuffer(data, dtype).reshape(count, *row_shape)
                file.read(1)  # the end of the member: here its checksum is compared

        return shape, dtype, order, read()

    def _header(self, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
        shape, order, dtype = read_npy_header(file)
        if dtype.hasobject:
            raise InputError(f"{self.path}: {name} is a pickle, which is never loaded; save it as numbers")
        return shape, dtype, order, file.tell()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (*_DAMAGE, OSError) as error:
            raise InputError(f"{self.path}: {name} is damaged ({error}); copy or download it again") from None


class NpzWriter:
    """An npz archive written block by block; use inside `atomic_write`."""

    def __init__(self, file: IO[bytes], *, compressed: bool = False):
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED)

    def __enter__(self) -> "NpzWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def blocks(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterator[NDArray[Any]]) -> None:
        """Write an array of `shape` that arrives in blocks along its first axis."""
        with self._zip.open(f"{name}.npy", "w", force_zip64=True) as member:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, dtype=dtype).data)

    def array(self, name: str, array: NDArray[Any]) -> None:
        """Write a whole array."""
        self.blocks(name, array.shape, array.dtype, iter([array.reshape(array.shape)]))
