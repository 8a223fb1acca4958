"""What a study's table says: medians and quartiles, differences with their intervals, one line each."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.studies import sensitivity
from tcvae_ref.studies.statistics import Interval, bootstrap, quartiles, shift
from tcvae_ref.studies.study import BIAS, SENSITIVITY, SETTINGS, Study, described, subset
from tcvae_ref.studies.table import Row

_WIDTH = 110  # characters of a line
_MATCHED = 5  # reconstructions at which two objectives are compared


class Group(NamedTuple):
    """Runs that differ in their seed alone."""

    panel: str
    series: str
    x: float | str
    rows: list[Row]

    def column(self, name: str) -> list[float]:
        """A column of the runs that have it."""
        return [float(row[name]) for row in self.rows if row.get(name) is not None]


def groups(study: Study, rows: Sequence[Row]) -> list[Group]:
    """Put together the runs that differ in their seed alone, in the order of the table; failed runs are in none."""
    found: dict[tuple[str, str, float | str], list[Row]] = {}
    for row in rows:
        if row["status"] == "done":
            found.setdefault((panel(study, row), label(study, row), along(study, row)), []).append(row)
    return [Group(*place, own) for place, own in found.items()]


def panel(study: Study, row: Row) -> str:
    """The panel a run is drawn in."""
    return described(row[study.panels]) if study.panels else ""


def along(study: Study, row: Row) -> float | str:
    """A run's place along x; the weight of TC has one wherever it is not set.

    The beta of a vae is 1, that of a factor-vae 1 + tc_weight, the whole weight of its TC; tc_weight is 0 without one.
    """
    if study.x == "beta" and row["objective"] in ("vae", "factor-vae"):
        return 1.0 if row["objective"] == "vae" else 1.0 + row["tc_weight"]
    return 0.0 if study.x == "tc_weight" and row["tc_weight"] is None else row[study.x]


def name_of(study: Study, group: Group) -> str:
    """A group in words."""
    objective = group.rows[0]["objective"]
    weight = f"tc weight {group.rows[0]['tc_weight']:g}" if objective == "factor-vae" else f"beta {described(group.x)}"
    if study.x != "beta":
        weight = f"{study.x.replace('_', ' ')} {described(group.x)}"
    words = [group.panel, group.series, "" if objective == "vae" and study.x == "beta" else weight]
    return ", ".join(word for word in words if word)


def label(study: Study, row: Row) -> str:
    """A line's name: the values of the settings that tell lines apart."""
    names = [name for name in subset(study.series, study.runs) or study.series[:1] if row[name] is not None]
    return ", ".join(row[name] if isinstance(row[name], str) else f"{name} = {described(row[name])}" for name in names)


def told_apart(rows: Sequence[Row], row: Row) -> str:
    """What tells a run from the others of a table, in words."""
    names = [name for name in row if name in SETTINGS and len({described(other.get(name)) for other in rows}) > 1]
    return ", ".join(f"{name} {described(row[name])}" for name in names if row[name] is not None)


def lines_of(study: Study, rows: Sequence[Row]) -> list[str]:
    """Every number the study is read for, in sentences and aligned rows.

    Parameters
    ----------
    study : Study
    rows : sequence of dict
        Its table, failed runs included; of a bias study without them; of a sensitivity study what was measured.
    """
    if study.figure == BIAS:
        return _bias_lines(rows)
    if study.figure == SENSITIVITY:
        return _sensitivity_lines(rows)
    found = _medians(study, rows) + _shifts(study, rows)
    if study.figure == "trade-off":
        found += _matched_lines(study, rows)
    if study.figure == "scatter":
        found += _rank_lines(study, rows)
    failed = [row for row in rows if row["status"] == "failed"]
    return found + _headed("failed", [f"  {told_apart(rows, row)}: {row['reason']}" for row in failed])


# --- medians and differences ---------------------------------------------------------------------------------


