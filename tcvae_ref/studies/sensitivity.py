"""How much a score of one and the same model moves with the score's own hyper-parameters.

One hyper-parameter is moved at a time, the others stay at the value of the paper that proposed the score; each setting
is scored with several seeds, so that what is due to the draws alone can be seen beside it.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics import factor_vae_metric, higgins_metric, mig_binned, mig_monte_carlo, mig_quadrature
from tcvae_ref.metrics.draws import NotInstalled
from tcvae_ref.metrics.monte_carlo import LogDensity, log_density
from tcvae_ref.representations import Representation
from tcvae_ref.types import ProgressHook

Score = Callable[[Representation, int, dict[str, Any]], float]


def _factor_vae(of: Representation, seed: int, given: dict[str, Any]) -> float:
    return factor_vae_metric(of.mu, of.classes, seed, weights=of.weights, variance_inputs=None, **given).score


def _higgins(of: Representation, seed: int, given: dict[str, Any]) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*failed to converge.*")  # few iterations are what is measured
        return higgins_metric(of.mu, of.classes, seed, weights=of.weights, **given).score


def _mig(of: Representation, seed: int, given: dict[str, Any]) -> float:
    return mig_quadrature(of.mu, _widths(of), of.classes, weights=of.weights).score


def _mig_binned(of: Representation, seed: int, given: dict[str, Any]) -> float:
    return mig_binned(of.mu, None, of.classes, weights=of.weights, rng=seed, **given).score


def _widths(of: Representation) -> NDArray[np.float64]:
    if of.log_var is None:
        raise InputError(f"{of.name}: holds codes alone; mu and log_var are needed")
    return of.log_var


class Dial(NamedTuple):
    """A hyper-parameter of a score."""

    metric: str
    """Among `scores.RECIPES`."""
    name: str
    """The keyword of the score's function."""
    usual: float
    """The value it keeps while others are moved."""
    least: int | None = None
    """Where it is a whole number, its least; others are real numbers of at least 0."""


DIALS: dict[str, Dial] = {
    f"{dial.metric.replace('-', '_')}_{dial.name}": dial
    for dial in (
        Dial("factor-vae", "batch", 64, 2),
        Dial("factor-vae", "train_votes", 10_000, 1),
        Dial("factor-vae", "prune_below", 0.05),
        Dial("higgins", "batch", 64, 1),
        Dial("higgins", "train_points", 10_000, 1),
        Dial("higgins", "inverse_regularisation", 1.0),
        Dial("higgins", "max_iter", 1_000, 1),
        Dial("mig-binned", "bins", 20, 2),
        Dial("mig-monte-carlo", "samples", 10_000, 10),
    )
}
"""By their names in a study's table [sensitivity]."""
REPEATS = "repeats"


def settings(numbers: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], int]:
    """Values of every hyper-parameter, and the seeds each is scored with, out of a study's table [sensitivity].

    Raises
    ------
    InputError, TypeError
        A name is unknown, a value is not allowed or stands twice, the usual one is missing, or `repeats` is not one
        whole number in a list.
    """
    where = "study: [sensitivity]"
    for name, values in numbers.items():
        checks.option(where, "list", name, (*DIALS, REPEATS))
        if name != REPEATS:
            _check_values(f"{where} {name}", DIALS[name], values)
    repeats = numbers.get(REPEATS, [3])
    if len(repeats) != 1:
        raise InputError(f"{where}: repeats={repeats!r}; one number is needed, such as [3]")
    return {n: v for n, v in numbers.items() if n != REPEATS}, checks.whole_number(where, REPEATS, repeats[0], 1, 1000)


def _check_values(where: str, dial: Dial, values: list[Any]) -> None:
    for value in values:
        if dial.least is None:
            checks.real_number(where, dial.name, value, 0.0, above=dial.name == "inverse_regularisation")
        else:
            checks.whole_number(where, dial.name, value, dial.least, 10**7)
    if dial.usual not in values or len(set(values)) < len(values):
        raise InputError(f"{where}: {values}; different values are needed, {dial.usual:g} among them: the usual one")


