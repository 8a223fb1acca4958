"""The kernels as functions that autograd differentiates.

`expected_log_qz_*`: value and gradient come from one pass over the exponentials, made when an argument is being
differentiated; the joint and the marginal part keep gradients apart, so that any weighting of the two can follow.
`log_qz_*`: the values first; the gradient's pass is made when it is asked for, with the weights it is asked for.
First derivatives only.
"""

from typing import Any

import numpy as np
from autograd.extend import Box, defvjp, defvjp_argnums, primitive

from tcvae_kernels.pairwise import Gradient, Weights, log_sums, log_sums_and_gradient
from tcvae_ref import checks
from tcvae_ref.types import Array, ExpectedLogQz, LogQz

WHERE = "tcvae_kernels"
"""Begins every error message."""


@primitive  # type: ignore[untyped-decorator]
def _joint_and_marginals(z: Array, mu: Array, log_var: Array, weights: Weights) -> Any:
    """(S, 1 + D): log q(z_i), then log q(z_id)."""
    joint, marginals = log_sums(z, mu, log_var, weights)
    return np.concatenate([joint[:, None], marginals], axis=1)


def _vjp(argnums: Any, answer: Array, arguments: Any, options: Any) -> Any:
    z, mu, log_var = checks.not_differentiated(WHERE, *arguments[:3])
    weights = arguments[3]

    def vjp(g: Array) -> Any:
        (g,) = checks.not_differentiated(WHERE, g)
        joint, marginals = log_sums_and_gradient(z, mu, log_var, weights, g[:, 0], g[:, 1:])[2]
        return tuple(joint[k] + marginals[k] for k in argnums)

    return vjp


defvjp_argnums(_joint_and_marginals, _vjp)


def log_qz(z: Array, mu: Array, log_var: Array, weights: Weights) -> LogQz:
    """Values at each sample."""
    both = _joint_and_marginals(z, mu, log_var, weights)
    return LogQz(both[:, 0], both[:, 1:])


@primitive  # type: ignore[untyped-decorator]
def _recorded(z: Array, mu: Array, log_var: Array, means: Array, gradient: Gradient) -> Array:
    """The means, computed before together with their gradient."""
    return means


def _recorded_vjp(k: int) -> Any:
    def maker(answer: Array, z: Array, mu: Array, log_var: Array, means: Array, gradient: Gradient) -> Any:
        def vjp(g: Array) -> Array:
            (g,) = checks.not_differentiated(WHERE, g)
            return g[0] * gradient.joint[k] + g[1] * gradient.marginals[k]

        return vjp

    return maker


defvjp(_recorded, *(_recorded_vjp(k) for k in range(3)), argnums=(0, 1, 2))


def expected_log_qz(z: Array, mu: Array, log_var: Array, weights: Weights) -> ExpectedLogQz:
    """Batch means, with their gradient when an argument is being differentiated."""
    arrays = checks.differentiated_once(WHERE, z, mu, log_var)
    boxed = any(isinstance(a, Box) for a in (z, mu, log_var))
    S, dtype = len(arrays[0]), arrays[0].dtype
    if boxed:
        share = np.full(arrays[0].shape, 1.0 / S)
        joint, marginals, gradient = log_sums_and_gradient(*arrays, weights, share[:, 0], share)
    else:
        joint, marginals = log_sums(*arrays, weights)
    means = np.array([np.sum(joint, dtype=np.float64) / S, np.sum(marginals, dtype=np.float64) / S], dtype)
    if boxed:
        means = _recorded(z, mu, log_var, means, gradient)
    return ExpectedLogQz(means[0], means[1])