def _medians(study: Study, rows: Sequence[Row]) -> list[str]:
    """Of every column along a vertical axis, for every group."""
    lines = ["median [quartiles] over seeds"]
    for group in groups(study, rows):
        cells = []
        for name in study.y:
            values = group.column(name)
            if values:
                low, middle, high = quartiles(values)
                cells.append(f"{name} {middle:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"  {name_of(study, group):<44} n={len(group.rows):<3} {'  '.join(cells)}")
    return lines


def _shifts(study: Study, rows: Sequence[Row]) -> list[str]:
    """How much higher each series lies than the first, at the same x."""
    found = groups(study, rows)
    lines = []
    for group in found:
        first = next((g for g in found if (g.panel, g.x) == (group.panel, group.x)), group)
        for name in study.y:
            a, b = group.column(name), first.column(name)
            if first is not group and len(a) > 1 and len(b) > 1:
                where = f"{group.panel} {study.x} {described(group.x)}".strip()
                lines.append(f"  {where}: {name}, {group.series} less {first.series}: {_said(shift(a, b))}")
    return _headed(
        "differences between seeds' runs: median of all pairs, exact interval (Mann-Whitney; supposes a shift and "
        "independent runs, though those of one seed begin with the same weights and batches)",
        lines,
    )


def _headed(heading: str, lines: Sequence[str]) -> list[str]:
    """Lines under their heading, after a blank one; nothing, where there are none."""
    return ["", *_wrapped(heading), *lines] if lines else []


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH)


def _said(interval: Interval) -> str:
    value, low, high, confidence = interval
    if not math.isfinite(low):
        return f"{value:+.3f}, without an interval: undefined in some resamples"
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}] ({100 * confidence:.0f} % interval)"


# --- at matched reconstruction -------------------------------------------------------------------------------


