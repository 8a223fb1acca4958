"""Estimating the aggregate posterior q(z) and its marginals q(z_d) (paper, section 3.1 and appendix C).

Training needs log q(z) with q(z) = 1/N sum_n q(z|n) over the whole data set, and sees a batch of M.
Every estimator here is a weighted log-sum-exp over the posteriors j that are at hand,

    log q(z_i)  ~ log sum_j w_ij prod_d q(z_id | n_j)
    log q(z_id) ~ log sum_j w_ij        q(z_id | n_j),

and they differ in nothing but w: log w_ij is added once to the joint, after the sum over d, and once to each of the D
marginals. `README.md` in this folder derives the properties of each.

    estimator      weights w_ij                                                   sum_j w_ij
    exact          1/N, over all N posteriors                                      1
    mws            1/(N M)                                                         1/N
    mss            1/N at j = i, (N-m)/(N m) at j = i+1 (cyclic), else 1/m         1      (m = M - 1)
    symmetric_mss  1/N at j = i, else (N-1)/(N m)                                  1
    minibatch      1/M                                                             1

All take `(z, mu, log_var, dataset_size)`, so that an estimator can be an argument. `log_qz_*` returns the values at
each sample, `expected_log_qz_*` their batch means. An unbiased estimate of q(z) still gives a log q(z) that is
too low on average (Jensen).
"""

import math

import autograd.numpy as np
import numpy
from autograd.extend import defvjp, primitive

from tcvae_ref import checks
from tcvae_ref.gaussian import log_density_matrix
from tcvae_ref.types import Array, ExpectedLogQz, LogQz

# --- weights -----------------------------------------------------------------------------------------------


def log_weights_mws(M: int, N: int) -> Array:
    """Log-weights of minibatch-weighted sampling, w_ij = 1/(N M) (paper, eq. 3 and appendix C.1).

    The estimate of q(z_i) is at most q(z_i) / M for a batch drawn without replacement: it is a part of the sum
    1/(N M) sum_n q(z_i|n) = q(z_i) / M, whose terms are all positive.

    Parameters
    ----------
    M, N : int
        Batch size and data set size.

    Returns
    -------
    log_w : (M, M), of numbers without unit

    Raises
    ------
    InputError, TypeError
        M or N is no whole number of at least 1, or larger than any batch or data set.
    """
    M = checks.whole_number("log_weights_mws", "M", M, 1, checks.LARGEST_BATCH)
    N = checks.data_set_size("log_weights_mws", "N", N)
    return numpy.full((M, M), -math.log(N * M))


def log_weights_mss(M: int, N: int) -> Array:
    """Log-weights of minibatch stratified sampling (paper, appendix C.2), m = M - 1.

    w_ii = 1/N (z_i's own posterior is one of N), w_ij = (N - m)/(N m) at the cyclic neighbour j = i + 1
    (it stands for those left out of the batch; any other of the m would do), w_ij = 1/m elsewhere. Each *row* sums
    to one. The paper's M is m here: its batch has M + 1 elements.

    Unbiased: the other m inputs are drawn without replacement from N - 1, so each has the expectation
    (N q(z_i) - q(z_i|n_i)) / (N - 1), and their weights sum to (m - 1)/m + (N - m)/(N m) = (N - 1)/N.

    The code released with the paper fills the flat matrix with a stride of M in place of M + 1, and so writes these
    numbers down columns 0 and 1 instead of along the diagonals: for M > 2 only the first row is right, the samples'
    own posteriors have 1/m in place of 1/N, and one row does not sum to one (`tcvae_ref.studies.column_weights`).

    Parameters
    ----------
    M, N : int
        Batch size and data set size, 2 <= M <= N.

    Returns
    -------
    log_w : (M, M), of numbers without unit
        Row i holds the weights for sample i.

    Raises
    ------
    InputError, TypeError
        Not 2 <= M <= N, or one is no whole number.
    """
    M, N = checks.batch_without_replacement("log_weights_mss", M, N)
    m, i = M - 1, numpy.arange(M)
    log_w = numpy.full((M, M), -math.log(m))
    log_w[i, (i + 1) % M] = math.log((N - m) / (N * m))
    log_w[i, i] = -math.log(N)
    return log_w


