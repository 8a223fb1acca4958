"""Wrong implementations of the TC-decomposition, each with one mistake, in PyTorch and JAX.

`Loss` is right, one method for each step; a mistake is a class that overrides a step. `build(framework, *names)` makes
a loss with one mistake or several, `WRONG[name]` holds the ready ones with what they claim to be and the input of
`INPUTS` on which they show.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from optional import torch

LOG_2PI = math.log(2 * math.pi)

# --- what the steps need of a framework ------------------------------------------------------------------------------


class TorchScaledGradient(torch.autograd.Function):
    """The identity with a hand-written backward that is off by a factor."""

    @staticmethod
    def forward(ctx, a, factor):
        ctx.factor = factor
        return a.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


def jax_scaled_gradient(a, factor):
    identity = jax.custom_vjp(lambda a: a)
    identity.defvjp(lambda a: (a, None), lambda _, g: (g * factor,))
    return identity(a)


class Torch:
    exp, log, clip, logsumexp = torch.exp, torch.log, torch.clamp, torch.logsumexp
    stop, scaled_gradient = torch.Tensor.detach, TorchScaledGradient.apply
    float32 = torch.float32

    @staticmethod
    def largest(a):
        return a.amax(dim=1, keepdim=True)

    @staticmethod
    def cast(a, dtype):
        return a.to(dtype)

    @staticmethod
    def array(a, like):
        return torch.as_tensor(a, dtype=like.dtype, device=like.device)


class Jax:
    exp, log, clip, logsumexp = jnp.exp, jnp.log, jnp.clip, jax.scipy.special.logsumexp
    stop, scaled_gradient = jax.lax.stop_gradient, staticmethod(jax_scaled_gradient)
    float32 = jnp.float32

    @staticmethod
    def largest(a):
        return a.max(axis=1, keepdims=True)

    @staticmethod
    def cast(a, dtype):
        return a.astype(dtype)

    @staticmethod
    def array(a, like):
        return jnp.asarray(a, dtype=like.dtype)


FRAMEWORKS = {"torch": Torch, "jax": Jax}

# --- the right loss, step by step ------------------------------------------------------------------------------------


class Loss:
    """MI, TC and DWKL of a batch; pairwise arrays are [sample i, posterior j, dimension d]."""

    estimator = "mws"
    returns = "terms"
    """ "terms" (the dict), "penalty" (alpha MI + beta TC + gamma DWKL) or "kl_penalty" (KL + (beta - 1) TC)."""
    log_two_pi = LOG_2PI

    def __init__(self, framework, estimator):
        self.f = framework
        self.estimator = estimator

    def terms(self, z, mu, log_var, dataset_size):
        D = z.shape[1]
        z, mu, log_var = self.inputs(z, mu, log_var)
        log_w = self.f.array(self.log_w(len(z), self.size(dataset_size)), z)
        log_qz, marginals = self.aggregate(z, mu, log_var, log_w)
        log_qzx, product, log_pz = self.log_qzx(z, mu, log_var), self.product(marginals, log_w), self.log_pz(z)
        mi, tc, dwkl = self.mi(log_qzx, log_qz), self.tc(log_qz, product), self.dwkl(product, log_pz)
        means = {"mi": self.mean(mi, D), "tc": self.mean(tc, D), "dwkl": self.mean(dwkl, D)}
        return self.result({**means, "log_qz": log_qz, "log_qz_marginals": marginals})

    # before the densities

    def inputs(self, z, mu, log_var):
        return z, mu, log_var

    def size(self, dataset_size):
        return dataset_size

    def log_weights(self, M, N):
        if self.estimator == "mws":
            return np.full((M, M), -math.log(N * M))
        if self.estimator in ("minibatch", "exact"):
            return np.full((M, M), -math.log(M))
        m = M - 1
        W = np.full((M, M), 1 / m)
        if self.estimator == "mss":
            W[np.arange(M), np.arange(1, M + 1) % M] = (N - m) / (N * m)
        else:
            W[:] = (N - 1) / (N * m)
        np.fill_diagonal(W, 1 / N)
        return np.log(W)

    def log_w(self, M, N):
        return self.log_weights(M, N)

    # densities

    def squares(self, x, mu, log_var):
        return (x - mu) ** 2 * self.f.exp(-log_var)

    def log_normal(self, x, mu, log_var):
        return -0.5 * (self.squares(x, mu, log_var) + log_var + self.log_two_pi)

    def log_qzx(self, z, mu, log_var):
        return self.log_normal(z, mu, log_var).sum(1)

    def log_prior(self, z):
        return -0.5 * (z**2 + LOG_2PI)

    def log_pz(self, z):
        return self.log_prior(z).sum(1)

    # the aggregate posterior

    def pairs(self, z, mu, log_var):
        return self.log_normal(z[:, None, :], mu[None, :, :], log_var[None, :, :])

    def aggregate(self, z, mu, log_var, log_w):
        pairs = self.pairs(z, mu, log_var)
        return self.joint(pairs, log_w), self.marginals(pairs, log_w)

    def log_sum_exp(self, a):
        return self.f.logsumexp(a, 1)

    def joint(self, pairs, log_w):
        return self.log_sum_exp(pairs.sum(2) + log_w)

    def marginals(self, pairs, log_w):
        return self.log_sum_exp(pairs + log_w[:, :, None])

    def product(self, marginals, log_w):
        return marginals.sum(1)

    # the terms at each sample, and what is returned

    def mi(self, log_qzx, log_qz):
        return log_qzx - log_qz

    def tc(self, log_qz, product):
        return log_qz - product

    def dwkl(self, product, log_pz):
        return product - log_pz

    def mean(self, a, D):
        return a.mean()

    def result(self, terms):
        return terms

    def penalty(self, mi, tc, dwkl, alpha, beta, gamma):
        return alpha * mi + beta * tc + gamma * dwkl

    def kl(self, mu, log_var):
        return 0.5 * (mu**2 + self.f.exp(log_var) - 1 - log_var).sum(1).mean()

    def kl_penalty(self, kl, mi, tc, dwkl, beta):
        return kl + (beta - 1) * tc


# --- constants -------------------------------------------------------------------------------------------------------


class MissingConstant:
    """MWS without 1/(N M)."""

    estimator = "mws"
    hides = ("size",)

    def log_weights(self, M, N):
        return np.zeros((M, M))


class OnlyLogM:
    """MWS divided by M and not by N."""

    estimator = "mws"
    hides = ("size",)

    def log_weights(self, M, N):
        return np.full((M, M), -math.log(M))


class OnlyLogN:
    """MWS divided by N and not by M."""

    estimator = "mws"

    def log_weights(self, M, N):
        return np.full((M, M), -math.log(N))


class WrongDatasetSize:
    """The data set size of another experiment in the code."""

    def size(self, dataset_size):
        return 737280


class MarginalConstantOnce:
    """1/(N M) taken once from the sum of the marginals, not from each."""

    estimator = "mws"

    def marginals(self, pairs, log_w):
        return self.log_sum_exp(pairs)

    def product(self, marginals, log_w):
        return marginals.sum(1) + log_w[:, 0]


class ConstantOffset:
    """The joint is divided by N M, the marginals by N alone."""

    estimator = "mws"

    def marginals(self, pairs, log_w):
        return super().marginals(pairs, log_w) + math.log(len(log_w))


class MissingTwoPi:
    """q without log 2 pi, the prior with it."""

    log_two_pi = 0.0


class TruncatedTwoPi:
    """2 pi = 6.2831 in q."""

    log_two_pi = math.log(6.2831)


# --- weights ---------------------------------------------------------------------------------------------------------


class MSSWeightsInColumns:
    """Strides of M + 1 for M = batch size - 1: the special weights run down columns 0 and 1."""

    estimator = "mss"

    def log_weights(self, M, N):
        batch_size, M = M, M - 1
        strat_weight = (N - M) / (N * M)
        W = np.full((batch_size, batch_size), 1 / M)
        W.reshape(-1)[:: M + 1] = 1 / N
        W.reshape(-1)[1 :: M + 1] = strat_weight
        W[M - 1, 0] = strat_weight
        return np.log(W)


class WeightBeforeSum:
    """The weight enters the joint once for each dimension."""

    estimator = "mss"

    def joint(self, pairs, log_w):
        return self.log_sum_exp((pairs + log_w[:, :, None]).sum(2))


class WeightsOnJointOnly:
    """Marginals with weights 1."""

    estimator = "mss"

    def marginals(self, pairs, log_w):
        return self.log_sum_exp(pairs)


class WeightsAndConstant:
    """MSS weights, and 1/(N M) of MWS besides."""

    estimator = "mss"

    def log_w(self, M, N):
        return super().log_w(M, N) - math.log(N * M)


class NoStratum:
    """MSS without the column that stands for the data left out: rows do not sum to one."""

    estimator = "mss"

    def log_weights(self, M, N):
        W = np.full((M, M), 1 / (M - 1))
        np.fill_diagonal(W, 1 / N)
        return np.log(W)


class StratumOffByOne:
    """(N - M)/(N m) for the data left out, where (N - m)/(N m) is due."""

    estimator = "mss"

    def log_weights(self, M, N):
        log_W = super().log_weights(M, N)
        with np.errstate(divide="ignore"):  # -inf at M = N
            log_W[np.arange(M), np.arange(1, M + 1) % M] = np.log((N - M) / (N * (M - 1)))
        return log_W


# --- axes and aggregate ----------------------------------------------------------------------------------------------


class TransposedPairs:
    """Samples along axis 1: the sum runs over samples, not over posteriors."""

    def pairs(self, z, mu, log_var):
        return self.log_normal(z[None, :, :], mu[:, None, :], log_var[:, None, :])


class OwnPairsOnly:
    """Without the extra axes, each sample meets its own posterior only."""

    hides = ("pairs", "joint", "marginals", "log_sum_exp")

    def aggregate(self, z, mu, log_var, log_w):
        own = self.log_normal(z, mu, log_var)
        return own.sum(1) + log_w[:, 0], own + log_w[:, :1]


class ConditionalAsMarginals:
    """log q(z_d|x) for log q(z_d): TC = -MI."""

    hides = ("marginals",)

    def aggregate(self, z, mu, log_var, log_w):
        joint, _ = super().aggregate(z, mu, log_var, log_w)
        return joint, self.log_normal(z, mu, log_var)


class ConditionalAsJoint:
    """log q(z|x) for log q(z): MI = 0."""

    hides = ("joint",)

    def aggregate(self, z, mu, log_var, log_w):
        _, marginals = super().aggregate(z, mu, log_var, log_w)
        return self.log_qzx(z, mu, log_var), marginals


class ConditionalAsAggregate:
    """log q(z|x) for the joint and the marginals: MI = TC = 0."""

    hides = ("pairs", "joint", "marginals", "log_sum_exp", "size", "log_weights", "log_w", "product")

    def aggregate(self, z, mu, log_var, log_w):
        own = self.log_normal(z, mu, log_var)
        return own.sum(1), own


class MissingLogSumExp:
    """Log-densities summed over posteriors, then the constant."""

    estimator = "mws"
    hides = ("log_sum_exp",)

    def joint(self, pairs, log_w):
        return pairs.sum(2).sum(1) + log_w[:, 0]

    def marginals(self, pairs, log_w):
        return pairs.sum(1) + log_w[:, :1]


class MeanOfLogs:
    """The mean of logarithms for the logarithm of the mean."""

    def log_sum_exp(self, a):
        return a.mean(1)


class LogSumExpSumSwapped:
    """The joint as a product over dimensions of sums over posteriors."""

    estimator = "mws"

    def joint(self, pairs, log_w):
        return self.log_sum_exp(pairs).sum(1) + log_w[:, 0]


class PriorAsMarginals:
    """log p(z_d) for log q(z_d)."""

    hides = ("marginals",)

    def aggregate(self, z, mu, log_var, log_w):
        joint, _ = super().aggregate(z, mu, log_var, log_w)
        return joint, self.log_prior(z)


class DWKLWithoutPrior:
    """The mean of sum_d log q(z_d) under the name DWKL."""

    def dwkl(self, product, log_pz):
        return product


class LeaveOneOut:
    """The joint without the sample's own posterior."""

    estimator = "minibatch"
    hides = ("size",)

    def joint(self, pairs, log_w):
        own = np.where(np.eye(len(log_w), dtype=bool), -np.inf, 0.0)
        return super().joint(pairs, log_w + self.f.array(own, log_w))