def measure(
    of: Representation,
    numbers: Mapping[str, list[Any]],
    progress: ProgressHook,
    log_density: LogDensity = log_density,
) -> list[dict[str, Any]]:
    """Score one model with every setting of every hyper-parameter (`dial`).

    Parameters
    ----------
    of : Representation
        With the factors to score alone.
    numbers : mapping
        The study's table [sensitivity].
    progress : function
        Called as progress(done, total).
    log_density : function
        Of `tcvae_ref.metrics.monte_carlo`, or another function of its signature.

    Returns
    -------
    list of dict
        metric, dial, value, repeat, score, reason: a score that cannot be had is None, for this reason. `mig` is there
        once, without one: by quadrature, it has none.
    """

    def monte_carlo(of: Representation, seed: int, given: dict[str, Any]) -> float:
        widths = _widths(of)
        return mig_monte_carlo(
            of.mu, widths, of.classes, weights=of.weights, rng=seed, log_density=log_density, **given
        ).score

    scores: dict[str, Score] = {
        "factor-vae": _factor_vae,
        "higgins": _higgins,
        "mig-binned": _mig_binned,
        "mig-monte-carlo": monte_carlo,
    }
    dials, repeats = settings(numbers)

    def row(metric: str, dial: str, value: float | None, repeat: int, score: Score) -> dict[str, Any]:
        about = {"metric": metric, "dial": dial, "value": value, "repeat": repeat}
        try:
            return {**about, "score": score(of, repeat, {dial: value} if dial else {}), "reason": ""}
        except NotInstalled:
            raise
        except InputError as error:
            return {**about, "score": None, "reason": str(error)}

    rows = [row("mig", "", None, 0, _mig)]
    total = 1 + repeats * sum(map(len, dials.values()))
    for entry, values in dials.items():
        dial = DIALS[entry]
        for value in values:
            for repeat in range(repeats):
                rows.append(row(dial.metric, dial.name, value, repeat, scores[dial.metric]))
                progress(len(rows), total)
    return rows


class Movement(NamedTuple):
    """What one hyper-parameter does to the scores of some models."""

    metric: str
    dial: str
    range: float
    """Median over models: greatest minus least score over its values, each the mean over repeats."""
    noise: float
    """Median over models and values: standard deviation over repeats."""
    agreement: float
    """Least Kendall tau over its values: how the models are ordered, against the usual value's order; 0 where
    all models score the same, nan of fewer than three models."""


def movements(rows: Sequence[Mapping[str, Any]]) -> list[Movement]:
    """Summarise the rows of several models (each with its `key`), a line for each hyper-parameter.

    Of models scored throughout.
    """
    found = []
    for metric, dial in dict.fromkeys((row["metric"], row["dial"]) for row in rows if row["dial"]):
        own = [row for row in rows if (row["metric"], row["dial"]) == (metric, dial)]
        without = {row["key"] for row in own if row["score"] is None}
        own = [row for row in own if row["key"] not in without]
        if not own:
            continue
        models, values, repeats = (list(dict.fromkeys(row[name] for row in own)) for name in ("key", "value", "repeat"))
        scores = np.full((len(models), len(values), len(repeats)), np.nan)
        for row in own:
            place = models.index(row["key"]), values.index(row["value"]), repeats.index(row["repeat"])
            scores[place] = row["score"]
        means = scores.mean(axis=2)  # over repeats
        usual = next(entry.usual for entry in DIALS.values() if (entry.metric, entry.name) == (metric, dial))
        reference = means[:, values.index(usual)]
        found.append(
            Movement(
                metric,
                dial,
                float(np.median(np.ptp(means, axis=1))),
                float(np.median(scores.std(axis=2, ddof=1))) if len(repeats) > 1 else float("nan"),
                min(_tau(reference, column) for column in means.T) if len(models) > 2 else float("nan"),
            )
        )
    return found


def _tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kendall's tau; 0 where one of the two orders nothing."""
    from scipy.stats import kendalltau

    return 0.0 if min(np.ptp(a), np.ptp(b)) == 0 else float(kendalltau(a, b).statistic)
