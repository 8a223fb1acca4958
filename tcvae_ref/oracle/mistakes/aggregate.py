# ruff: noqa: D102  (an override is described by its class and by its step in `steps.Loss`)
"""Mistakes in the axes and in the aggregate posterior."""

from typing import Any

import numpy
from autograd import numpy as np

from tcvae_ref.oracle.mistakes.steps import Loss
from tcvae_ref.types import Array


class TransposedPairs(Loss):
    """Sample j against posterior i: the sum runs over samples."""

    def pairs(self, z: Any, mu: Any, log_var: Any) -> Any:
        return self.log_normal(z[None], mu[:, None], log_var[:, None])


class TransposedJoint(Loss):
    """The sum over samples in the joint alone."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return super().joint(np.swapaxes(pairs, 0, 1), log_w)


class TransposedMarginals(Loss):
    """The sum over samples in the marginals alone."""

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return super().marginals(np.swapaxes(pairs, 0, 1), log_w)


class OwnPairsOnly(Loss):
    """Each sample meets its own posterior only; constants as ever."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        own = self.log_normal(z, mu, log_var)
        return np.sum(own, axis=1) + log_w[:, 0], own + log_w[:, :1]


class ConditionalAsAggregate(Loss):
    """log q(z|x) for the joint and the marginals: MI = TC = 0."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        own = self.log_normal(z, mu, log_var)
        return np.sum(own, axis=1), own


class ConditionalAsJoint(Loss):
    """log q(z|x) for log q(z): MI = 0."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        return self.log_qzx(z, mu, log_var), super().aggregate(z, mu, log_var, log_w)[1]


class ConditionalAsMarginals(Loss):
    """log q(z_d|x) for log q(z_d): TC = -MI."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        return super().aggregate(z, mu, log_var, log_w)[0], self.log_normal(z, mu, log_var)


class SumOfLogs(Loss):
    """Log-densities added up over posteriors, then the constant."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return np.sum(pairs, axis=(1, 2)) + log_w[:, 0]

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return np.sum(pairs, axis=1) + log_w[:, :1]


class SumOfWeightedLogs(Loss):
    """Weighted log-densities added up over posteriors."""

    def log_sum_exp(self, a: Any) -> Any:
        return np.sum(a, axis=1)


class MeanOfLogs(Loss):
    """The mean of logarithms for the logarithm of the mean, then the weights."""

    def log_sum_exp(self, a: Any) -> Any:
        return np.mean(a, axis=1)


class PlainMeanOfLogs(Loss):
    """The mean of unweighted logarithms."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return np.mean(np.sum(pairs, axis=2), axis=1)

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return np.mean(pairs, axis=1)


class SumBeforeJoint(Loss):
    """The joint as a product over d of sums over posteriors, constant once."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return np.sum(self.log_sum_exp(pairs), axis=1) + log_w[:, 0]


class ProductAsJoint(Loss):
    """The product of marginals as the joint: TC = 0."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return np.sum(self.marginals(pairs, log_w), axis=1)


class PriorAsMarginals(Loss):
    """log p(z_d) for log q(z_d)."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        return super().aggregate(z, mu, log_var, log_w)[0], self.log_prior(z)


class DWKLWithoutPrior(Loss):
    """sum_d log q(z_d) alone."""

    needs = ("dwkl", "penalty")

    def dwkl(self, product: Any, log_pz: Any) -> Any:
        return product


def _without_own(log_w: Array) -> Array:
    """No weight for a sample's own posterior."""
    return numpy.where(numpy.eye(len(log_w), dtype=bool), -numpy.inf, log_w)


class LeaveOneOutJoint(Loss):
    """The joint without the sample's own posterior."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return super().joint(pairs, _without_own(log_w))


class LeaveOneOut(Loss):
    """Joint and marginals without the sample's own posterior."""

    def log_w(self, M: int, N: float) -> Array:
        return _without_own(super().log_w(M, N))


class LeaveOneOutMean(Loss):
    """Joint and marginals as means over the M - 1 other posteriors."""

    def log_weights(self, M: int, N: float) -> Array:
        return _without_own(numpy.full((M, M), -numpy.log(max(M - 1, 1))))


class LeaveOneOutJointMean(Loss):
    """The joint as the mean over the M - 1 other posteriors."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        M = len(log_w)
        others = _without_own(numpy.zeros((M, M)))
        return self.log_sum_exp(np.sum(pairs, axis=2) + others) - numpy.log(max(M - 1, 1))


class LastPosteriorDropped(Loss):
    """A loop over posteriors that ends one early."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        return super().aggregate(z, mu[:-1], log_var[:-1], log_w[:, :-1])


class SharedVariance(Loss):
    """The batch mean of log sigma^2 for every posterior of the aggregate."""

    def pairs(self, z: Any, mu: Any, log_var: Any) -> Any:
        return super().pairs(z, mu, np.mean(log_var, axis=0) + 0 * log_var)


class KernelDensity(Loss):
    """Kernels around the samples for the posteriors; bandwidth M^(-1/(D + 4)) (Scott)."""

    def log_bandwidth(self, M: int, D: int) -> float:
        return float(-numpy.log(M) / (D + 4))

    def pairs(self, z: Any, mu: Any, log_var: Any) -> Any:
        width = 2 * self.log_bandwidth(*z.shape)
        return super().pairs(z, z, width + 0 * log_var)


class SilvermanKernelDensity(KernelDensity):
    """The same with Silverman's bandwidth."""

    def log_bandwidth(self, M: int, D: int) -> float:
        return float(numpy.log(4 / ((D + 2) * M)) / (D + 4))


class UnitKernelDensity(KernelDensity):
    """The same with bandwidth 1."""

    def log_bandwidth(self, M: int, D: int) -> float:
        return 0.0


class LargestTermOnly(Loss):
    """The largest term for the sum."""

    def log_sum_exp(self, a: Any) -> Any:
        return np.max(a, axis=1)
