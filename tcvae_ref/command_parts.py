"""What several commands share: kernels, data sets, words on the command line."""

import argparse
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tcvae_ref.arguments import path_argument, words_argument
from tcvae_ref.checks import InputError
from tcvae_ref.data import GRIDS, FactorDataset
from tcvae_ref.data.celeba import CROP as CELEBA_CROP
from tcvae_ref.data.correlated import KINDS as CORRELATIONS
from tcvae_ref.data.heads import GRIDS as HEADS
from tcvae_ref.data.image_folder import without_warnings
from tcvae_ref.files import real_path
from tcvae_ref.progress import Progress
from tcvae_ref.scores import Functions
from tcvae_ref.training import NUMPY, DataSource, Operations, load_source
from tcvae_ref.training.settings import ESTIMATORS
from tcvae_ref.training.sources import KINDS, PATHS, PHOTOGRAPHS

EPILOG = "exit status: 0 done; 1 not done (interrupted, diverged, disk full, below the required share); 2 wrong usage"
KERNELS = ("auto", "numba", "numpy")


SOURCES = {
    "grid": "grid",
    "data": "file",
    "heads": "heads",
    "faces": "faces",
    "celeba": "celeba",
    "folder": "folder",
    "named": "named",
    "crop": "central_crop",  # what a run's crop comes to, said or usual, is compared when it is continued
    "limit": "limit",
    "correlated": "correlated",
}
"""The options of `add_images`, and what of a `DataSource` they say."""


def _sizes(text: str, named: Iterable[str], form: str) -> str | tuple[int, ...]:
    if text in named:
        return text
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither one of {', '.join(named)} nor {form}") from None


def grid_argument(text: str) -> str | tuple[int, ...]:
    """Read the name of a dSprites grid, or its sizes."""
    return _sizes(text, GRIDS, "five sizes such as 3x6x10x16x16")


def heads_argument(text: str) -> str | tuple[int, ...]:
    """Read the name of a grid of heads, or its sizes."""
    return _sizes(text, HEADS, "four sizes such as 10x11x5x5")


def correlated_argument(text: str) -> tuple[str, ...]:
    """Read two factors and how they are correlated, with commas between them."""
    words = tuple(words_argument(text))
    if len(words) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not two factors and one of {', '.join(CORRELATIONS)}")
    return words


def _named(grids: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} ({'x'.join(map(str, sizes))})" for name, sizes in grids.items())


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options that `source_of` reads, and the cache of `load`."""
    group = parser.add_argument_group("images, from one of these")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--grid", type=grid_argument, help=f"dSprites to render: {_named(GRIDS)}, or five sizes")
    one.add_argument("--data", metavar="FILE", help="an npz of the dSprites form")
    one.add_argument(
        "--heads", type=heads_argument, metavar="GRID", help=f"heads to render: {_named(HEADS)}, or four sizes"
    )
    one.add_argument("--faces", metavar="FILE", help="your own tensor of the Basel faces: npy, npz or pth")
    one.add_argument("--celeba", metavar="FOLDER", help="your own CelebA, in any of its three layouts")
    one.add_argument("--folder", metavar="FOLDER", help="a folder of pictures")
    one.add_argument("--named", metavar="NAME", help="a data set that another package brings")
    group.add_argument(
        "--crop", type=int, metavar="P", help=f"side of the centre crop ({CELEBA_CROP} of CelebA; 0: none)"
    )
    group.add_argument("--limit", type=int, metavar="N", help="pictures to take at most")
    add_cache(group)
    group.add_argument(
        "--correlated",
        type=correlated_argument,
        metavar="A,B,HOW",
        help=f"draw images so that factors A and B are {', '.join(CORRELATIONS)}",
    )


def add_cache(parser: argparse._ActionsContainer) -> None:
    """Add the cache of `load`."""
    parser.add_argument(
        "--cache", type=path_argument, metavar="FOLDER", help="keep the cropped pictures here, and take them from it"
    )


def given_images(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_images` say of a `DataSource`, paths in full."""
    given = {field: getattr(arguments, option) for option, field in SOURCES.items()}
    given = {field: value for field, value in given.items() if value is not None}
    return given | {field: str(real_path(Path(given[field]))) for field in PATHS if field in given}


def source_of(arguments: argparse.Namespace, grid: str) -> DataSource:
    """Where the images come from; dSprites of this grid, if nothing else is said.

    Raises
    ------
    InputError
        An option does not go with the kind of images.
    """
    given = given_images(arguments)
    if not set(given) & set(KINDS):
        given["grid"] = grid
    crop = given.pop("central_crop", None)
    return DataSource(**given, crop=crop).checked()


def load(source: DataSource, cache: Path | None = None) -> FactorDataset:
    """Render or read the data set a run was asked to use.

    Raises
    ------
    InputError
        A cache is named and the images are not photographs; and as `load_source` does.
    """
    if cache is not None and source.kind not in PHOTOGRAPHS:
        raise InputError(f"--cache {cache}: is for {' and '.join(PHOTOGRAPHS)}; leave it out for {source.kind}")
    with without_warnings(), Progress("rendering" if source.kind in ("grid", "heads") else "reading") as progress:
        return load_source(source, progress, cache)


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """Add the options that `machinery` takes."""
    parser.add_argument(
        "--kernels", choices=KERNELS, default="auto", help="compiled kernels or NumPy (auto: numba where installed)"
    )
    parser.add_argument("--threads", type=int, metavar="T", help="of the kernels (all processors)")


class Machinery(NamedTuple):
    """Compiled kernels or NumPy: what the same loops run on."""

    said: str
    """For the output: which, and on how many threads."""
    operations: Operations
    functions: Functions

    def make_ready(self, steps: str, dtype: str) -> None:
        """Compile what the command will call, visibly: "TRAINING" or "EVALUATION"."""
        if self.operations is not NUMPY:
            from tcvae_kernels import compiling

            with Progress("compiling kernels (kept on disk)") as progress:
                compiling.make_ready(getattr(compiling, steps), dtype, progress)


def machinery(choice: str, threads: int | None) -> Machinery:
    """Take the kernels, when they are wanted or when numba is there, or NumPy."""
    if choice != "numpy" and importlib.util.find_spec("numba") is None:
        if choice == "numba":
            raise InputError("--kernels numba: numba is not installed; pip install 'tcvae-ref[kernels]'")
        choice = "numpy"
    if choice == "numpy":
        if threads is not None:
            raise InputError("--threads is for kernels; NumPy takes OMP_NUM_THREADS from the environment")
        return Machinery("NumPy", NUMPY, Functions())
    import tcvae_kernels
    from tcvae_kernels import elementwise, mixture

    if threads is not None:
        tcvae_kernels.set_num_threads(threads)
    if not tcvae_kernels.COMPILED:
        raise InputError("kernels: NUMBA_DISABLE_JIT is set; unset it, or take --kernels numpy")
    operations = Operations(
        {name: getattr(tcvae_kernels, f"expected_log_qz_{name.replace('-', '_')}") for name in ESTIMATORS},
        elementwise.bernoulli_log_likelihood,
        elementwise.relu_layer,
        elementwise.tanh_layer,
        elementwise.linear_layer,
        elementwise.adam_update,
    )
    functions = Functions(
        log_qz_exact=tcvae_kernels.log_qz_exact,
        group_densities=mixture.group_densities,
        log_density=mixture.log_density,
        block_bytes=2**36,
    )
    count = tcvae_kernels.get_num_threads()
    said = f"compiled kernels on {count} thread{'s' if count > 1 else ''}"
    return Machinery(said, operations, functions)
