"""The right loss step by step: what every listed mistake changes a step of."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import autograd
import numpy
from autograd import numpy as np
from autograd.tracer import getval

from tcvae_ref.estimators import log_sum_exp
from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.reference import LOG_VARIANCES
from tcvae_ref.oracle.tolerance import log_variances
from tcvae_ref.oracle.types import ARRAYS, Case
from tcvae_ref.types import Array

LOG_2PI = float(numpy.log(2 * numpy.pi))


class Loss:
    """MI, TC and DWKL of a batch, one method for each step. Pairwise arrays have the axes [i, j, d].

    A mistake is a subclass that overrides a step; two mistakes that override different steps go together
    as base classes of one.
    """

    claims: tuple[str, ...] = ()
    """The estimators, or kinds of them as `estimators.UNEVEN`, that the mistake is possible in; none: any."""
    needs: tuple[str, ...] = ()
    """The quantities of which one must be returned for it to show; none: any."""

    def __init__(self, estimator: str):
        self.estimator = estimator

    def everything(self, z: Any, mu: Any, log_var: Any, constants: Mapping[str, Any]) -> dict[str, Any]:
        """All quantities of `types.QUANTITIES`."""
        M, D = z.shape
        read_z, read_mu, read_log_var = self.inputs(z, mu, log_var)
        log_w = self.log_w(M, self.size(constants["dataset_size"], M))
        log_qz, marginals = self.aggregate(read_z, read_mu, read_log_var, log_w)
        log_qzx, log_pz = self.log_qzx(read_z, read_mu, read_log_var), self.log_pz(read_z)
        product = self.product(marginals, log_w)
        mi, tc, dwkl = self.mi(log_qzx, log_qz), self.tc(log_qz, product), self.dwkl(product, log_pz)
        terms = self.terms(self.mean(mi, D), self.mean(tc, D), self.mean(dwkl, D))
        weights = constants["alpha"], constants["beta"], constants["gamma"]
        return {
            "log_qz": log_qz,
            "log_qz_marginals": marginals,
            **dict(zip(("mi", "tc", "dwkl"), terms, strict=True)),
            "penalty": self.penalty(*terms, *weights),
            "kl_penalty": self.kl_penalty(self.kl(mu, log_var), *terms, constants["beta"]),
        }

    # --- inputs and weights ---------------------------------------------------------------------------------

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        """The arguments as they are used."""
        return z, mu, log_var

    def size(self, N: int, M: int) -> float:
        """The size of the data set."""
        return N

    def log_weights(self, M: int, N: float) -> Array:
        """Log w_ij, (M, M)."""
        weight = find(self.estimator).weight
        return numpy.log([[weight(i, j, M, N) for j in range(M)] for i in range(M)])

    def log_w(self, M: int, N: float) -> Array:
        """The weights as they are added."""
        return self.log_weights(M, N)

    # --- densities ------------------------------------------------------------------------------------------

    log_two_pi = LOG_2PI

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        """(x - mu)^2 / sigma^2."""
        return (x - mu) ** 2 * np.exp(-log_var)

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        """Log N(x; mu, sigma^2)."""
        return -0.5 * (self.quadratic(x, mu, log_var) + log_var + self.log_two_pi)

    def log_qzx(self, z: Any, mu: Any, log_var: Any) -> Any:
        """Log q(z_i|x_i), (M,)."""
        return np.sum(self.log_normal(z, mu, log_var), axis=1)

    def log_prior(self, z: Any) -> Any:
        """Log p(z_id), (M, D)."""
        return -0.5 * (z**2 + LOG_2PI)

    def log_pz(self, z: Any) -> Any:
        """Log p(z_i), (M,)."""
        return np.sum(self.log_prior(z), axis=1)

    # --- the aggregate posterior ----------------------------------------------------------------------------

    def pairs(self, z: Any, mu: Any, log_var: Any) -> Any:
        """L_ijd = log N(z_id; mu_jd, sigma_jd^2)."""
        return self.log_normal(z[:, None], mu[None], log_var[None])

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        """Log q(z_i), (M,), and log q(z_id), (M, D)."""
        pairs = self.pairs(z, mu, log_var)
        return self.joint(pairs, log_w), self.marginals(pairs, log_w)

    def log_sum_exp(self, a: Any) -> Any:
        """Log sum_j exp(a_ij...), over posteriors j."""
        return log_sum_exp(a)

    def joint(self, pairs: Any, log_w: Array) -> Any:
        """Log sum_j w_ij exp(sum_d L_ijd)."""
        return self.log_sum_exp(np.sum(pairs, axis=2) + log_w)

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        """Log sum_j w_ij exp(L_ijd)."""
        return self.log_sum_exp(pairs + log_w[:, :, None])

    def product(self, marginals: Any, log_w: Array) -> Any:
        """Log prod_d q(z_id), (M,)."""
        return np.sum(marginals, axis=1)

    # --- terms at each sample, batch means, penalties ---------------------------------------------------------

    def mi(self, log_qzx: Any, log_qz: Any) -> Any:
        """Log q(z|x) - log q(z)."""
        return log_qzx - log_qz

    def tc(self, log_qz: Any, product: Any) -> Any:
        """Log q(z) - sum_d log q(z_d)."""
        return log_qz - product

    def dwkl(self, product: Any, log_pz: Any) -> Any:
        """sum_d log q(z_d) - log p(z)."""
        return product - log_pz

    def mean(self, a: Any, D: int) -> Any:
        """The batch mean."""
        return np.mean(a)

    def terms(self, mi: Any, tc: Any, dwkl: Any) -> tuple[Any, Any, Any]:
        """The three terms as they are returned."""
        return mi, tc, dwkl

    def penalty(self, mi: Any, tc: Any, dwkl: Any, alpha: float, beta: float, gamma: float) -> Any:
        """Alpha MI + beta TC + gamma DWKL."""
        return alpha * mi + beta * tc + gamma * dwkl

    def kl(self, mu: Any, log_var: Any) -> Any:
        """The batch mean of KL(q(z|n) || p(z)), in closed form."""
        return 0.5 * np.mean(np.sum(mu**2 + np.exp(log_var) - 1 - log_var, axis=1))

    def kl_penalty(self, kl: Any, mi: Any, tc: Any, dwkl: Any, beta: float) -> Any:
        """KL + (beta - 1) TC."""
        return kl + (beta - 1) * tc


def detached(a: Any) -> Any:
    """The number without its derivative."""
    return getval(a)


def values(steps: type[Loss], estimator: str, case: Case, quantities: Sequence[str]) -> dict[str, Array]:
    """What a loss with these steps returns for a case."""
    with numpy.errstate(all="ignore"):
        found = steps(estimator).everything(case.z, case.mu, log_variances(case), case.constants)
    return {name: numpy.asarray(found[name], dtype=float) for name in quantities}


def gradients(steps: type[Loss], estimator: str, case: Case, quantities: Sequence[str]) -> dict[str, dict[str, Array]]:
    """The gradients of what it returns: of arrays, as in `types.Truth`, of the batch mean (of the sum over d)."""
    result = {}
    for name in quantities:

        def scalar(z: Any, mu: Any, spread: Any, name: str = name) -> Any:
            log_var = LOG_VARIANCES[case.parameterisation](spread)
            found = steps(estimator).everything(z, mu, log_var, case.constants)[name]
            return np.sum(found) / len(case.z) if name in ARRAYS else found

        with numpy.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Output seems independent of input": some mistakes are just that
            slopes = autograd.grad(scalar, (0, 1, 2))(case.z, case.mu, case.spread)
        result[name] = dict(zip(case.arrays, slopes, strict=True))
    return result
