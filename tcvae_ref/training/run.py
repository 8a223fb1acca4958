"""A run's folder: what was asked, where it stands, what came out.

RUN/run.json        settings and data, written at the start (again when the epochs are raised)
RUN/checkpoint.npz  everything of a `TrainingState`, replaced as a whole
RUN/history.csv     what is recorded of every epoch, the ELBO terms first, for other programs

An array's bytes carry the archive's checksums, run.json one of its own, which earlier versions did not write.
Format 2 adds to format 1, of version 0.4, settings, sources, statistics and the discriminator; 1 is still read.
"""

import csv
import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tcvae_ref
from tcvae_ref.checks import InputError, whole_number
from tcvae_ref.data.byte_arrays import Hash, hash_rows
from tcvae_ref.data.factors import ByteImages, FactorDataset, PackedImages
from tcvae_ref.files import NpzReader, NpzWriter, atomic_write, check_seal, read_json, sealed, write_json
from tcvae_ref.training.adam import AdamState
from tcvae_ref.training.adversary import Adversary
from tcvae_ref.training.loop import TrainingState, initial_state, recorded
from tcvae_ref.training.settings import ADDED, Settings
from tcvae_ref.training.sources import DataSource
from tcvae_ref.types import Array

FORMAT = 2
FORMATS = (1, FORMAT)
"""Those that are read."""
FILES = _SETTINGS, _CHECKPOINT, _HISTORY = "run.json", "checkpoint.npz", "history.csv"


