"""The discriminator's side of a FactorVAE step (Kim & Mnih 2018, algorithm 2).

second batch -> encode -> reparameterise -> permute_dims; with the first batch's z -> discriminator_loss -> Adam
"""

from typing import NamedTuple

import numpy as np
from autograd.tracer import getval
from numpy.typing import NDArray

from tcvae_ref.discriminator import discriminator_loss, initial_discriminator, permute_dims
from tcvae_ref.training.adam import AdamState, AdamUpdate, adam_step, initial_adam_state, require_finite
from tcvae_ref.training.gradients import gradient_and_aux
from tcvae_ref.training.settings import Settings
from tcvae_ref.training.streams import DISCRIMINATOR, PERMUTATIONS, generator
from tcvae_ref.types import Array, Scalar

BETAS = (0.5, 0.9)
"""Decay rates of the discriminator's Adam."""


class Adversary(NamedTuple):
    """A discriminator and its own Adam; all lists are empty where the objective has none."""

    discriminator: list[Array]
    adam: AdamState


def initial_adversary(settings: Settings, dtype: str) -> Adversary:
    """Draw the discriminator's first parameters."""
    if settings.objective != "factor-vae":
        return Adversary([], AdamState([], []))
    rng = generator(settings.seed, DISCRIMINATOR)
    discriminator = initial_discriminator(settings.latent, settings.discriminator, rng, dtype)
    return Adversary(discriminator, initial_adam_state(discriminator))


def step_permutations(seed: int, step: int, M: int, D: int) -> NDArray[np.int64]:
    """A permutation of the batch for each latent dimension : (M, D)."""
    rng = generator(seed, PERMUTATIONS, step)
    return rng.permuted(np.tile(np.arange(M)[:, None], D), axis=0)


def adversary_step(
    settings: Settings, adversary: Adversary, z: Array, z_second: Array, step: int, update: AdamUpdate
) -> float:
    """Teach the discriminator to tell z from the permuted codes of a second batch, in place.

    Parameters
    ----------
    settings : Settings
    adversary : Adversary
    z, z_second : (M, D)
        Codes as plain numbers, so that nothing reaches the encoder.
    step : int
        Counted from 0.
    update : function
        `adam_update`, or another function of its signature.

    Returns
    -------
    loss : float, nats
        Before the step.

    Raises
    ------
    InputError
        It, or its gradient, is not finite; nothing is changed.
    """
    z_permuted = permute_dims(z_second, step_permutations(settings.seed, step, *z_second.shape))
    gradient, loss = gradient_and_aux(_loss_twice, adversary.discriminator, z, z_permuted)
    require_finite(loss, *gradient)
    adam_step(
        *(adversary.discriminator, gradient, adversary.adam, step + 1, settings.discriminator_rate, *BETAS),
        update=update,
    )
    return float(loss)


def _loss_twice(discriminator: list[Array], z: Array, z_permuted: Array) -> tuple[Scalar, Array]:
    """The loss, to be differentiated and as a plain number."""
    loss = discriminator_loss(discriminator, z, z_permuted)
    return loss, getval(loss)
