"""The TC-decomposition of the ELBO's KL term (paper, eq. 2).

E_p(n) KL(q(z|n) || p(z))  =  KL(q(z,n) || q(z) p(n))          index-code mutual information
                           +  KL(q(z) || prod_d q(z_d))        total correlation
                           +  sum_d KL(q(z_d) || p(z_d))       dimension-wise KL
"""

from typing import NamedTuple

import autograd.numpy as np

from tcvae_ref import checks
from tcvae_ref.gaussian import log_normal, log_standard_normal
from tcvae_ref.types import Array, ExpectedLogQzEstimator, LogPrior, Scalar


class KLTerms(NamedTuple):
    """The three terms of eq. 2, each a scalar in nats; their sum is the Monte-Carlo KL."""

    mutual_information: Scalar
    total_correlation: Scalar
    dimension_wise_kl: Scalar


def kl_terms(
    z: Array,
    mu: Array,
    log_var: Array,
    dataset_size: int,
    expected_log_qz: ExpectedLogQzEstimator,
    log_prior: LogPrior = log_standard_normal,
) -> KLTerms:
    """Split the KL term with an estimate of log q(z) and log q(z_d) (paper, eq. 2).

    MI   = mean_i [ log q(z_i|n_i) - log q(z_i) ]
    TC   = mean_i [ log q(z_i) - sum_d log q(z_id) ]
    DWKL = mean_i [ sum_d log q(z_id) - log p(z_i) ]

    The sum telescopes to mean_i [ log q(z_i|n_i) - log p(z_i) ] for *any* estimate, right or wrong: that the
    three add up proves nothing about the estimator.

    Parameters
    ----------
    z, mu, log_var : (M, D)
        z_i drawn from posterior i.
    dataset_size : int
        N.
    expected_log_qz : function
        One of `tcvae_ref.estimators.expected_log_qz_*`, or another function of their signature.
    log_prior : function
        log p(z), a product over dimensions: the standard normal, or one of `tcvae_ref.priors`.

    Returns
    -------
    KLTerms
        Nats. With the exact q(z), in expectation over z, 0 <= MI <= log N and 0 <= TC <= (D - 1) log N; estimates may
        leave these ranges.

    Raises
    ------
    InputError, TypeError
        As the estimator does, or when z, mu and log_var are not of one shape, exp(log_var / 2) or its inverse
        overflows, or the estimator gives no batch means.
    """
    return split_kl("kl_terms", z, mu, log_var, dataset_size, expected_log_qz, log_prior)[0]


def split_kl(
    where: str,
    z: Array,
    mu: Array,
    log_var: Array,
    dataset_size: int,
    expected_log_qz: ExpectedLogQzEstimator,
    log_prior: LogPrior,
) -> tuple[KLTerms, Scalar]:
    """Compute `kl_terms` in the name of `where`, and the Monte-Carlo KL, mean_i [ log q(z_i|n_i) - log p(z_i) ]."""
    checks.matrices(where, z=z, mu=mu, log_var=log_var)
    checks.log_variances(where, log_var=log_var)
    M = len(z)
    log_qz_given_n = np.sum(log_normal(z, mu, log_var)) / M  # over samples i and dimensions d
    log_pz = np.sum(log_prior(z)) / M  # over samples i
    log_qz, log_qz_marginals = expected_log_qz(z, mu, log_var, dataset_size)
    checks.batch_means(where, expected_log_qz, log_qz, log_qz_marginals)
    terms = KLTerms(
        mutual_information=log_qz_given_n - log_qz,
        total_correlation=log_qz - log_qz_marginals,
        dimension_wise_kl=log_qz_marginals - log_pz,
    )
    return terms, log_qz_given_n - log_pz
