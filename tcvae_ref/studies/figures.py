"""A study's figures: every run as a point, medians over seeds as lines; to be read in colour, without, and in print."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tcvae_ref.figures import NotInstalled
from tcvae_ref.studies.results import Group, groups, label, name_of
from tcvae_ref.studies.results import panel as panel_of
from tcvae_ref.studies.statistics import quartiles
from tcvae_ref.studies.study import BIAS, SENSITIVITY, Study, described
from tcvae_ref.studies.table import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#000000", "#56b4e9", "#cc79a7", "#009e73", "#e69f00")
"""Okabe and Ito's; neighbours differ in lightness too, and every line has its own marker and dashes."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 2)), (0, (2, 3)))
NAMES = {
    "mig": "MIG",
    "elbo": "ELBO, nats",
    "reconstruction": "E[log p(x|z)], nats",
    "total_correlation": "total correlation, nats",
    "mutual_information": "index-code mutual information, nats",
    "dimension_wise_kl": "dimension-wise KL, nats",
    "factor_vae": "FactorVAE metric",
    "higgins": "Higgins metric",
    "beta": "beta",
}
_SMALL = 8  # points
_POINTS = {"markersize": 3.5, "alpha": 0.5, "mew": 0}


class Picture(NamedTuple):
    """A figure and what is to be said under it."""

    name: str
    figure: "Figure"
    caption: str


def pictures(study: Study, rows: Sequence[Row], runs: Sequence[Row], command: str) -> list[Picture]:
    """Draw a study.

    Parameters
    ----------
    study : Study
    rows : sequence of dict
        What is drawn: its table; of a sensitivity study, what was measured.
    runs : sequence of dict
        Its table.
    command : str
        What made the numbers.

    Returns
    -------
    list of Picture

    Raises
    ------
    NotInstalled
        matplotlib is missing.
    """
    draw: dict[str, Callable[[Study, Sequence[Row]], list[tuple[str, Figure, str]]]] = {
        "trade-off": _trade_off,
        "lines": _lines,
        "systems": _systems,
        "scatter": _scatter,
        BIAS: _bias,
        SENSITIVITY: _sensitivity,
    }
    found = []
    for name, figure, shown in draw[study.figure](study, rows):
        caption = f"{shown} {_what_was_run(study, runs)} Made with: {command}"
        width = int(figure.get_figwidth() * 17)
        text = textwrap.fill(caption, width, break_on_hyphens=False)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color="#333333")
        found.append(Picture(name, figure, caption))
    return found


def _what_was_run(study: Study, rows: Sequence[Row]) -> str:
    """The settings that all runs share, the number of runs, and of those that failed."""
    if study.figure == BIAS:
        return f"{len(rows)} rows, {rows[0]['batches']:g} batches each."
    failed = sum(row["status"] == "failed" for row in rows)
    same = []
    for name in (
        "data",
        "objective",
        "estimator",
        "network",
        "prior",
        "encoder",
        "decoder",
        "latent",
        "batch",
        "epochs",
        "learning_rate",
    ):
        values = {described(row[name]) for row in rows if row.get(name) is not None}
        if len(values) == 1:
            same.append(f"{_name(name)} {values.pop()}")
    seeds = len({run.settings.seed for run in study.runs})
    return (
        f"{len(rows)} runs ({failed} failed) over {seeds} seed{'s' if seeds > 1 else ''}, none selected; "
        f"{', '.join(same)}."
    )


def _sheet(rows: int, columns: int, width: float = 3.3, height: float = 2.9) -> tuple["Figure", Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NotInstalled(
            "figures: matplotlib is not installed; pip install 'tcvae-ref[experiments]' brings it"
        ) from None
    figure = Figure(figsize=(max(width * columns, 5.0), height * rows + 0.75), layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False))
    for axis in axes.ravel():
        axis.tick_params(labelsize=_SMALL)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axis: Any) -> None:
    """Name the lines, if there are any."""
    handles, names = axis.get_legend_handles_labels()
    if handles:
        axis.legend(handles, names, fontsize=_SMALL, frameon=False)


