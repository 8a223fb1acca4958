"""One training step after another (paper, section 3.1).

images -> encode -> (mu, log_var) -> reparameterise(eps) -> decode -> log p(x|z)
(z, mu, log_var, N) -> estimator -> ElboTerms -> objective(alpha, beta, gamma) -> autograd -> Adam
FactorVAE besides: z -> discriminator -> TC, for the objective; then the discriminator's own step (`adversary`)

Every random number is a function of the seed and the step alone, so there is no random state to lose: a run that
is resumed from any step continues exactly as it would have.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from autograd.tracer import getval
from numpy.typing import NDArray

from tcvae_ref.checks import NotFinite
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.discriminator import discriminate, discriminator_total_correlation
from tcvae_ref.gaussian import reparameterise
from tcvae_ref.objectives import ElboTerms, elbo_terms
from tcvae_ref.training import streams
from tcvae_ref.training.adam import AdamState, adam_step, initial_adam_state, require_finite
from tcvae_ref.training.adversary import Adversary, adversary_step, initial_adversary
from tcvae_ref.training.batches import batches
from tcvae_ref.training.gradients import gradient_and_aux
from tcvae_ref.training.model import (
    architecture,
    initial_parameters,
    initial_prior,
    log_prior,
    statistics_apart,
    taken_apart,
)
from tcvae_ref.training.operations import NUMPY, Operations
from tcvae_ref.training.settings import Settings
from tcvae_ref.training.streams import generator
from tcvae_ref.types import Array, ExpectedLogQz, ExpectedLogQzEstimator, Scalar

DTYPE = "float32"


class TrainingDiverged(Exception):
    """A step's loss or gradient is no longer finite."""


class TrainingState(NamedTuple):
    """All that the next step depends on, settings and data aside."""

    step: int
    """Steps done."""
    parameters: list[Array]
    """The encoder's, the decoder's and the prior's (`tcvae_ref.training.model`)."""
    adam: AdamState
    epoch_sum: NDArray[np.float64]
    """(R,): what is recorded of the current epoch's steps, added up."""
    history: NDArray[np.float64]
    """(epochs done, R): its mean over each epoch, in the order of `recorded`: the ELBO terms first."""
    statistics: list[Array]
    """Running statistics of batch normalisation; empty where there is none."""
    adversary: Adversary


class StepRecord(NamedTuple):
    """What a step leaves besides its gradient, as plain numbers."""

    terms: NDArray[np.float64]
    """(5,): the ELBO's terms, in the order of `ElboTerms`; with FactorVAE (6,), the discriminator's TC last."""
    z: Array
    """(M, D): the codes drawn."""
    statistics: list[Array]
    """Of batch normalisation, after the step."""


def recorded(settings: Settings) -> tuple[str, ...]:
    """Names of the R numbers recorded of every step: the ELBO's terms, and with FactorVAE the discriminator's."""
    of_adversary = ("discriminator_total_correlation", "discriminator_loss")
    return (*ElboTerms._fields, *(of_adversary if settings.objective == "factor-vae" else ()))


def initial_state(settings: Settings, pixels: int) -> TrainingState:
    """Draw the first parameters.

    Parameters
    ----------
    settings : Settings
    pixels : int
        P, values of an image.

    Returns
    -------
    TrainingState
        Of step 0.

    Raises
    ------
    InputError
        The networks are not made for such images.
    """
    parameters, statistics = initial_parameters(settings, pixels, generator(settings.seed, streams.PARAMETERS), DTYPE)
    parameters += initial_prior(settings, generator(settings.seed, streams.PRIOR), DTYPE)
    R = len(recorded(settings))
    return TrainingState(
        step=0,
        parameters=parameters,
        adam=initial_adam_state(parameters),
        epoch_sum=np.zeros(R),
        history=np.zeros((0, R)),
        statistics=statistics,
        adversary=initial_adversary(settings, DTYPE),
    )


def step_noise(seed: int, step: int, M: int, D: int, stream: int = streams.NOISE) -> Array:
    """Standard normal noise of a step : (M, D)."""
    return generator(seed, stream, step).standard_normal((M, D), dtype=np.float32)