def curve(paths: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score as a function of reconstruction, linear between the medians of neighbouring settings.

    Parameters
    ----------
    paths : (settings, seeds, 2)
        Reconstruction and score of every run.
    at : (n,)
        Reconstructions, nats.

    Returns
    -------
    (n,)
        nan outside the range of the medians.
    """
    medians = np.median(paths, axis=1)  # over seeds
    medians = medians[np.argsort(medians[:, 0])]
    return np.interp(at, medians[:, 0], medians[:, 1], left=np.nan, right=np.nan)


def matched(
    a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator, at: NDArray[np.float64]
) -> list[Interval]:
    """How much higher the score of `a` lies than that of `b` where both reconstruct equally well.

    Parameters
    ----------
    a, b : (settings, seeds, 2)
        Reconstruction and score of every run of the two objectives, of the same seeds.
    rng : numpy.random.Generator
        Of the bootstrap over seeds; a seed keeps its runs of all settings and both objectives together.
    at : (n,)
        Reconstructions, nats, which both reach.

    Returns
    -------
    list of Interval
        For each of `at`.
    """
    return bootstrap(lambda index: curve(a[:, index[0]], at) - curve(b[:, index[0]], at), [a.shape[1]], rng)


def _matched_lines(study: Study, rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    found = groups(study, rows)
    for name in dict.fromkeys(group.panel for group in found):
        where = f"{name} " if name else ""
        lines_of = {
            series: [group for group in found if (group.panel, group.series) == (name, series)]
            for series in dict.fromkeys(group.series for group in found)
        }
        (first, reference_line), *others = lines_of.items()
        for series, own_line in others:
            seeds = _common_seeds(own_line + reference_line, study.y[0])
            if not seeds or min(len(own_line), len(reference_line)) < 2:
                continue
            own, reference = (_paths(line, study.y[0], seeds) for line in (own_line, reference_line))
            low, high = (
                pick(end(np.median(path, axis=1)[:, 0]) for path in (own, reference))
                for pick, end in ((max, np.min), (min, np.max))
            )
            if low >= high:
                lines.append(f"  {where}{series} and {first} reach no common reconstruction")
                continue
            at = np.linspace(low, high, _MATCHED + 2)[1:-1]
            for nats, interval in zip(at, matched(own, reference, np.random.default_rng(0), at), strict=True):
                said = f"{study.y[0]}, {series} less {first}: {_said(interval)}"
                lines.append(f"  {where}reconstruction {nats:.1f} nats: {said}")
    return _headed(
        "at matched reconstruction: difference of medians, linear between neighbouring settings; percentile bootstrap "
        "over seeds, both objectives' runs of a seed together",
        lines,
    )


def _scored(group: Group, y: str) -> dict[float, tuple[float, float]]:
    """Reconstruction and score by seed, of the runs that have both."""
    both = {row["seed"]: (row.get("reconstruction"), row.get(y)) for row in group.rows}
    return {seed: (of[0], of[1]) for seed, of in both.items() if of[0] is not None and of[1] is not None}


def _common_seeds(own: Sequence[Group], y: str) -> list[float]:
    """Seeds that finished with every setting."""
    return sorted(set.intersection(*(set(_scored(group, y)) for group in own))) if own else []


def _paths(own: Sequence[Group], y: str, seeds: Sequence[float]) -> NDArray[np.float64]:
    """(settings, seeds, 2) of reconstruction and score."""
    return np.array([[_scored(group, y)[seed] for seed in seeds] for group in own], float)


# --- ranks -----------------------------------------------------------------------------------------------------


def _rank_lines(study: Study, rows: Sequence[Row]) -> list[str]:
    """Spearman's rank correlation of TC and the score, for each series and all together."""
    from scipy import stats  # takes longer to import than all else that the command line needs

    y = study.y[0]
    done = [row for row in rows if row.get("total_correlation") is not None and row.get(y) is not None]
    series: dict[str, list[Row]] = {}
    for row in done:
        of = panel(study, row)
        series.setdefault(f"{of} all".strip(), []).append(row)
        series.setdefault(f"{of} {label(study, row)}".strip(), []).append(row)
    lines: list[str] = []
    for name, own in series.items():
        if len(own) < 4:
            continue
        values = np.array([(row["total_correlation"], row[y]) for row in own], float)

        def rho(index: list[NDArray[np.int64]], values: NDArray[np.float64] = values) -> NDArray[np.float64]:
            pairs = values[index[0]]
            constant = np.ptp(pairs, axis=0).min() == 0
            return np.array([np.nan if constant else stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic])

        (interval,) = bootstrap(rho, [len(values)], np.random.default_rng(0), resamples=1000)
        lines.append(f"  {name:<30} n={len(own):<4} {_said(interval)}")
    return _headed(
        "rank correlation (Spearman) of total correlation and score; percentile bootstrap over runs, as if independent",
        lines,
    )


# --- studies that are more than their runs ---------------------------------------------------------------------


def _bias_lines(rows: Sequence[Row]) -> list[str]:
    lines = [
        *_wrapped(
            "bias (spread) against the exact value on the same samples, nats; cosine of the gradient of TC with the "
            "exact one: of the mean over batches, median of single batches"
        ),
        f"  {'N':>6} {'M':>5} {'D':>3} {'sigma':>6}  {'estimator':<20}{'MI':>17}{'TC':>17}{'DWKL':>17}{'cosine':>15}",
    ]
    for row in rows:
        cells = " ".join(
            f"{row[f'bias_{term}']:>+8.2f} ({row[f'spread_{term}']:.2f})".rjust(16)
            for term in ("mutual_information", "total_correlation", "dimension_wise_kl")
        )
        sizes = f"{row['N']:>6g} {row['M']:>5g} {row['D']:>3g} {row['sigma']:>6g}"
        lines.append(f"  {sizes}  {row['estimator']:<20} {cells} {row['cosine']:>7.3f} {row['cosine_batch']:>6.3f}")
    return lines


def _sensitivity_lines(rows: Sequence[Row]) -> list[str]:
    lines = [
        *_wrapped(
            "what one hyper-parameter moves: range, the median over models of greatest less least score; noise, "
            "standard deviation over draws; agreement, least Kendall tau with the models' order at the usual value"
        ),
        f"  {'score':<18}{'hyper-parameter':<26}{'range':>8}{'noise':>8}{'agreement':>11}",
    ]
    for metric, dial, moved, noise, agreement in sensitivity.movements(rows):
        lines.append(f"  {metric:<18}{dial:<26}{moved:>8.3f}{noise:>8.3f}{agreement:>11.2f}")
    return [*lines, "  mig, by quadrature, has no hyper-parameter and no draws: 0"]
