"""Priors p(z): the standard normal, a Laplace distribution, and a factorial normalising flow (those of the paper).

All are products over dimensions, so that eq. 2 holds with any of them: only the dimension-wise KL changes. The normal
one is `tcvae_ref.gaussian.log_standard_normal`, whose KL has a closed form; with the others it is estimated from the
sample at hand, log q(z|n) - log p(z).
"""

import math
from collections.abc import Sequence

import autograd.numpy as np
import numpy

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.gaussian import log_standard_normal
from tcvae_ref.networks import tanh
from tcvae_ref.types import Array

STEPS = 32
"""Planar steps of the flow."""
FLOW = ("a", "c", "b")
"""The flow's arrays, in order; each (STEPS, D)."""
_LOG_2 = math.log(2.0)
_IDENTITY = math.log(math.e - 1.0)  # softplus of it is 1


def log_laplace(z: Array) -> Array:
    """Log-density of the Laplace prior of scale 1, log p(z_i) = - sum_d [ |z_id| + log 2 ].

    Its variance is 2: the scale is that of the code released with the paper, not of unit variance.

    Parameters
    ----------
    z : (M, D)

    Returns
    -------
    log_pz : (M,), nats

    Raises
    ------
    InputError, TypeError
        z is not a finite (M, D) array.
    """
    checks.matrices("log_laplace", z=z)
    return -np.sum(np.abs(z) + _LOG_2, axis=1)  # over dimensions d


def softplus(a: Array) -> Array:
    """log(1 + exp(a)), which never overflows."""
    return np.logaddexp(a, np.zeros_like(a))


def initial_flow(D: int, rng: numpy.random.Generator, dtype: str = "float32") -> list[Array]:
    """Draw a flow that is nearly the identity, so that p(z) is nearly the standard normal.

    Parameters
    ----------
    D : int
    rng : numpy.random.Generator
    dtype : str
        "float32" or "float64".

    Returns
    -------
    flow : [a, c, b], each (32, D)
        As in `log_flow`: a and c from N(0, 0.02^2), b from N(0, 1), so that the steps bend at different places.
    """
    checks.whole_number("initial_flow", "D", D, 1)
    checks.option("initial_flow", "dtype", dtype, ("float32", "float64"))
    widths = (0.02, 0.02, 1.0)
    return [(width * rng.standard_normal((STEPS, D))).astype(dtype) for width in widths]


def log_flow(z: Array, flow: Sequence[Array]) -> Array:
    """Log-density of the factorial flow, log p(z_i) = sum_d [ log N(y_id; 0, 1) + sum_k log f_kd' ].

    y = f_K(... f_1(z)), dimension by dimension; step k is a planar flow of one dimension (Rezende & Mohamed 2015,
    eq. 10),

    f(x) = x + ((u - 1) / w) t,   f'(x) = t^2 + u (1 - t^2),   t = tanh(w x + b),   w = exp(c),   u = softplus(a_0),

    a_0 = a + log(e - 1), so that a = 0 is the identity. u > 0 and hence f' > 0: every step is invertible, whatever
    the parameters (until softplus underflows, at a below -745, in float32 -103), and p integrates to 1. f' is their
    1 + (u - 1) (1 - t^2) as a sum of positive numbers, which keeps its digits where u is small. The code released with
    the paper leaves the step's (u - 1) / w free and takes log(|f'| + 1e-8), which is no density once a step folds
    (tests/test_priors.py shows both).

    Parameters
    ----------
    z : (M, D)
    flow : [a, c, b], each (steps, D)

    Returns
    -------
    log_pz : (M,), nats

    Raises
    ------
    InputError, TypeError
        z is not a finite (M, D) array, the flow is not of three arrays of its D and dtype, or exp(c) or its inverse
        overflows.
    """
    if len(flow) != len(FLOW):
        raise InputError(
            f"log_flow: the flow has {len(flow)} arrays; {len(FLOW)} are needed, {', '.join(FLOW)}, each (steps, D): "
            "initial_flow gives them"
        )
    a, c, b = flow
    checks.matrices("log_flow", z=z)
    checks.matrices("log_flow", a=a, c=c, b=b)
    if a.shape[1] != z.shape[1] or a.dtype != z.dtype:
        raise InputError(
            f"log_flow: z is {z.dtype} {tuple(z.shape)} and the flow {a.dtype} {tuple(a.shape)}; "
            "z : (M, D) and a, c, b : (steps, D) share D and dtype"
        )
    most = 700.0 if c.dtype == numpy.float64 else 85.0
    if (reached := float(numpy.max(numpy.abs(checks.value_of(c))))) > most:
        raise checks.NotFinite(
            f"log_flow: |c| reaches {reached:g}; in {c.dtype} it must be at most {most:g}, so that w = exp(c) and its "
            "inverse are finite: rescale, or look where it was computed"
        )
    y, log_slopes = z, np.zeros_like(z)
    w, u = np.exp(c), softplus(a + _IDENTITY)
    for k in range(len(a)):
        t = tanh(w[k] * y + b[k])
        y = y + (u[k] - 1.0) / w[k] * t
        log_slopes = log_slopes + np.log(t**2 + u[k] * (1.0 - t**2))
    return log_standard_normal(y) + np.sum(log_slopes, axis=1)  # over dimensions d