def loss_and_record(
    settings: Settings,
    parameters: list[Array],
    statistics: list[Array],
    discriminator: list[Array],
    x: Array,
    eps: Array,
    dataset_size: int,
    step: int,
    operations: Operations = NUMPY,
) -> tuple[Scalar, StepRecord]:
    """Loss of one batch, to be minimised, and what the step leaves.

    Parameters
    ----------
    settings : Settings
    parameters, statistics, discriminator : lists of arrays
        As in `TrainingState`. The loss is differentiated by the first alone.
    x : (M, P)
        Images.
    eps : (M, D)
        Noise.
    dataset_size : int
        N.
    step : int
        Counted from 0; weights depend on it during their warm-up.
    operations : Operations
        `NUMPY`, or compiled functions of the same signatures.

    Returns
    -------
    loss : scalar, nats
        The negative objective.
    record : StepRecord
    """
    encoder, decoder, prior = taken_apart(settings, parameters)
    encode, decode = architecture(settings, operations)
    of_encoder, of_decoder = statistics_apart(statistics)
    mu, log_var, of_encoder = encode(encoder, of_encoder, x, True)
    z = reparameterise(mu, log_var, eps)
    logits, of_decoder = decode(decoder, of_decoder, z, True)
    log_px = operations.bernoulli_log_likelihood(x, logits)
    expected_log_qz = operations.estimators[settings.estimator]
    if settings.objective != "beta-tcvae":
        expected_log_qz = _recorded_only(expected_log_qz)
    terms = elbo_terms(log_px, z, mu, log_var, dataset_size, expected_log_qz, log_prior(settings, prior))
    tc = discriminator_total_correlation(discriminate(discriminator, z)) if discriminator else None
    objective = settings.objective_at(step, tc)(terms)
    values = np.array([float(getval(term)) for term in (*terms, *([] if tc is None else [tc]))])
    return -objective, StepRecord(values, getval(z), of_encoder + of_decoder)


def _recorded_only(expected_log_qz: ExpectedLogQzEstimator) -> ExpectedLogQzEstimator:
    """An estimator without its gradient, which costs more than its value, where the objective does not weigh it."""

    def recorded_only(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
        return expected_log_qz(getval(z), getval(mu), getval(log_var), dataset_size)

    return recorded_only


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
        What a step is made of: `NUMPY`, or compiled functions of the same signatures.

    Returns
    -------
    TrainingState
        Of the last step done.

    Raises
    ------
    TrainingDiverged
        A term or gradient is not finite. The state saved last is untouched.
    InputError
        The batch is larger than the data set, the estimator is not to be had (`Operations.having`), or images or
        another package's estimator are refused.
    """
    N, M = len(data), settings.batch
    steps_per_epoch, total = settings.steps_per_epoch(N), settings.steps(N)
    operations = operations.having(settings.estimator)
    batch = batches(settings, data)
    second_codes = _second_codes(settings, data, operations)
    step, parameters, adam, epoch_sum, history, statistics, adversary = state
    while step < total and not stop():
        x = data.images.take(batch(step), DTYPE)
        eps = step_noise(settings.seed, step, M, settings.latent)
        with _divergence_said(step):
            given = (parameters, statistics, adversary.discriminator, x, eps, N, step, operations)
            gradient, record = gradient_and_aux(partial(loss_and_record, settings), *given)
            require_finite(record.terms, *gradient)
        adam_step(parameters, gradient, adam, step + 1, settings.learning_rate, update=operations.adam_update)
        values, statistics = record.terms, record.statistics
        if adversary.discriminator:
            with _divergence_said(step):
                z_second = second_codes(parameters, statistics, step)
                loss = adversary_step(settings, adversary, record.z, z_second, step, operations.adam_update)
            values = np.append(values, loss)
        step += 1
        epoch_sum = epoch_sum + values
        if step % steps_per_epoch == 0:
            history = np.vstack([history, epoch_sum / steps_per_epoch])
            epoch_sum = np.zeros_like(epoch_sum)
        state = TrainingState(step, parameters, adam, epoch_sum, history, statistics, adversary)
        save(state)
        progress(step, total, ElboTerms(*values[: len(ElboTerms._fields)]))
    return state


def _second_codes(
    settings: Settings, data: FactorDataset, operations: Operations
) -> Callable[[list[Array], list[Array], int], Array]:
    """Make a function that draws the codes (M, D) of a step's second batch, independent of its first."""
    encode, _ = architecture(settings, operations)
    batch = batches(settings, data, streams.SECOND_ORDER)

    def second_codes(parameters: list[Array], statistics: list[Array], step: int) -> Array:
        x = data.images.take(batch(step), DTYPE)
        encoder, of_encoder = taken_apart(settings, parameters).encoder, statistics_apart(statistics)[0]
        mu, log_var, _ = encode(encoder, of_encoder, x, True)
        eps = step_noise(settings.seed, step, len(x), settings.latent, streams.SECOND_NOISE)
        return reparameterise(mu, log_var, eps)

    return second_codes


@contextmanager
def _divergence_said(step: int) -> Iterator[None]:
    """Turn what a step refuses to go on with into the news that training diverged."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except NotFinite as error:
        raise TrainingDiverged(
            f"training diverged at step {step + 1} ({error}); lower the learning rate or the objective's weights, or "
            "warm them up"
        ) from None
