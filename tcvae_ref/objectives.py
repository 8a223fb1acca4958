"""What is maximised: the ELBO and its reweightings (paper, eqs. 1, 2 and 4; Kim & Mnih 2018, eq. 2).

An objective is a function of the ELBO's terms and its own weights. Training minimises its negative, the loss.
"""

from typing import NamedTuple

import autograd.numpy as np

from tcvae_ref import checks
from tcvae_ref.decomposition import split_kl
from tcvae_ref.gaussian import kl_to_standard_normal, log_standard_normal
from tcvae_ref.types import Array, ExpectedLogQzEstimator, LogPrior, Scalar


class ElboTerms(NamedTuple):
    """The terms of the ELBO, each a batch mean in nats."""

    reconstruction: Scalar
    """E_q[log p(x|z)], one sample of z per input."""
    kl: Scalar
    """KL(q(z|n) || p(z)): in closed form for the standard normal prior, else estimated from the sample."""
    mutual_information: Scalar
    total_correlation: Scalar
    dimension_wise_kl: Scalar
    """With the two above: the Monte-Carlo KL, split as in eq. 2."""


def elbo_terms(
    log_px: Array,
    z: Array,
    mu: Array,
    log_var: Array,
    dataset_size: int,
    expected_log_qz: ExpectedLogQzEstimator,
    log_prior: LogPrior = log_standard_normal,
) -> ElboTerms:
    """Compute every term an objective may weight.

    Parameters
    ----------
    log_px : (M,)
        log p(x_i|z_i), nats (`tcvae_ref.likelihood`).
    z, mu, log_var : (M, D)
        z_i drawn from posterior i.
    dataset_size : int
        N.
    expected_log_qz : function
        The estimator of log q(z): one of `tcvae_ref.estimators.expected_log_qz_*`, or another function of their
        signature.
    log_prior : function
        log p(z): the standard normal, or one of `tcvae_ref.priors`, with which `kl` is mean_i [ log q(z_i|n_i) -
        log p(z_i) ].

    Returns
    -------
    ElboTerms
        Scalars in nats.

    Raises
    ------
    InputError, TypeError
        As the estimator does, or log_px is not one finite number for each sample.
    """
    terms, kl = split_kl("elbo_terms", z, mu, log_var, dataset_size, expected_log_qz, log_prior)
    M = len(z)
    checks.one_per_row("elbo_terms", M, log_px=log_px)
    if log_prior is log_standard_normal:
        kl = np.sum(kl_to_standard_normal(mu, log_var)) / M  # over the batch
    return ElboTerms(np.sum(log_px) / M, kl, *terms)  # the reconstruction, over the batch


def vae(terms: ElboTerms) -> Scalar:
    """Evidence lower bound, E_q[log p(x|z)] - KL(q(z|n) || p(z)) (paper, eq. 1 with beta = 1).

    Parameters
    ----------
    terms : ElboTerms

    Returns
    -------
    objective : scalar, nats, to be maximised
    """
    return terms.reconstruction - terms.kl


def beta_vae(terms: ElboTerms, beta: float) -> Scalar:
    """beta-VAE objective, E_q[log p(x|z)] - beta KL(q(z|n) || p(z)) (paper, eq. 1; Higgins et al. 2017).

    Parameters
    ----------
    terms : ElboTerms
    beta : float

    Returns
    -------
    objective : scalar, nats, to be maximised
    """
    return terms.reconstruction - beta * terms.kl


def beta_tcvae(terms: ElboTerms, beta: float, alpha: float = 1.0, gamma: float = 1.0) -> Scalar:
    """beta-TCVAE objective, E_q[log p(x|z)] - alpha MI - beta TC - gamma DWKL (paper, eq. 4).

    With alpha = gamma = 1 it is the ELBO - (beta - 1) TC; with alpha = beta = gamma it is beta-VAE. Both in expectation
    over z: the three terms add up to the Monte-Carlo KL, where `vae` and `beta_vae` take the closed form.

    Parameters
    ----------
    terms : ElboTerms
    beta, alpha, gamma : float

    Returns
    -------
    objective : scalar, nats, to be maximised
    """
    return (
        terms.reconstruction
        - alpha * terms.mutual_information
        - beta * terms.total_correlation
        - gamma * terms.dimension_wise_kl
    )


def factor_vae(terms: ElboTerms, total_correlation: Scalar, tc_weight: float) -> Scalar:
    """FactorVAE objective, ELBO - tc_weight TC (Kim & Mnih 2018, eq. 2, where the weight is called gamma).

    The ELBO has its own TC with weight 1 already: tc_weight here is beta - 1 of beta-TCVAE, and 0 is the VAE.

    Parameters
    ----------
    terms : ElboTerms
    total_correlation : scalar
        TC by the discriminator, nats (`tcvae_ref.discriminator.discriminator_total_correlation`); not that of `terms`,
        which is estimated from the batch.
    tc_weight : float

    Returns
    -------
    objective : scalar, nats, to be maximised
    """
    return vae(terms) - tc_weight * total_correlation
