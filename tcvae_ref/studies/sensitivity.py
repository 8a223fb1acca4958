"""How much a score of one and the same model moves with the score's own hyper-parameters (paper, section 6).

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


DIALS: dict[str, Dial] = {
    f"{metric.replace('-', '_')}_{name}": Dial(metric, name, usual)
    for metric, name, usual in (
        ("factor-vae", "batch", 64),
        ("factor-vae", "train_votes", 10_000),
        ("factor-vae", "prune_below", 0.05),
        ("higgins", "batch", 64),
        ("higgins", "train_points", 10_000),
        ("higgins", "inverse_regularisation", 1.0),
        ("higgins", "max_iter", 1_000),
        ("mig-binned", "bins", 20),
        ("mig-monte-carlo", "samples", 10_000),
    )
}
"""By their names in a study's table [sensitivity]."""
REPEATS = "repeats"


def settings(numbers: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], int]:
    """Values of every dial, and the seeds each is scored with, out of a study's table [sensitivity].

    Raises
    ------
    InputError, TypeError
        A name is unknown, or `repeats` is not one whole number in a list.
    """
    where = "study: [sensitivity]"
    for name in numbers:
        checks.option(where, "list", name, (*DIALS, REPEATS))
    repeats = numbers.get(REPEATS, [3])
    if len(repeats) != 1:
        raise InputError(f"{where}: repeats={repeats!r}; one number is needed, such as [3]")
    return {n: v for n, v in numbers.items() if n != REPEATS}, checks.whole_number(where, REPEATS, repeats[0], 1, 1000)


def measure(
    of: Representation,
    numbers: Mapping[str, list[Any]],
    progress: ProgressHook,
    log_density: LogDensity = log_density,
) -> list[dict[str, Any]]:
    """Score one model with every setting of every dial.

    Parameters
    ----------
    of : Representation
        With the factors to score alone.
    numbers : mapping
        The study's table [sensitivity].
    progress : function
        Called as progress(done, total).
    log_density : function
        Of `tcvae_ref.metrics.monte_carlo`, or its equal.

    Returns
    -------
    list of dict
        metric, dial, value, repeat, score. `mig` is there once, without a dial: by quadrature, it has none.
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
    rows = [{"metric": "mig", "dial": "", "value": None, "repeat": 0, "score": _mig(of, 0, {})}]
    total = 1 + repeats * sum(map(len, dials.values()))
    for entry, values in dials.items():
        dial = DIALS[entry]
        for value in values:
            for repeat in range(repeats):
                score = scores[dial.metric](of, repeat, {dial.name: value})
                row = {"metric": dial.metric, "dial": dial.name, "value": value, "repeat": repeat, "score": score}
                rows.append(row)
                progress(len(rows), total)
    return rows


class Movement(NamedTuple):
    """What one dial does to the scores of some models."""

    metric: str
    dial: str
    range: float
    """Median over models: greatest minus least score over the dial's values, each the mean over repeats."""
    noise: float
    """Median over models and values: standard deviation over repeats."""
    agreement: float
    """Least Kendall tau over the dial's values: how the models are ordered, against the usual value's order."""


def movements(rows: Sequence[Mapping[str, Any]]) -> list[Movement]:
    """Summarise the rows of several models (each with its `key`), a line for each dial."""
    from scipy.stats import kendalltau

    found = []
    for metric, dial in dict.fromkeys((row["metric"], row["dial"]) for row in rows if row["dial"]):
        own = [row for row in rows if (row["metric"], row["dial"]) == (metric, dial)]
        models, values = (list(dict.fromkeys(row[name] for row in own)) for name in ("key", "value"))
        repeats = len({row["repeat"] for row in own})
        scores = np.full((len(models), len(values), repeats), np.nan)
        for row in own:
            scores[models.index(row["key"]), values.index(row["value"]), row["repeat"]] = row["score"]
        means = scores.mean(axis=2)  # over repeats
        usual = next(entry.usual for entry in DIALS.values() if (entry.metric, entry.name) == (metric, dial))
        reference = means[:, values.index(usual) if usual in values else -1]
        taus = [float(kendalltau(reference, column).statistic) for column in means.T] if len(models) > 2 else [np.nan]
        found.append(
            Movement(
                metric,
                dial,
                float(np.median(np.ptp(means, axis=1))),
                float(np.median(scores.std(axis=2, ddof=1))) if repeats > 1 else float("nan"),
                min(taus),
            )
        )
    return found