class LeaveOneOutEverywhere:
    """Joint and marginals over the M - 1 other posteriors, as if they were the batch."""

    estimator = "minibatch"
    hides = ("size",)

    def log_weights(self, M, N):
        return np.where(np.eye(M, dtype=bool), -np.inf, -math.log(max(M - 1, 1)))


class LastPosteriorDropped:
    """A loop over posteriors that ends one too early."""

    def aggregate(self, z, mu, log_var, log_w):
        return super().aggregate(z, mu[:-1], log_var[:-1], log_w[:, :-1])


class SharedVariance:
    """The batch mean of log_var for every posterior of the aggregate."""

    def pairs(self, z, mu, log_var):
        return super().pairs(z, mu, log_var.mean(0) + 0 * log_var)


# --- density ---------------------------------------------------------------------------------------------------------


class LogVarAsLogStd:
    """log_var taken for log sigma."""

    def inputs(self, z, mu, log_var):
        return z, mu, 2 * log_var


class LogStdAsLogVar:
    """log_var halved, as if sigma were wanted, and then used as log_var."""

    def inputs(self, z, mu, log_var):
        return z, mu, 0.5 * log_var


class VarianceEpsilon:
    """exp(log_var) + 1e-6."""

    epsilon = 1e-6
    hides = ("squares",)

    def log_normal(self, x, mu, log_var):
        var = self.f.exp(log_var) + self.epsilon
        return -0.5 * ((x - mu) ** 2 / var + self.f.log(var) + self.log_two_pi)


