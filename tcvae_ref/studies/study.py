"""A study: a small TOML file that says what the paper claims and which runs put it to the test.

    [study]
    title = "..."
    claim = "what the paper says"
    figure = "trade-off"            # one of FIGURES
    metrics = ["mig"]               # scores of every run, beside the exact decomposition
    seeds = [0, 1, 2, 3, 4]
    series = ["objective"]          # the settings that tell one line of the figure from another
    x = "beta"                      # the setting along the horizontal axis
    panels = "data"                 # optional: a setting, or data, with a panel for each value

    [base]                          # any of `Settings`, and data, where it is the same for all
    data = { grid = "hearts" }

    [[grid]]                        # every combination of the lists; blocks are put one after the other
    objective = ["beta-vae", "beta-tcvae"]
    beta = [1, 4, 16]

Values in a grid's lists are choices, any other value is fixed: `encoder = [[128], [256]]` are two choices. A setting
that has no part in a run, as beta in a vae, is left at its default, and runs that are then the same are one.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.data.dsprites import grid as sprite_grid
from tcvae_ref.data.heads import head_grid
from tcvae_ref.files import read_text_file, real_path
from tcvae_ref.scores import score_names
from tcvae_ref.training.settings import Settings
from tcvae_ref.training.sources import PATHS, DataSource

BIAS, SENSITIVITY = "bias", "sensitivity"
FIGURES = ("trade-off", "lines", "systems", "scatter", BIAS, SENSITIVITY)
"""What a study's figure can be; `bias` trains nothing, `sensitivity` scores its runs again and again."""
MOST_RUNS = 10_000
COLUMNS = (
    *("reconstruction", "mutual_information", "total_correlation", "dimension_wise_kl", "kl", "elbo", "mig"),
    *("gap_scale", "gap_orientation", "gap_posX", "gap_posY", "gap_azimuth", "gap_elevation", "gap_lighting"),
)
"""Columns of every study's table that can be drawn; with a study's metrics come theirs."""
_STUDY = ("title", "claim", "figure", "metrics", "seeds", "series", "x", "y", "panels")
_TABLES = ("study", "base", "grid", BIAS, SENSITIVITY)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}
DATA = "data"
SETTINGS = (*_DEFAULTS, DATA)
"""All that a run is made of, by name."""
_OVER_SEEDS = ("trade-off", "lines", "systems")
"""Figures of medians over seeds."""
_ANYWHERE = ("beta", "tc_weight")
"""What has a place along x in every run (`results.along`)."""


class RunSpec(NamedTuple):
    """One training run of a study: all that determines it."""

    settings: Settings
    source: DataSource

    @property
    def key(self) -> str:
        """SHA-256 of settings and data source, 16 hexadecimal digits: the run's name in a store."""
        source = {name: part for name, part in self.source._asdict().items() if part is not None}
        return key({"settings": self.settings.to_json(), "data": source})


class Study(NamedTuple):
    """A study, read and checked."""

    name: str
    title: str
    claim: str
    figure: str
    metrics: tuple[str, ...]
    series: tuple[str, ...]
    x: str
    y: tuple[str, ...]
    """Columns of the table along the vertical axes."""
    panels: str | None
    runs: tuple[RunSpec, ...]
    numbers: dict[str, list[Any]]
    """What is varied by a study that is more than its runs: the table [bias] or [sensitivity]."""
    text: str
    """The file itself."""