def _look(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th line."""
    n = place % len(COLOURS)
    return {"color": COLOURS[n], "marker": MARKERS[n], "linestyle": DASHES[n]}


def _name(column: str) -> str:
    return NAMES.get(column, column.replace("_", " "))


def _horizontal(axis: Any, xs: Sequence[float]) -> None:
    """Ticks at the values there are, on a logarithmic axis where they span much."""
    from matplotlib.ticker import NullFormatter, NullLocator

    ticks = sorted(set(xs))
    if len(ticks) > 1 and ticks[0] > 0 and ticks[-1] / ticks[0] >= 4:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _panels(study: Study, rows: Sequence[Row]) -> tuple[list[str], list[str], list[Group]]:
    found = groups(study, rows)
    panels, series = (list(dict.fromkeys(getattr(group, name) for group in found)) for name in ("panel", "series"))
    return panels or [""], series, found


# --- lines over a setting --------------------------------------------------------------------------------------


def _over_x(axis: Any, own: Sequence[Group], column: str, place: int, name: str) -> None:
    """Medians as a line, quartiles as bars, every run as a point beside them."""
    own = sorted((group for group in own if group.column(column)), key=lambda group: group.x)
    if not own:
        return
    low, middle, high = np.array([quartiles(group.column(column)) for group in own]).T
    x, look = np.array([group.x for group in own], float), _look(place)
    x = x * 1.05**place if axis.get_xscale() == "log" else x
    axis.errorbar(
        x, middle, yerr=[middle - low, high - middle], label=name, linewidth=1.6, markersize=5, capsize=2, **look
    )
    for at, group in zip(x, own, strict=True):
        values = group.column(column)
        axis.plot([at] * len(values), values, look["marker"], color=look["color"], **_POINTS)


def _lines(study: Study, rows: Sequence[Row]) -> list[tuple[str, "Figure", str]]:
    panels, series, found = _panels(study, rows)
    figure, axes = _sheet(len(panels), len(study.y))
    for row, panel in zip(axes, panels, strict=True):
        for axis, column in zip(row, study.y, strict=True):
            _horizontal(axis, [float(group.x) for group in found])
            for place, name in enumerate(series):
                own = [group for group in found if (group.panel, group.series) == (panel, name)]
                _over_x(axis, own, column, place, name)
            axis.set_xlabel(_name(study.x), fontsize=9)
            axis.set_ylabel(_name(column), fontsize=9)
            axis.set_title(panel, fontsize=9)
    _legend(axes[0, 0])
    figure.suptitle(study.title, fontsize=11)
    shown = "Lines and bars: median and quartiles over seeds; small points: every run; lines are set side by side."
    return [(study.name, figure, shown)]


def _trade_off(study: Study, rows: Sequence[Row]) -> list[tuple[str, "Figure", str]]:
    panels, series, found = _panels(study, rows)
    figure, axes = _sheet(len(panels), 3)
    for row, panel in zip(axes, panels, strict=True):
        _horizontal(row[0], [float(group.x) for group in found])
        for place, name in enumerate(series):
            own = [group for group in found if (group.panel, group.series) == (panel, name)]
            _over_x(row[0], own, study.y[0], place, name)
            for axis, column in zip(row[1:], ("elbo", "reconstruction"), strict=True):
                _against(axis, own, column, study.y[0], place)
        for axis, column in zip(row, (study.x, "elbo", "reconstruction"), strict=True):
            axis.set_xlabel(_name(column), fontsize=9)
            axis.set_ylabel(_name(study.y[0]), fontsize=9)
        row[1].set_title(panel, fontsize=9)
    _legend(axes[0, 0])
    figure.suptitle(study.title, fontsize=11)
    shown = (
        f"Large markers, in the order of {study.x}: medians over seeds, with quartiles as bars at the left; small "
        f"points: every run. A number beside a marker is its {study.x}."
    )
    return [(study.name, figure, shown)]


def _against(axis: Any, own: Sequence[Group], across: str, up: str, place: int) -> None:
    """Every run as a point, and the medians joined in the order of x."""
    complete = [
        group._replace(rows=[row for row in group.rows if row.get(across) is not None and row.get(up) is not None])
        for group in own
    ]
    own = sorted((group for group in complete if group.rows), key=lambda group: group.x)
    look = _look(place)
    for group in own:
        axis.plot(group.column(across), group.column(up), look["marker"], color=look["color"], **_POINTS)
    medians = [(np.median(group.column(across)), np.median(group.column(up))) for group in own]
    if medians:
        axis.plot(*np.transpose(medians), linewidth=1.6, markersize=5, **look)
    for group, middle in zip(own, medians, strict=True):
        offset = (4, 4) if place % 2 == 0 else (4, -9)
        axis.annotate(
            f"{group.x:g}", middle, xytext=offset, textcoords="offset points", fontsize=7, color=look["color"]
        )


# --- systems side by side ----------------------------------------------------------------------------------------


def _systems(study: Study, rows: Sequence[Row]) -> list[tuple[str, "Figure", str]]:
    _, series, found = _panels(study, rows)
    height = 0.6 + 0.27 * len(found)
    figure, axes = _sheet(1, len(study.y), 3.0, height)
    names = [name_of(study, group) for group in found]
    for axis, column in zip(axes[0], study.y, strict=True):
        for y, group in enumerate(found):
            values, look = group.column(column), _look(series.index(group.series))
            if not values:
                continue
            low, middle, high = quartiles(values)
            axis.plot([low, high], [y, y], color=look["color"], linewidth=5, alpha=0.3, solid_capstyle="butt")
            axis.plot([middle, middle], [y - 0.32, y + 0.32], color=look["color"], linewidth=2.2)
            axis.plot(values, [y] * len(values), look["marker"], color=look["color"], markersize=3.5, alpha=0.7, mew=0)
        axis.set_xlabel(_name(column), fontsize=9)
        axis.set_yticks(range(len(found)), names if axis is axes[0, 0] else [""] * len(found))
        axis.set_ylim(len(found) - 0.5, -0.5)
    figure.suptitle(study.title, fontsize=11)
    return [(study.name, figure, "Bars across: medians over seeds; bands: quartiles; points: every run.")]


# --- TC against the score ----------------------------------------------------------------------------------------


def _scatter(study: Study, rows: Sequence[Row]) -> list[tuple[str, "Figure", str]]:
    panels, series, _ = _panels(study, rows)
    figure, axes = _sheet(1, len(panels), 4.6, 3.6)
    for axis, panel in zip(axes[0], panels, strict=True):
        for place, name in enumerate(series):
            own = [
                row
                for row in rows
                if row.get("total_correlation") is not None
                and row.get(study.y[0]) is not None
                and (panel_of(study, row), label(study, row)) == (panel, name)
            ]
            look = _look(place)
            axis.plot(
                [row["total_correlation"] for row in own],
                [row[study.y[0]] for row in own],
                *(look["marker"],),
                color=look["color"],
                markersize=5,
                alpha=0.75,
                mew=0,
                label=name,
            )
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set_xlim(left=-0.05)
        axis.set_xlabel(f"{_name('total_correlation')} (exact)", fontsize=9)
        axis.set_ylabel(_name(study.y[0]), fontsize=9)
        axis.set_title(panel, fontsize=9)
    _legend(axes[0, 0])
    figure.suptitle(study.title, fontsize=11)
    return [(study.name, figure, "Every point is a run.")]


# --- estimators ----------------------------------------------------------------------------------------------------


def _bias(study: Study, rows: Sequence[Row]) -> list[tuple[str, "Figure", str]]:
    """One figure for each N: a row for each (D, sigma), over M."""
    terms = ("mutual_information", "total_correlation", "dimension_wise_kl")
    estimators = [name for name in dict.fromkeys(row["estimator"] for row in rows) if name != "exact"]
    found = []
    for N in dict.fromkeys(row["N"] for row in rows):
        own = [row for row in rows if row["N"] == N]
        sizes = list(dict.fromkeys((row["D"], row["sigma"]) for row in own))
        figure, axes = _sheet(len(sizes), 5, 2.5, 2.1)
        for line, (D, sigma) in zip(axes, sizes, strict=True):
            for place, name in enumerate([*estimators, "exact"]):
                here = sorted(
                    (row for row in own if (row["D"], row["sigma"], row["estimator"]) == (D, sigma, name)),
                    key=lambda row: row["M"],
                )
                x, look = [row["M"] for row in here], {**_look(place), "linewidth": 1.3, "markersize": 4}
                for axis, term in zip(line, terms, strict=False):
                    if name != "exact":
                        bias, spread = ([row[f"{what}_{term}"] for row in here] for what in ("bias", "spread"))
                        axis.errorbar(x, bias, yerr=spread, capsize=2, label=name, **look)
                for axis, column in zip(line[3:], ("cosine", "cosine_batch"), strict=True):
                    axis.plot(x, [row[column] for row in here], label=name, **look)
            for axis, term in zip(line, terms, strict=False):
                axis.set_yscale("symlog", linthresh=0.1)
                axis.axhline(0.0, color="#777777", linewidth=0.8)
                axis.set_title(f"bias of {term.replace('_', ' ')}, nats", fontsize=7)
            for axis, title in zip(line[3:], ("mean gradient", "one batch's gradient"), strict=True):
                axis.set_title(f"cosine, {title} of TC", fontsize=7)
                axis.set_ylim(-1.05, 1.05)
            for axis in line:
                _horizontal(axis, [row["M"] for row in own])
                axis.tick_params(labelsize=7)
            line[0].set_ylabel(f"D = {D:g}, sigma = {sigma:g}", fontsize=8)
        for axis in axes[-1]:
            axis.set_xlabel("batch M", fontsize=8)
        figure.legend(
            *axes[0, 3].get_legend_handles_labels(), loc="outside upper right", ncols=6, fontsize=7, frameon=False
        )
        figure.suptitle(f"{study.title}: N = {N:g}", fontsize=10, x=0.01, ha="left")
        shown = (
            "Bias against the exact value on the same samples, bars: standard deviation over batches; cosine of the "
            "angle between the gradient of TC and the exact gradient, where `exact` scores a batch against all "
            "posteriors: what the draws alone cost."
        )
        found.append((f"{study.name}-N{N:g}", figure, shown))
    return found


# --- scores and their hyper-parameters -----------------------------------------------------------------------------


def _sensitivity(study: Study, rows: Sequence[Row]) -> list[tuple[str, "Figure", str]]:
    """A panel for each hyper-parameter: every model a line, all against the model's MIG by quadrature in its shade."""
    dials = list(dict.fromkeys((row["metric"], row["dial"]) for row in rows if row["dial"]))
    columns = min(4, len(dials) + 1)
    figure, axes = _sheet(-(-(len(dials) + 1) // columns), columns, 2.6, 2.3)
    rows = [row for row in rows if row["score"] is not None]
    mig = {row["key"]: row["score"] for row in rows if row["metric"] == "mig"}
    keys = sorted(mig, key=lambda name: float(mig[name]))
    flat = axes.ravel()
    for rank, name in enumerate(keys):
        flat[0].plot([0, 1], [mig[name]] * 2, **_shade(rank, len(keys)))
    flat[0].set_title("mig: no hyper-parameter", fontsize=_SMALL)
    flat[0].set_xticks([])
    for axis, (metric, dial) in zip(flat[1:], dials, strict=False):
        own = [row for row in rows if (row["metric"], row["dial"]) == (metric, dial)]
        values = sorted({row["value"] for row in own})
        for rank, name in enumerate(keys):
            scores = {v: [row["score"] for row in own if (row["key"], row["value"]) == (name, v)] for v in values}
            places = [place for place, v in enumerate(values) if scores[v]]
            means = [np.mean(scores[values[place]]) for place in places]
            axis.plot(places, means, marker="o", **_shade(rank, len(keys)))
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set_title(f"{metric}: {dial.replace('_', ' ')}", fontsize=_SMALL)
    for axis in flat[len(dials) + 1 :]:
        axis.set_visible(False)
    for axis in flat[: len(dials) + 1]:
        axis.set_ylim(-0.03, 1.03)
        axis.tick_params(labelsize=7)
    figure.suptitle(study.title, fontsize=11)
    return [
        (
            study.name,
            figure,
            "Every line is a model, darker with higher MIG by quadrature; scores are means over draws.",
        )
    ]


def _shade(rank: int, models: int) -> dict[str, Any]:
    grey = 0.8 - 0.8 * rank / max(models - 1, 1)
    return {"color": (grey * 0.9, grey * 0.95, grey), "linewidth": 1.0, "markersize": 2.5}