class SmallVarianceEpsilon(VarianceEpsilon):
    """exp(log_var) + 1e-8."""

    epsilon = 1e-8


class LogVarClamp:
    """log_var clamped to [-5, 5]."""

    def inputs(self, z, mu, log_var):
        return z, mu, self.f.clip(log_var, -5.0, 5.0)


class DensityClamp:
    """Log-densities clamped to [-50, 50]."""

    def log_normal(self, x, mu, log_var):
        return self.f.clip(super().log_normal(x, mu, log_var), -50.0, 50.0)


class KernelDensity:
    """A kernel density of the samples, bandwidth M^(-1/(D + 4)), for the posteriors."""

    def pairs(self, z, mu, log_var):
        M, D = z.shape
        log_bandwidth = -math.log(M) / (D + 4)
        return super().pairs(z, z, 2 * log_bandwidth + 0 * log_var)


class MeanAsSample:
    """The mean in place of the sample."""

    def inputs(self, z, mu, log_var):
        return mu, mu, log_var


class WrongQuadratic:
    """((z - mu) / variance)^2."""

    def squares(self, x, mu, log_var):
        return ((x - mu) * self.f.exp(-log_var)) ** 2


class QuadraticNotHalved:
    """(z - mu)^2 / variance without the half."""

    def squares(self, x, mu, log_var):
        return 2 * super().squares(x, mu, log_var)


