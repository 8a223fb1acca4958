"""Failing cases kept in files, to be run again by their id."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tcvae_ref.checks import InputError
from tcvae_ref.files import check_folder, check_seal, read_json, sealed, write_json
from tcvae_ref.oracle import encoding
from tcvae_ref.oracle.types import FAILURES, PARTS, Case, CheckResult, Counterexample, Report, Verdict

FOLDER = Path(".tcvae-ref") / "cases"
"""Where cases are kept, from the current folder, unless another place is named."""

HANDED = ("sampler", "loss", "weights")
"""What `check_step` is handed."""

FORMAT = 1
"""Of the files; a file of another number is refused."""

DIGITS = 10
"""Hexadecimal digits of an id."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What both kinds of records have."""

    id: str
    target: str
    """The function that was found wrong."""
    framework: str
    check: str
    dtype: str
    variant: str
    verdict: Verdict
    """When it was saved."""
    seed: int
    options: dict[str, Any]
    """Of `check` or `check_step`, as the report has them."""
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Record(_Kept):
    """A failing case with all that is needed to run it again."""

    estimator: str
    mapping: str
    counterexample: Counterexample

    @property
    def case(self) -> Case:
        """The inputs."""
        return self.counterexample.case


@dataclass(frozen=True, kw_only=True)
class StepRecord(_Kept):
    """A failing part of a training step, `check` of `types.PARTS`; its inputs follow from the seed and the options."""

    handed: str
    """What the function was handed over as: sampler, loss or weights."""


_NONE = "replay: no cases in {folder}; a failing `tcvae-ref check` or `check-step` saves them, or name a --cases"
_TEXTS = ("id", "target", "framework", "estimator", "mapping", "check", "dtype", "variant")
_STEP_TEXTS = ("id", "target", "handed", "framework", "check", "dtype", "variant")


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
    return Record(
        id=case_id(report.target, result.check, result.dtype, result.variant, example.case),
        target=report.target,
        estimator=report.estimator,
        mapping=report.mapping,
        counterexample=example,
        **_of_both(report, result),
    )


def step_record(report: Report, index: int) -> StepRecord:
    """What `save` writes for one result of `check_step`, whose functions were handed over by name."""
    handed = report.options["handed_as"][index]
    about = _of_both(report, report.results[index])
    kept = StepRecord(id="", target=report.options["handed"][handed], handed=handed, **about)
    return replace(kept, id=_step_id(kept))


def _of_both(report: Report, result: CheckResult) -> dict[str, Any]:
    """What any record has of a result."""
    return {
        **{name: getattr(result, name) for name in ("check", "dtype", "variant", "verdict")},
        **{name: getattr(report, name) for name in ("framework", "seed", "options", "versions")},
    }


def _step_id(kept: StepRecord) -> str:
    content = json.dumps([*(getattr(kept, name) for name in _STEP_TEXTS[1:]), kept.seed, kept.options], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGITS]


def save(report: Report, folder: Path = FOLDER) -> dict[int, str]:
    """Write every counterexample of a report, and every failing part of a training step, to `folder`/ID.json.

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
    failing: dict[int, Record | StepRecord] = {
        i: record(report, r) for i, r in enumerate(report.results) if r.counterexample is not None
    }
    if "handed_as" in report.options:
        failing = {i: step_record(report, i) for i, r in enumerate(report.results) if r.verdict in FAILURES}
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
            kept = load_any(name, folder)
            row = (kept.check, kept.dtype, kept.target)
        except InputError:
            row = ("damaged", "-", "-")
        rows.append((saved, name, *row, f"{datetime.fromtimestamp(saved):%Y-%m-%d %H:%M}"))
    return [row[1:] for row in sorted(rows, reverse=True)]


def load(name: str, folder: Path = FOLDER) -> Record:
    """The saved case of `check` whose id is `name`, or begins with it; raises as `load_any`, and for other cases."""
    kept = load_any(name, folder)
    if not isinstance(kept, Record):
        raise InputError(f"{kept.id}: is a case of check-step, which has no arrays; `tcvae-ref replay {kept.id}`")
    return kept


def load_any(name: str, folder: Path = FOLDER) -> Record | StepRecord:
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
        kept = _step_from_json(content) if "handed" in content else _from_json(content)
    except (*encoding.DAMAGE, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); run the check again to save it anew") from None
    if kept.id != path.stem:
        raise InputError(f"{path}: holds the case {kept.id}; give the file its name back")
    if isinstance(kept, Record):
        wanted = case_id(kept.target, kept.check, kept.dtype, kept.variant, kept.case)
    else:
        wanted = _step_id(kept)
    if kept.id != wanted:
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


def _to_json(kept: Record | StepRecord) -> dict[str, Any]:
    example = encoding.counterexample_to_json(kept.counterexample) if isinstance(kept, Record) else {}
    return {
        "format": FORMAT,
        **{name: getattr(kept, name) for name in (_TEXTS if isinstance(kept, Record) else _STEP_TEXTS)},
        "verdict": kept.verdict.value,
        "seed": kept.seed,
        "options": encoding.plain(kept.options),
        "versions": encoding.plain(kept.versions),
        **example,
    }


def _step_from_json(content: dict[str, Any]) -> StepRecord:
    read = _both_from_json(content, _STEP_TEXTS)
    if read["handed"] not in HANDED or read["check"] not in PARTS or not set(read["options"]) <= _OF_A_STEP:
        raise ValueError(f"{read['handed']!r}, {read['check']!r} and its options are not those of check-step")
    return StepRecord(**read)


def _from_json(content: dict[str, Any]) -> Record:
    read = _both_from_json(content, _TEXTS)
    example = encoding.counterexample_from_json(content)
    encoding.require_usable(example.case)
    return Record(**read, counterexample=example)


def _both_from_json(content: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """What any record has, with those of its entries that are `texts`."""
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} in place of {FORMAT}")
    return {
        **encoding.texts(content, texts),
        "verdict": Verdict(content["verdict"]),
        "seed": encoding.whole(content["seed"]),
        "options": _options(dict(content["options"])),
        "versions": dict(content["versions"]),
    }


_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"arguments": dict, "parameterisation": str, "packed": str, "bind": dict},
    **{"returns": (str, list, dict), "weights": dict, "factory": str, "init": dict},
    **{"steps": list, "warm_up": list, "image_shape": list},
}
"""Options that say how the target is called, or what of a training step is looked at, and what each is."""
OF_THE_LOSS = ("arguments", "parameterisation", "packed", "returns", "image_shape", "factory", "init", "bind")
"""Options of `check_step` that say how a loss is called."""
_OF_A_STEP = {
    *("handed", "handed_as", "alpha", "beta", "gamma", "estimator", "framework", "steps", "warm_up", "dataset_size"),
    *OF_THE_LOSS,
}


def _options(options: dict[str, Any]) -> dict[str, Any]:
    for name, kind in _KINDS.items():
        value = options.get(name)
        words = value if isinstance(value, list) and name not in ("steps", "image_shape") else []
        if name == "arguments" and isinstance(value, dict):
            words = list(value.values())
        if not (value is None or isinstance(value, kind)) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"its option {name} is {value!r}")
    return options
