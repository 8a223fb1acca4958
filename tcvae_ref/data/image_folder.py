"""Folders of pictures: every one cropped and resized alike, held as bytes, and kept in a cache."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError, option, whole_number
from tcvae_ref.data.byte_arrays import map_bytes, read_sealed, write_bytes
from tcvae_ref.data.factors import MOST_IMAGES, ByteImages, FactorDataset
from tcvae_ref.files import alone, real_path
from tcvae_ref.types import ProgressHook

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_BATCH = 512  # pictures between two reports of progress, at most
_BLOCK = 2**26  # bytes of images between them, at most
_ORIENTATION = 0x0112  # among the metadata
_TURNS = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"},
    **{6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"},
}  # what puts a picture of each orientation upright, in Pillow's words


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep to ourselves what Pillow, or PyTorch, finds odd about a file that it reads all the same, or will refuse.

    For the commands, whose process is their own: filters of warnings are those of the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|torch)\.")
        yield


class Preparation(NamedTuple):
    """What is done to every picture."""

    crop: int | None
    """Side of the square cut from its centre, pixels; None: the whole picture, its sides scaled each by itself."""
    size: int
    """Side of the image that comes out, pixels."""
    channels: int
    """1 grey, 3 colour."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return (self.size, self.size) if self.channels == 1 else (3, self.size, self.size)


def preparation(where: str, crop: int | None, size: int, channels: int) -> Preparation:
    """Check the three numbers of a `Preparation`."""
    crop = None if crop is None else whole_number(where, "crop", crop, 1, 2**15)
    option(where, "channels", str(channels), ("1", "3"))
    return Preparation(crop, whole_number(where, "size", size, 1, 1024), int(channels))


def read_folder(
    root: Path,
    size: int = 64,
    crop: int | None = None,
    channels: int = 3,
    cache: Path | None = None,
    limit: int | None = None,
    progress: ProgressHook | None = None,
) -> FactorDataset:
    """Read all pictures in a folder and in the folders within it, in the order of their names.

    Links to pictures are followed, links to folders are not. Transparency is dropped: what is beneath it counts.

    Parameters
    ----------
    root : Path
    size, crop, channels
        As in `Preparation`. A picture is resized by a triangle filter as wide as the scale (antialiased).
    cache : Path, optional
        A folder to keep the images in; the next call maps them from there, until a picture or a parameter changes.
    limit : int, optional
        Take the first `limit` pictures.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    FactorDataset
        N images of K = 0 factors.

    Raises
    ------
    InputError
        There are no pictures, one is damaged, too large or smaller than the crop, or Pillow is missing.
    OSError
        The folder or a picture cannot be read.
    """
    wanted = preparation("folder", crop, size, channels)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder; give the folder that holds the pictures")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not files:
        raise InputError(f"{root}: holds no pictures; files ending in {', '.join(ENDINGS)} are looked for")
    files = files[: limited("folder", limit)]
    images = read_pictures(files, wanted, cache, progress)
    none = np.empty((len(files), 0), dtype=np.uint16)
    return FactorDataset(real_path(root).name, images, (), none)


def limited(where: str, limit: int | None) -> int:
    """The most pictures to take."""
    return MOST_IMAGES if limit is None else whole_number(where, "limit", limit, 1, MOST_IMAGES)


def read_pictures(
    files: Sequence[Path], wanted: Preparation, cache: Path | None = None, progress: ProgressHook | None = None
) -> ByteImages:
    """Read pictures, or map them from the cache that an earlier call made of the same files.

    Parameters
    ----------
    files : sequence of Path
    wanted : Preparation
    cache : Path, optional
        A folder; it is made where it is missing.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    ByteImages
        From a cache, all bytes of it read once and compared with their checksum.
    """
    shape = (len(files), int(np.prod(wanted.shape)))
    if cache is None:
        done = 0
        rows: NDArray[np.uint8] = np.empty(shape, dtype=np.uint8)
        for block in _prepared(files, wanted, progress):
            rows[done : done + len(block)] = block
            done += len(block)
        return ByteImages(rows, wanted.shape)
    kept = cache / f"pictures-{_key(files, wanted)}.npy"
    images = _kept(kept, shape, wanted, progress)
    if images is not None:
        return images
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / ".lock"):
        images = _kept(kept, shape, wanted, progress)
        if images is None:
            write_bytes(kept, shape, _prepared(files, wanted, progress))
            images = ByteImages(map_bytes(kept), wanted.shape)
    return images


