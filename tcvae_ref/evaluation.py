"""What a trained model amounts to: its ELBO, decomposed exactly, and its mutual information gap."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.estimators import log_qz_exact
from tcvae_ref.gaussian import reparameterise
from tcvae_ref.likelihood import bernoulli_log_likelihood
from tcvae_ref.metrics import (
    MIG,
    Estimate,
    ExactDecomposition,
    decomposition_exact,
    dimension_wise_kl_exact,
    estimate,
    mig_quadrature,
)
from tcvae_ref.metrics.entropy import GroupDensities, group_densities
from tcvae_ref.networks import Networks, decode, encode
from tcvae_ref.types import Array, LogQzEstimator, ProgressHook

_BLOCK = 1024  # images at a time
NOT_SCORED = ("color", "shape")
"""Factors the paper leaves out of its MIG on dSprites."""

_STREAM = 3  # of random numbers, apart from those of training.loop


class Functions(NamedTuple):
    """What an evaluation computes with."""

    log_qz_exact: LogQzEstimator = log_qz_exact
    """Of `tcvae_ref.estimators`, or its equal."""
    group_densities: GroupDensities = group_densities
    """Of `tcvae_ref.metrics.entropy`, or its equal."""
    block_bytes: int = 2**26
    """Samples are taken in blocks whose pairwise log-densities, if they were made, would fill this much."""


class Evaluation(NamedTuple):
    """Numbers of one model on one data set, nats."""

    images: int
    reconstruction: Estimate
    """E_q[log p(x|z)], over the samples of the decomposition."""
    elbo: float
    """Reconstruction minus the closed-form KL."""
    decomposition: ExactDecomposition
    score: "Score | str"
    """The mutual information gap, or why there is none."""


class Score(NamedTuple):
    """The mutual information gap, and what comes with it."""

    mig: MIG
    dimension_kl: NDArray[np.float64]
    """(D,): KL(q(z_d) || p(z_d)) by quadrature; its sum is the dimension-wise KL without sampling error."""
    factors: tuple[str, ...]
    """Names of the K factors scored."""
    left_out: tuple[str, ...]


def posteriors(networks: Networks, data: FactorDataset, progress: ProgressHook | None = None) -> tuple[Array, Array]:
    """mu, log_var : (N, D) of every image, in float64."""
    parts = []
    for start in range(0, len(data), _BLOCK):
        parts.append(encode(networks.encoder, data.images.take(slice(start, start + _BLOCK))))
        if progress is not None:
            progress(min(start + _BLOCK, len(data)), len(data))
    mu, log_var = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    return mu, log_var


def scored_factors(data: FactorDataset, wanted: Sequence[str] | None = None) -> list[int]:
    """Positions of the factors to score: those wanted, or all that vary but colour and shape, as in the paper.

    Raises
    ------
    InputError
        A wanted factor is unknown or has a single value, or none is left.
    """
    names = [factor.name for factor in data.factors]
    varying = [name for name, factor in zip(names, data.factors, strict=True) if factor.size > 1]
    if wanted is None:
        wanted = [name for name in varying if name not in NOT_SCORED]
    if not wanted:
        raise InputError(
            f"factors: of {', '.join(names)}, {', '.join(varying) or 'none'} varies in {data.name}; "
            f"name those to score with --factors ({', '.join(NOT_SCORED)} are left out unless named)"
        )
    for name in wanted:
        checks.option("factors", "factor", name, varying)
    if len(set(wanted)) < len(wanted):
        raise InputError(f"factors: {', '.join(wanted)}; each factor once")
    return [names.index(name) for name in wanted]


def score(
    data: FactorDataset,
    mu: Array,
    log_var: Array,
    factors: Sequence[str] | None = None,
    progress: ProgressHook | None = None,
    functions: Functions = Functions(),  # noqa: B008
) -> Score:
    """MIG by quadrature over the factors wanted, and the dimension-wise KL of each latent.

    Raises
    ------
    InputError
        As `scored_factors` and `mig_quadrature` do.
    """
    columns = scored_factors(data, factors)
    mig = mig_quadrature(
        mu, log_var, data.classes[:, columns], progress=progress, group_densities=functions.group_densities
    )
    names = [factor.name for factor in data.factors]
    return Score(
        mig=mig,
        dimension_kl=dimension_wise_kl_exact(mu, log_var, mig.entropies),
        factors=tuple(names[k] for k in columns),
        left_out=tuple(name for k, name in enumerate(names) if k not in columns),
    )


def evaluate(
    networks: Networks,
    data: FactorDataset,
    mu: Array,
    log_var: Array,
    samples: int = 10_000,
    seed: int = 0,
    factors: Sequence[str] | None = None,
    progress: Callable[[str], ProgressHook] | None = None,
    functions: Functions = Functions(),  # noqa: B008
) -> Evaluation:
    """Decompose a model's ELBO over the whole data set and score its latents.

    Parameters
    ----------
    networks : Networks
    data : FactorDataset
    mu, log_var : (N, D) float64
        `posteriors(networks, data)`.
    samples : int
        S, samples of z for the Monte-Carlo terms.
    seed : int
        Of the samples.
    factors : sequence of str, optional
        Factors to score; by default all that vary except shape and colour.
    progress : function, optional
        progress(stage) returns a function called as (done, total).
    functions : Functions
        NumPy's, or their equals.

    Returns
    -------
    Evaluation
    """
    if factors is not None:
        scored_factors(data, factors)  # a wrong name is noticed before the work, not after
    checks.whole_number("evaluate", "samples", samples, 2, 2**31 - 1)
    checks.whole_number("evaluate", "seed", seed, 0)
    watch = progress or (lambda stage: lambda done, total: None)
    rng = np.random.default_rng([seed, _STREAM])
    index = rng.integers(len(data), size=samples)
    eps = rng.standard_normal((samples, mu.shape[1]))
    reconstruction = _reconstruction(networks, data, mu, log_var, index, eps)
    decomposition = decomposition_exact(
        *(mu, log_var, index, eps, functions.log_qz_exact, functions.block_bytes),
        watch("log q(z) of all components"),
    )
    try:
        scored: Score | str = score(data, mu, log_var, factors, watch("entropies"), functions)
    except InputError as refusal:
        scored = str(refusal)
    return Evaluation(
        images=len(data),
        reconstruction=reconstruction,
        elbo=reconstruction.value - decomposition.kl_analytic,
        decomposition=decomposition,
        score=scored,
    )


def _reconstruction(
    networks: Networks, data: FactorDataset, mu: Array, log_var: Array, index: NDArray[np.integer], eps: Array
) -> Estimate:
    """E_q[log p(x|z)] over the given samples; decoded in float32, as trained."""
    values = np.empty(len(index))
    for start in range(0, len(index), _BLOCK):
        n = index[start : start + _BLOCK]
        z = reparameterise(mu[n], log_var[n], eps[start : start + _BLOCK]).astype(np.float32)
        logits = decode(networks.decoder, z)
        values[start : start + _BLOCK] = bernoulli_log_likelihood(data.images.take(n), logits)
    return estimate(values)


def to_json(result: Evaluation) -> dict[str, Any]:
    """Every number of an evaluation as plain values, with names and units."""
    parts = result.decomposition
    estimates = {
        "mutual_information": parts.mutual_information,
        "total_correlation": parts.total_correlation,
        "dimension_wise_kl": parts.dimension_wise_kl,
        "kl_monte_carlo": parts.kl_monte_carlo,
        "reconstruction": result.reconstruction,
    }
    return {
        "unit": "nats",
        "images": result.images,
        "samples": parts.samples,
        **{name: estimate._asdict() for name, estimate in estimates.items()},
        "kl_analytic": parts.kl_analytic,
        "elbo": result.elbo,
        **_score_to_json(result.score),
    }


def _score_to_json(scored: Score | str) -> dict[str, Any]:
    if isinstance(scored, str):
        return {"dimension_wise_kl_quadrature": None, "mig": None, "mig_refused": scored}
    return {
        "dimension_wise_kl_quadrature": scored.dimension_kl.tolist(),
        "mig": {
            "score": scored.mig.score,
            "recipe": scored.mig.recipe,
            "error": scored.mig.error,
            "factors": list(scored.factors),
            "left_out": list(scored.left_out),
            "gaps": scored.mig.gaps.tolist(),
            "information": scored.mig.information.tolist(),
            "entropies": scored.mig.entropies.tolist(),
        },
    }


def to_table(result: Evaluation) -> str:
    """Render an evaluation for a terminal."""
    parts = result.decomposition
    exact_kl = "" if isinstance(result.score, str) else f"{result.score.dimension_kl.sum():.4f} by quadrature"
    rows: list[tuple[str, float, float | None, str]] = [
        ("E[log p(x|z)]", *result.reconstruction, ""),
        ("KL(q(z|n) || p(z))  closed form", parts.kl_analytic, None, ""),
        ("                    Monte Carlo", *parts.kl_monte_carlo, "sum of the next three"),
        (
            "  index-code mutual information",
            *parts.mutual_information,
            f"at most log N = {math.log(result.images):.3f}",
        ),
        ("  total correlation", *parts.total_correlation, ""),
        ("  dimension-wise KL", *parts.dimension_wise_kl, exact_kl),
        ("ELBO", result.elbo, None, "first row - closed-form KL"),
    ]
    lines = [f"{'nats':>43} {'std. error':>11}"]
    for name, value, error, note in rows:
        spread = "" if error is None else f"{error:.4f}"
        lines.append(f"{name:<33}{value:>10.4f} {spread:>11}  {note}".rstrip())
    return "\n".join([*lines, "", *_score_to_lines(result.score)])


def _score_to_lines(scored: Score | str) -> list[str]:
    if isinstance(scored, str):
        return [f"MIG  not computed: {scored}"]
    mig = scored.mig
    width = max(11, *(len(name) + 2 for name in scored.factors))
    head = "".join(f"{name:>{width}}" for name in scored.factors)
    lines = [f"{'I(z_d; v_k), nats':<20}{head}{'KL(q(z_d)||p)':>16}"]
    for d, (row, kl) in enumerate(zip(mig.information, scored.dimension_kl, strict=True)):
        cells = "".join(f"{value:>{width}.4f}" for value in row)
        lines.append(f"{f'  z_{d}':<20}{cells}{kl:>16.4f}")
    gaps = "".join(f"{gap:>{width}.4f}" for gap in mig.gaps)
    lines += [
        f"{'gap / H(v_k)':<20}{gaps}",
        "",
        f"MIG  {mig.score:.4f}   ({mig.recipe}; error of the information about {mig.error:.0e} nats)",
    ]
    if scored.left_out:
        lines.append(f"factors not scored: {', '.join(scored.left_out)}")
    return lines
