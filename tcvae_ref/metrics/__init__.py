"""Measures of what was learned: the exact TC-decomposition, the information gap in its recipes, and other scores."""

from tcvae_ref.metrics.binned import mig_binned
from tcvae_ref.metrics.dci import DCI, dci
from tcvae_ref.metrics.decomposition import (
    Estimate,
    ExactDecomposition,
    decomposition_exact,
    dimension_wise_kl_exact,
    estimate,
)
from tcvae_ref.metrics.entropy import Entropy, mixture_entropies
from tcvae_ref.metrics.factor_vae import FactorVAEScore, factor_vae_metric
from tcvae_ref.metrics.higgins import HigginsScore, higgins_metric
from tcvae_ref.metrics.information import JEMMIG, CodeScore, FactorScore, dcimig, jemmig, mig_sup, modularity, rmig
from tcvae_ref.metrics.mig import MIG, MIGErrors, mig_quadrature
from tcvae_ref.metrics.monte_carlo import mig_monte_carlo
from tcvae_ref.metrics.sap import SAP, sap, sap_r_squared

__all__ = [
    "DCI",
    "JEMMIG",
    "MIG",
    "SAP",
    "CodeScore",
    "Entropy",
    "Estimate",
    "ExactDecomposition",
    "FactorScore",
    "FactorVAEScore",
    "HigginsScore",
    "MIGErrors",
    "dci",
    "dcimig",
    "decomposition_exact",
    "dimension_wise_kl_exact",
    "estimate",
    "factor_vae_metric",
    "higgins_metric",
    "jemmig",
    "mig_binned",
    "mig_monte_carlo",
    "mig_quadrature",
    "mig_sup",
    "mixture_entropies",
    "modularity",
    "rmig",
    "sap",
    "sap_r_squared",
]
