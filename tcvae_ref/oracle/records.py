"""Failing cases kept in files, to be run again by their id."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tcvae_ref.checks import InputError
from tcvae_ref.files import check_folder, check_seal, read_json, sealed, write_json
from tcvae_ref.oracle import encoding
from tcvae_ref.oracle.types import Case, CheckResult, Counterexample, Report, Verdict

FOLDER = Path(".tcvae-ref") / "cases"
"""Where cases are kept, from the current folder, unless another place is named."""

FORMAT = 1
"""Of the files; a file of another number is refused."""

DIGITS = 10
"""Hexadecimal digits of an id."""


@dataclass(frozen=True)
class Record:
    """A failing case with all that is needed to run it again."""

    id: str
    target: str
    framework: str
    estimator: str
    mapping: str
    check: str
    dtype: str
    variant: str
    verdict: Verdict
    """When it was saved."""
    seed: int
    options: dict[str, Any]
    """Of `check`, as the report has them."""
    versions: dict[str, str]
    counterexample: Counterexample

    @property
    def case(self) -> Case:
        """The inputs."""
        return self.counterexample.case


_NONE = "replay: no cases in {folder}; a failing `tcvae-ref check` saves them, or name a --cases"
_TEXTS = ("id", "target", "framework", "estimator", "mapping", "check", "dtype", "variant")


def case_id(target: str, check: str, dtype: str, variant: str, case: Case) -> str:
    """A short name that depends on what is called with what, and on nothing else."""
    inputs = encoding.case_to_json(case)
    content = json.dumps([target, check, dtype, variant, inputs], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGITS]


def record(report: Report, result: CheckResult) -> Record:
    """What `save` writes for one result with a counterexample."""
    example = result.counterexample
    if example is None:
        raise InputError(f"records: {result.check} ({result.dtype}, {result.variant}) has no counterexample to keep")
    where = (result.check, result.dtype, result.variant)
    name = case_id(report.target, *where, example.case)
    about = (report.target, report.framework, report.estimator, report.mapping)
    return Record(name, *about, *where, result.verdict, report.seed, report.options, report.versions, example)


def save(report: Report, folder: Path = FOLDER) -> dict[int, str]:
    """Write every counterexample of a report to `folder`/ID.json.

    Returns
    -------
    dict
        Index of the result in `report.results` -> id.

    Raises
    ------
    InputError
        `folder` is not a folder.
    OSError
        It cannot be written.
    """
    failing = {i: record(report, r) for i, r in enumerate(report.results) if r.counterexample is not None}
    if failing:
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
    for kept in failing.values():
        write_json(folder / f"{kept.id}.json", sealed(_to_json(kept)))
    return {i: kept.id for i, kept in failing.items()}


def list_ids(folder: Path = FOLDER) -> list[str]:
    """The ids that `folder` holds, sorted."""
    return sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))


def listing(folder: Path = FOLDER) -> list[tuple[str, ...]]:
    """(id, check, dtype, target, when it was saved) of every case in `folder`, the latest first.

    Raises
    ------
    InputError
        There is none.
    """
    if not list_ids(folder):
        raise InputError(_NONE.format(folder=folder))
    rows = []
    for name in list_ids(folder):
        saved = (folder / f"{name}.json").stat().st_mtime
        try:
            kept = load(name, folder)
            row = (kept.check, kept.dtype, kept.target)
        except InputError:
            row = ("damaged", "-", "-")
        rows.append((saved, name, *row, f"{datetime.fromtimestamp(saved):%Y-%m-%d %H:%M}"))
    return [row[1:] for row in sorted(rows, reverse=True)]


def load(name: str, folder: Path = FOLDER) -> Record:
    """The saved case whose id is `name`, or begins with it.

    Raises
    ------
    InputError
        None or several begin so, or the file is damaged.
    OSError
        The file cannot be read.
    """
    path = folder / f"{_full_id(name, folder)}.json"
    try:
        content = read_json(path)
        kept = _from_json(content)
    except (*encoding.DAMAGE, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); run the check again to save it anew") from None
    if kept.id != path.stem:
        raise InputError(f"{path}: holds the case {kept.id}; give the file its name back")
    if kept.id != case_id(kept.target, kept.check, kept.dtype, kept.variant, kept.case):
        raise InputError(f"{path}: was changed by hand, its id does not fit its inputs; run the check again")
    check_seal(path, content, "run the check again")
    return kept


def _full_id(name: str, folder: Path) -> str:
    known = list_ids(folder)
    if not known:
        raise InputError(_NONE.format(folder=folder))
    matches = [name] if name in known else [one for one in known if name and one.startswith(name)]
    if len(matches) > 1:
        raise InputError(f"replay: {name!r} begins {len(matches)} ids ({', '.join(matches[:5])}); give more digits")
    if not matches:
        raise InputError(f"replay: no case {name!r} in {folder}; `tcvae-ref replay` lists the {len(known)} there")
    return matches[0]


def _to_json(kept: Record) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **{name: getattr(kept, name) for name in _TEXTS},
        "verdict": kept.verdict.value,
        "seed": kept.seed,
        "options": encoding.plain(kept.options),
        "versions": encoding.plain(kept.versions),
        **encoding.counterexample_to_json(kept.counterexample),
    }


def _from_json(content: dict[str, Any]) -> Record:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} in place of {FORMAT}")
    example = encoding.counterexample_from_json(content)
    encoding.require_usable(example.case)
    return Record(
        **encoding.texts(content, _TEXTS),
        verdict=Verdict(content["verdict"]),
        seed=encoding.whole(content["seed"]),
        options=_options(dict(content["options"])),
        versions=dict(content["versions"]),
        counterexample=example,
    )


_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"arguments": dict, "parameterisation": str, "packed": str, "bind": dict},
    **{"returns": (str, list, dict), "weights": dict, "factory": str},
}
"""Options that say how the target is called, and what each is."""


def _options(options: dict[str, Any]) -> dict[str, Any]:
    for name, kind in _KINDS.items():
        value = options.get(name)
        words = value if isinstance(value, list) else []
        if name == "arguments" and isinstance(value, dict):
            words = list(value.values())
        if not (value is None or isinstance(value, kind)) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"its option {name} is {value!r}")
    return options