# --- gradients -------------------------------------------------------------------------------------------------------


class DetachedPosterior:
    """mu.detach(), log_var.detach(): z alone carries gradient."""

    def inputs(self, z, mu, log_var):
        return z, self.f.stop(mu), self.f.stop(log_var)


class DetachedMean:
    """mu.detach() alone."""

    def inputs(self, z, mu, log_var):
        return z, self.f.stop(mu), log_var


class DetachedVariance:
    """log_var.detach() alone."""

    def inputs(self, z, mu, log_var):
        return z, mu, self.f.stop(log_var)


class DetachedSample:
    """z.detach(): the pathwise gradient is cut."""

    def inputs(self, z, mu, log_var):
        return self.f.stop(z), mu, log_var


class DetachedAggregate:
    """The posteriors of the aggregate detached, those of log q(z|x) not."""

    def aggregate(self, z, mu, log_var, log_w):
        return super().aggregate(z, self.f.stop(mu), self.f.stop(log_var), log_w)


class NoGradient:
    """Everything detached."""

    def result(self, terms):
        return {name: self.f.stop(value) for name, value in super().result(terms).items()}


class Item:
    """Means through .item(): numbers, not tensors of the graph."""

    frameworks = ("torch",)

    def mean(self, a, D):
        return self.f.array(super().mean(a, D).item(), a)


class JointGradientOnly:
    """The marginals detached: TC's gradient goes through the joint only."""

    def marginals(self, pairs, log_w):
        return self.f.stop(super().marginals(pairs, log_w))


class MarginalsGradientOnly:
    """The joint detached."""

    def joint(self, pairs, log_w):
        return self.f.stop(super().joint(pairs, log_w))


class ShiftDetachedOnce:
    """The largest term is a constant where it is added back, but not where it is taken out."""

    def log_sum_exp(self, a):
        top = self.f.largest(a)
        return self.f.log(self.f.exp(a - top).sum(1)) + self.f.stop(top)[:, 0]


class LargestTermGradient:
    """A log-sum-exp with the gradient of the maximum."""

    def log_sum_exp(self, a):
        top = self.f.largest(a)[:, 0]
        return self.f.stop(super().log_sum_exp(a)) + (top - self.f.stop(top))


class UniformGradient:
    """A log-sum-exp with the gradient of the mean: 1/M for the softmax."""

    def log_sum_exp(self, a):
        mean = a.mean(1)
        return self.f.stop(super().log_sum_exp(a)) + (mean - self.f.stop(mean))


class WrongBackwardFactor:
    """A custom backward that forgets the half of d/d log_var."""

    def inputs(self, z, mu, log_var):
        return z, mu, self.f.scaled_gradient(log_var, 2.0)


