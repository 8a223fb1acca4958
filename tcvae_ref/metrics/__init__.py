"""Measures of what was learned: the exact TC-decomposition and the mutual information gap."""

from tcvae_ref.metrics.decomposition import (
    Estimate,
    ExactDecomposition,
    decomposition_exact,
    dimension_wise_kl_exact,
    estimate,
)
from tcvae_ref.metrics.entropy import Entropy, mixture_entropies
from tcvae_ref.metrics.mig import MIG, mig_quadrature

__all__ = [
    "MIG",
    "Entropy",
    "Estimate",
    "ExactDecomposition",
    "decomposition_exact",
    "dimension_wise_kl_exact",
    "estimate",
    "mig_quadrature",
    "mixture_entropies",
]
