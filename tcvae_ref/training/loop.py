"""One training step after another (paper, section 3.1).

images -> encode -> (mu, log_var) -> reparameterise(eps) -> decode -> log p(x|z)
(z, mu, log_var, N) -> estimator -> ElboTerms -> objective(alpha, beta, gamma) -> autograd -> Adam

Every random number is a function of the seed and the step alone, so there is no random state to lose: a run that
is resumed from any step continues exactly as it would have.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from autograd.differential_operators import grad_and_aux
from autograd.tracer import getval
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.gaussian import reparameterise
from tcvae_ref.networks import Networks, decode, encode, initial_layers, layer_sizes
from tcvae_ref.objectives import ElboTerms, elbo_terms
from tcvae_ref.training.adam import AdamState, adam_step, initial_adam_state
from tcvae_ref.training.operations import NUMPY, Operations
from tcvae_ref.training.settings import Settings
from tcvae_ref.types import Array, Layers, Scalar

DTYPE = "float32"
_INITIAL, _ORDER, _NOISE = range(3)  # the streams of random numbers


class TrainingDiverged(Exception):
    """A step's loss or gradient is no longer finite."""


class TrainingState(NamedTuple):
    """All that the next step depends on, settings and data aside."""

    step: int
    """Steps done."""
    parameters: list[Array]
    """W, b of each layer, encoder first."""
    adam: AdamState
    epoch_sum: NDArray[np.float64]
    """(5,): the ELBO terms of the current epoch's steps, added up."""
    history: NDArray[np.float64]
    """(epochs done, 5): the ELBO terms' mean over each epoch, in the order of `ElboTerms`."""


def initial_state(settings: Settings, pixels: int) -> TrainingState:
    """Draw the networks' first parameters."""
    rng = np.random.default_rng([settings.seed, _INITIAL])
    encoder_sizes, decoder_sizes = layer_sizes(pixels, settings.encoder, settings.decoder, settings.latent)
    layers = initial_layers(encoder_sizes, rng, DTYPE) + initial_layers(decoder_sizes, rng, DTYPE)
    parameters = [array for layer in layers for array in layer]
    terms = len(ElboTerms._fields)
    return TrainingState(0, parameters, initial_adam_state(parameters), np.zeros(terms), np.zeros((0, terms)))


def networks(settings: Settings, parameters: list[Array]) -> Networks:
    """Arrange the flat list of parameters as an encoder and a decoder."""
    layers: Layers = [(parameters[i], parameters[i + 1]) for i in range(0, len(parameters), 2)]
    split = len(settings.encoder) + 1
    return Networks(layers[:split], layers[split:])


def epoch_order(seed: int, epoch: int, dataset_size: int) -> NDArray[np.int64]:
    """The order in which an epoch visits the data : (N,)."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(dataset_size)


def step_noise(seed: int, step: int, M: int, D: int) -> Array:
    """Standard normal noise of a step : (M, D)."""
    return np.random.default_rng([seed, _NOISE, step]).standard_normal((M, D), dtype=np.float32)


def loss_and_terms(
    settings: Settings,
    parameters: list[Array],
    x: Array,
    eps: Array,
    dataset_size: int,
    step: int,
    operations: Operations = NUMPY,
) -> tuple[Scalar, NDArray[np.float64]]:
    """Loss of one batch, to be minimised, and the ELBO's terms for the record.

    Parameters
    ----------
    settings : Settings
    parameters : list of arrays
    x : (M, P)
        Images.
    eps : (M, D)
        Noise.
    dataset_size : int
        N.
    step : int
        Counted from 0; beta depends on it during warm-up.
    operations : Operations
        `NUMPY` or its equal.

    Returns
    -------
    loss : scalar, nats
        The negative objective.
    terms : (5,)
        The ELBO's terms as plain numbers, in the order of `ElboTerms`.
    """
    encoder, decoder = networks(settings, parameters)
    mu, log_var = encode(encoder, x, operations.relu_layer)
    z = reparameterise(mu, log_var, eps)
    logits = decode(decoder, z, operations.tanh_layer, operations.linear_layer)
    log_px = operations.bernoulli_log_likelihood(x, logits)
    terms = elbo_terms(log_px, z, mu, log_var, dataset_size, operations.estimators[settings.estimator])
    objective = settings.objective_at(step)(terms)
    return -objective, np.array([float(getval(term)) for term in terms])


def train(
    settings: Settings,
    data: FactorDataset,
    state: TrainingState,
    save: Callable[[TrainingState], None],
    progress: Callable[[int, int, ElboTerms], None],
    stop: Callable[[], bool],
    operations: Operations = NUMPY,
) -> TrainingState:
    """Train from `state` to the last epoch.

    Parameters
    ----------
    settings : Settings
    data : FactorDataset
    state : TrainingState
        Its arrays are changed in place.
    save : function
        Called with the state after every step; decides itself when to write.
    progress : function
        Called as progress(steps done, steps in all, the step's terms).
    stop : function
        When it returns True the loop ends after the current step.
    operations : Operations
        What a step is made of: `NUMPY` or its equal.

    Returns
    -------
    TrainingState
        Of the last step done.

    Raises
    ------
    TrainingDiverged
        A term or gradient is not finite. The state saved last is untouched.
    InputError
        The batch is larger than the data set.
    """
    N, M = len(data), settings.batch
    steps_per_epoch, total = settings.steps_per_epoch(N), settings.steps(N)
    gradient_and_terms = grad_and_aux(
        lambda parameters, x, eps, step: loss_and_terms(settings, parameters, x, eps, N, step, operations)
    )
    order, order_epoch = None, -1
    step, parameters, adam, epoch_sum, history = state
    while step < total and not stop():
        epoch, nth = divmod(step, steps_per_epoch)
        if order is None or epoch != order_epoch:
            order, order_epoch = epoch_order(settings.seed, epoch, N), epoch
        x = data.images.take(order[nth * M : (nth + 1) * M], DTYPE)
        eps = step_noise(settings.seed, step, M, settings.latent)
        gradient, terms = _finite(gradient_and_terms, parameters, x, eps, step)
        step += 1
        adam_step(parameters, gradient, adam, step, settings.learning_rate, update=operations.adam_update)
        epoch_sum = epoch_sum + terms
        if nth + 1 == steps_per_epoch:
            history = np.vstack([history, epoch_sum / steps_per_epoch])
            epoch_sum = np.zeros_like(epoch_sum)
        state = TrainingState(step, parameters, adam, epoch_sum, history)
        save(state)
        progress(step, total, ElboTerms(*terms))
    return state


def _finite(
    gradient_and_terms: Callable[..., tuple[list[Array], NDArray[np.float64]]],
    parameters: list[Array],
    x: Array,
    eps: Array,
    step: int,
) -> tuple[list[Array], NDArray[np.float64]]:
    """Gradient and terms of a step, or the news that they are not finite."""
    remedy = "lower the learning rate or beta, or warm beta up"
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            gradient, terms = gradient_and_terms(parameters, x, eps, step)
    except InputError as error:
        raise TrainingDiverged(f"training diverged at step {step + 1} ({error}); {remedy}") from None
    if not (np.isfinite(terms).all() and all(np.isfinite(np.vdot(g, g)) for g in gradient)):
        raise TrainingDiverged(f"training diverged at step {step + 1} (its loss is not finite); {remedy}")
    return gradient, terms
