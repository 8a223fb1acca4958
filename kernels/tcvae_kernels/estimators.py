"""The functions of `tcvae_ref.estimators`, by the same names, with the same arguments, results and errors.

No (M, M) array is made: the weights, which there are matrices, are here a constant and two exceptions for each row.
"""

import math

from tcvae_kernels import autograd_ops
from tcvae_kernels.pairwise import Weights
from tcvae_ref import checks
from tcvae_ref.types import Array, ExpectedLogQz, LogQz


def _exact(where: str, z: Array, mu: Array, log_var: Array, dataset_size: int) -> Weights:
    checks.samples_and_posteriors(where, z, mu, log_var)
    return Weights(-math.log(checks.whole_data_set(where, len(mu), dataset_size)))


def _mws(where: str, z: Array, mu: Array, log_var: Array, dataset_size: int) -> Weights:
    checks.matrices(where, z=z, mu=mu, log_var=log_var)
    N = checks.data_set_size(where, "dataset_size", dataset_size)
    _variances(log_var)
    return Weights(-math.log(N * len(z)))


def _mss(where: str, z: Array, mu: Array, log_var: Array, dataset_size: int) -> Weights:
    checks.matrices(where, z=z, mu=mu, log_var=log_var)
    M, N = checks.batch_without_replacement(where, len(z), dataset_size)
    _variances(log_var)
    m = M - 1
    return Weights(-math.log(m), m / N, (N - m) / N)


def _symmetric_mss(where: str, z: Array, mu: Array, log_var: Array, dataset_size: int) -> Weights:
    checks.matrices(where, z=z, mu=mu, log_var=log_var)
    M, N = checks.batch_without_replacement(where, len(z), dataset_size)
    _variances(log_var)
    m = M - 1
    return Weights(math.log((N - 1) / (N * m)), m / (N - 1))


def _minibatch(where: str, z: Array, mu: Array, log_var: Array, dataset_size: int) -> Weights:
    checks.matrices(where, z=z, mu=mu, log_var=log_var)
    checks.data_set_size(where, "dataset_size", dataset_size)
    _variances(log_var)
    return Weights(-math.log(len(z)))


def _variances(log_var: Array) -> None:
    """Complain in the reference's words, which come from its matrix of log-densities."""
    checks.log_variances("log_density_matrix", log_var=log_var)


def log_qz_exact(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Aggregate posterior of the whole data set: `tcvae_ref.estimators.log_qz_exact`. z : (S, D), mu : (N, D)."""
    return autograd_ops.log_qz(z, mu, log_var, _exact("log_qz_exact", z, mu, log_var, dataset_size))


def log_qz_mws(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Minibatch-weighted sampling: `tcvae_ref.estimators.log_qz_mws`."""
    return autograd_ops.log_qz(z, mu, log_var, _mws("log_qz_mws", z, mu, log_var, dataset_size))


def log_qz_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Minibatch stratified sampling: `tcvae_ref.estimators.log_qz_mss`."""
    return autograd_ops.log_qz(z, mu, log_var, _mss("log_qz_mss", z, mu, log_var, dataset_size))


def log_qz_symmetric_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """Stratified sampling, remainder spread evenly: `tcvae_ref.estimators.log_qz_symmetric_mss`."""
    return autograd_ops.log_qz(z, mu, log_var, _symmetric_mss("log_qz_symmetric_mss", z, mu, log_var, dataset_size))


def log_qz_minibatch(z: Array, mu: Array, log_var: Array, dataset_size: int) -> LogQz:
    """The batch as if it were the data set: `tcvae_ref.estimators.log_qz_minibatch`."""
    return autograd_ops.log_qz(z, mu, log_var, _minibatch("log_qz_minibatch", z, mu, log_var, dataset_size))


def expected_log_qz_exact(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_exact`; value and gradient in one pass."""
    return autograd_ops.expected_log_qz(z, mu, log_var, _exact("log_qz_exact", z, mu, log_var, dataset_size))


def expected_log_qz_mws(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_mws`; value and gradient in one pass."""
    return autograd_ops.expected_log_qz(z, mu, log_var, _mws("log_qz_mws", z, mu, log_var, dataset_size))


def expected_log_qz_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_mss`; value and gradient in one pass."""
    return autograd_ops.expected_log_qz(z, mu, log_var, _mss("log_qz_mss", z, mu, log_var, dataset_size))


def expected_log_qz_symmetric_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_symmetric_mss`; value and gradient in one pass."""
    weights = _symmetric_mss("log_qz_symmetric_mss", z, mu, log_var, dataset_size)
    return autograd_ops.expected_log_qz(z, mu, log_var, weights)


def expected_log_qz_minibatch(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of `log_qz_minibatch`; value and gradient in one pass."""
    return autograd_ops.expected_log_qz(z, mu, log_var, _minibatch("log_qz_minibatch", z, mu, log_var, dataset_size))