# --- numerics --------------------------------------------------------------------------------------------------------


class ExpSumLog:
    """Sums of probabilities, without taking the largest term out."""

    def log_sum_exp(self, a):
        return self.f.log(self.f.exp(a).sum(1))


class ExpandedSquare:
    """z^2 - 2 z mu + mu^2."""

    def squares(self, x, mu, log_var):
        return (x**2 - 2 * x * mu + mu**2) * self.f.exp(-log_var)


class TermClamp:
    """max(TC, 0)."""

    estimator = "minibatch"
    hides = ("size",)

    def result(self, terms):
        return super().result({**terms, "tc": self.f.clip(terms["tc"], 0.0, None)})


class SampleClamp:
    """TC clamped at 0 for each sample, then averaged."""

    estimator = "minibatch"
    hides = ("size",)

    def tc(self, log_qz, product):
        return self.f.clip(super().tc(log_qz, product), 0.0, None)


class LogEpsilon:
    """log(x + 1e-8)."""

    epsilon = 1e-8

    def log_sum_exp(self, a):
        return self.f.log(self.f.exp(a).sum(1) + self.epsilon)


class SmallLogEpsilon(LogEpsilon):
    """log(x + 1e-12)."""

    epsilon = 1e-12


class Float32Inside:
    """Computed in float32 whatever comes in, returned in the dtype of z."""

    def inputs(self, z, mu, log_var):
        self.dtype = z.dtype
        return tuple(self.f.cast(a, self.f.float32) for a in (z, mu, log_var))

    def result(self, terms):
        return {name: self.f.cast(value, self.dtype) for name, value in terms.items()}


# --- reduction, sign, loss -------------------------------------------------------------------------------------------


class SumNotMean:
    """Summed over the batch."""

    def mean(self, a, D):
        return a.sum()


class DividedByD:
    """Averaged over samples and dimensions."""

    def mean(self, a, D):
        return super().mean(a, D) / D


class SignFlipped:
    """sum_d log q(z_d) - log q(z) under the name TC."""

    def tc(self, log_qz, product):
        return -super().tc(log_qz, product)


class ConstantFactor:
    """Bits for nats."""

    def mean(self, a, D):
        return super().mean(a, D) / math.log(2)


class Halved:
    """A half in front of every term."""

    def mean(self, a, D):
        return 0.5 * super().mean(a, D)


class BetaForBetaMinusOne:
    """KL + beta TC of the sampled terms, where MI + beta TC + DWKL is due."""

    returns = "penalty"

    def penalty(self, mi, tc, dwkl, alpha, beta, gamma):
        return (alpha * mi + tc + gamma * dwkl) + beta * tc


class KLCountedTwice:
    """The sampled KL on top of its own decomposition."""

    returns = "penalty"

    def penalty(self, mi, tc, dwkl, alpha, beta, gamma):
        return (mi + tc + dwkl) + (alpha * mi + beta * tc + gamma * dwkl)


class BetaForBetaMinusOneClosedForm:
    """Closed-form KL + beta TC, where KL + (beta - 1) TC is due."""

    returns = "kl_penalty"

    def kl_penalty(self, kl, mi, tc, dwkl, beta):
        return kl + beta * tc


class KLCountedTwiceClosedForm:
    """Closed-form KL on top of the decomposition."""

    returns = "kl_penalty"

    def kl_penalty(self, kl, mi, tc, dwkl, beta):
        return kl + (mi + beta * tc + dwkl)


# --- inputs ----------------------------------------------------------------------------------------------------------


def batch(seed, M, D, N, spread=1.0, widths=(-1.0, 1.0), sigmas=1.0, dtype="float64"):
    """(z, mu, log_var, N): means of standard deviation `spread`, samples `sigmas` standard deviations out."""
    rng = np.random.default_rng(seed)
    mu = spread * rng.standard_normal((M, D))
    log_var = rng.uniform(*widths, (M, D))
    z = mu + np.exp(0.5 * log_var) * sigmas * rng.standard_normal((M, D))
    return (*(a.astype(dtype) for a in (z, mu, log_var)), N)


def against_the_grain():
    """Posteriors along the diagonal, samples off it: TC is estimated below zero."""
    mu = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None] * np.ones(3)
    z = mu + np.array([[0.5, -1.5, 1.2], [1.1, -1.0, 0.3], [-1.3, 1.4, 0.2], [-1.2, 0.9, -0.4], [-1.6, 0.4, 0.7]])
    return z, mu, np.full((5, 3), -0.5), 40