def _key(files: Sequence[Path], wanted: Preparation) -> str:
    """Digest of what the images are made from: names, sizes and times of the files, and what is done to them."""
    digest = hashlib.sha256(json.dumps(["triangle", *wanted]).encode())
    for path in files:
        state = path.stat()
        digest.update(json.dumps([os.path.abspath(path), state.st_size, state.st_mtime_ns]).encode())
    return digest.hexdigest()[:32]


def _kept(path: Path, shape: tuple[int, int], wanted: Preparation, progress: ProgressHook | None) -> ByteImages | None:
    """The images of a cache, if it is there with the bytes that were written; one of version 0.5 has no checksum."""
    try:
        rows, hashed = read_sealed(path, progress)
    except (FileNotFoundError, InputError):
        return None
    return ByteImages(rows, wanted.shape, hashed) if rows.shape == shape else None


def _prepared(files: Sequence[Path], wanted: Preparation, progress: ProgressHook | None) -> Iterator[NDArray[np.uint8]]:
    """Read pictures on all cores, in blocks (pictures, values)."""
    _require_pillow()
    done, most = 0, max(1, min(_BATCH, _BLOCK // int(np.prod(wanted.shape))))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in (files[start : start + most] for start in range(0, len(files), most)):
            block = np.stack(list(pool.map(lambda path: prepare(path, wanted), batch)))
            done += len(block)
            if progress is not None:
                progress(done, len(files))
            yield block


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError("pictures: Pillow is not installed; pip install 'tcvae-ref[experiments]' brings it") from None


def prepare(path: Path, wanted: Preparation) -> NDArray[np.uint8]:
    """Read one picture : (values,), turned as its metadata say, cropped, resized; of several frames the first.

    Of 16 bits a channel in colour, Pillow takes the upper 8.

    Raises
    ------
    InputError
        It is damaged, no picture, grey with numbers of more than 8 bits (Pillow's modes I and F), of more pixels than
        `PIL.Image.MAX_IMAGE_PIXELS`, or smaller than the crop.
    OSError
        It cannot be opened.
    """
    from PIL import Image

    with open(path, "rb") as file:
        try:
            # Pillow warns of too many pixels while it opens; no filter keeps that from the caller, for filters belong
            # to the whole process, other threads included.
            with Image.open(file) as opened:
                if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
                    raise Image.DecompressionBombError
                opened.load()
                picture = _plain(path, _upright(opened), "L" if wanted.channels == 1 else "RGB")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # a warning that its filter raises
            raise InputError(
                f"{path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit against files that fill the "
                "memory; make the picture smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
            ) from None
        except (InputError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
            raise InputError(f"{path}: is damaged or no picture ({error}); copy or download it again") from None
    if wanted.crop is not None:
        picture = picture.crop(_central_box(path, picture.size, wanted.crop))
    picture = picture.resize((wanted.size, wanted.size), Image.Resampling.BILINEAR)
    values = np.asarray(picture)
    return (values if wanted.channels == 1 else values.transpose(2, 0, 1)).reshape(-1)


def _upright(picture: "Image.Image") -> "Image.Image":
    """Turn a picture as its metadata say; where they are damaged, it is taken as it is."""
    from PIL.Image import Transpose

    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever damaged metadata lead Pillow to: the pixels are read already
        return picture
    return picture if turn is None else picture.transpose(Transpose[turn])


def _plain(path: Path, picture: "Image.Image", mode: str) -> "Image.Image":
    """Convert to grey, L, or colour, RGB, without what is transparent about it."""
    if picture.mode.startswith(("I", "F")):
        raise InputError(f"{path}: has pixels of kind {picture.mode}; save it with 8 bits a channel")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns of any shorter way
    return picture.convert(mode)


def _central_box(path: Path, size: tuple[int, int], crop: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a square in the middle; where that lies between pixels, the upper left one."""
    width, height = size
    if crop > min(width, height):
        raise InputError(f"{path}: is {width} x {height} pixels; crop={crop} is more: crop at most {min(size)}")
    left, top = (width - crop) // 2, (height - crop) // 2
    return left, top, left + crop, top + crop
