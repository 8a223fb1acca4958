"""The weights of minibatch stratified sampling as published, down a column: to measure what the bug costs.

For studies alone. An estimate to be trusted is `tcvae_ref.estimators.log_qz_mss`.
"""

import numpy as np

from tcvae_ref import checks
from tcvae_ref.estimators import log_qz_rows
from tcvae_ref.training.row_blocks import in_row_blocks
from tcvae_ref.types import Array, ExpectedLogQz

NAME = "mss-column-weighted"
"""Among the settings' estimators."""


def log_weights_column_weighted_mss(M: int, N: int) -> Array:
    """Log-weights of the code released with the paper, m = M - 1.

    w_i0 = 1/N, w_i1 = (N - m)/(N m), w_ij = 1/m elsewhere, and w_{M-2,0} = (N - m)/(N m): the numbers of
    `tcvae_ref.estimators.log_weights_mss`, written with a stride of M where the diagonal of an (M, M) matrix needs
    M + 1. Row 0 alone is right (M > 2).

    Parameters
    ----------
    M, N : int
        Batch size and data set size, 2 <= M <= N.

    Returns
    -------
    log_w : (M, M)

    Raises
    ------
    InputError, TypeError
        M < 2 or M > N.
    """
    M, N = checks.batch_without_replacement("log_weights_column_weighted_mss", M, N)
    m = M - 1
    w = np.full((M, M), 1.0 / m)
    w[:, 0] = 1.0 / N
    w[:, 1] = w[M - 2, 0] = (N - m) / (N * m)
    return np.log(w)


def expected_log_qz_column_weighted_mss(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
    """Batch means of log q(z_i) and sum_d log q(z_id) under `log_weights_column_weighted_mss`, nats.

    Parameters
    ----------
    z, mu, log_var : (M, D)
        z_i drawn from posterior i.
    dataset_size : int
        N, with 2 <= M <= N.

    Returns
    -------
    ExpectedLogQz
        Biased for q(z), and dependent on which input comes first in the batch.

    Raises
    ------
    InputError, TypeError
        As `tcvae_ref.estimators.expected_log_qz_mss` does.
    """
    checks.matrices("expected_log_qz_column_weighted_mss", z=z, mu=mu, log_var=log_var)
    log_qz = log_qz_rows(z, mu, log_var, log_weights_column_weighted_mss(len(z), dataset_size))
    return ExpectedLogQz(log_qz.joint.sum() / len(z), log_qz.marginals.sum() / len(z))


in_blocks = in_row_blocks(expected_log_qz_column_weighted_mss, log_weights_column_weighted_mss)
"""The same for training: in blocks of samples where a batch is large."""
