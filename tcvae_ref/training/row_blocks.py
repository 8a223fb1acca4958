"""The reference's batch estimators with bounded memory: a block of samples at a time.

The batch means add up over samples i, and so do their gradients; the pairwise arrays of a block are freed before the
next is begun. What grows with M is the (M, M) matrix of weights alone. First derivatives only.
"""

from collections.abc import Callable
from typing import Any

import autograd.numpy as np
import numpy
from autograd.differential_operators import make_vjp
from autograd.extend import Box, defvjp, primitive

from tcvae_ref import checks
from tcvae_ref.estimators import log_qz_rows
from tcvae_ref.types import Array, ExpectedLogQz, ExpectedLogQzEstimator

BLOCK_BYTES = 2**26
"""One pairwise array of a block; about five of them exist at a time."""


@primitive  # type: ignore[untyped-decorator]
def _recorded(z: Array, mu: Array, log_var: Array, means: Array, gradients: Any) -> Array:
    return means


def _vjp(k: int) -> Any:
    def maker(ans: Array, z: Array, mu: Array, log_var: Array, means: Array, gradients: Any) -> Any:
        def vjp(g: Array) -> Array:
            (g,) = checks.not_differentiated("in_row_blocks", g)
            return g[0] * gradients[0][k] + g[1] * gradients[1][k]

        return vjp

    return maker


defvjp(_recorded, *(_vjp(k) for k in range(3)), argnums=(0, 1, 2))


def in_row_blocks(
    expected_log_qz: ExpectedLogQzEstimator, log_weights: Callable[[int, int], Array], block_bytes: int = BLOCK_BYTES
) -> ExpectedLogQzEstimator:
    """The same estimator, in blocks of samples once its pairwise arrays would exceed `block_bytes`.

    Parameters
    ----------
    expected_log_qz : function
        One of `tcvae_ref.estimators.expected_log_qz_*`.
    log_weights : function
        Its weights: (M, N) -> (M, M).
    block_bytes : int

    Returns
    -------
    function
        Same arguments, results and errors; where blocks are used a second derivative raises InputError.
    """

    def estimator(z: Array, mu: Array, log_var: Array, dataset_size: int) -> ExpectedLogQz:
        shape, M = z.shape, len(z)
        if M * z.size * z.dtype.itemsize <= block_bytes or mu.shape != shape or log_var.shape != shape:
            return expected_log_qz(z, mu, log_var, dataset_size)
        first = slice(2)
        expected_log_qz(z[first], mu[first], log_var[first], dataset_size)  # the reference's checks, on a corner ...
        z_, mu_, log_var_ = checks.differentiated_once("in_row_blocks", z, mu, log_var)
        checks.matrices("expected_log_qz", z=z_, mu=mu_, log_var=log_var_)  # ... and on all entries
        checks.log_variances("expected_log_qz", log_var=log_var_)
        log_w = log_weights(M, dataset_size)
        boxed = any(isinstance(a, Box) for a in (z, mu, log_var))
        means, gradients = _in_blocks(z_, mu_, log_var_, log_w, block_bytes, boxed)
        both = _recorded(z, mu, log_var, means, gradients) if boxed else means
        return ExpectedLogQz(both[0], both[1])

    return estimator


def _in_blocks(
    z: Array, mu: Array, log_var: Array, log_w: Array, block_bytes: int, differentiate: bool
) -> tuple[Array, Any]:
    """The means (2,) and the gradients of each in z, mu, log_var."""
    M = len(z)
    rows = max(1, block_bytes // (z.size * z.dtype.itemsize))
    means = numpy.zeros(2)
    gradients = [[numpy.zeros_like(a) for a in (z, mu, log_var)] for _ in range(2)]
    for start in range(0, M, rows):
        part = slice(start, start + rows)

        def joint_and_marginals(z: Array, mu: Array, log_var: Array, log_w: Array = log_w[part]) -> Array:
            joint, marginals = log_qz_rows(z, mu, log_var, log_w)
            return np.concatenate([joint[:, None], marginals], axis=1)

        if differentiate:
            vjp, both = make_vjp(joint_and_marginals, (0, 1, 2))(z[part], mu, log_var)
        else:
            vjp, both = None, joint_and_marginals(z[part], mu, log_var)
        for which, columns in enumerate((slice(0, 1), slice(1, None))):  # the joint, the marginals
            means[which] += numpy.sum(both[:, columns], dtype=numpy.float64) / M
            if vjp is None:
                continue
            share = numpy.zeros_like(both)
            share[:, columns] = 1.0 / M
            d_z, d_mu, d_log_var = vjp(share)
            gradients[which][0][part] = d_z
            gradients[which][1] += d_mu
            gradients[which][2] += d_log_var
    return means.astype(z.dtype), gradients
