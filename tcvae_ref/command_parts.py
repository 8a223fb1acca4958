"""What several commands share: kernels, data sets, words on the command line."""

import argparse
import importlib.util
from pathlib import Path
from typing import NamedTuple

from tcvae_ref.checks import InputError
from tcvae_ref.data import FactorDataset, grid, read_npz, render
from tcvae_ref.progress import Progress
from tcvae_ref.scores import Functions
from tcvae_ref.training import NUMPY, Operations
from tcvae_ref.training.run import DataSource
from tcvae_ref.training.settings import ESTIMATORS

EPILOG = "exit status: 0 done; 1 not done (interrupted, diverged, disk full, below the required share); 2 wrong usage"
KERNELS = ("auto", "numba", "numpy")


def path_argument(text: str) -> Path:
    """Read the name of a file or folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a name ('.' for this folder)")
    return Path(text)


def words_argument(text: str) -> list[str]:
    """Read words with commas between them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return words


def load(source: DataSource) -> FactorDataset:
    """Render or read the data set a run was asked to use."""
    if source.file is not None:
        with Progress("reading") as progress:
            return read_npz(Path(source.file), progress)
    if source.grid is None:
        raise InputError("data: neither a grid nor a file is named")
    chosen = grid(source.grid)
    with Progress("rendering") as progress:
        return render(chosen, progress=progress)


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
