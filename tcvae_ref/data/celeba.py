"""CelebA: 202,599 portraits with 40 attributes, in the layouts in which it is downloaded."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import Factor, FactorDataset
from tcvae_ref.data.image_folder import limited, preparation, read_pictures
from tcvae_ref.types import ProgressHook

LAYOUTS = (
    ("img_align_celeba", "list_attr_celeba.txt"),
    ("Img/img_align_celeba", "Anno/list_attr_celeba.txt"),
    ("img_align_celeba/img_align_celeba", "list_attr_celeba.csv"),
)
"""Folder of the pictures and list of the attributes: torchvision's, the official and Kaggle's."""
CROP = 148
"""The usual side of the centre crop, of 178 x 218 pixels."""
_INSIDE = ("", "celeba", "CelebA")
_LARGEST_LIST = 2**28  # bytes; the official list has 2.6e7


def read_celeba(
    root: Path,
    crop: int | None = CROP,
    size: int = 64,
    cache: Path | None = None,
    limit: int | None = None,
    progress: ProgressHook | None = None,
) -> FactorDataset:
    """Read CelebA's aligned and cropped pictures, in colour, with the attributes as factors.

    Parameters
    ----------
    root : Path
        The folder that holds one of `LAYOUTS`, or that one's parent, where it is called celeba.
    crop : int, optional
        Side of the square cut from the middle of the 178 x 218 pixels, before it is resized; None: nothing is cut,
        and the picture is squeezed into a square. Both are in use, and their numbers are not comparable.
    size : int
        Side of the images, pixels.
    cache : Path, optional
        As in `read_folder`.
    limit : int, optional
        Take the first `limit` pictures of the list.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    FactorDataset
        Images (3, size, size) and one factor of the values 0 and 1 for each attribute.

    Raises
    ------
    InputError
        No layout is found, the list or a picture is damaged, or a picture of the list is missing.
    OSError
        A file cannot be read.
    """
    wanted = preparation("celeba", crop, size, 3)
    folder, attributes = find(root)
    names, files, classes = read_attributes(attributes, limited("celeba", limit))
    pictures = [folder / file for file in files]
    missing = [path for path in pictures if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(pictures)} pictures of {attributes.name} are missing, the first is "
            f"{missing[0].name}: unpack the pictures, or take fewer with limit"
        )
    images = read_pictures(pictures, wanted, cache, progress)
    factors = tuple(Factor(name, np.array([0.0, 1.0])) for name in names)
    return FactorDataset("CelebA", images, factors, classes)


def find(root: Path) -> tuple[Path, Path]:
    """Find the folder of the pictures and the list of the attributes.

    Raises
    ------
    InputError
        None of `LAYOUTS` is there; the error says if only the list is missing, or the pictures are not unpacked.
    """
    bases = [root / name for name in _INSIDE]
    places = [(base / pictures, base / attributes) for base in bases for pictures, attributes in LAYOUTS]
    for pictures, attributes in places:
        if pictures.is_dir() and attributes.is_file():
            return pictures, attributes
    unpacked = [place for place in places if any(place[0].glob("*.jpg"))]  # one layout's folder holds another's
    if unpacked:
        lists = " or ".join(str(attributes) for _, attributes in unpacked)
        raise InputError(f"{unpacked[0][0]}: is there, its list of attributes is not; download {lists}")
    packed = (pictures.with_name(f"{pictures.name}.zip") for pictures, _ in places)
    zipped = next((path for path in packed if path.is_file()), None)
    if zipped is not None:
        raise InputError(f"{zipped}: is packed; unpack it beside itself, and have {LAYOUTS[0][1]} where it came with")
    looked = "; ".join(f"{pictures}/*.jpg and {attributes}" for pictures, attributes in LAYOUTS)
    raise InputError(f"{root}: holds no CelebA; one of these is looked for, here and in celeba/: {looked}")


def read_attributes(path: Path, limit: int) -> tuple[list[str], list[str], NDArray[np.uint16]]:
    """Read a list of attributes, txt or csv.

    Parameters
    ----------
    path : Path
        As txt a line with the number of pictures, one with the names of the attributes, and one for each picture: its
        file and -1 or 1 for each attribute. As csv the same without the number, image_id before the names; that it
        ends too early is then not seen.
    limit : int
        Rows to read.

    Returns
    -------
    names : list of str
        The K attributes.
    files : list of str
        The N pictures.
    classes : (N, K)
        0 for the list's -1.

    Raises
    ------
    InputError
        The list is not of that form, or its length is not the one it declares.
    """
    if path.stat().st_size > _LARGEST_LIST:
        raise InputError(
            f"{path}: has {path.stat().st_size:,} bytes; a list of attributes has at most {_LARGEST_LIST:,}"
        )
    files: list[str] = []
    values = bytearray()  # a byte for each, where their words would take a hundred
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            as_table = path.suffix.lower() == ".csv"
            rows: Iterator[list[str]] = csv.reader(lines) if as_table else (line.split() for line in lines)
            declared = None if as_table else _declared(path, next(rows))
            names = next(rows)[as_table:]
            for row in rows:
                if len(files) == limit:
                    break
                if row:
                    _check_row(path, row, len(names))
                    files.append(row[0])
                    values += bytes(value == "1" for value in row[1:])
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise InputError(f"{path}: not a list of attributes ({error}); download it again") from None
    if not files or not all(names) or not names:
        raise InputError(
            f"{path}: lists {len(files)} pictures of {len(names)} attributes; each must be there and named"
        )
    if len(set(names)) < len(names) or len(set(files)) < len(files):
        raise InputError(f"{path}: lists an attribute or a picture twice; each once is needed: download it again")
    if declared is not None and len(files) != min(declared, limit):
        raise InputError(
            f"{path}: declares {declared:,} pictures and lists {len(files):,}; download it again, or correct its first "
            "line if it was shortened on purpose: limit takes the first pictures of a whole list"
        )
    return names, files, np.frombuffer(values, np.uint8).reshape(len(files), len(names)).astype(np.uint16)


def _declared(path: Path, row: list[str]) -> int:
    """The number of pictures, from the first row of a txt."""
    try:
        (number,) = row
        return int(number)
    except ValueError:
        raise InputError(
            f"{path}: begins with {' '.join(row)[:40]!r}; the number of pictures is needed: download it again"
        ) from None


def _check_row(path: Path, row: list[str], K: int) -> None:
    """Require the name of a file, without a folder, and K values."""
    name, *values = row
    if len(values) != K:
        raise InputError(f"{path}: {name[:40]!r} has {len(values)} values; {K} are needed: download it again")
    if wrong := set(values) - {"-1", "1"}:
        raise InputError(f"{path}: {name[:40]!r} has the value {min(wrong)[:40]!r}; each must be -1 or 1")
    if name != Path(name).name or "\0" in name or name in ("", ".", ".."):
        raise InputError(f"{path}: {name[:80]!r} is not the name of a picture in the folder beside it")
