"""Estimates of the TC-decomposition from a batch against the exact one: values, spread, and where gradients point.

The posteriors are those of a linear encoder of standard normal inputs s_n : (D,),

    mu_n = A s_n + b,    log_var_n = c,    at A = I, b = 0, c = 2 log sigma,

so that all posteriors share the parameters theta = (A, b, c), as those of a network do, and the gradient has a
direction to compare. z_n = mu_n + exp(log_var_n / 2) eps_n.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import autograd.numpy as np
import numpy
from autograd import grad
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.decomposition import KLTerms, kl_terms
from tcvae_ref.gaussian import reparameterise
from tcvae_ref.studies.study import MOST_RUNS, key
from tcvae_ref.types import Array, ExpectedLogQz, ExpectedLogQzEstimator, LogQzEstimator, ProgressHook

EXACT = "exact"
SIZES = ("N", "M", "D", "sigma")
_USUAL: dict[str, list[Any]] = {"batches": [40], "exact_draws": [4]}  # the same for all cells


class Cell(NamedTuple):
    """One combination of sizes."""

    N: int
    M: int
    D: int
    sigma: float
    batches: int
    """Estimates of each kind."""
    exact_draws: int
    """Draws of noise for the whole data set, which the exact gradient is the mean over."""

    @property
    def key(self) -> str:
        """Name in a store."""
        return key({"bias": self._asdict()})


def cells(numbers: Mapping[str, list[Any]]) -> tuple[Cell, ...]:
    """Every combination of the lists of a study's table [bias]; those with M > N are no batches and left out.

    Raises
    ------
    InputError, TypeError
        A list is missing or unknown, a value is out of range, or no combination is left.
    """
    where = "study: [bias]"
    for name in numbers:
        checks.option(where, "list", name, (*SIZES, *_USUAL))
    missing = [name for name in SIZES if name not in numbers]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing; lists of {', '.join(SIZES)} are needed")
    for name in _USUAL:
        if len(numbers.get(name, [0])) != 1:
            raise InputError(f"{where}: {name}={numbers[name]}; one number is needed, such as {_USUAL[name]}")
    if math.prod(map(len, numbers.values())) > MOST_RUNS:
        raise InputError(f"{where}: more than {MOST_RUNS:,} combinations; make its lists shorter")
    found = []
    for values in itertools.product(*({**_USUAL, **numbers}[name] for name in Cell._fields)):
        cell = Cell(*values)
        for name, least in (("N", 2), ("M", 2), ("D", 2), ("batches", 2), ("exact_draws", 1)):  # D = 1: TC is 0
            checks.whole_number(where, name, getattr(cell, name), least, 10**6)
        checks.real_number(where, "sigma", cell.sigma, 0.0, above=True)
        found.append(cell._replace(sigma=float(cell.sigma)))
    within = tuple(cell for cell in found if cell.M <= cell.N)
    if not within:
        raise InputError(f"{where}: every M exceeds every N; a batch is drawn without replacement")
    return within


def measure(
    cell: Cell,
    estimators: Mapping[str, ExpectedLogQzEstimator],
    log_qz_exact: LogQzEstimator,
    progress: ProgressHook,
) -> list[dict[str, Any]]:
    """Bias, spread and gradient angle of every estimator, over the same batches.

    Parameters
    ----------
    cell : Cell
    estimators : mapping
        Those that work on a batch, by name.
    log_qz_exact : function
        `tcvae_ref.estimators.log_qz_exact`, or another function of its signature.
    progress : function
        Called as progress(done, total).

    Returns
    -------
    list of dict
        A row for each estimator and one for `EXACT`, which scores the batch's samples against all N posteriors.
        For each of the three terms, its mean error against `EXACT` on the same samples (`bias`), the error's standard
        deviation (`spread`) and the standard error of its mean, nats; for the gradient of TC in theta, the cosine with
        the exact gradient: of the mean over batches (`cosine`), and the median of the single ones (`cosine_batch`).
    """
    rng = numpy.random.default_rng([cell.N, cell.M, cell.D, round(1e6 * cell.sigma)])
    inputs = rng.standard_normal((cell.N, cell.D))
    direction = _exact_gradient(cell, inputs, rng, log_qz_exact, progress)
    names = (EXACT, *estimators)
    terms = numpy.empty((len(names), cell.batches, len(KLTerms._fields)))
    gradients = numpy.empty((len(names), cell.batches, len(direction)))
    for batch in range(cell.batches):
        index = rng.choice(cell.N, size=cell.M, replace=False)
        eps = rng.standard_normal((cell.M, cell.D))
        for e, name in enumerate(names):
            estimate = _terms(cell, inputs, index, eps, estimators.get(name), log_qz_exact)
            theta = _start(cell)
            terms[e, batch] = [float(term) for term in estimate(theta)]
            gradients[e, batch] = _flat(grad(lambda theta, of=estimate: of(theta).total_correlation)(theta))
        progress(cell.exact_draws + batch + 1, cell.exact_draws + cell.batches)
    errors = terms - terms[0]
    return [
        {**cell._asdict(), "estimator": name, **_summary(terms[0], errors[e]), **_cosines(gradients[e], direction)}
        for e, name in enumerate(names)
    ]


def _summary(exact: NDArray[np.float64], errors: NDArray[np.float64]) -> dict[str, float]:
    """Of the three terms, errors : (batches, 3)."""
    numbers = {}
    for k, name in enumerate(KLTerms._fields):
        numbers[f"exact_{name}"] = float(exact[:, k].mean())
        numbers[f"bias_{name}"] = float(errors[:, k].mean())
        spread = float(errors[:, k].std(ddof=1))
        numbers[f"spread_{name}"] = spread
        numbers[f"standard_error_{name}"] = spread / len(errors) ** 0.5
    return numbers


def _cosines(gradients: NDArray[np.float64], direction: NDArray[np.float64]) -> dict[str, float]:
    single = [cosine(g, direction) for g in gradients]
    low, middle, high = numpy.quantile(single, [0.25, 0.5, 0.75])
    return {
        "cosine": cosine(gradients.mean(axis=0), direction),
        "cosine_batch": float(middle),
        "cosine_batch_low": float(low),
        "cosine_batch_high": float(high),
    }


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of the angle between two vectors; nan if one is zero."""
    with numpy.errstate(invalid="ignore"):
        return float(a @ b / (numpy.linalg.norm(a) * numpy.linalg.norm(b)))