def log_weights_symmetric_mss(M: int, N: int) -> Array:
    """Log-weights of stratified sampling averaged over the free choice of neighbour, m = M - 1.

    w_ii = 1/N, w_ij = (N - 1)/(N m) elsewhere: the mean of the M - 1 MSS weightings that differ in the column
    which stands for the data left out. Not in the paper; unbiased like MSS, indifferent to the order of the batch,
    and exact at M = N. It is the expectation of the MSS estimate of q(z_i) given which inputs are in the batch, so
    that estimate's variance is never higher (Rao-Blackwell).

    Parameters
    ----------
    M, N : int
        Batch size and data set size, 2 <= M <= N.

    Returns
    -------
    log_w : (M, M), of numbers without unit

    Raises
    ------
    InputError, TypeError
        Not 2 <= M <= N, or one is no whole number.
    """
    M, N = checks.batch_without_replacement("log_weights_symmetric_mss", M, N)
    log_w = numpy.full((M, M), math.log((N - 1) / (N * (M - 1))))
    numpy.fill_diagonal(log_w, -math.log(N))
    return log_w


# --- the weighted log-sum-exp --------------------------------------------------------------------------------


@primitive  # type: ignore[untyped-decorator]
def log_sum_exp(a: Array) -> Array:
    """The logarithm of sum_j exp(a_ij...), (S, N, ...) -> (S, ...); the largest term is taken out: nothing overflows.

    Its derivative is the softmax, exp(a - log_sum_exp(a)). A row of -inf gives -inf, with derivative nan.
    """
    top = numpy.max(a, axis=1, keepdims=True)
    top[top == -numpy.inf] = 0.0
    with numpy.errstate(divide="ignore"):
        return numpy.squeeze(top, axis=1) + numpy.log(numpy.sum(numpy.exp(a - top), axis=1))


defvjp(log_sum_exp, lambda ans, a: lambda g: g[:, None] * np.exp(a - ans[:, None]))


# --- log q(z_i) and log q(z_id) ----------------------------------------------------------------------------


def log_qz_rows(z: Array, mu: Array, log_var: Array, log_w: Array | float) -> LogQz:
    """The logarithm of sum_j w_ij q(z_i|n_j), jointly and for each dimension, for some samples i.

    Parameters
    ----------
    z : (S, D)
        Samples.
    mu, log_var : (N, D)
        Posteriors.
    log_w : (S, N) or float
        Log-weights of these samples' rows.

    Returns
    -------
    LogQz
        joint (S,) and marginals (S, D), nats.

    Raises
    ------
    InputError, TypeError
        As `log_density_matrix` does.
    """
    L = log_density_matrix(z, mu, log_var)  # (S, N, D)
    w = numpy.asarray(log_w, dtype=L.dtype)
    joint = log_sum_exp(np.sum(L, axis=2) + w)  # product over d, then sum over posteriors j
    marginals = log_sum_exp(L + w[..., None])  # sum over posteriors j
    return LogQz(joint, marginals)


