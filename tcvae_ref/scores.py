"""Every score an evaluation can report: how it is computed, what it measures, what it needs; one entry each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref import extensions
from tcvae_ref.checks import InputError
from tcvae_ref.estimators import log_qz_exact
from tcvae_ref.metrics.binned import mig_binned
from tcvae_ref.metrics.dci import DCI, dci
from tcvae_ref.metrics.entropy import GroupDensities, group_densities
from tcvae_ref.metrics.factor_vae import factor_vae_metric
from tcvae_ref.metrics.higgins import higgins_metric
from tcvae_ref.metrics.information import JEMMIG, dcimig, jemmig, mig_sup, modularity, rmig
from tcvae_ref.metrics.mig import MIG, mig_quadrature
from tcvae_ref.metrics.monte_carlo import LogDensity, log_density, mig_monte_carlo
from tcvae_ref.metrics.sap import sap, sap_r_squared
from tcvae_ref.representations import Representation
from tcvae_ref.types import Array, LogQzEstimator, ProgressHook

TRAIN, TEST = 10_000, 5_000
"""Inputs the predictors of SAP and DCI are fitted to and judged on; of fewer, two thirds and one third."""


class Functions(NamedTuple):
    """What an evaluation computes with: NumPy's functions, or their equals."""

    log_qz_exact: LogQzEstimator = log_qz_exact
    """Of `tcvae_ref.estimators`."""
    group_densities: GroupDensities = group_densities
    """Of `tcvae_ref.metrics.entropy`."""
    log_density: LogDensity = log_density
    """Of `tcvae_ref.metrics.monte_carlo`."""
    block_bytes: int = 2**26
    """Samples are taken in blocks whose pairwise log-densities, if they were made, would fill this much."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One representation to score, and what the scores share."""

    of: Representation
    """With the factors to score alone."""
    samples: int
    """Draws for each entropy of the Monte-Carlo recipe."""
    seed: int
    functions: Functions
    watch: Callable[[str], ProgressHook]
    """watch(stage) returns a function called as (done, total)."""

    @property
    def widths(self) -> Array:
        """log_var, which only recipes with `Recipe.widths` ask for."""
        if self.of.log_var is None:
            raise InputError(f"{self.of.name}: holds codes alone; mu and log_var are needed")
        return self.of.log_var

    def rng(self, name: str) -> np.random.Generator:
        """A score's own random numbers, whatever else is computed."""
        return np.random.default_rng([self.seed, *name.encode()])

    @functools.cached_property
    def quadrature(self) -> MIG:
        """The information matrix, without sampling error."""
        return mig_quadrature(
            *(self.of.mu, self.widths, self.of.classes),
            weights=self.of.weights,
            progress=self.watch("entropies"),
            group_densities=self.functions.group_densities,
        )

    @functools.cached_property
    def binned(self) -> MIG:
        """The information matrix of binned means."""
        return mig_binned(self.of.mu, None, self.of.classes, weights=self.of.weights, rng=self.rng("mig-binned"))

    @property
    def train_and_test(self) -> dict[str, int]:
        """Numbers of inputs for predictors."""
        N = len(self.of)
        return {"train": TRAIN, "test": TEST} if N >= TRAIN + TEST else {"train": N - N // 3, "test": N // 3}


class Recipe(NamedTuple):
    """A score by name."""

    compute: Callable[[Task], Any]
    """Returns a NamedTuple with a `score`, or one that `headlines` knows."""
    measures: str
    """One line."""
    widths: bool = False
    """Reads log_var: codes alone are not enough."""
    weights: bool = True
    """Takes p(n)."""


def _monte_carlo(task: Task) -> MIG:
    return mig_monte_carlo(
        *(task.of.mu, task.widths, task.of.classes),
        weights=task.of.weights,
        rng=task.rng("mig-monte-carlo"),
        samples=task.samples,
        progress=task.watch("entropies from samples"),
        log_density=task.functions.log_density,
    )


def _factor_vae(task: Task) -> Any:
    rng, progress = task.rng("factor-vae"), task.watch("FactorVAE votes")
    return factor_vae_metric(
        *(task.of.mu, task.of.classes, rng),
        weights=task.of.weights,
        variance_inputs=None,  # all of them: drawn, their spread would not be in the standard error
        progress=progress,
    )


def _higgins(task: Task) -> Any:
    rng, progress = task.rng("higgins"), task.watch("Higgins points")
    return higgins_metric(task.of.mu, task.of.classes, rng, weights=task.of.weights, progress=progress)


def _dci(task: Task) -> Any:
    return dci(
        task.of.mu, task.of.classes, task.rng("dci"), **task.train_and_test, progress=task.watch("DCI's predictors")
    )


def _sap(task: Task) -> Any:
    return sap(
        task.of.mu, task.of.classes, task.rng("sap"), **task.train_and_test, progress=task.watch("SAP's classifiers")
    )


RECIPES: dict[str, Recipe] = {
    "mig": Recipe(
        lambda task: task.quadrature, "the paper's information gap by quadrature: the one to quote", widths=True
    ),
    "mig-monte-carlo": Recipe(_monte_carlo, "the same quantity from samples, as the paper's code does", widths=True),
    "mig-binned": Recipe(
        lambda task: task.binned, "another quantity: means in 20 bins, without log_var (disentanglement_lib's MIG)"
    ),
    "mig-sup": Recipe(
        lambda task: mig_sup(task.quadrature), "gap between the two factors a code tells most of", widths=True
    ),
    "modularity": Recipe(
        lambda task: modularity(task.quadrature), "whether each code tells of one factor only", widths=True
    ),
    "modularity-binned": Recipe(
        lambda task: modularity(task.binned), "the same from binned means, as Ridgeway and Mozer have it"
    ),
    "dcimig": Recipe(
        lambda task: dcimig(task.quadrature), "share of the factors' entropy told by codes of their own", widths=True
    ),
    "rmig": Recipe(lambda task: rmig(task.quadrature), "the information gap in nats, not divided by H(v)", widths=True),
    "jemmig": Recipe(
        lambda task: jemmig(task.binned), "gap less what the best code tells beyond its factor; binned means"
    ),
    "factor-vae": Recipe(_factor_vae, "accuracy: fixed factor guessed from the code that varies least"),
    "higgins": Recipe(_higgins, "accuracy: shared factor guessed from differences of pairs (beta-VAE)"),
    "dci": Recipe(_dci, "how concentrated predictors' use of the codes is, and how well they predict", weights=False),
    "sap": Recipe(_sap, "gap of accuracy between the two codes that best predict a factor, linear SVM", weights=False),
    "sap-r2": Recipe(
        lambda task: sap_r_squared(task.of.mu, task.of.classes, weights=task.of.weights),
        "the same in squared correlation, factors as numbers",
    ),
}


def score_names() -> tuple[str, ...]:
    """Names of all scores: those of `RECIPES`, then those of other packages."""
    return (*RECIPES, *extensions.names("score", RECIPES))


def recipe_of(name: str) -> Recipe:
    """The recipe of one of `score_names`."""
    return RECIPES[name] if name in RECIPES else extensions.load("score", name, Recipe._fields)


def reason_against(recipe: Recipe, of: Representation) -> str | None:
    """Why a representation cannot be scored by a recipe, if it cannot."""
    if recipe.widths and of.log_var is None:
        return "needs mu and log_var; there are codes alone"
    if not recipe.weights and of.weights is not None:
        return "takes no weights: each input counts once"
    return None


class Headline(NamedTuple):
    """A number to quote."""

    label: str
    value: float
    error: float | None
    """An estimate of the numerical error or a standard error, as the recipe has it."""


def headlines(name: str, result: Any) -> list[Headline]:
    """The numbers of a result that stand for the rest."""
    if isinstance(result, MIG):
        return [Headline(name, result.score, None if result.recipe == "binned" else result.error.score)]
    if isinstance(result, DCI):
        parts = ("disentanglement", "completeness", "informativeness")
        return [Headline(f"{name} {part}", getattr(result, part), None) for part in parts]
    if isinstance(result, JEMMIG):
        return [
            Headline(f"{name}, nats, 0 at best", result.score, None),
            Headline(f"{name}, normalised", result.normalised, None),
        ]
    return [Headline(name, result.score, getattr(result, "standard_error", None))]


def plain(value: Any) -> Any:
    """Render results for JSON: named tuples and dictionaries as objects, arrays as lists."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
