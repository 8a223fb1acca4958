"""A variational autoencoder as functions: its networks, fully connected or convolutional, and its prior.

All that is learned by the objective travels as one flat list of arrays: the encoder's, the decoder's, the prior's.
Batch normalisation's running statistics are a second list, the encoder's and then as many of the decoder's; it is
empty where there are none.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from tcvae_ref import conv_networks, networks, priors
from tcvae_ref.checks import InputError
from tcvae_ref.gaussian import log_standard_normal
from tcvae_ref.training.operations import NUMPY, Operations
from tcvae_ref.training.settings import Settings
from tcvae_ref.types import Array, Layers, LogPrior

Arrays: TypeAlias = list[Array]


class Parameters(NamedTuple):
    """What is learned, taken apart."""

    encoder: Arrays
    decoder: Arrays
    prior: Arrays
    """[a, c, b] of the flow (`tcvae_ref.priors.log_flow`); empty for the other priors."""


class Architecture(NamedTuple):
    """Encoder and decoder as functions of their parameters.

    With learning = True the statistics may move with the batch, and the moved ones are returned as plain numbers.
    """

    encode: Callable[[Arrays, Arrays, Array, bool], tuple[Array, Array, Arrays]]
    """encode(parameters, statistics, x, learning): mu, log_var : (M, D), statistics."""
    decode: Callable[[Arrays, Arrays, Array, bool], tuple[Array, Arrays]]
    """decode(parameters, statistics, z, learning): Bernoulli logits (M, P), statistics."""


class Model(NamedTuple):
    """A trained model, everything it has learned within its functions."""

    encode: Callable[[Array], tuple[Array, Array]]
    """encode(x): mu, log_var : (M, D) of images (M, P)."""
    decode: Callable[[Array], Array]
    """decode(z): Bernoulli logits (M, P)."""
    log_prior: LogPrior
    """log_prior(z): log p(z) : (M,), nats, z in float64; `log_standard_normal` itself where that is the prior."""


def initial_parameters(settings: Settings, pixels: int, rng: np.random.Generator, dtype: str) -> tuple[Arrays, Arrays]:
    """Draw the networks' first parameters; with them their first statistics. The prior's are `initial_prior`.

    Raises
    ------
    InputError
        The convolutional networks are asked for and the images are not of 64 x 64 pixels, grey or in colour.
    """
    D = settings.latent
    if settings.network == "mlp":
        sizes = networks.layer_sizes(pixels, settings.encoder, settings.decoder, D)
        layers = [layer for part in sizes for layer in networks.initial_layers(part, rng, dtype)]
        return list(itertools.chain.from_iterable(layers)), []
    channels, rest = divmod(pixels, conv_networks.SIDE**2)
    if rest or channels not in (1, 3):
        raise InputError(
            f"settings: images of {pixels} values; the network conv is for {conv_networks.SIDE} x "
            f"{conv_networks.SIDE} pixels with 1 or 3 values each: resize them, or take the network mlp"
        )
    encoder = conv_networks.initial_encoder(channels, D, rng, dtype)
    decoder = conv_networks.initial_decoder(D, channels, rng, dtype)
    return encoder + decoder, conv_networks.encoder_statistics(dtype) + conv_networks.decoder_statistics(dtype)


def initial_prior(settings: Settings, rng: np.random.Generator, dtype: str) -> Arrays:
    """Draw the prior's first parameters; a fixed one has none."""
    return priors.initial_flow(settings.latent, rng, dtype) if settings.prior == "flow" else []


def taken_apart(settings: Settings, parameters: Arrays) -> Parameters:
    """Split the flat list."""
    rest = len(parameters) - (len(priors.FLOW) if settings.prior == "flow" else 0)
    split = 2 * (len(settings.encoder) + 1) if settings.network == "mlp" else rest // 2  # conv's halves are mirrored
    return Parameters(parameters[:split], parameters[split:rest], parameters[rest:])


def statistics_apart(statistics: Arrays) -> tuple[Arrays, Arrays]:
    """The encoder's running statistics and the decoder's, which are as many."""
    half = len(statistics) // 2
    return statistics[:half], statistics[half:]


def architecture(settings: Settings, operations: Operations = NUMPY) -> Architecture:
    """Choose the networks' functions."""
    if settings.network == "conv":
        return Architecture(conv_networks.encode, conv_networks.decode)

    def encode(parameters: Arrays, statistics: Arrays, x: Array, learning: bool) -> tuple[Array, Array, Arrays]:
        mu, log_var = networks.encode(layers(parameters), x, operations.relu_layer)
        return mu, log_var, statistics

    def decode(parameters: Arrays, statistics: Arrays, z: Array, learning: bool) -> tuple[Array, Arrays]:
        return networks.decode(layers(parameters), z, operations.tanh_layer, operations.linear_layer), statistics

    return Architecture(encode, decode)


def layers(parameters: Arrays) -> Layers:
    """Pair the arrays of a fully connected network."""
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def log_prior(settings: Settings, parameters: Arrays) -> LogPrior:
    """Choose log p(z), given the prior's own parameters."""
    if settings.prior == "normal":
        return log_standard_normal
    if settings.prior == "laplace":
        return priors.log_laplace
    return partial(priors.log_flow, flow=parameters)


def trained_model(settings: Settings, parameters: Arrays, statistics: Arrays) -> Model:
    """Put a trained model's functions together.

    Parameters
    ----------
    settings : Settings
    parameters, statistics : lists of arrays
        Of a `TrainingState`. Batches are normalised by the running statistics.

    Returns
    -------
    Model
    """
    encoder, decoder, prior = taken_apart(settings, parameters)
    encode, decode = architecture(settings)
    of_encoder, of_decoder = statistics_apart(statistics)
    return Model(
        encode=lambda x: encode(encoder, of_encoder, x, False)[:2],
        decode=lambda z: decode(decoder, of_decoder, z, False)[0],
        log_prior=log_prior(settings, [array.astype(np.float64) for array in prior]),
    )