def key(content: Any) -> str:
    """Name for plain values, 16 hexadecimal digits of a SHA-256; the order of an object's names does not enter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def shipped() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    folder = Path(str(resources.files("tcvae_ref.studies") / "definitions"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(what: str) -> Path:
    """Where a study is: a file, or the name of one that comes with the package.

    Raises
    ------
    InputError
        It is neither.
    """
    if what.endswith(".toml") or Path(what).is_file():
        return Path(what)
    return shipped()[checks.option("study", "name", what, shipped())]


def read(path: Path) -> Study:
    """Read a study from its file.

    Parameters
    ----------
    path : Path
        A TOML file; `shipped` names those of the package.

    Returns
    -------
    Study

    Raises
    ------
    InputError
        It is no TOML, a name or value in it is not allowed, or it holds no run.
    OSError
        It cannot be read.
    """
    data = read_text_file(path)
    try:
        text = data.decode()
        content = tomllib.loads(text)
        _require_small(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not TOML ({error}); correct that line") from None
    return parse(path.stem, content, text)


def _require_small(content: dict[str, Any]) -> None:
    """Require integers of 64 bits, what TOML promises; Python takes longer ones, and cannot write them down again."""
    entries: list[Any] = [content]
    while entries:
        entry = entries.pop()
        if isinstance(entry, int) and not -(2**63) <= entry < 2**63:
            raise ValueError("an integer has more than 64 bits")
        entries.extend(entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ())


def parse(name: str, content: dict[str, Any], text: str = "") -> Study:
    """Make a study of the tables of its file.

    Raises
    ------
    InputError
        As `read`.
    """
    where = f"study {name}"
    for table in content:
        checks.option(where, "table", table, _TABLES)
    about = _table(where, content, "study")
    for entry in about:
        checks.option(f"{where}: [study]", "entry", entry, _STUDY)
    for entry in ("title", "claim", "figure"):
        if not isinstance(about.get(entry), str) or not about[entry].strip():
            raise InputError(f"{where}: [study] {entry}={about.get(entry)!r}; a text is needed")
    figure = checks.option(where, "figure", about["figure"], FIGURES)
    metrics, series = (_words(where, about, entry) for entry in ("metrics", "series"))
    known = score_names()
    for metric in metrics:
        checks.option(where, "metric", metric, known)
    for setting in (*series, about.get("x", "beta"), about.get("panels", DATA)):
        checks.option(where, "setting", setting, SETTINGS)
    needed = {BIAS: {BIAS}, SENSITIVITY: {"grid", SENSITIVITY}}.get(figure, {"grid"})
    if content.keys() - {"study", "base"} != needed:
        need = {BIAS: "[bias] alone", SENSITIVITY: "[grid] and [sensitivity]"}.get(figure, "[grid]")
        raise InputError(f"{where}: figure {figure!r} needs the tables [study] and {need}")
    of = Study(
        name=name,
        title=about["title"],
        claim=" ".join(about["claim"].split()),
        figure=figure,
        metrics=metrics,
        series=series,
        x=about.get("x", "beta"),
        y=_columns(where, about, metrics),
        panels=about.get("panels"),
        runs=() if figure == BIAS else _runs(where, content, about),
        numbers=_numbers(where, content, figure),
        text=text,
    )
    if figure in _OVER_SEEDS:
        _check_lines(where, of)
    return of


def described(value: Any) -> str:
    """A setting or data source in a word, for tables and figures."""
    if isinstance(value, DataSource):
        given = {name: part for name, part in value._asdict().items() if part is not None}
        return " ".join(
            described(part) if name == "grid" else f"{name}={described(part)}" for name, part in given.items()
        )
    if isinstance(value, list | tuple):
        return ("," if any(isinstance(part, str) for part in value) else "x").join(map(described, value)) or "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def value_of(run: RunSpec, setting: str) -> Any:
    """A run's setting, or its data source."""
    return run.source if setting == DATA else getattr(run.settings, setting)


# --- the runs ----------------------------------------------------------------------------------------------


