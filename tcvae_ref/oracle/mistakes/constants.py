# ruff: noqa: D102  (an override is described by its class and by its step in `steps.Loss`)
"""Mistakes in constants, in the weights w_ij and in N."""

from typing import Any

import numpy
from autograd import numpy as np

from tcvae_ref.oracle.estimators import OF_N, UNEVEN, UNIFORM
from tcvae_ref.oracle.mistakes.steps import Loss
from tcvae_ref.types import Array


class MissingConstant(Loss):
    """Weights 1."""

    claims = (UNIFORM,)

    def log_weights(self, M: int, N: float) -> Array:
        return numpy.zeros((M, M))


class OnlyLogM(Loss):
    """1/M for 1/(N M)."""

    claims = ("mws",)

    def log_weights(self, M: int, N: float) -> Array:
        return numpy.full((M, M), -numpy.log(M))


class OnlyLogN(Loss):
    """1/N for 1/(N M)."""

    claims = ("mws",)

    def log_weights(self, M: int, N: float) -> Array:
        return numpy.full((M, M), -numpy.log(N))


class OtherDatasetSize(Loss):
    """The size of another data set."""

    claims = (OF_N,)
    other: float = 737280

    def size(self, N: int, M: int) -> float:
        return self.other


class BatchSizeForDatasetSize(Loss):
    """N = M."""

    claims = (OF_N,)

    def size(self, N: int, M: int) -> float:
        return M


class MarginalConstantOnce(Loss):
    """The constant once for all D marginals."""

    claims = (UNIFORM,)

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return self.log_sum_exp(pairs)

    def product(self, marginals: Any, log_w: Array) -> Any:
        return np.sum(marginals, axis=1) + log_w[:, 0]


class MissingTwoPi(Loss):
    """q without log 2 pi, the prior with it."""

    log_two_pi = 0.0


class PriorWithoutTwoPi(Loss):
    """The prior without log 2 pi, q with it."""

    needs = ("dwkl", "penalty")

    def log_prior(self, z: Any) -> Any:
        return -0.5 * z**2


# --- stratified weights --------------------------------------------------------------------------------------------


def _columns(M: int, N: float, corner: int | None) -> Array:
    """The special weights down columns 0 and 1; `corner`: the row of column 0 that gets the second one."""
    m = M - 1
    w = numpy.full((M, M), 1 / m)
    w[:, 0], w[:, 1] = 1 / N, (N - m) / (N * m)
    if corner is not None:
        w[corner, 0] = (N - m) / (N * m)
    return numpy.log(w)


class WeightsInColumns(Loss):
    """Strides of M, in a matrix of width M, for steps along the diagonal: as released with the paper."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        return _columns(M, N, M - 2)


class WeightsInColumnsWithoutCorner(Loss):
    """The same without the line for the corner."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        return _columns(M, N, None)


class WeightsInColumnsLastCorner(Loss):
    """The same with the corner in the last row."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        return _columns(M, N, M - 1)


class WeightsInColumnsBatchSize(Loss):
    """The columns with m = M: the batch size for the batch size less one."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        w = numpy.full((M, M), 1 / M)
        w[:, 0], w[:, 1] = 1 / N, (N - M) / (N * M)
        w[M - 2, 0] = (N - M) / (N * M)
        return numpy.log(w)


class WeightsInRows(Loss):
    """The transposed matrix: rows 0 and 1."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        return _columns(M, N, M - 2).T


class WeightBeforeSum(Loss):
    """The weight enters the joint in each dimension."""

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return self.log_sum_exp(np.sum(pairs + log_w[:, :, None], axis=2))


class UnweightedMarginals(Loss):
    """Marginals with weights 1."""

    claims = (UNEVEN,)

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return self.log_sum_exp(pairs)


class EvenMarginals(Loss):
    """Marginals with weights 1/M."""

    claims = (UNEVEN,)

    def marginals(self, pairs: Any, log_w: Array) -> Any:
        return self.log_sum_exp(pairs) - numpy.log(len(log_w))


class UnweightedJoint(Loss):
    """The joint with weights 1."""

    claims = (UNEVEN,)

    def joint(self, pairs: Any, log_w: Array) -> Any:
        return self.log_sum_exp(np.sum(pairs, axis=2))


class WeightsAndConstant(Loss):
    """1/(N M) besides stratified weights."""

    claims = (UNEVEN,)

    def log_w(self, M: int, N: float) -> Array:
        return super().log_w(M, N) - numpy.log(N * M)


class NoStratum(Loss):
    """1/m where (N - m)/(N m) stands for the data left out."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        w = numpy.full((M, M), 1 / (M - 1))
        numpy.fill_diagonal(w, 1 / N)
        return numpy.log(w)


class StratumOfBatchSize(Loss):
    """(N - M)/(N m) for (N - m)/(N m)."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        log_w, i = super().log_weights(M, N).copy(), numpy.arange(M)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            log_w[i, (i + 1) % M] = numpy.log((N - M) / (N * (M - 1)))
        return log_w


class BatchSizeForM(Loss):
    """m = M in every weight."""

    claims = ("mss",)

    def log_weights(self, M: int, N: float) -> Array:
        w, i = numpy.full((M, M), 1 / M), numpy.arange(M)
        w[i, (i + 1) % M] = (N - M) / (N * M)
        w[i, i] = 1 / N
        with numpy.errstate(divide="ignore", invalid="ignore"):
            return numpy.log(w)
