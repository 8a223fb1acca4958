"""The reference as a target: judged like any other, and what a target's rounding is compared with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autograd import numpy as np

from tcvae_ref import estimators
from tcvae_ref.gaussian import kl_to_standard_normal, log_density, log_standard_normal
from tcvae_ref.oracle.estimators import OWN, find
from tcvae_ref.oracle.types import TensorFunction
from tcvae_ref.types import LogQz

LOG_VARIANCES: dict[str, Callable[[Any], Any]] = {
    "log_var": lambda log_var: log_var,
    "log_std": lambda log_std: 2 * log_std,
    "std": lambda std: 2 * np.log(std),
    "var": lambda var: np.log(var),
}
"""`tolerance.log_variances` for arguments that are differentiated."""


def _log_qz(estimator: str) -> Callable[[Any, Any, Any, int], LogQz]:
    """`tcvae_ref`'s own function, or the mixture with the weights that another package gives."""
    if estimator in OWN:
        own: Callable[[Any, Any, Any, int], LogQz] = getattr(estimators, f"log_qz_{estimator.replace('-', '_')}")
        return own
    found = find(estimator)

    def log_qz(z: Any, mu: Any, log_var: Any, dataset_size: int) -> LogQz:
        log_w = np.log(np.array(found.weights(len(z), dataset_size), dtype=float))
        return estimators.log_qz_rows(z, mu, log_var, log_w)

    return log_qz


def reference(estimator: str, parameterisation: str, quantities: Sequence[str]) -> TensorFunction:
    """`tcvae_ref`'s own value of some quantities, as a function of autograd's or NumPy's arrays."""
    log_qz = _log_qz(estimator)
    to_log_var = LOG_VARIANCES[parameterisation]

    def function(tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        z, mu, log_var = tensors["z"], tensors["mu"], to_log_var(tensors[parameterisation])
        M = len(z)
        joint, marginals = log_qz(z, mu, log_var, constants["dataset_size"])
        given_x, prior = np.sum(log_density(z, mu, log_var)) / M, np.sum(log_standard_normal(z)) / M
        mi = given_x - np.sum(joint) / M
        tc = (np.sum(joint) - np.sum(marginals)) / M
        dwkl = np.sum(marginals) / M - prior
        everything = {
            "log_qz": joint,
            "log_qz_marginals": marginals,
            "mi": mi,
            "tc": tc,
            "dwkl": dwkl,
            "penalty": constants["alpha"] * mi + constants["beta"] * tc + constants["gamma"] * dwkl,
            "kl_penalty": np.sum(kl_to_standard_normal(mu, log_var)) / M + (constants["beta"] - 1) * tc,
        }
        return {name: everything[name] for name in quantities}

    return function