def _table(where: str, content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{where}: {name} is a {type(table).__name__}; a table [{name}] is needed")
    return table


def _words(where: str, table: dict[str, Any], name: str) -> tuple[str, ...]:
    words = table.get(name, [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{where}: {name}={words!r}; a list of words is needed")
    return tuple(words)


def _columns(where: str, about: dict[str, Any], metrics: Sequence[str]) -> tuple[str, ...]:
    """Columns of the table along the vertical axes."""
    y = _words(where, about, "y") or ("mig",)
    scores = [metric.replace("-", "_") for metric in metrics]
    for name in y:
        if not any(name.startswith(f"{score}_") for score in scores):  # dci_completeness, mig_binned_gap_posX
            checks.option(where, "column", name, (*COLUMNS, *scores))
    return y


def _runs(where: str, content: dict[str, Any], about: dict[str, Any]) -> tuple[RunSpec, ...]:
    """Every combination of every block, with every seed, each once."""
    seeds = about.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds:
        raise InputError(f"{where}: seeds={seeds!r}; a list of whole numbers is needed, such as [0, 1, 2, 3, 4]")
    base = _table(where, content, "base")
    blocks = content["grid"] if isinstance(content["grid"], list) else [content["grid"]]
    if not blocks:
        raise InputError(f"{where}: grid is an empty list; a table [grid] or [[grid]] is needed")
    choices = [_choices(where, block) for block in blocks]
    asked = len(seeds) * sum(math.prod(map(len, lists)) for lists in choices)
    if asked > MOST_RUNS:
        raise InputError(f"{where}: asks for more than {MOST_RUNS:,} runs, {asked:,}; make its lists shorter")
    runs: dict[str, RunSpec] = {}
    for block, lists in zip(blocks, choices, strict=True):
        for values in itertools.product(*lists):
            for seed in seeds:
                run = _run(where, {**base, **dict(zip(block, values, strict=True))}, seed)
                runs.setdefault(run.key, run)
    return tuple(runs.values())


def _choices(where: str, block: Any) -> list[list[Any]]:
    """The values that each entry of a block takes."""
    if not isinstance(block, dict) or not block:
        raise InputError(f"{where}: grid {block!r}; a table of lists is needed")
    for name, values in block.items():
        if values == []:
            raise InputError(f"{where}: grid {name} is an empty list; name a value, or leave it out")
    return [values if isinstance(values, list) else [values] for values in block.values()]


def _run(where: str, given: dict[str, Any], seed: Any) -> RunSpec:
    for name in given:
        checks.option(where, "setting", name, SETTINGS)
    if "seed" in given:
        raise InputError(f"{where}: seed={given['seed']!r} stands among the settings; list the seeds in [study]")
    source = _source(where, given.get(DATA, {"grid": "hearts"}))
    settings = {name: _as_default(name, value) for name, value in given.items() if name != DATA}
    try:
        run = Settings(**settings, seed=seed)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    idle: dict[str, Any] = {name: default for name, default in _DEFAULTS.items() if run.idle(name) is not None}
    return RunSpec(dataclasses.replace(run, **idle), source)


def _as_default(name: str, value: Any) -> Any:
    """TOML's 4 and [256] as the kind of number or tuple that the setting is, so that one run has one key."""
    default = _DEFAULTS[name]
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    return float(value) if isinstance(default, float) and type(value) is int and abs(value) < 2**53 else value


def _source(where: str, given: Any) -> DataSource:
    """A data source; files are named from the folder the study is started in."""
    if not isinstance(given, dict):
        raise InputError(f'{where}: data={given!r}; a table such as {{ grid = "hearts" }} is needed')
    for name in given:
        checks.option(where, "data", name, DataSource._fields)
    try:
        source = DataSource.from_json({**DataSource._field_defaults, **given})
        paths = {name: str(real_path(Path(path))) for name in PATHS if (path := getattr(source, name)) is not None}
        source = DataSource(**{**source._asdict(), **paths})
        if source.grid is not None:  # by its sizes, so that a name and its sizes are one run
            source = source._replace(grid=sprite_grid(source.grid).sizes)
        if source.heads is not None:
            source = source._replace(heads=head_grid(source.heads).sizes)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return source


def _check_lines(where: str, of: Study) -> None:
    """Require numbers along x, and runs that differ in their seed alone where they stand at one place of one line."""
    if not isinstance(_DEFAULTS.get(of.x), int | float):
        raise InputError(f"{where}: [study] x={of.x!r}; a setting that is a number is needed")
    told = (*of.series, *(_ANYWHERE if of.x == "beta" else (of.x,)), *([of.panels] if of.panels else []))
    places: dict[Any, RunSpec] = {}
    for run in of.runs:
        idle = run.settings.idle(of.x)
        if idle is not None and of.x not in _ANYWHERE:
            raise InputError(f"{where}: [study] x={of.x!r} has no part in {idle}; take other runs, or another x")
        other = places.setdefault(tuple(value_of(run, name) for name in told), run)
        differing = [name for name in subset(SETTINGS, [run, other]) if name != "seed"]
        if differing:
            raise InputError(
                f"{where}: runs differ in {', '.join(differing)}, and no line of the figure tells them apart; name it "
                "in series, x or panels"
            )


# --- beyond the runs ---------------------------------------------------------------------------------------


def _numbers(where: str, content: dict[str, Any], figure: str) -> dict[str, list[Any]]:
    """The lists of [bias] or [sensitivity]; those who use them check what is in them."""
    table = _table(where, content, figure) if figure in (BIAS, SENSITIVITY) else {}
    for name, values in table.items():
        if not isinstance(values, list) or not values or not all(type(value) in (int, float) for value in values):
            raise InputError(f"{where}: [{figure}] {name}={values!r}; a list of numbers is needed")
    return table


def subset(names: Sequence[str], runs: Sequence[RunSpec]) -> list[str]:
    """Those of some settings that differ between runs."""
    return [name for name in names if len({described(value_of(run, name)) for run in runs}) > 1]