Theta = tuple[Array, Array, Array]


def _start(cell: Cell) -> Theta:
    return numpy.eye(cell.D), numpy.zeros(cell.D), numpy.full(cell.D, 2.0 * numpy.log(cell.sigma))


def _posteriors(theta: Theta, inputs: Array) -> tuple[Array, Array]:
    A, b, c = theta
    return np.dot(inputs, A.T) + b, c + numpy.zeros_like(inputs)


def _flat(theta: Theta) -> NDArray[np.float64]:
    return numpy.concatenate([part.ravel() for part in theta])


def _terms(
    cell: Cell,
    inputs: Array,
    index: NDArray[np.integer],
    eps: Array,
    estimator: ExpectedLogQzEstimator | None,
    log_qz_exact: LogQzEstimator,
) -> Callable[[Theta], KLTerms]:
    """The decomposition as a function of theta: by an estimator from the batch, or with all posteriors (None)."""

    def terms(theta: Theta) -> KLTerms:
        every_mu, every_log_var = _posteriors(theta, inputs)
        mu, log_var = every_mu[index], every_log_var[index]
        z = reparameterise(mu, log_var, eps)

        def against_all(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
            log_qz = log_qz_exact(z, every_mu, every_log_var, dataset_size)
            return ExpectedLogQz(np.sum(log_qz.joint) / len(z), np.sum(log_qz.marginals) / len(z))

        return kl_terms(z, mu, log_var, cell.N, estimator or against_all)

    return terms


def _exact_gradient(
    cell: Cell, inputs: Array, rng: numpy.random.Generator, log_qz_exact: LogQzEstimator, progress: ProgressHook
) -> NDArray[np.float64]:
    """Of TC in theta: the mean over all inputs and some draws of their noise, a block at a time."""
    total = numpy.zeros(cell.D * cell.D + 2 * cell.D)
    for draw in range(cell.exact_draws):
        for index in numpy.array_split(numpy.arange(cell.N), -(-cell.N // _BLOCK)):
            eps = rng.standard_normal((len(index), cell.D))
            of = _terms(cell, inputs, index, eps, None, log_qz_exact)
            gradient = grad(lambda theta, of=of: of(theta).total_correlation)(_start(cell))
            total += _flat(gradient) * len(index)
        progress(draw + 1, cell.exact_draws + cell.batches)
    return total / (cell.N * cell.exact_draws)


_BLOCK = 256  # samples scored against all posteriors at a time
