"""Posteriors in Dask arrays: every chunk is summed where Dask's scheduler puts it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from tcvae_ref.metrics.partial import Aggregate, Task, aggregate, digest
from tcvae_ref.metrics.posteriors import Chunk
from tcvae_ref.types import Array, ProgressHook

TOGETHER = 64
"""Chunks handed to the scheduler at a time; after each lot there is a state to save and progress to report."""


class InDask(NamedTuple):
    """mu and log_var, at least one of them a Dask array.

    Chunks are summed in any order and merged in theirs, on the cluster: one aggregate comes back.
    """

    mu: Any
    log_var: Any

    @property
    def together(self) -> int:
        """A lot."""
        return TOGETHER

    def rows(self, index: NDArray[np.integer]) -> tuple[Array, Array]:
        """Fetched in ascending order, each once."""
        ascending, inverse = np.unique(index, return_inverse=True)
        mu, log_var = dask.compute(self.mu[ascending], self.log_var[ascending])
        return mu[inverse], log_var[inverse]

    def add(
        self, to: Aggregate, z: Array, chunks: Sequence[Chunk], task: Task, progress: ProgressHook | None
    ) -> Aggregate:
        """All at once; the merging is a chain, so that its order is that of the components."""
        samples, total = delayed(z, traverse=False), delayed(to, traverse=False)
        for start, stop in chunks:
            part = delayed(aggregate)(samples, self.mu[start:stop], self.log_var[start:stop], start, task)
            total = delayed(Aggregate.merged)(total, part)
        (result,) = dask.compute(total)
        if progress is not None:
            progress(chunks[-1][1], len(self.mu))
        return result

    def digests(self, chunks: Sequence[Chunk]) -> bytes:
        """Computed once more, where the chunks are."""
        made = [delayed(digest)(self.mu[start:stop], self.log_var[start:stop]) for start, stop in chunks]
        return b"".join(dask.compute(*made))