def outlying():
    """Samples 12 standard deviations from every posterior, of equal widths."""
    _, mu, log_var, N = batch(2, 5, 3, 40, spread=0.1)
    return mu + 12 * np.exp(0.5 * log_var), mu, log_var, N


def far_from_zero():
    """Posteriors at 1000 +- 1, in float32."""
    z, mu, log_var, N = batch(4, 5, 3, 40)
    return (z + 1000).astype("float32"), (mu + 1000).astype("float32"), log_var.astype("float32"), N


INPUTS = {
    "ordinary": batch(0, 5, 3, 40),
    "tiny variances": batch(1, 5, 3, 40, spread=1e-3, widths=(-16.0, -12.0)),
    "12 sigma": outlying(),
    "negative TC": against_the_grain(),
    "D = 64, float32": batch(3, 5, 64, 1000, widths=(0.5, 1.5), dtype="float32"),
    "far from zero, float32": far_from_zero(),
}

# --- the table -------------------------------------------------------------------------------------------------------


class Mistake(NamedTuple):
    steps: type
    """The class that overrides steps of Loss."""
    diagnosis: str
    """The oracle's id of the mistake, or "unknown"."""
    kind: str = "values"
    """ "values" (another formula), "gradients" (right values), "numerics" (right in exact arithmetic)."""
    shows: str = "ordinary"
    """The input on which it shows."""


MISTAKES = {
    "missing-constant": Mistake(MissingConstant, "missing-constant"),
    "only-log-m": Mistake(OnlyLogM, "only-log-m"),
    "only-log-n": Mistake(OnlyLogN, "only-log-n"),
    "wrong-dataset-size": Mistake(WrongDatasetSize, "wrong-dataset-size"),
    "marginal-constant-once": Mistake(MarginalConstantOnce, "marginal-constant-once"),
    "constant-offset": Mistake(ConstantOffset, "constant-offset"),
    "missing-two-pi": Mistake(MissingTwoPi, "missing-two-pi"),
    "truncated-two-pi": Mistake(TruncatedTwoPi, "constant-offset"),
    "mss-weights-in-columns": Mistake(MSSWeightsInColumns, "mss-weights-in-columns"),
    "weight-before-sum": Mistake(WeightBeforeSum, "weight-before-sum"),
    "weights-on-joint-only": Mistake(WeightsOnJointOnly, "weights-on-joint-only"),
    "weights-and-constant": Mistake(WeightsAndConstant, "weights-and-constant"),
    "no-stratum": Mistake(NoStratum, "unknown"),
    "stratum-off-by-one": Mistake(StratumOffByOne, "unknown"),
    "transposed-pairs": Mistake(TransposedPairs, "transposed-pairs"),
    "own-pairs-only": Mistake(OwnPairsOnly, "own-pairs-only"),
    "conditional-as-aggregate": Mistake(ConditionalAsAggregate, "conditional-as-aggregate"),
    "conditional-as-marginals": Mistake(ConditionalAsMarginals, "conditional-as-aggregate"),
    "conditional-as-joint": Mistake(ConditionalAsJoint, "conditional-as-aggregate"),
    "missing-logsumexp": Mistake(MissingLogSumExp, "missing-logsumexp"),
    "mean-of-logs": Mistake(MeanOfLogs, "missing-logsumexp"),
    "logsumexp-sum-swapped": Mistake(LogSumExpSumSwapped, "logsumexp-sum-swapped"),
    "prior-as-marginals": Mistake(PriorAsMarginals, "prior-as-marginals"),
    "dwkl-without-prior": Mistake(DWKLWithoutPrior, "dwkl-without-prior"),
    "leave-one-out": Mistake(LeaveOneOut, "leave-one-out"),
    "leave-one-out-everywhere": Mistake(LeaveOneOutEverywhere, "leave-one-out"),
    "last-posterior-dropped": Mistake(LastPosteriorDropped, "unknown"),
    "shared-variance": Mistake(SharedVariance, "unknown"),
    "log-var-as-log-std": Mistake(LogVarAsLogStd, "log-var-as-log-std"),
    "log-std-as-log-var": Mistake(LogStdAsLogVar, "log-std-as-log-var"),
    "variance-epsilon": Mistake(VarianceEpsilon, "variance-epsilon", shows="tiny variances"),
    "small-variance-epsilon": Mistake(SmallVarianceEpsilon, "variance-epsilon", shows="tiny variances"),
    "log-var-clamp": Mistake(LogVarClamp, "unknown", shows="tiny variances"),
    "density-clamp": Mistake(DensityClamp, "density-clamp", shows="12 sigma"),
    "kernel-density": Mistake(KernelDensity, "kernel-density"),
    "mean-as-sample": Mistake(MeanAsSample, "mean-as-sample"),
    "wrong-quadratic": Mistake(WrongQuadratic, "wrong-quadratic"),
    "quadratic-not-halved": Mistake(QuadraticNotHalved, "wrong-quadratic"),
    "detached-posterior": Mistake(DetachedPosterior, "detached-posterior", kind="gradients"),
    "detached-mean": Mistake(DetachedMean, "unknown", kind="gradients"),
    "detached-variance": Mistake(DetachedVariance, "unknown", kind="gradients"),
    "detached-sample": Mistake(DetachedSample, "unknown", kind="gradients"),
    "detached-aggregate": Mistake(DetachedAggregate, "detached-posterior", kind="gradients"),
    "no-gradient": Mistake(NoGradient, "no-gradient", kind="gradients"),
    "item": Mistake(Item, "no-gradient", kind="gradients"),
    "joint-gradient-only": Mistake(JointGradientOnly, "unknown", kind="gradients"),
    "marginals-gradient-only": Mistake(MarginalsGradientOnly, "unknown", kind="gradients"),
    "shift-detached-once": Mistake(ShiftDetachedOnce, "unknown", kind="gradients"),
    "largest-term-gradient": Mistake(LargestTermGradient, "unknown", kind="gradients"),
    "uniform-gradient": Mistake(UniformGradient, "unknown", kind="gradients"),
    "wrong-backward-factor": Mistake(WrongBackwardFactor, "unknown", kind="gradients"),
    "exp-sum-log": Mistake(ExpSumLog, "exp-sum-log", kind="numerics", shows="D = 64, float32"),
    "expanded-square": Mistake(ExpandedSquare, "expanded-square", kind="numerics", shows="far from zero, float32"),
    "float32-inside": Mistake(Float32Inside, "unknown", kind="numerics"),
    "term-clamp": Mistake(TermClamp, "term-clamp", shows="negative TC"),
    "sample-clamp": Mistake(SampleClamp, "term-clamp", shows="negative TC"),
    "log-epsilon": Mistake(LogEpsilon, "log-epsilon"),
    "small-log-epsilon": Mistake(SmallLogEpsilon, "log-epsilon"),
    "sum-not-mean": Mistake(SumNotMean, "sum-not-mean"),
    "divided-by-d": Mistake(DividedByD, "divided-by-d"),
    "sign-flipped": Mistake(SignFlipped, "sign-flipped"),
    "constant-factor": Mistake(ConstantFactor, "constant-factor"),
    "halved": Mistake(Halved, "constant-factor"),
    "beta-for-beta-minus-one": Mistake(BetaForBetaMinusOne, "beta-for-beta-minus-one"),
    "kl-counted-twice": Mistake(KLCountedTwice, "kl-counted-twice"),
    "beta-for-beta-minus-one-closed-form": Mistake(BetaForBetaMinusOneClosedForm, "beta-for-beta-minus-one"),
    "kl-counted-twice-closed-form": Mistake(KLCountedTwiceClosedForm, "kl-counted-twice"),
}