class Run(NamedTuple):
    """A folder that holds one training run."""

    folder: Path
    settings: Settings
    source: DataSource
    data_digest: str
    """SHA-256 of the images, classes and weights (`digest`)."""

    @classmethod
    def create(cls, folder: Path, settings: Settings, source: DataSource, data: FactorDataset) -> "Run":
        """Start a run in a folder that holds none; hold its lock (`files.locked`) meanwhile.

        Raises
        ------
        InputError
            The folder already holds a run.
        OSError
            The folder cannot be written.
        """
        if (folder / _SETTINGS).exists():
            raise InputError(f"{folder}: already holds a run; continue it with --resume, or choose another --out")
        if (folder / _CHECKPOINT).exists():
            raise InputError(f"{folder}: holds a {_CHECKPOINT} without its {_SETTINGS}; choose another --out")
        settings.steps(len(data))
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, settings, source, digest(data))
        run._write_settings()
        return run

    def _write_settings(self) -> None:
        content = {
            "format": FORMAT,
            "tcvae_ref": tcvae_ref.__version__,
            "settings": self.settings.to_json(),
            "data": {**self.source._asdict(), "sha256": self.data_digest},
        }
        write_json(self.folder / _SETTINGS, sealed(content))

    def extend(self, epochs: int) -> "Run":
        """Raise the number of epochs."""
        longer = self._replace(settings=dataclasses.replace(self.settings, epochs=epochs))
        longer._write_settings()
        return longer

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises
        ------
        InputError
            The folder holds no run, or its run.json is damaged.
        """
        if not (folder / _SETTINGS).is_file():
            raise InputError(f"{folder}: holds no run ({_SETTINGS} is missing); train one with --out {folder}")
        content = read_json(folder / _SETTINGS)
        _check_format(folder / _SETTINGS, content.get("format"))
        check_seal(folder / _SETTINGS, content, "restore the file")
        try:
            settings = Settings.from_json(content["settings"])
            data = content["data"]
            source = DataSource.from_json({name: value for name, value in data.items() if name != "sha256"})
            return cls(folder, settings, source, data["sha256"])
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(f"{folder / _SETTINGS}: damaged ({error}); start a new run") from None

    def check_data(self, data: FactorDataset) -> None:
        """Require the data this run was started on."""
        if digest(data) != self.data_digest:
            remedy = "restore that file"
            if self.source.named:
                remedy = f"the package that brings {self.source.named!r} must give the same images each time"
            elif self.source.kind in ("grid", "heads"):
                remedy = "another version of tcvae-ref rendered that: take it, or start a new run"
            raise InputError(f"{self.folder}: {data.name} is not the data set this run was started on; {remedy}")

    def save(self, state: TrainingState) -> None:
        """Replace the checkpoint and the history, each as a whole."""
        position = {"format": FORMAT, "step": state.step, "settings": _lasting(self.settings)}
        with atomic_write(self.folder / _CHECKPOINT) as file, NpzWriter(file) as archive:
            archive.array("position", np.frombuffer(json.dumps(position).encode(), np.uint8))
            archive.array("epoch_sum", state.epoch_sum)
            archive.array("history", state.history)
            for name, arrays in _lists(state).items():
                for i, array in enumerate(arrays):
                    archive.array(f"{name}_{i}", array)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["epoch", *recorded(self.settings)])
        rows.writerows([epoch + 1, *map(repr, terms)] for epoch, terms in enumerate(state.history.tolist()))
        with atomic_write(self.folder / _HISTORY) as file:
            file.write(text.getvalue().encode())

    def load(self, pixels: int, dataset_size: int) -> TrainingState:
        """Read the checkpoint, or make the first state where there is none yet.

        Raises
        ------
        InputError
            The checkpoint is damaged, was made with other settings, or belongs to networks of other sizes.
        """
        path = self.folder / _CHECKPOINT
        fresh = initial_state(self.settings, pixels)
        if not path.exists():
            return fresh
        with NpzReader(path) as archive:
            archive.require("position", "epoch_sum", "history", "parameter_0")
            try:
                position = json.loads(archive.array("position").tobytes())
                step, form, settings = position["step"], position["format"], position["settings"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InputError(f"{path}: position is damaged; start a new run") from None
            _check_format(path, form)
            lists = {
                name: [_like(archive, f"{name}_{i}", array) for i, array in enumerate(arrays)]
                for name, arrays in _lists(fresh).items()
            }
            if _completed(settings) != _lasting(self.settings):
                raise InputError(f"{path}: was made with other settings than {_SETTINGS} holds; restore that file")
            steps_per_epoch = self.settings.steps_per_epoch(dataset_size)
            step = whole_number(str(path), "step", step, 0, self.settings.steps(dataset_size))
            history = np.empty((step // steps_per_epoch, len(recorded(self.settings))))
            return TrainingState(
                step=step,
                parameters=lists["parameter"],
                adam=AdamState(lists["first"], lists["second"]),
                epoch_sum=_like(archive, "epoch_sum", fresh.epoch_sum),
                history=_like(archive, "history", history),
                statistics=lists["statistic"],
                adversary=Adversary(
                    lists["discriminator"], AdamState(lists["discriminator_first"], lists["discriminator_second"])
                ),
            )


def _lists(state: TrainingState) -> dict[str, list[Array]]:
    """The lists of arrays in a state, by the names their arrays have in a checkpoint."""
    of_adversary = state.adversary.adam
    return {
        "parameter": state.parameters,
        "first": state.adam.first,
        "second": state.adam.second,
        "statistic": state.statistics,
        "discriminator": state.adversary.discriminator,
        "discriminator_first": of_adversary.first,
        "discriminator_second": of_adversary.second,
    }


def _check_format(path: Path, form: Any) -> None:
    if form not in FORMATS:
        raise InputError(
            f"{path}: format {form!r}; this version reads {' and '.join(map(str, FORMATS))}: take the version of "
            "tcvae-ref that wrote it"
        )


def _completed(settings: Any) -> Any:
    """The settings in a checkpoint, with the defaults of those that were not there when it was written."""
    defaults = _lasting(Settings())
    return {**{name: defaults[name] for name in ADDED}, **settings} if isinstance(settings, dict) else settings


def _lasting(settings: Settings) -> dict[str, Any]:
    """What a checkpoint must agree with: all settings but the number of epochs, as JSON reads them back."""
    content = json.loads(json.dumps(settings.to_json()))
    del content["epochs"]
    return dict(content)


def _like(archive: NpzReader, name: str, expected: Any) -> Any:
    """Read a finite array that must have the shape and dtype of `expected`."""
    if name not in archive:
        raise InputError(
            f"{archive.path}: {name} is missing; the settings in {_SETTINGS} need it: the checkpoint is of another "
            "architecture"
        )
    array = archive.array(name)
    if array.shape != expected.shape or array.dtype != expected.dtype:
        raise InputError(
            f"{archive.path}: {name} is {array.dtype} {array.shape}; the settings in {_SETTINGS} need "
            f"{expected.dtype} {expected.shape}: the checkpoint is of another architecture"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{archive.path}: {name} holds nan or infinity; the file is damaged")
    return array


def digest(data: FactorDataset) -> str:
    """SHA-256 of the images, their classes and, where there are any, their weights, hexadecimal."""
    sha = _of_rows(data.images)
    sha.update(np.ascontiguousarray(data.classes).data)
    if data.weights is not None:
        sha.update(np.ascontiguousarray(data.weights).data)
    return sha.hexdigest()


def _of_rows(images: PackedImages | ByteImages) -> Hash:
    """The SHA-256 of the images' rows; where it is known from their checksum, they are not read once more."""
    if isinstance(images, ByteImages) and images.hashed is not None:
        return images.hashed.copy()
    return hash_rows(images.rows)


class Saver:
    """Saves a state now and then: often enough to lose little, so rarely that it costs at most 2 % of the time."""

    def __init__(self, run: Run, least_seconds: float = 5.0):
        self._run = run
        self._least = least_seconds
        self._due = time.monotonic() + least_seconds
        self._saved: TrainingState | None = None

    def __call__(self, state: TrainingState) -> None:
        """Save if it is time."""
        if time.monotonic() >= self._due:
            self.now(state)

    def now(self, state: TrainingState) -> None:
        """Save, unless this very step is saved already."""
        if self._saved is not None and self._saved.step == state.step:
            return
        start = time.monotonic()
        self._run.save(state)
        self._saved = state
        end = time.monotonic()
        self._due = end + max(self._least, 50.0 * (end - start))