def log_qz_exact(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Aggregate posterior of the whole data set, log q(z) = log 1/N sum_n q(z|n).

    Parameters
    ----------
    z : (S, D)
        Samples, of any number.
    mu, log_var : (N, D)
        The posteriors of all N inputs, z's own among them.
    dataset_size : int
        N, which must be the number of posteriors given.

    Returns
    -------
    LogQz
        joint (S,) and marginals (S, D), nats.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, or the posteriors are not N.
    """
    checks.samples_and_posteriors("log_qz_exact", z, mu, log_var)
    N = checks.whole_data_set("log_qz_exact", len(mu), dataset_size)
    return log_qz_rows(z, mu, log_var, -math.log(N))


def log_qz_mws(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Minibatch-weighted sampling, log q(z_i) ~ log 1/(NM) sum_j q(z_i|n_j) (paper, eq. 3).

    A lower bound, not a density estimate: at most log q(z_i) - log M for a batch drawn without replacement, see
    `log_weights_mws`. Joint and marginals are each `log_qz_minibatch` less log N, so MI is log N higher than with it,
    TC (D - 1) log N higher and the dimension-wise KL D log N lower; the gradients are the same.

    Parameters
    ----------
    z, mu, log_var : (M, D)
        z_i drawn from posterior i, the inputs drawn from the data set.
    dataset_size : int
        N >= 1.

    Returns
    -------
    LogQz
        joint (M,) and marginals (M, D), nats.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, or dataset_size is not a positive whole number.
    """
    checks.matrices("log_qz_mws", z=z, mu=mu, log_var=log_var)
    N = checks.data_set_size("log_qz_mws", "dataset_size", dataset_size)
    return log_qz_rows(z, mu, log_var, log_weights_mws(len(z), N))


def log_qz_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Minibatch stratified sampling (paper, appendix C.2): unbiased for q(z). Weights: `log_weights_mss`.

    Shifting the batch cyclically shifts the result; another order of the batch gives another estimate.
    Not exact at M = N.

    Parameters
    ----------
    z, mu, log_var : (M, D)
        z_i drawn from posterior i, the inputs drawn from the data set without replacement.
    dataset_size : int
        N, with 2 <= M <= N.

    Returns
    -------
    LogQz
        joint (M,) and marginals (M, D), nats.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, M < 2 or M > N.
    """
    checks.matrices("log_qz_mss", z=z, mu=mu, log_var=log_var)
    M, N = checks.batch_without_replacement("log_qz_mss", len(z), dataset_size)
    return log_qz_rows(z, mu, log_var, log_weights_mss(M, N))


def log_qz_symmetric_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Stratified sampling with the remainder spread evenly. Weights: `log_weights_symmetric_mss`.

    Unbiased for q(z), equivariant under every permutation of the batch, exact at M = N.

    Parameters
    ----------
    z, mu, log_var : (M, D)
        z_i drawn from posterior i, the inputs drawn from the data set without replacement.
    dataset_size : int
        N, with 2 <= M <= N.

    Returns
    -------
    LogQz
        joint (M,) and marginals (M, D), nats.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, M < 2 or M > N.
    """
    checks.matrices("log_qz_symmetric_mss", z=z, mu=mu, log_var=log_var)
    M, N = checks.batch_without_replacement("log_qz_symmetric_mss", len(z), dataset_size)
    return log_qz_rows(z, mu, log_var, log_weights_symmetric_mss(M, N))


def log_qz_minibatch(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """The batch taken as if it were the data set, log 1/M sum_j q(z_i|n_j): MI cannot exceed log M.

    Parameters
    ----------
    z, mu, log_var : (M, D)
        z_i drawn from posterior i.
    dataset_size : int
        N >= 1. Required so that every estimator is called alike; it does not enter the value.

    Returns
    -------
    LogQz
        joint (M,) and marginals (M, D), nats.

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, or dataset_size is not a positive whole number.
    """
    checks.matrices("log_qz_minibatch", z=z, mu=mu, log_var=log_var)
    checks.data_set_size("log_qz_minibatch", "dataset_size", dataset_size)
    return log_qz_rows(z, mu, log_var, -math.log(len(z)))


# --- batch means -------------------------------------------------------------------------------------------


def _expected(log_qz: LogQz) -> ExpectedLogQz:
    """mean_i log q(z_i) and mean_i sum_d log q(z_id)."""
    M = len(log_qz.joint)  # dividing by a Python int keeps float32 gradients float32; np.mean's would not be
    return ExpectedLogQz(np.sum(log_qz.joint) / M, np.sum(log_qz.marginals) / M)


def expected_log_qz_exact(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_exact`: mean_i log q(z_i) and mean_i sum_d log q(z_id), nats."""
    return _expected(log_qz_exact(z, mu, log_var, dataset_size))


def expected_log_qz_mws(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_mws`: mean_i log q(z_i) and mean_i sum_d log q(z_id), nats."""
    return _expected(log_qz_mws(z, mu, log_var, dataset_size))


def expected_log_qz_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_mss`: mean_i log q(z_i) and mean_i sum_d log q(z_id), nats."""
    return _expected(log_qz_mss(z, mu, log_var, dataset_size))


def expected_log_qz_symmetric_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_symmetric_mss`: mean_i log q(z_i) and mean_i sum_d log q(z_id), nats."""
    return _expected(log_qz_symmetric_mss(z, mu, log_var, dataset_size))


def expected_log_qz_minibatch(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_minibatch`: mean_i log q(z_i) and mean_i sum_d log q(z_id), nats."""
    return _expected(log_qz_minibatch(z, mu, log_var, dataset_size))
