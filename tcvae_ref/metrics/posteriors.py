"""Posteriors in memory, or in a file larger than memory, read chunk by chunk."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.metrics.partial import Aggregate, Task, aggregate, digest
from tcvae_ref.types import Array, ProgressHook

Chunk: TypeAlias = tuple[int, int]
"""The components start ... stop - 1."""


def chunks(start: int, stop: int, size: int) -> list[Chunk]:
    """Cut start ... stop - 1 into chunks of one size, the last perhaps smaller."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


class Posteriors(Protocol):
    """mu, log_var : (N, D), wherever they are."""

    @property
    def together(self) -> int:
        """Chunks to hand to `add` at a time."""

    def rows(self, index: NDArray[np.integer]) -> tuple[Array, Array]:
        """mu, log_var : (S, D) of these inputs."""

    def add(
        self, to: Aggregate, z: Array, chunks: Sequence[Chunk], task: Task, progress: ProgressHook | None
    ) -> Aggregate:
        """Sums over these chunks added, in this order, to sums over those before; progress in components."""

    def digests(self, chunks: Sequence[Chunk]) -> bytes:
        """SHA-256 of each chunk, one after the other."""


class InArrays(NamedTuple):
    """Whatever has a shape and gives NumPy arrays when sliced: arrays, memory-mapped files."""

    mu: Array
    log_var: Array

    @property
    def together(self) -> int:
        """Each by itself."""
        return 1

    def rows(self, index: NDArray[np.integer]) -> tuple[Array, Array]:
        """Read in ascending order, each once."""
        ascending, inverse = np.unique(index, return_inverse=True)
        return np.asarray(self.mu[ascending])[inverse], np.asarray(self.log_var[ascending])[inverse]

    def chunk(self, start: int, stop: int) -> tuple[Array, Array]:
        """mu, log_var : (stop - start, D)."""
        return np.asarray(self.mu[start:stop]), np.asarray(self.log_var[start:stop])

    def add(
        self, to: Aggregate, z: Array, chunks: Sequence[Chunk], task: Task, progress: ProgressHook | None
    ) -> Aggregate:
        """One after the other."""
        N = len(self.mu)
        for start, stop in chunks:

            def report(done: int, total: int, start: int = start, stop: int = stop) -> None:
                if progress is not None:
                    progress(start + (stop - start) * done // total, N)

            to = to.merged(aggregate(z, *self.chunk(start, stop), start, task, report))
        return to

    def digests(self, chunks: Sequence[Chunk]) -> bytes:
        """Read once more."""
        return b"".join(digest(*self.chunk(*chunk)) for chunk in chunks)
