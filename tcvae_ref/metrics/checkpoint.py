"""Sums over the components read so far, on disk: a long decomposition goes on where it was stopped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.checks import InputError
from tcvae_ref.files import NpzReader, NpzWriter, atomic_write
from tcvae_ref.metrics.partial import DIGEST_BYTES, Aggregate, LogSum
from tcvae_ref.metrics.posteriors import Chunk

_ARRAYS = ("joint_maximum", "joint_sum", "marginals_maximum", "marginals_sum")


class Checkpoint(NamedTuple):
    """A file, and the inputs and settings on which the sums in it depend."""

    path: Path
    made_with: dict[str, str]

    def save(self, state: Aggregate) -> None:
        """Replace the file as a whole."""
        with atomic_write(self.path) as file, NpzWriter(file) as archive:
            content = {"made_with": self.made_with, "components": state.components, "kl": state.kl}
            archive.array("state", np.frombuffer(json.dumps(content).encode(), np.uint8))
            archive.array("digests", np.frombuffer(state.digests, np.uint8))
            for name, array in zip(_ARRAYS, (*state.joint, *state.marginals), strict=True):
                archive.array(name, array)

    def load(
        self, nothing: Aggregate, chunks: Sequence[Chunk], digests: Callable[[Sequence[Chunk]], bytes]
    ) -> Aggregate:
        """The saved sums, or `nothing` where there is no file.

        Parameters
        ----------
        nothing : Aggregate
            Over no component, of the shapes needed.
        chunks : sequence of (start, stop)
            Into which all components are cut.
        digests : function
            SHA-256 of some chunks as they are now, one after the other.

        Raises
        ------
        InputError
            The file is damaged or no checkpoint, was made with other inputs or settings, or a component in its sums
            has changed since.
        """
        if not self.path.exists():
            return nothing
        with NpzReader(self.path) as archive:
            archive.require("state", "digests", *_ARRAYS)
            content = self._content(archive.array("state").tobytes())
            arrays = [archive.array(name) for name in _ARRAYS]
            state = Aggregate(
                LogSum(*arrays[:2]),
                LogSum(*arrays[2:]),
                content["kl"],
                content["components"],
                archive.array("digests").tobytes(),
            )
        done = self._done(state, nothing, chunks)
        now = digests(done)
        for k, (start, stop) in enumerate(done):
            one = slice(k * DIGEST_BYTES, (k + 1) * DIGEST_BYTES)
            if now[one] != state.digests[one]:
                raise InputError(
                    f"{self.path}: mu or log_var has changed since, in components {start} ... {stop - 1}; "
                    "remove the file to start again, or name another"
                )
        return state

    def _content(self, text: bytes) -> dict[str, Any]:
        """What is written beside the arrays, once it is known to be made with the same inputs and settings."""
        try:
            content = json.loads(text)
            before = dict(content["made_with"])
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{self.path}: is not a checkpoint of a decomposition; is it the right file?") from None
        others = [name for name, now in self.made_with.items() if before.get(name) != now]
        if others:
            differences = "; ".join(f"{name} {before.get(name)}, now {self.made_with[name]}" for name in others)
            raise InputError(
                f"{self.path}: was made with other inputs or settings: {differences}. Give the same ones, "
                "remove the file to start again, or name another"
            )
        return {"kl": content.get("kl"), "components": content.get("components")}

    def _done(self, state: Aggregate, nothing: Aggregate, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """The chunks in the sums, once these are known to fit together."""
        ends = [0, *(stop for _, stop in chunks)]
        arrays = zip((*state.joint, *state.marginals), (*nothing.joint, *nothing.marginals), strict=True)
        fit = all(a.shape == b.shape and a.dtype == b.dtype and not np.isnan(a).any() for a, b in arrays)
        if not fit or state.components not in ends or not isinstance(state.kl, float):
            raise self._misfit()
        done = chunks[: ends.index(state.components)]
        if len(state.digests) != DIGEST_BYTES * len(done):
            raise self._misfit()
        return done

    def _misfit(self) -> InputError:
        return InputError(f"{self.path}: its parts do not fit together; remove the file to start again")
