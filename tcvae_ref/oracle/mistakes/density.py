# ruff: noqa: D102  (an override is described by its class and by its step in `steps.Loss`)
"""Mistakes in one Gaussian log-density, and in its arithmetic."""

from typing import Any

from autograd import numpy as np

from tcvae_ref.oracle.mistakes.steps import LOG_2PI, Loss


class LogVarAsLogStd(Loss):
    """log sigma^2 taken for log sigma."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return z, mu, 2 * log_var


class LogStdAsLogVar(Loss):
    """log sigma taken for log sigma^2."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return z, mu, 0.5 * log_var


class MeanAsSample(Loss):
    """mu for z."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return mu, mu, log_var


class VarianceEpsilon(Loss):
    """sigma^2 + epsilon."""

    epsilon = 1e-6

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        return super().log_normal(x, mu, np.log(np.exp(log_var) + self.epsilon))


class StdEpsilon(VarianceEpsilon):
    """sigma + epsilon."""

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        return Loss.log_normal(self, x, mu, 2 * np.log(np.exp(0.5 * log_var) + self.epsilon))


class EpsilonUnderQuadratic(VarianceEpsilon):
    """(x - mu)^2 / (sigma^2 + epsilon), log sigma^2 as it is."""

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        return -0.5 * ((x - mu) ** 2 / (np.exp(log_var) + self.epsilon) + log_var + self.log_two_pi)


class LogVarClamp(Loss):
    """log sigma^2 clamped."""

    low, high = -5.0, 5.0

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return z, mu, np.clip(log_var, self.low, self.high)


class DensityClamp(Loss):
    """Each log-density clamped."""

    low, high = -50.0, 50.0

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        return np.clip(super().log_normal(x, mu, log_var), self.low, self.high)


class DividedByVarianceTwice(Loss):
    """((x - mu) / sigma^2)^2."""

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        return ((x - mu) * np.exp(-log_var)) ** 2


class DividedByStdOnce(Loss):
    """(x - mu)^2 / sigma."""

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        return (x - mu) ** 2 * np.exp(-0.5 * log_var)


class TimesVariance(Loss):
    """(x - mu)^2 sigma^2: a sign lost in the exponent."""

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        return (x - mu) ** 2 * np.exp(log_var)


class QuadraticNotHalved(Loss):
    """(x - mu)^2 / sigma^2 without the half."""

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        return 2 * super().quadratic(x, mu, log_var)


class QuadraticHalvedTwice(Loss):
    """A quarter of (x - mu)^2 / sigma^2."""

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        return 0.5 * super().quadratic(x, mu, log_var)


class NotSquared(Loss):
    """|x - mu| / sigma for its square."""

    def quadratic(self, x: Any, mu: Any, log_var: Any) -> Any:
        return np.abs(x - mu) * np.exp(-0.5 * log_var)


class WithoutLogVariance(Loss):
    """The density without log sigma^2."""

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        return -0.5 * (self.quadratic(x, mu, log_var) + LOG_2PI)


class LogVarianceNotHalved(Loss):
    """log sigma^2 without the half."""

    def log_normal(self, x: Any, mu: Any, log_var: Any) -> Any:
        return super().log_normal(x, mu, log_var) - 0.5 * log_var


class ExpSumLog(Loss):
    """log sum exp without taking the largest term out."""

    def log_sum_exp(self, a: Any) -> Any:
        return np.log(np.sum(np.exp(a), axis=1))


class LogEpsilon(Loss):
    """log(sum + epsilon)."""

    epsilon = 1e-8

    def log_sum_exp(self, a: Any) -> Any:
        return np.log(np.sum(np.exp(a), axis=1) + self.epsilon)
