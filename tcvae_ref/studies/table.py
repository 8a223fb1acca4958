"""A study's numbers as one tidy table: a row for each run, whatever became of it.

Every number in it is a function of the study alone; how long things took is beside it, in `seconds.csv`.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, read_text_file
from tcvae_ref.studies.runner import versions
from tcvae_ref.studies.study import RunSpec, Study, described

Row = dict[str, Any]
RESULTS, SECONDS = "results.csv", "seconds.csv"
TERMS = ("reconstruction", "mutual_information", "total_correlation", "dimension_wise_kl")
"""Of the exact decomposition: each with its standard error."""
_WORDS = {"key", "data", "status", "reason", "computed_with", *versions()}
"""Columns that are words, though some look like numbers."""


def numbers(study: Study, run: RunSpec, result: Mapping[str, Any]) -> Row:
    """The row of a training run; what a failed run has not is empty, and so is a setting without a part in the run.

    Columns: the run's key, settings and data; `status` and `reason`; `steps` and the last epoch's ELBO terms as trained
    (`last_*`, by the run's own estimator); the exact decomposition (nats, with standard errors), `kl` in closed form,
    `elbo`; `mig` and each factor's gap; the other scores asked for, with their errors; versions.
    """
    parts = result["parts"]
    row: Row = {"key": run.key, "data": described(run.source)}
    for name, value in dataclasses.asdict(run.settings).items():
        row[name] = None if run.settings.idle(name) else described(value) if isinstance(value, tuple) else value
    row |= {"status": result["status"], "reason": result["reason"]}
    row |= parts.get("training", {}) | parts.get("decomposition", {})
    for metric in ("mig", *study.metrics):
        row |= parts.get(metric, {})
    return row | result["versions"] | {"computed_with": result["computed_with"]}


def to_csv(rows: Sequence[Row]) -> str:
    """Render rows; a float keeps every digit, and what a row has not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def columns(rows: Sequence[Row]) -> list[str]:
    """Names of all columns, in the order in which the fullest row has them."""
    fullest = max(rows, key=len, default={})
    return list(dict.fromkeys([*fullest, *(name for row in rows for name in row)]))


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a table as CSV, and beside it as Parquet where pyarrow is installed."""
    with atomic_write(path) as file:
        file.write(to_csv(rows).encode(errors="replace"))  # the name of a file may be no text
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    table = pyarrow.table({name: [_text(row.get(name)) for row in rows] for name in columns(rows)})
    with atomic_write(path.with_suffix(".parquet")) as file:
        pyarrow.parquet.write_table(table, file)


def _text(value: Any) -> Any:
    """A text as it can be written."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def read(path: Path) -> list[Row]:
    """Read a table back: numbers as floats, an empty cell as None.

    Raises
    ------
    InputError
        It is not there, or no table.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not there; make it with tcvae-ref sweep")
    try:
        names, *rows = csv.reader(io.StringIO(read_text_file(path).decode(), newline=""), strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(f"{path}: is no table ({error}); make it again with tcvae-ref sweep") from None
    uneven = next((row for row in rows if len(row) != len(names)), None)
    if uneven is not None or len(set(names)) < len(names):
        what = "a column twice" if uneven is None else f"a row of {len(uneven)} cells for {len(names)} columns"
        raise InputError(f"{path}: has {what}; make it again with tcvae-ref sweep")
    return [
        {name: (cell or None) if name in _WORDS else _value(cell) for name, cell in zip(names, row, strict=True)}
        for row in rows
    ]


def _cell(value: Any) -> Any:
    return "" if value is None else repr(float(value)) if isinstance(value, float) else value


def _value(cell: str) -> Any:
    if cell == "":
        return None
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell
