"""What a model amounts to: its ELBO, decomposed exactly, and how its latents score against the factors."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.gaussian import log_standard_normal, reparameterise
from tcvae_ref.likelihood import bernoulli_log_likelihood
from tcvae_ref.metrics import MIG, Estimate, ExactDecomposition, decomposition_exact, dimension_wise_kl_exact, estimate
from tcvae_ref.representations import Representation
from tcvae_ref.scores import (
    RECIPES,
    Functions,
    Recipe,
    Task,
    headlines,
    plain,
    reason_against,
    recipe_of,
    score_names,
)
from tcvae_ref.types import Array, LogPrior, ProgressHook

_BLOCK = 1024  # images at a time
NOT_SCORED = ("color", "shape", "identity")
"""Factors the paper leaves out of its MIG on dSprites and 3D Faces."""
DECOMPOSITION = "decomposition"
METRICS = (DECOMPOSITION, *RECIPES)
"""What an evaluation can be asked for, but for what other packages add."""
USUAL = (DECOMPOSITION, "mig")


def all_metrics() -> tuple[str, ...]:
    """`METRICS`, and the scores of other packages."""
    return (DECOMPOSITION, *score_names())


_DECOMPOSING = Recipe(lambda task: None, "of the KL term", widths=True, weights=False)
_STREAM = 3  # of random numbers, apart from those of training.streams

Encode = Callable[[Array], tuple[Array, Array]]
"""encode(x): mu, log_var : (M, D) of images (M, P), in float32."""
Decode = Callable[[Array], Array]
"""decode(z): Bernoulli logits (M, P), in float32."""
Reconstruct = Callable[[NDArray[np.integer], Array], NDArray[np.float64]]
"""reconstruct(index, eps): log p(x_n|z) of the samples z = mu_n + sigma_n eps, n = index : (S,), nats."""


class Evaluation(NamedTuple):
    """Numbers of one model on one data set, nats."""

    inputs: int
    factors: tuple[str, ...]
    """Names of the K factors scored."""
    factors_left_out: tuple[str, ...]
    decomposition: ExactDecomposition | None
    reconstruction: Estimate | None
    """E_q[log p(x|z)], over the samples of the decomposition; None without a decoder."""
    dimension_kl: NDArray[np.float64] | None
    """(D,): KL(q(z_d) || p(z_d)) by quadrature; its sum is the dimension-wise KL without sampling error. None where the
    prior is not the standard normal."""
    scores: dict[str, Any]
    """By name (`scores.score_names`): the result of each."""
    left_out: dict[str, str]
    """What was asked for and not computed, and why."""

    @property
    def elbo(self) -> float | None:
        """Reconstruction minus the KL: in closed form, or by Monte Carlo where there is none."""
        if self.reconstruction is None or self.decomposition is None:
            return None
        closed = self.decomposition.kl_analytic
        return self.reconstruction.value - (self.decomposition.kl_monte_carlo.value if closed is None else closed)

    @property
    def matrix(self) -> MIG | None:
        """The information matrix to show: by quadrature, or else the next best."""
        found = (self.scores.get(name) for name in ("mig", "mig-monte-carlo", "mig-binned"))
        return next((mig for mig in found if mig is not None), None)


def posteriors(encode: Encode, data: FactorDataset, progress: ProgressHook | None = None) -> tuple[Array, Array]:
    """mu, log_var : (N, D) of every image, in float64."""
    parts = []
    for start in range(0, len(data), _BLOCK):
        parts.append(encode(data.images.take(slice(start, start + _BLOCK))))
        if progress is not None:
            progress(min(start + _BLOCK, len(data)), len(data))
    mu, log_var = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    return mu, log_var


def reconstruction(decode: Decode, data: FactorDataset, mu: Array, log_var: Array) -> Reconstruct:
    """Make a function that decodes samples in float32, as trained, and compares them with their images."""

    def reconstruct(index: NDArray[np.integer], eps: Array) -> NDArray[np.float64]:
        values = np.empty(len(index))
        for start in range(0, len(index), _BLOCK):
            n = index[start : start + _BLOCK]
            z = reparameterise(mu[n], log_var[n], eps[start : start + _BLOCK]).astype(np.float32)
            logits = decode(z)
            values[start : start + _BLOCK] = bernoulli_log_likelihood(data.images.take(n), logits)
        return values

    return reconstruct


def usual_factors(of: Representation) -> list[str]:
    """Name the factors of dSprites that the paper scores: all that vary but colour and shape."""
    return [name for name in of.varying() if name not in NOT_SCORED]


def evaluate(
    of: Representation,
    metrics: Sequence[str] = USUAL,
    factors: Sequence[str] | None = None,
    samples: int = 10_000,
    seed: int = 0,
    reconstruct: Reconstruct | None = None,
    progress: Callable[[str], ProgressHook] | None = None,
    functions: Functions = Functions(),  # noqa: B008
    checkpoint: Path | None = None,
    log_prior: LogPrior = log_standard_normal,
) -> Evaluation:
    """Decompose a model's KL over the whole data set and score its latents.

    Parameters
    ----------
    of : Representation
    metrics : sequence of str
        Some of `all_metrics`.
    factors : sequence of str, optional
        Factors to score; by default `usual_factors`.
    samples : int
        S, samples of z for the decomposition, and for each entropy of mig-monte-carlo.
    seed : int
        Of everything drawn. No result depends on what else is asked for.
    reconstruct : function, optional
        `reconstruction` of a model at hand.
    progress : function, optional
        progress(stage) returns a function called as (done, total).
    functions : Functions
        NumPy's, or their equals.
    checkpoint : path, optional
        A file that keeps a long decomposition, which goes on from it.
    log_prior : function
        log p(z) of the model.

    Returns
    -------
    Evaluation
        What cannot be computed is in its `left_out`.

    Raises
    ------
    InputError
        A metric or a factor is unknown, or samples or seed are out of range.
    """
    known = all_metrics()
    for name in metrics:
        checks.option("evaluate", "--metrics", name, known)
    samples = checks.whole_number("evaluate", "samples", samples, 2, 2**31 - 1)
    seed = checks.whole_number("evaluate", "seed", seed, 0)
    watch = progress or (lambda stage: lambda done, total: None)
    chosen = of.columns(factors) if factors is not None else [of.factors.index(name) for name in usual_factors(of)]
    task = Task(of.of(chosen), samples, seed, functions, watch)
    left_out = reasons_against(of, metrics)
    decomposition = likelihood = dimension_kl = None
    if DECOMPOSITION in metrics and DECOMPOSITION not in left_out:
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out below
                decomposition, likelihood = _decompose(task, reconstruct, checkpoint, log_prior)
        except InputError as refusal:
            if checkpoint is not None:
                raise
            left_out[DECOMPOSITION] = str(refusal)
        if decomposition is not None and not _finite(plain(decomposition)):
            decomposition = likelihood = None
            left_out[DECOMPOSITION] = _INFINITE
    scores: dict[str, Any] = {}
    for name in known:
        if name != DECOMPOSITION and name in metrics and name not in left_out:
            found = _score(name, task)
            (left_out if isinstance(found, str) else scores)[name] = found
    if "mig" in scores and of.weights is None and log_prior is log_standard_normal:
        dimension_kl = dimension_wise_kl_exact(of.mu, task.widths, scores["mig"].entropies)
    return Evaluation(
        inputs=len(of),
        factors=task.of.factors,
        factors_left_out=tuple(name for k, name in enumerate(of.factors) if k not in chosen),
        decomposition=decomposition,
        reconstruction=likelihood,
        dimension_kl=dimension_kl,
        scores=scores,
        left_out=left_out,
    )


def reasons_against(of: Representation, metrics: Sequence[str]) -> dict[str, str]:
    """Those of some metrics that a representation cannot be evaluated by, each with the reason."""
    reasons = {name: reason_against(_DECOMPOSING if name == DECOMPOSITION else recipe_of(name), of) for name in metrics}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _decompose(
    task: Task, reconstruct: Reconstruct | None, checkpoint: Path | None, log_prior: LogPrior
) -> tuple[ExactDecomposition, Estimate | None]:
    """The decomposition over fresh samples, and E_q[log p(x|z)] over the same."""
    rng = np.random.default_rng([task.seed, _STREAM])
    N, D = task.of.mu.shape
    index = rng.integers(N, size=task.samples)
    eps = rng.standard_normal((task.samples, D))
    likelihood = None if reconstruct is None else estimate(reconstruct(index, eps))
    functions = task.functions
    decomposition = decomposition_exact(
        *(task.of.mu, task.widths, index, eps, functions.log_qz_exact, functions.block_bytes),
        task.watch("log q(z) of all components"),
        checkpoint=checkpoint,
        log_prior=log_prior,
    )
    return decomposition, likelihood


def _score(name: str, task: Task) -> Any:
    """The result of one score, or why there is none."""
    if not task.of.factors:
        return f"no factor of {task.of.name} is there to score; name some with --factors"
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = recipe_of(name).compute(task)
    except InputError as refusal:
        return str(refusal)
    except Exception as error:
        if name in RECIPES:
            raise
        return f"raised {type(error).__name__}: {error}; repair or uninstall the package that brings it"
    numbers = plain(found)
    if name not in RECIPES and not (isinstance(numbers, dict) and isinstance(numbers.get("score"), float)):
        return f"gives a {type(found).__name__}; a named tuple with a float `score` is needed"
    return found if _finite(numbers) else _INFINITE


_INFINITE = "gives nan or infinite numbers, which are not reported: rescale the codes"


def _finite(value: Any) -> bool:
    """Whether every number in plain values is finite."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


# --- for programs ------------------------------------------------------------------------------------------


def to_json(result: Evaluation) -> dict[str, Any]:
    """Every number of an evaluation as plain values, with names and units."""
    parts = result.decomposition
    content: dict[str, Any] = {"unit": "nats", "inputs": result.inputs}
    if parts is not None:
        estimates = {
            "mutual_information": parts.mutual_information,
            "total_correlation": parts.total_correlation,
            "dimension_wise_kl": parts.dimension_wise_kl,
            "kl_monte_carlo": parts.kl_monte_carlo,
        }
        content |= {"samples": parts.samples, **plain(estimates), "kl_analytic": parts.kl_analytic}
    if result.reconstruction is not None:
        content |= {"reconstruction": plain(result.reconstruction), "elbo": result.elbo}
    return content | {
        "dimension_wise_kl_quadrature": plain(result.dimension_kl),
        "factors": list(result.factors),
        "factors_left_out": list(result.factors_left_out),
        "scores": {
            name: {"measures": recipe_of(name).measures, **plain(found)} for name, found in result.scores.items()
        },
        "left_out": result.left_out,
    }


# --- for a terminal ----------------------------------------------------------------------------------------


def to_table(result: Evaluation) -> str:
    """Render an evaluation for a terminal."""
    blocks = (_decomposition_lines, _matrix_lines, _score_lines, _left_out_lines)
    return "\n\n".join("\n".join(lines) for lines in (block(result) for block in blocks) if lines)


def _decomposition_lines(result: Evaluation) -> list[str]:
    parts = result.decomposition
    if parts is None:
        return []
    exact_kl = "" if result.dimension_kl is None else f"{result.dimension_kl.sum():.4f} by quadrature"
    of_kl = "KL(q(z|n) || p(z))"
    closed = parts.kl_analytic
    rows: list[tuple[str, float, float | None, str]] = [
        *([] if closed is None else [(f"{of_kl}  closed form", closed, None, "")]),
        (f"{of_kl if closed is None else '':<18}  Monte Carlo", *parts.kl_monte_carlo, "sum of the next three"),
        (
            "  index-code mutual information",
            *parts.mutual_information,
            f"at most log N = {math.log(result.inputs):.3f}",
        ),
        ("  total correlation", *parts.total_correlation, ""),
        ("  dimension-wise KL", *parts.dimension_wise_kl, exact_kl),
    ]
    if result.reconstruction is not None and result.elbo is not None:
        rows.insert(0, ("E[log p(x|z)]", *result.reconstruction, ""))
        rows.append(("ELBO", result.elbo, None, f"first row - {'Monte-Carlo' if closed is None else 'closed-form'} KL"))
    lines = [f"{'nats':>43} {'std. error':>11}"]
    for name, value, error, note in rows:
        spread = "" if error is None else f"{error:.4f}"
        lines.append(f"{name:<33}{value:>10.4f} {spread:>11}  {note}".rstrip())
    return lines


def _matrix_lines(result: Evaluation) -> list[str]:
    """The information matrix with its gaps, and the dimension-wise KL beside it."""
    mig = result.matrix
    if mig is None:
        return []
    width = max(11, *(len(name) + 2 for name in result.factors))
    head = "".join(f"{name:>{width}}" for name in result.factors)
    kl = [""] * len(mig.information)
    if result.dimension_kl is not None:
        head += f"{'KL(q(z_d)||p)':>16}"
        kl = [f"{value:>16.4f}" for value in result.dimension_kl]
    lines = [f"information by {mig.recipe}", f"{'I(z_d; v_k), nats':<20}{head}"]
    for d, row in enumerate(mig.information):
        cells = "".join(f"{value:>z{width}.4f}" for value in row)
        lines.append(f"{f'  z_{d}':<20}{cells}{kl[d]}")
    lines.append(f"{'gap / H(v_k)':<20}" + "".join(f"{gap:>{width}.4f}" for gap in mig.gaps))
    if result.factors_left_out:
        lines.append(f"factors not scored: {', '.join(result.factors_left_out)}")
    return lines


def _score_lines(result: Evaluation) -> list[str]:
    """Every score with its error and what it measures, side by side."""
    if not result.scores:
        return []
    rows = [
        (*headline, recipe_of(name).measures if place == 0 else "")
        for name, found in result.scores.items()
        for place, headline in enumerate(headlines(name, found))
    ]
    width = max(len(label) for label, *_ in rows) + 2
    lines = [f"{'score':<{width}}{'':>10} {'error':>10}  what it measures"]
    for label, value, error, measures in rows:
        lines.append(f"{label:<{width}}{value:>10.4f} {_rounded(error):>10}  {measures}".rstrip())
    if len(result.scores) > 1:
        lines += [
            "",
            "error: of mig an estimate of the numerical error, of the others a standard error; -: none is known",
            "Scores of different names are different quantities, but for mig and mig-monte-carlo: quote mig."
            if "mig" in result.scores
            else "Scores of different names are different quantities; none of these is the MIG to quote, `mig`.",
        ]
    return lines


def _left_out_lines(result: Evaluation) -> list[str]:
    """What was not computed, by reason."""
    reasons = dict.fromkeys(result.left_out.values())
    named = {reason: ", ".join(name for name, own in result.left_out.items() if own == reason) for reason in reasons}
    return [f"{names} not computed: {reason}" for reason, names in named.items()]


def _rounded(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.4f}" if error >= 1e-4 or error == 0 else f"{error:.0e}"
