# ruff: noqa: D102  (an override is described by its class and by its step in `steps.Loss`)
"""Mistakes after the densities: reductions, signs, clamps, the penalty, and gradients that are cut."""

import math
from typing import Any

from autograd import numpy as np

from tcvae_ref.oracle.mistakes.steps import Loss, detached
from tcvae_ref.types import Array

# --- reductions, signs, clamps -----------------------------------------------------------------------------------

SCALARS = ("mi", "tc", "dwkl", "penalty", "kl_penalty")


class SumNotMean(Loss):
    """The sum over the batch."""

    needs = SCALARS

    def mean(self, a: Any, D: int) -> Any:
        return np.sum(a)


class DividedByD(Loss):
    """The mean over samples and dimensions."""

    needs = SCALARS

    def mean(self, a: Any, D: int) -> Any:
        return super().mean(a, D) / D


class ConstantFactor(Loss):
    """A number in front of every term."""

    needs = SCALARS
    factor = 1 / math.log(2)

    def mean(self, a: Any, D: int) -> Any:
        return super().mean(a, D) * self.factor


class SignFlipped(Loss):
    """sum_d log q(z_d) - log q(z) for TC."""

    needs = ("tc", "penalty", "kl_penalty")

    def tc(self, log_qz: Any, product: Any) -> Any:
        return -super().tc(log_qz, product)


class MISignFlipped(Loss):
    """log q(z) - log q(z|x) for MI."""

    needs = ("mi", "penalty")

    def mi(self, log_qzx: Any, log_qz: Any) -> Any:
        return -super().mi(log_qzx, log_qz)


class DWKLSignFlipped(Loss):
    """log p(z) - sum_d log q(z_d) for DWKL."""

    needs = ("dwkl", "penalty")

    def dwkl(self, product: Any, log_pz: Any) -> Any:
        return -super().dwkl(product, log_pz)


class TCClamp(Loss):
    """max(TC, 0)."""

    needs = ("tc", "penalty", "kl_penalty")

    def terms(self, mi: Any, tc: Any, dwkl: Any) -> tuple[Any, Any, Any]:
        return mi, np.maximum(tc, 0.0), dwkl


class TermClamp(Loss):
    """max(., 0) of each term."""

    needs = SCALARS

    def terms(self, mi: Any, tc: Any, dwkl: Any) -> tuple[Any, Any, Any]:
        return np.maximum(mi, 0.0), np.maximum(tc, 0.0), np.maximum(dwkl, 0.0)


class SampleClamp(Loss):
    """max(., 0) of each sample's TC."""

    needs = ("tc", "penalty", "kl_penalty")

    def tc(self, log_qz: Any, product: Any) -> Any:
        return np.maximum(super().tc(log_qz, product), 0.0)


class TCAbsolute(Loss):
    """|TC|."""

    needs = ("tc", "penalty", "kl_penalty")

    def terms(self, mi: Any, tc: Any, dwkl: Any) -> tuple[Any, Any, Any]:
        return mi, np.abs(tc), dwkl


# --- the penalty -------------------------------------------------------------------------------------------------


class BetaForBetaMinusOne(Loss):
    """The whole KL, and beta TC besides: TC enters 1 + beta times."""

    needs = ("penalty", "kl_penalty")

    def penalty(self, mi: Any, tc: Any, dwkl: Any, alpha: float, beta: float, gamma: float) -> Any:
        return alpha * mi + (1 + beta) * tc + gamma * dwkl

    def kl_penalty(self, kl: Any, mi: Any, tc: Any, dwkl: Any, beta: float) -> Any:
        return kl + beta * tc


class BetaForBetaMinusOneUnweighted(Loss):
    """MI + TC + DWKL + beta TC."""

    needs = ("penalty",)

    def penalty(self, mi: Any, tc: Any, dwkl: Any, alpha: float, beta: float, gamma: float) -> Any:
        return mi + (1 + beta) * tc + dwkl


class KLCountedTwice(Loss):
    """The KL on top of its own decomposition."""

    needs = ("penalty", "kl_penalty")

    def penalty(self, mi: Any, tc: Any, dwkl: Any, alpha: float, beta: float, gamma: float) -> Any:
        return super().penalty(mi, tc, dwkl, 1 + alpha, 1 + beta, 1 + gamma)

    def kl_penalty(self, kl: Any, mi: Any, tc: Any, dwkl: Any, beta: float) -> Any:
        return kl + mi + beta * tc + dwkl


# --- gradients ---------------------------------------------------------------------------------------------------


class DetachedPosterior(Loss):
    """mu and log sigma^2 detached."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return z, detached(mu), detached(log_var)


class DetachedAggregate(Loss):
    """mu and log sigma^2 detached in the aggregate posterior, not in log q(z|x)."""

    def aggregate(self, z: Any, mu: Any, log_var: Any, log_w: Array) -> tuple[Any, Any]:
        return super().aggregate(z, detached(mu), detached(log_var), log_w)


class NoGradient(Loss):
    """Everything detached."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return detached(z), detached(mu), detached(log_var)

    def kl(self, mu: Any, log_var: Any) -> Any:
        return detached(super().kl(mu, log_var))


class NumbersForTerms(Loss):
    """Batch means taken out of the graph as numbers."""

    needs = SCALARS

    def mean(self, a: Any, D: int) -> Any:
        return detached(super().mean(a, D))


class DetachedMean(Loss):
    """mu detached."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return z, detached(mu), log_var


class DetachedVariance(Loss):
    """log sigma^2 detached."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return z, mu, detached(log_var)


class DetachedSample(Loss):
    """z detached."""

    def inputs(self, z: Any, mu: Any, log_var: Any) -> tuple[Any, Any, Any]:
        return detached(z), mu, log_var


class DetachedMarginals(Loss):
    """log q(z_d) detached."""

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return detached(super().marginals(pairs, log_w))


class DetachedJoint(Loss):
    """log q(z) detached."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return detached(super().joint(pairs, log_w))


class LargestTermGradient(Loss):
    """A log-sum-exp with the gradient of its largest term."""

    def log_sum_exp(self, a: Any) -> Any:
        top = np.max(a, axis=1)
        return detached(super().log_sum_exp(a)) + (top - detached(top))


class UniformGradient(Loss):
    """A log-sum-exp with the gradient of a mean."""

    def log_sum_exp(self, a: Any) -> Any:
        mean = np.mean(a, axis=1)
        return detached(super().log_sum_exp(a)) + (mean - detached(mean))


class ShiftDetachedOnce(Loss):
    """A log-sum-exp whose largest term is a constant only where it is added back."""

    def log_sum_exp(self, a: Any) -> Any:
        return super().log_sum_exp(a) - np.max(a, axis=1) + detached(np.max(a, axis=1))
