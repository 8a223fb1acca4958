"""FactorVAE's discriminator: total correlation as a density ratio (Kim & Mnih 2018, arXiv:1802.05983).

A classifier that tells codes z ~ q(z) from codes whose dimensions were permuted over the batch, z ~ prod_d q(z_d),
has, when it is perfect, the logit difference log q(z) - sum_d log q(z_d): its mean over q(z) is TC.
"""

import itertools
from collections.abc import Sequence

import autograd.numpy as np
import numpy
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.likelihood import log_bernoulli
from tcvae_ref.networks import initial_layers, linear_layer
from tcvae_ref.types import Array, Scalar

SLOPE = 0.2
"""Of the leaky ReLU below 0."""


def initial_discriminator(
    D: int, hidden: Sequence[int], rng: numpy.random.Generator, dtype: str = "float32"
) -> list[Array]:
    """Draw W, b of each layer: D codes -> hidden layers -> 2 logits (`tcvae_ref.networks.initial_layers`)."""
    return list(itertools.chain.from_iterable(initial_layers([D, *hidden, 2], rng, dtype)))


def leaky_relu(a: Array) -> Array:
    """max(a, 0.2 a); a product, whose gradient keeps float32."""
    return a * numpy.where(a > 0, 1.0, SLOPE).astype(a.dtype)


def discriminate(discriminator: Sequence[Array], z: Array) -> Array:
    """Logits of "from q(z)" and of "permuted": hidden layers with leaky ReLU, the last layer linear.

    Parameters
    ----------
    discriminator : sequence of arrays
        W, b of each layer.
    z : (M, D)

    Returns
    -------
    logits : (M, 2)
    """
    *hidden, (W, b) = zip(discriminator[::2], discriminator[1::2], strict=True)
    h = z
    for W_h, b_h in hidden:
        h = leaky_relu(linear_layer(h, W_h, b_h))
    return linear_layer(h, W, b)


def permute_dims(z: Array, permutations: NDArray[np.integer]) -> Array:
    """Codes whose dimensions are independent: column d of z in the order of column d of `permutations`.

    Source: Kim & Mnih 2018, algorithm 1.

    Parameters
    ----------
    z : (M, D)
    permutations : (M, D) of int
        In each column the numbers 0 ... M - 1.

    Returns
    -------
    z_permuted : (M, D)
        z[permutations[i, d], d].

    Raises
    ------
    InputError, TypeError
        z is not a finite (M, D) array, or a column is no permutation of its rows.
    """
    checks.matrices("permute_dims", z=z)
    rows = numpy.arange(len(z))[:, None]
    if (
        numpy.shape(permutations) != z.shape
        or not numpy.issubdtype(permutations.dtype, numpy.integer)
        or not (numpy.sort(permutations, axis=0) == rows).all()
    ):
        raise InputError(
            f"permute_dims: permutations {numpy.shape(permutations)} for z {z.shape}; each column must hold 0 to "
            f"{len(z) - 1} once, as whole numbers: numpy.random.Generator.permuted of numpy.tile"
        )
    return z[permutations, numpy.arange(z.shape[1])]


def discriminator_total_correlation(logits: Array) -> Scalar:
    """Density-ratio estimate of TC = KL(q(z) || prod_d q(z_d)), mean_i [ l_i,real - l_i,permuted ].

    Source: Kim & Mnih 2018, eq. 3. As good as the discriminator: one that tells nothing apart gives 0, and an
    overconfident one gives any number.

    Parameters
    ----------
    logits : (M, 2)
        `discriminate` of codes from q(z).

    Returns
    -------
    total_correlation : scalar, nats

    Raises
    ------
    InputError, TypeError
        logits is not a finite (M, 2) array.
    """
    checks.matrices("discriminator_total_correlation", logits=logits)
    if logits.shape[1] != 2:
        raise InputError(
            f"discriminator_total_correlation: logits are {logits.shape}; the discriminator's two for each sample, "
            "(M, 2), are needed: discriminate(discriminator, z)"
        )
    return np.sum(logits[:, 0] - logits[:, 1]) / len(logits)  # over the batch


def discriminator_loss(discriminator: Sequence[Array], z: Array, z_permuted: Array) -> Scalar:
    """Cross entropy of the discriminator, half for each kind of code; log 2 when it tells nothing apart.

    - 1/2 mean_i log softmax(l(z_i))_real - 1/2 mean_i log softmax(l(z_permuted,i))_permuted

    Source: Kim & Mnih 2018, algorithm 2.

    Parameters
    ----------
    discriminator : sequence of arrays
    z, z_permuted : (M, D)
        Plain numbers: no gradient is to reach the encoder.

    Returns
    -------
    loss : scalar, nats, to be minimised
    """
    real, permuted = (np.matmul(discriminate(discriminator, codes), _difference(codes)) for codes in (z, z_permuted))
    of_real = np.sum(log_bernoulli(numpy.ones_like(z[:, 0]), real)) / len(z)  # over the batch
    of_permuted = np.sum(log_bernoulli(numpy.zeros_like(z_permuted[:, 0]), permuted)) / len(z_permuted)
    return -0.5 * (of_real + of_permuted)


def _difference(codes: Array) -> Array:
    """(2,): what makes l_real - l_permuted of the logits; its sigmoid is softmax(l)_real."""
    return numpy.array([1.0, -1.0], codes.dtype)
