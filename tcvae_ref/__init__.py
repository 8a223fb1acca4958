"""beta-TCVAE (Chen, Li, Grosse, Duvenaud 2018, arXiv:1802.04942), written to be read and to be trusted.

The reference: `gaussian`, `likelihood`, `estimators`, `decomposition`, `objectives`, `priors`, `discriminator`,
`networks`, `convolution`, `conv_networks`. Round it: `data`, `training`, `metrics`, `studies`, `figures`, the `oracle`
that judges other implementations, the `selftest` that judges this one, and the command line `tcvae-ref`. `README.md` in
this folder leads from the paper's equations to the functions.
"""

from tcvae_ref.checks import InputError
from tcvae_ref.decomposition import KLTerms, kl_terms
from tcvae_ref.estimators import (
    expected_log_qz_exact,
    expected_log_qz_minibatch,
    expected_log_qz_mss,
    expected_log_qz_mws,
    expected_log_qz_symmetric_mss,
    log_qz_exact,
    log_qz_minibatch,
    log_qz_mss,
    log_qz_mws,
    log_qz_symmetric_mss,
    log_weights_mss,
    log_weights_mws,
    log_weights_symmetric_mss,
)
from tcvae_ref.gaussian import (
    kl_to_standard_normal,
    log_density,
    log_density_matrix,
    log_standard_normal,
    reparameterise,
)
from tcvae_ref.likelihood import bernoulli_log_likelihood, gaussian_log_likelihood
from tcvae_ref.objectives import ElboTerms, beta_tcvae, beta_vae, elbo_terms, factor_vae, vae
from tcvae_ref.priors import log_flow, log_laplace
from tcvae_ref.types import ExpectedLogQz, LogQz

__version__ = "0.6.0"

__all__ = [
    "ElboTerms",
    "ExpectedLogQz",
    "InputError",
    "KLTerms",
    "LogQz",
    "bernoulli_log_likelihood",
    "beta_tcvae",
    "beta_vae",
    "elbo_terms",
    "expected_log_qz_exact",
    "expected_log_qz_minibatch",
    "expected_log_qz_mss",
    "expected_log_qz_mws",
    "expected_log_qz_symmetric_mss",
    "factor_vae",
    "gaussian_log_likelihood",
    "kl_terms",
    "kl_to_standard_normal",
    "log_density",
    "log_density_matrix",
    "log_flow",
    "log_laplace",
    "log_qz_exact",
    "log_qz_minibatch",
    "log_qz_mss",
    "log_qz_mws",
    "log_qz_symmetric_mss",
    "log_standard_normal",
    "log_weights_mss",
    "log_weights_mws",
    "log_weights_symmetric_mss",
    "reparameterise",
    "vae",
]
