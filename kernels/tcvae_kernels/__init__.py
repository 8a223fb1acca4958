"""Compiled kernels for what dominates a beta-TCVAE: the functions of `tcvae_ref.estimators`, by the same names.

`estimators` are the functions, `autograd_ops` their gradients, `pairwise` the loops, `exp` the exponential, `mixture`
mixtures of millions of components, `elementwise` training's elementwise work, `threads` the threads. Needs numba
(`pip install 'tcvae-ref[kernels]'`); without it importing works and calling says so.
"""

from tcvae_kernels._jit import COMPILED, KernelsNotInstalled
from tcvae_kernels.estimators import (
    expected_log_qz_exact,
    expected_log_qz_minibatch,
    expected_log_qz_mss,
    expected_log_qz_mws,
    expected_log_qz_symmetric_mss,
    log_qz_exact,
    log_qz_minibatch,
    log_qz_mss,
    log_qz_mws,
    log_qz_symmetric_mss,
)
from tcvae_kernels.threads import get_num_threads, set_num_threads

__all__ = [
    "COMPILED",
    "KernelsNotInstalled",
    "expected_log_qz_exact",
    "expected_log_qz_minibatch",
    "expected_log_qz_mss",
    "expected_log_qz_mws",
    "expected_log_qz_symmetric_mss",
    "get_num_threads",
    "log_qz_exact",
    "log_qz_minibatch",
    "log_qz_mss",
    "log_qz_mws",
    "log_qz_symmetric_mss",
    "set_num_threads",
]
