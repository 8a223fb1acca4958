"""The whole loss of a training step, judged: the weights that its terms have in effect.

A loss is minus the reconstruction, and a sum of weighted terms. On cases of one size the weights are solved for,

    loss = - r E[log p(x|z)] + k KL + a MI + b TC + c DWKL + constant,      KL in closed form,

which holds to many digits, or the terms themselves are not those of the estimator. MI + TC + DWKL is the sampled KL, so
the weights in effect are alpha = a + k, beta = b + k, gamma = c + k, next to a reconstruction of weight r = 1.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.oracle.aliases import WEIGHTS
from tcvae_ref.oracle.identity import require_a_function
from tcvae_ref.oracle.sampler import Fault
from tcvae_ref.oracle.step_loss import StepLoss, mean
from tcvae_ref.oracle.subject import received
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import Case, Observed, TargetFault
from tcvae_ref.types import Array

SHAPES = ((5, 3, 40), (7, 2, 100))
"""(M, D, N) of the cases: the weights are solved for in each apart."""
COUNT = 18
"""Cases of a size; there are six unknowns."""
IMAGES_OF_A_BATCH = 6
"""Batches of images that one batch of z is combined with, to see what a loss makes of images."""
FITS = {"float64": 1e-9, "float32": 1e-4}
"""How far off, relative to the terms, the equation may be."""
EQUAL = {"float64": 1e-6, "float32": 2e-3}
"""How far off a weight may be, relative to it where it is above 1."""
OFFSET = {"float64": 1e-5, "float32": 0.05}
"""How far off the constant may be, relative to the largest weight."""


GENERAL = "constant-factor"
"""The name of a factor that has none: 1/D in one size of batch, and not in another."""


class Effective(NamedTuple):
    """The weights that the terms of a loss have in effect."""

    reconstruction: float
    """nan where what the loss makes of its images is not known."""
    alpha: float
    beta: float
    gamma: float
    closed_form: float
    """How much of the KL is in closed form."""
    constant: float
    misfit: float
    """The largest residual, relative to the terms."""

    @property
    def weights(self) -> Array:
        """(3,): of MI, TC and DWKL."""
        return np.array([self.alpha, self.beta, self.gamma])


# --- the weights in effect -------------------------------------------------------------------------------------------

_TERMS = ("mi", "tc", "dwkl", "kl_penalty")
"""The last is the KL in closed form where beta is 1."""


class Calls(NamedTuple):
    """What a loss returned for the batches of one size, whatever it is then taken for."""

    cases: list[Case]
    """As the framework received them."""
    values: list[float]
    known_pixels: bool
    """Whether each batch has images of its own; else what the loss makes of them is part of the constant."""


def calls(loss: StepLoss, shape: tuple[int, int, int], seed: int, *, exact: bool, known_pixels: bool = True) -> Calls:
    """Call a loss on every batch of one size; where it is `exact`, N = M.

    Raises
    ------
    TargetFault
        It raised, or returned no finite scalar.
    """
    cases = batches(loss, shape, seed, exact=exact)
    values = [
        float(_observe(replace(loss, images=k if known_pixels else 0), case).values["penalty"])
        for k, case in enumerate(cases)
    ]
    return Calls(cases, values, known_pixels)


def first_called(loss: StepLoss, seed: int, *, exact: bool) -> StepLoss:
    """A loss that is known to be a function, with its reconstruction handed over as it takes it.

    Raises
    ------
    TargetFault
        As `calls`, or two calls with the same numbers differ.
    """
    case = batches(loss, SHAPES[0], seed, exact=exact)[0]
    try:
        first = _observe(loss, case)
    except TargetFault:
        loss = replace(loss, handed="mean")
        first = _observe(loss, case)
    one, other = ({"the loss": found.values["penalty"]} for found in (first, _observe(loss, case)))
    require_a_function(one, other, FITS[loss.dtype])
    return loss


def effective(loss: StepLoss, called: Calls, estimator: str) -> Effective:
    """Solve for the weights of a loss taken for an estimator."""
    rows = []
    for k, case in enumerate(called.cases):
        reconstruction, *others = terms(replace(loss, images=k if called.known_pixels else 0), case, estimator)
        rows.append([reconstruction * called.known_pixels, *others, 1.0])
    known, right = np.array(rows), np.array(called.values)
    scale = np.maximum(np.abs(known).max(axis=0), np.finfo(float).tiny)
    solved = np.linalg.lstsq(known / scale, right, rcond=None)[0] / scale
    sizes = np.abs(known) @ np.abs(solved)
    misfit = float(np.max(np.abs(known @ solved - right) / np.maximum(sizes, 1.0)))
    r, a, b, c, k, constant = solved.tolist()
    r = r if called.known_pixels else np.nan
    return Effective(r, a + k, b + k, c + k, k, constant, misfit)


def terms(loss: StepLoss, case: Case, estimator: str) -> list[float]:
    """-E[log p(x|z)], MI, TC, DWKL, and the KL in closed form, of a batch."""
    log_px = loss.adapter.array(mean(loss.log_px({"z": loss.adapter.tensor(case.z, loss.dtype)})))
    found = truth(case, estimator).values
    return [-float(log_px), *(float(found[name].middle) for name in _TERMS)]


def shares(found: Effective) -> dict[str, float]:
    """The weights of MI, TC, DWKL, and the KL in closed form, in a loss that is the sum of these."""
    k = found.closed_form
    return dict(zip(_TERMS, (found.alpha - k, found.beta - k, found.gamma - k, k), strict=True))


def reconstructions(loss: StepLoss, seed: int, *, exact: bool) -> dict[str, float]:
    """Likelihood -> weight of the reconstruction, of those that explain how a loss of images changes with them.

    One batch of z, mu and widths is combined with several batches of images: what changes is the reconstruction alone,
    whatever the penalty is. A constant in log p(x|z) does not show.

    Raises
    ------
    TargetFault
        As `calls`.
    """
    case = batches(loss, SHAPES[0], seed, exact=exact)[0]
    several = [replace(loss, images=k) for k in range(IMAGES_OF_A_BATCH)]
    values = np.array([float(_observe(one, case).values["penalty"]) for one in several])
    z = {"z": loss.adapter.tensor(case.z, loss.dtype)}
    found = {}
    for name in loss.likelihoods:
        log_px = [float(one.adapter.array(mean(replace(one, likelihood=name).log_px(z)))) for one in several]
        change, got = np.array(log_px[0]) - log_px[1:], values[1:] - values[0]
        weight = float(change @ got / (change @ change))
        if np.max(np.abs(got - weight * change)) <= FITS[loss.dtype] * max(1.0, float(np.max(np.abs(values)))):
            found[name] = weight
    return found


def which_part(loss: StepLoss, case: Case) -> str:
    """Which part of what a loss returns is taken for it, in words; "" where it returns nothing else.

    Raises
    ------
    TargetFault
        It raised, or no part is known to be it.
    """
    said: list[str] = []

    def look(tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        value, which = loss.minimised(tensors, constants)
        said.append(which)
        return {"penalty": value}

    constants = {"dataset_size": case.dataset_size}
    loss.adapter.observe(look, case.arrays, constants, loss.dtype, loss.adapter.variants[0], ())
    return said[-1]


def batches(loss: StepLoss, shape: tuple[int, int, int], seed: int, *, exact: bool) -> list[Case]:
    """Ordinary batches of one size, as the framework receives them."""
    M, D, N = shape
    N = M if exact else loss.dataset_size or N
    rng = np.random.default_rng([seed, M])
    result = []
    for _ in range(COUNT):
        mu, log_var, eps = rng.standard_normal((3, M, D))
        log_var = 0.5 * log_var
        case = Case(mu + np.exp(0.5 * log_var) * eps, mu, log_var, N, 1.0, 1.0, 1.0)
        result.append(received(case, loss.adapter, loss.dtype, loss.arguments.parameterisation))
    return result


def observe(loss: StepLoss, case: Case, gradients: Sequence[str] = ()) -> Observed:
    """What a loss returns for a batch, as the quantity `penalty`.

    Raises
    ------
    TargetFault
        It raised, or returned no scalar.
    """
    constants = {"dataset_size": case.dataset_size}
    adapter = loss.adapter
    try:
        observed = adapter.observe(loss, case.arrays, constants, loss.dtype, adapter.variants[0], gradients)
    except TargetFault as fault:
        raised = fault.__cause__ is not None  # by the loss, and not a complaint of ours
        if not (raised and loss.of_pixels and len(loss.image_shape) == 1):
            raise
        hint = f"the images were of shape (M, {loss.pixels}); --image-shape 1,28,28 gives them axes"
        raise TargetFault(f"{fault}; {hint}") from None
    if np.ndim(observed.values["penalty"]):
        which = which_part(loss, case)
        shape = np.shape(observed.values["penalty"])
        raise TargetFault(f"the loss is {shape}; a scalar is needed{which and f' ({which})'}")
    return observed


def _observe(loss: StepLoss, case: Case, gradients: Sequence[str] = ()) -> Observed:
    """As `observe`, of an ordinary batch."""
    observed = observe(loss, case, gradients)
    if not np.isfinite(observed.values["penalty"]):
        raise TargetFault(f"the loss is {observed.values['penalty']} on ordinary numbers, at step {loss.step:g}")
    return observed


def gradients_off(loss: StepLoss, case: Case, estimator: str, found: Effective) -> list[str]:
    """Arguments in which the gradient is not that of the terms with the weights found."""
    if not loss.adapter.differentiable:
        return []
    got = _observe(loss, case, ("penalty",)).gradients["penalty"]
    slopes = truth(case, estimator).gradients
    off = []
    for name in case.arrays:
        parts = [share * slopes[term][name].middle for term, share in shares(found).items()]
        if name == "z" and not loss.of_pixels:
            parts.append(np.zeros_like(case.z))
            parts[-1][:, 0] = -3.0 * found.reconstruction / len(case.z)
        allowed = 100 * FITS[loss.dtype] * np.max(np.sum(np.abs(parts), axis=0))
        if not np.max(np.abs(got[name] - np.sum(parts, axis=0))) <= allowed:
            off.append(name)
    return off


# --- their names -----------------------------------------------------------------------------------------------------


def in_words(found: Effective) -> str:
    """The loss as a formula."""
    known = np.isfinite(found.reconstruction)
    parts = [f"{-found.reconstruction:.4g} E[log p(x|z)]" if known else "a reconstruction that is not known"]
    weights = zip(("MI", "TC", "DWKL"), found.weights.tolist(), strict=True)
    parts += [f"{weight:.4g} {term}" for term, weight in weights]
    form = "" if abs(found.closed_form) < 1e-6 else f", {found.closed_form:.4g} of the KL in closed form"
    return " + ".join(parts).replace("+ -", "- ") + form


def names(
    found: Effective,
    claimed: Array,
    shape: tuple[int, int, int],
    dtype: str,
    pixels: int,
    inside: Collection[str] = (),
) -> list[Fault]:
    """What is wrong with weights in effect: every reading that fits, `GENERAL` ones last; nothing where right.

    `pixels` are those of an image. `inside` are those of alpha, beta and gamma that the loss does not take: what is
    claimed of them may be wrong.
    """

    def same(one: Any, other: Any) -> bool:
        allowed = EQUAL[dtype] * np.maximum(1.0, np.abs(other))
        return bool(np.all(np.abs(np.subtract(one, other)) <= allowed))

    r, weights = found.reconstruction, found.weights
    r = 1.0 if np.isnan(r) else r  # as far as can be seen
    if same(r, 1.0) and same(weights, claimed):
        return []
    said = f"in effect the loss is {in_words(found)}"
    flipped = claimed * np.array([1.0, -1.0, 1.0])
    readings = [
        ("beta-for-beta-minus-one", same(r, 1) and same(weights, claimed + np.array([0, 1, 0])), "KL + beta TC"),
        ("kl-counted-twice", same(r, 1) and same(weights, claimed + 1), "the KL besides its parts"),
        ("beta-on-every-term", same(r, 1) and same(weights, claimed[1]), "beta times the whole KL: beta-VAE"),
        ("sign-flipped", same(r, 1) and same(weights, flipped), "the TC has the wrong sign"),
    ]
    fitting = [Fault(name, f"{words}; {said}") for name, fits, words in readings if fits]
    others = [name for name, w, c in zip(WEIGHTS, weights, claimed, strict=True) if not same(w, c)]
    as_good_as_claimed = all(w * c > EQUAL[dtype] for w, c in zip(weights, claimed, strict=True))
    scaled = [] if fitting else _scaled(found, claimed, shape, pixels, said, same)
    vague = others == ["beta"] if fitting else scaled[0].id == "unknown"
    if same(r, 1) and as_good_as_claimed and set(others) <= set(inside) and vague:
        words = ", ".join(f"{name} = {w:.4g}" for name, w in zip(WEIGHTS, weights, strict=True) if name in others)
        meant = ", ".join(f"{c:g}" for name, c in zip(WEIGHTS, claimed, strict=True) if name in others)
        remedy = " ".join(f"--{name} {w:.4g}" for name, w in zip(WEIGHTS, weights, strict=True) if name in others)
        as_well = "fits as well: " if fitting else ""
        one = f"{as_well}the loss has {words} in effect, and {meant} is meant; say {remedy} if the loss is right"
        return [*fitting, Fault("other-weights", f"{one}; {said}")]
    return fitting or scaled


def _scaled(
    found: Effective,
    claimed: Array,
    shape: tuple[int, int, int],
    pixels: int,
    said: str,
    same: Callable[[Any, Any], bool],
) -> list[Fault]:
    """Names where the reconstruction, or the penalty, or both are multiplied by something."""
    M, D, _ = shape
    seen = np.isfinite(found.reconstruction)
    r = found.reconstruction if seen else 1.0
    if same(r, 0.0):
        return [Fault("unknown", f"there is no reconstruction in it; {said}")]
    factor = float(found.weights @ claimed / (claimed @ claimed)) if claimed.any() else 1.0  # of the penalty
    if same(factor, 0.0):
        return [Fault("unknown", f"there is no penalty in it; {said}")]
    if not same(found.weights / max(abs(factor), 1e-9), claimed * np.sign(factor)):
        return [Fault("unknown", f"{said}, for the weights {', '.join(f'{w:g}' for w in claimed)}")]
    known = {float(M): "sum-not-mean", -1.0: "sign-flipped", 1.0 / D: "divided-by-d"}
    if same(r, factor):
        found_ids = [name for value, name in known.items() if same(r, value)]
        words = (
            "the objective, to be maximised, and not a loss"
            if same(r, -1)
            else f"all is {r:.4g} times what it should be"
        )
        return [Fault(name, f"{words}; {said}") for name in (*found_ids, GENERAL)]
    if same(r, 1.0):
        found_ids = [name for value, name in known.items() if same(factor, value)]
        beside = "the reconstruction is right" if seen else "if the reconstruction is right, which cannot be seen"
        words = f"the penalty is {factor:.4g} times what it should be, {beside}"
        return [Fault(name, f"{words}; {said}") for name in (*found_ids, GENERAL)]
    if same(r / factor, -1.0):
        return [Fault("sign-flipped", f"the reconstruction has the wrong sign; {said}")]
    causes = {
        1.0 / pixels: f"as a mean over {pixels} pixels is",
        1.0 / (M * pixels): "as a mean over samples and pixels is, where the mean over samples is due besides",
        float(M): "as a sum over the batch is",
        1.0 / M: "as if it were divided by the batch size twice",
    }
    cause = next((words for value, words in causes.items() if same(r, value)), "")
    beta = claimed[1] * factor / r
    return [
        Fault(
            "reconstruction-scaled",
            f"the reconstruction is {r:.4g} times what it should be{cause and ', ' + cause}, "
            f"so that beta is {beta:.4g} in effect; {said}",
        )
    ]