CLAMPS = ("term-clamp", "sample-clamp")
HIDES = {
    "missing-constant": ("marginal-constant-once",),
    "leave-one-out-everywhere": ("leave-one-out",),
    "beta-for-beta-minus-one-closed-form": ("missing-two-pi", "truncated-two-pi", "dwkl-without-prior"),
    "conditional-as-aggregate": ("sign-flipped", *CLAMPS),
    "own-pairs-only": CLAMPS,
    "mean-of-logs": ("logsumexp-sum-swapped", *CLAMPS),
    "mean-as-sample": ("density-clamp", *CLAMPS),
    "kernel-density": ("shift-detached-once", "detached-aggregate", *CLAMPS),
    "sample-clamp": ("term-clamp",),
    "detached-posterior": ("detached-aggregate",),
    "last-posterior-dropped": ("transposed-pairs", "leave-one-out", "kernel-density"),  # the shapes do not fit
    **dict.fromkeys(("no-gradient", "item"), tuple(n for n, m in MISTAKES.items() if m.kind == "gradients")),
}
"""Mistakes that leave no trace, or have no meaning, next to another, though they change other steps."""


def steps_of(name):
    """The steps that a mistake changes."""
    own = {step for cls in MISTAKES[name].steps.__mro__ for step in vars(cls) if hasattr(Loss, step)}
    return {step for step in own if not step.startswith("__")} - {"estimator"}


