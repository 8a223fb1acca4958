"""Where a run's images come from, in words that go into its run.json."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from tcvae_ref import checks, extensions
from tcvae_ref.checks import InputError
from tcvae_ref.data.celeba import CROP as CELEBA_CROP
from tcvae_ref.data.dsprites import grid as dsprites_grid
from tcvae_ref.data.dsprites import render
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.data.sprite_files import read_npz
from tcvae_ref.types import ProgressHook

KINDS = ("grid", "file", "heads", "faces", "celeba", "folder", "named")
"""What images can come from; a source is exactly one of them."""
PATHS = ("file", "faces", "celeba", "folder")
"""Those that are files and folders of the user's."""
PHOTOGRAPHS = ("celeba", "folder")
"""Those of any size, which are cropped and resized."""


class DataSource(NamedTuple):
    """Where a run's images come from: one of `KINDS`, the others None."""

    grid: str | tuple[int, ...] | None = None
    """dSprites to render, by name or sizes."""
    file: str | None = None
    """An npz of the dSprites form."""
    heads: str | tuple[int, ...] | None = None
    """Synthetic heads to render, by name or sizes."""
    faces: str | None = None
    """A file with the tensor of the Basel faces."""
    celeba: str | None = None
    """The folder of CelebA."""
    folder: str | None = None
    """A folder of images."""
    crop: int | None = None
    """Side of the centre crop of photographs, pixels; 0: none, the whole picture; None: what is usual for the kind,
    148 of CelebA and none of a folder."""
    limit: int | None = None
    """Photographs to take at most; None: all."""
    named: str | None = None
    """A data set that another package brings (`tcvae_ref.extensions`)."""
    correlated: tuple[str, str, str] | None = None
    """Two factors that are drawn together, and how (`tcvae_ref.data.correlated`)."""

    @property
    def kind(self) -> str:
        """The one of `KINDS` that is named.

        Raises
        ------
        InputError
            None is named, or more than one.
        """
        named = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(named) != 1:
            given = ", ".join(f"{kind} {getattr(self, kind)!r}" for kind in named) or "nothing"
            raise InputError(f"data: {given} is named; one of {', '.join(KINDS)} is needed")
        return named[0]

    @property
    def central_crop(self) -> int:
        """Side of the centre crop that is made, pixels; 0: none."""
        usual = CELEBA_CROP if self.celeba is not None else 0
        return usual if self.crop is None else self.crop

    def checked(self) -> "DataSource":
        """Itself, when it names one source in full.

        Raises
        ------
        InputError, TypeError
            It names none or several, or an option of another kind, or a value is of the wrong kind.
        """
        kind = self.kind
        value = getattr(self, kind)
        sizes = kind in ("grid", "heads") and isinstance(value, tuple) and all(isinstance(size, int) for size in value)
        if not (isinstance(value, str) or sizes):
            raise InputError(f"data: {kind} is {value!r}; a name{' or sizes' if kind in ('grid', 'heads') else ''}")
        if kind in PATHS and not _is_path(value):
            raise InputError(f"data: {kind} is {value!r}; a path has neither NUL nor half a surrogate pair in it")
        for name, least in (("crop", 0), ("limit", 1)):
            if getattr(self, name) is not None:
                checks.whole_number("data", name, getattr(self, name), least)
                if kind not in PHOTOGRAPHS:
                    raise InputError(f"data: {name} is for {' and '.join(PHOTOGRAPHS)}; leave it out for {kind}")
        pair = self.correlated
        words = isinstance(pair, tuple) and all(isinstance(word, str) for word in pair)
        if pair is not None and not (words and len(pair) == 3):
            raise InputError(f"data: correlated is {pair!r}; two factors and how they are correlated are needed")
        return self

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "DataSource":
        """Read back from run.json.

        Raises
        ------
        InputError, TypeError
            As `checked` does, or an entry is unknown.
        """
        for name in content:
            checks.option("data", "entry", name, cls._fields)
        entries: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**entries).checked()


def _is_path(text: str) -> bool:
    """Whether the system could have a file of this name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def load_source(source: DataSource, progress: ProgressHook | None = None, cache: Path | None = None) -> FactorDataset:
    """Render or read the images of a source.

    Parameters
    ----------
    source : DataSource
    progress : function, optional
        Called as progress(done, total), in images.
    cache : Path, optional
        A folder to keep photographs in as they are after cropping and resizing; the next call, or another process,
        maps them from there. No part of the source: the images are the same. The other kinds have no use for it.

    Returns
    -------
    FactorDataset

    Raises
    ------
    InputError, TypeError
        The source names none or several kinds, or an unknown grid or factor; a file is damaged or of another form.
    OSError
        A file cannot be read.
    """
    data = _images(source.checked(), progress, cache)
    if source.correlated is None:
        return data
    from tcvae_ref.data.correlated import correlated

    first, second, how = source.correlated
    return correlated(data, (first, second), how)


def _images(source: DataSource, progress: ProgressHook | None, cache: Path | None) -> FactorDataset:
    """The images of a source, every one as probable as the others; readers are imported when they are called."""
    if source.grid is not None:
        return render(dsprites_grid(source.grid), progress=progress)
    if source.file is not None:
        return read_npz(Path(source.file), progress)
    if source.heads is not None:
        from tcvae_ref.data.heads import heads

        return heads(source.heads, progress=progress)
    if source.faces is not None:
        from tcvae_ref.data.faces import read_faces

        return read_faces(Path(source.faces), progress=progress)
    if source.named is not None:
        data = extensions.load("data set", source.named, ("__call__",))(progress)
        if not isinstance(data, FactorDataset):
            raise InputError(
                f"data set {source.named!r}: a call returns a {type(data).__name__}; a FactorDataset is needed"
            )
        return data
    crop = source.central_crop or None
    if source.celeba is not None:
        from tcvae_ref.data.celeba import read_celeba

        return read_celeba(Path(source.celeba), crop=crop, cache=cache, limit=source.limit, progress=progress)
    from tcvae_ref.data.image_folder import read_folder

    assert source.folder is not None
    return read_folder(Path(source.folder), crop=crop, cache=cache, limit=source.limit, progress=progress)
