"""Harder batches for a whole loss that is right on ordinary ones: far samples, narrow posteriors, 64 dimensions.

What a loss makes of its images is the same for each batch of one size, and so is any constant. So the change from an
ordinary batch of that size is held to the change of the terms T_k with the weights w_k that they have in effect:

    |change of the loss - sum_k w_k change of T_k| <= sum_k ( delta_k |change of T_k| + |w_k| allowed(T_k) ) + rounding,

delta_k being how well w_k is known, and allowed(T_k) what `tolerance` allows, an expanded square included. What a loss
may clamp for its own safety is not reached: probabilities of pixels are ordinary, and |log_var| is `WIDEST` at most.
"""

import numpy as np

from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.step_loss import StepLoss
from tcvae_ref.oracle.subject import received
from tcvae_ref.oracle.tolerance import allowances
from tcvae_ref.oracle.types import Case, Primitives
from tcvae_ref.oracle.whole_loss import EQUAL, Effective, observe, shares, terms

WIDEST = 8.0
"""|log_var| at most: sigma from 0.018 to 55. A clamp of log_var beyond is a guard and no mistake."""
_FEW, _MANY = (5, 3, 40), (4, 64, 40)


def harder(loss: StepLoss, estimator: str, seed: int) -> dict[str, tuple[Case, Case]]:
    """What is hard -> an ordinary batch, and the hard one of its size, as the framework receives them."""
    rng, taken = np.random.default_rng(seed), find(estimator)

    def batch(
        shape: tuple[int, int, int], mu: float = 1.0, log_var: tuple[float, float] = (-1.0, 1.0), sigmas: float = 0.0
    ) -> Case:
        M, D, N = shape
        means, eps = rng.standard_normal((2, M, D))
        means, widths = mu * means, rng.uniform(*log_var, (M, D))
        z = means + np.exp(0.5 * widths) * (np.sign(eps) * sigmas if sigmas else eps)
        case = Case(z, means, widths, taken.dataset_size(M, loss.dataset_size or N), 1.0, 1.0, 1.0)
        return received(case, loss.adapter, loss.dtype, loss.arguments.parameterisation)

    few, many = batch(_FEW), batch(_MANY)
    return {
        "narrow and wide posteriors": (few, batch(_FEW, 3.0, (-WIDEST, WIDEST))),
        "samples 12 sigma out": (few, batch(_FEW, 0.1, sigmas=12.0)),
        "posteriors far apart": (few, batch(_FEW, 50.0)),
        "64 dimensions, 10 sigma out": (many, batch(_MANY, sigmas=10.0)),
    }


def off(loss: StepLoss, found: Effective, estimator: str, primitives: Primitives, seed: int) -> list[str]:
    """What is hard in the batches on which a loss is not what it should be, or its gradient no number."""
    batches = harder(loss, estimator, seed)
    return [name for name, pair in batches.items() if not _is_right(loss, found, estimator, primitives, *pair)]


@np.errstate(all="ignore")  # losses return nan and infinity here
def _is_right(
    loss: StepLoss, found: Effective, estimator: str, primitives: Primitives, ordinary: Case, hard: Case
) -> bool:
    asked = ("penalty",) if loss.adapter.differentiable else ()
    before, after = observe(loss, ordinary), observe(loss, hard, asked)
    weights = np.array([np.nan_to_num(found.reconstruction), *shares(found).values()])
    rows = [np.array(terms(loss, case, estimator)) for case in (ordinary, hard)]
    change = rows[1] - rows[0]
    error = float(after.values["penalty"] - before.values["penalty"]) - float(weights @ change)
    allowed = float(EQUAL[loss.dtype] * np.maximum(1.0, np.abs(weights)) @ np.abs(change))
    for case, row in zip((ordinary, hard), rows, strict=True):
        bounds = allowances(case, estimator, loss.dtype, primitives, expanded=True, gradients=False).values
        allowed += float(np.abs(weights[1:]) @ [float(bounds[name]) for name in shares(found)])
        allowed += (len(case.z) + 8) * FORMATS[loss.dtype].roundoff * float(np.abs(weights) @ np.abs(row))
    slopes = after.gradients["penalty"].values() if asked else ()
    return abs(error) <= allowed and all(np.isfinite(slope).all() for slope in slopes)