def estimator_of(*names):
    """What a loss with these mistakes claims to estimate, "mws" where they leave it open.

    Raises
    ------
    ValueError
        They belong to different estimators.
    """
    claimed = {MISTAKES[name].steps.estimator for name in names if hasattr(MISTAKES[name].steps, "estimator")}
    if len(claimed) > 1:
        raise ValueError(f"{names} belong to different estimators: {sorted(claimed)}")
    return claimed.pop() if claimed else "mws"


def independent(*names):
    """Whether each mistake changes a step of its own, none hides another, and all can belong to one estimator."""
    changed = [step for name in names for step in steps_of(name)]
    hidden = {step for name in names for step in getattr(MISTAKES[name].steps, "hides", ())}
    if any(other in HIDES.get(name, ()) for name in names for other in names if other != name):
        return False
    try:
        estimator_of(*names)
    except ValueError:
        return False
    return len(changed) == len(set(changed)) and not hidden & set(changed)


def build(framework, *names, estimator=None):
    """The loss in "torch" or "jax" with the mistakes named, none of which may undo another.

    Its arguments are (z, mu, log_var, dataset_size); a penalty has (alpha, beta, gamma) besides, or beta alone.

    Raises
    ------
    ValueError
        The mistakes are not independent.
    """
    if not independent(*names):
        raise ValueError(f"{names} change the same step, or belong to different estimators")
    cls = type("WrongLoss", (*(MISTAKES[name].steps for name in names), Loss), {})
    model = cls(FRAMEWORKS[framework], estimator or estimator_of(*names))

    def terms(z, mu, log_var, dataset_size):
        return model.terms(z, mu, log_var, dataset_size)

    def penalty(z, mu, log_var, dataset_size, alpha, beta, gamma):
        t = model.terms(z, mu, log_var, dataset_size)
        return model.penalty(t["mi"], t["tc"], t["dwkl"], alpha, beta, gamma)

    def kl_penalty(z, mu, log_var, dataset_size, beta):
        t = model.terms(z, mu, log_var, dataset_size)
        return {"kl_penalty": model.kl_penalty(model.kl(mu, log_var), t["mi"], t["tc"], t["dwkl"], beta)}

    loss = {"terms": terms, "penalty": penalty, "kl_penalty": kl_penalty}[cls.returns]
    loss.__name__ = loss.__qualname__ = "_".join(names or ("right",)).replace("-", "_")
    return loss


class Wrong(NamedTuple):
    name: str
    title: str
    torch: Callable
    jax: Callable | None
    """None where the mistake has no form in JAX."""
    estimator: str
    """What it claims to be."""
    diagnosis: str
    kind: str
    shows: str
    returns: str


def wrong(name):
    steps, *described = MISTAKES[name]
    in_jax = build("jax", name) if "jax" in getattr(steps, "frameworks", FRAMEWORKS) else None
    returns = getattr(steps, "returns", "terms")
    return Wrong(name, steps.__doc__, build("torch", name), in_jax, estimator_of(name), *described, returns)


WRONG = {name: wrong(name) for name in MISTAKES}
VALUE = {name: entry for name, entry in WRONG.items() if entry.kind == "values"}
GRADIENT_ONLY = {name: entry for name, entry in WRONG.items() if entry.kind == "gradients"}
NUMERICS = {name: entry for name, entry in WRONG.items() if entry.kind == "numerics"}

PAIRS = (
    ("mss-weights-in-columns", "weight-before-sum"),
    ("mss-weights-in-columns", "weights-on-joint-only"),
    ("mss-weights-in-columns", "weights-and-constant"),
    ("mss-weights-in-columns", "log-var-as-log-std"),
    ("mss-weights-in-columns", "wrong-dataset-size"),
    ("mss-weights-in-columns", "detached-posterior"),
    ("mss-weights-in-columns", "beta-for-beta-minus-one"),
    ("weight-before-sum", "weights-on-joint-only"),
    ("weight-before-sum", "sum-not-mean"),
    ("missing-constant", "sum-not-mean"),
    ("missing-constant", "missing-two-pi"),
    ("missing-constant", "mean-as-sample"),
    ("only-log-m", "log-var-as-log-std"),
    ("only-log-m", "sign-flipped"),
    ("only-log-n", "detached-posterior"),
    ("wrong-dataset-size", "constant-factor"),
    ("marginal-constant-once", "log-std-as-log-var"),
    ("transposed-pairs", "divided-by-d"),
    ("log-epsilon", "kl-counted-twice"),
    ("log-var-as-log-std", "uniform-gradient"),
)
"""Two mistakes at once, as public code has them: column weights go with nearly everything."""
