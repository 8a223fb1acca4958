"""Training's elementwise work, each function in one pass over memory: the functions of `tcvae_ref`, by the same names.

What NumPy does in five to ten passes is done here in one, on all threads: the Bernoulli log-likelihood with its
derivative, bias and activation with theirs, and Adam's update. Matrix products stay NumPy's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from autograd.extend import Box, defvjp, defvjp_argnums, primitive

from tcvae_kernels import threads
from tcvae_kernels._jit import by_type, jit, vector_loop
from tcvae_kernels.autograd_ops import WHERE
from tcvae_kernels.exp import weight
from tcvae_ref import checks
from tcvae_ref.types import Array

BLOCK = 2**16
"""Numbers of a block of work."""
CHUNK = 512
"""Pixels whose log-likelihoods are added up in the arrays' own precision; beyond it, in float64."""

# log(1 + e) = 2 artanh(u) with u = e / (2 + e) <= 1/3, and artanh(u) = u + u^3 / 3 + u^5 / 5 + ...
_ODD_64 = tuple(1.0 / k for k in range(3, 35, 2))
_ODD_32 = tuple(np.float32(1.0 / k) for k in range(3, 17, 2))
_TWO_32, _TWO_64 = np.float32(2.0), 2.0


def _log1p_64(e):
    u = e / (_TWO_64 + e)
    v = u * u
    p = _ODD_64[15]
    p = p * v + _ODD_64[14]
    p = p * v + _ODD_64[13]
    p = p * v + _ODD_64[12]
    p = p * v + _ODD_64[11]
    p = p * v + _ODD_64[10]
    p = p * v + _ODD_64[9]
    p = p * v + _ODD_64[8]
    p = p * v + _ODD_64[7]
    p = p * v + _ODD_64[6]
    p = p * v + _ODD_64[5]
    p = p * v + _ODD_64[4]
    p = p * v + _ODD_64[3]
    p = p * v + _ODD_64[2]
    p = p * v + _ODD_64[1]
    p = p * v + _ODD_64[0]
    return _TWO_64 * (u + u * v * p)


def _log1p_32(e):
    u = e / (_TWO_32 + e)
    v = u * u
    p = _ODD_32[6]
    p = p * v + _ODD_32[5]
    p = p * v + _ODD_32[4]
    p = p * v + _ODD_32[3]
    p = p * v + _ODD_32[2]
    p = p * v + _ODD_32[1]
    p = p * v + _ODD_32[0]
    return _TWO_32 * (u + u * v * p)


@by_type(float64=_log1p_64, float32=_log1p_32)
def log1p(e):
    """log(1 + e) for 0 <= e <= 1."""


# --- the Bernoulli log-likelihood ------------------------------------------------------------------------------


@jit
def _pixels(x, logits, i, start, stop, slope):
    """Log-likelihood of some pixels of an image, and how many lie outside [0, 1]; slope[i, p] = x - sigmoid(l)."""
    vector_loop()
    real = x.dtype.type
    zero, one = real(0), real(1)
    total, outside = zero, zero
    for p in range(np.uint64(start), np.uint64(stop)):
        x_p, a = x[i, p], logits[i, p]
        positive = one if a > zero else zero
        size = a if a > zero else -a
        e = weight(-(size + size))
        total += a * (x_p - positive) - log1p(e)
        slope[i, p] = x_p - (one if a > zero else e) / (one + e)
        outside += one if x_p < zero or x_p > one else zero
    return total, outside


@jit
def _images(x, logits, first, last, chunk, slope, log_px):
    outside = 0.0
    for i in range(first, last):
        total = 0.0
        for start in range(0, x.shape[1], chunk):
            part, wrong = _pixels(x, logits, i, start, min(x.shape[1], start + chunk), slope)
            total += part
            outside += wrong
        log_px[i] = total if outside == 0.0 else np.nan


def _log_likelihood_and_slope(x: Array, logits: Array) -> tuple[Array, Array]:
    """log p(x_i|z_i) : (M,) and its derivative in the logits : (M, P)."""
    M, P = logits.shape
    slope, log_px = np.empty_like(logits, order="C"), np.empty(M)
    rows = max(1, BLOCK // P)
    x, logits = np.ascontiguousarray(x), np.ascontiguousarray(logits)
    with np.errstate(all="ignore"):
        threads.run(lambda b: _images(x, logits, b * rows, min(M, (b + 1) * rows), CHUNK, slope, log_px), -(-M // rows))
    return log_px.astype(logits.dtype), slope


@primitive  # type: ignore[untyped-decorator]
def _recorded(logits: Array, log_px: Array, slope: Array) -> Array:
    """The log-likelihood, computed before together with its derivative."""
    return log_px


defvjp(
    _recorded,
    lambda ans, logits, log_px, slope: lambda g: checks.not_differentiated(WHERE, g)[0][:, None] * slope,
    argnums=(0,),
)


def bernoulli_log_likelihood(x: Array, logits: Array) -> Array:
    """Log-likelihood of binary pixels: `tcvae_ref.likelihood.bernoulli_log_likelihood`, differentiable in the logits.

    Entries are looked at after the sum: only one that is not finite, or a pixel outside [0, 1], costs a second pass,
    which raises the reference's error.
    """
    if isinstance(x, Box):
        raise checks.InputError(
            "bernoulli_log_likelihood: x is being differentiated; the kernel is differentiable in the logits only: "
            "use tcvae_ref.likelihood"
        )
    (plain,) = checks.differentiated_once(WHERE, logits)
    fits = all(getattr(a, "ndim", 0) == 2 and a.dtype in (np.float32, np.float64) for a in (x, plain))
    if not fits or x.shape != plain.shape or x.dtype != plain.dtype or not plain.size:
        checks.matrices("bernoulli_log_likelihood", x=x, logits=logits)
    log_px, slope = _log_likelihood_and_slope(x, plain)
    if not np.isfinite(log_px).all():
        checks.matrices("bernoulli_log_likelihood", x=x, logits=logits)
        checks.unit_interval("bernoulli_log_likelihood", x=x)
    return _recorded(logits, log_px, slope) if isinstance(logits, Box) else log_px


# --- a layer: product, bias, activation ------------------------------------------------------------------------


@jit
def _bias_relu(a, b, first, last):
    """max(a + b, 0), in place."""
    vector_loop()
    zero = a.dtype.type(0)
    for i in range(first, last):
        for k in range(b.size):
            v = a[i, k] + b[k]
            a[i, k] = v if v > zero else (v if v != v else zero)


@jit
def _bias(a, b, first, last):
    """a + b, in place."""
    vector_loop()
    for i in range(first, last):
        for k in range(b.size):
            a[i, k] += b[k]


@jit
def _bias_tanh(a, b, first, last):
    """tanh(a + b) = sign (1 - e) / (1 + e) with e = exp(-2 |a + b|), in place; by its series where that cancels."""
    vector_loop()
    real = a.dtype.type
    zero, one, near = real(0), real(1), real(0.125)
    c3, c5, c7 = real(-1.0 / 3.0), real(2.0 / 15.0), real(-17.0 / 315.0)
    c9, c11 = real(62.0 / 2835.0), real(-1382.0 / 155925.0)
    c13, c15 = real(21844.0 / 6081075.0), real(-929569.0 / 638512875.0)
    for i in range(first, last):
        for k in range(b.size):
            v = a[i, k] + b[k]
            size = v if v > zero else -v
            e = weight(-(size + size + size + size))
            far = (one - e) / (one + e)
            w = v * v
            p = c15 * w + c13
            p = p * w + c11
            p = p * w + c9
            p = p * w + c7
            p = p * w + c5
            p = p * w + c3
            a[i, k] = v + v * w * p if size < near else (far if v > zero else -far)


@jit
def _relu_slope(g, h, out, first, last):
    """out = g [h > 0]."""
    vector_loop()
    zero = g.dtype.type(0)
    for i in range(first, last):
        for k in range(h.shape[1]):
            out[i, k] = g[i, k] if h[i, k] > zero else zero


@jit
def _tanh_slope(g, h, out, first, last):
    """out = g (1 - h^2)."""
    vector_loop()
    one = g.dtype.type(1)
    for i in range(first, last):
        for k in range(h.shape[1]):
            out[i, k] = g[i, k] * (one - h[i, k] * h[i, k])


def _by_rows(kernel: Any, rows: int, columns: int, *arrays: Array) -> None:
    block = max(1, BLOCK // columns)
    with np.errstate(all="ignore"):
        threads.run(lambda b: kernel(*arrays, b * block, min(rows, (b + 1) * block)), -(-rows // block))


def activate_relu(a: Array, b: Array) -> None:
    """max(a + b, 0), in place : (M, n), (n,)."""
    _by_rows(_bias_relu, *a.shape, a, b)


def activate_tanh(a: Array, b: Array) -> None:
    """tanh(a + b), in place : (M, n), (n,)."""
    _by_rows(_bias_tanh, *a.shape, a, b)


def add_bias(a: Array, b: Array) -> None:
    """a + b, in place : (M, n), (n,)."""
    _by_rows(_bias, *a.shape, a, b)


def relu_slope(g: Array, h: Array) -> Array:
    """g [h > 0] : (M, n); h is what the layer returned."""
    out = np.empty_like(g)
    _by_rows(_relu_slope, *g.shape, g, h, out)
    return out


def tanh_slope(g: Array, h: Array) -> Array:
    """g (1 - h^2) : (M, n); h is what the layer returned."""
    out = np.empty_like(g)
    _by_rows(_tanh_slope, *g.shape, g, h, out)
    return out


def _layer(name: str, activate: Callable[[Array, Array], None], slope: Callable[[Array, Array], Array]) -> Any:
    def forward(h: Array, W: Array, b: Array) -> Array:
        a = np.matmul(h, W)
        activate(a, b)
        return a

    def vjp_maker(argnums: Any, ans: Array, arguments: Any, options: Any) -> Any:
        h, W, _, activated = checks.not_differentiated(WHERE, *arguments, ans)

        def vjp(g: Array) -> Any:
            (g,) = checks.not_differentiated(WHERE, g)
            a = slope(np.ascontiguousarray(g), activated)
            parts = (lambda: np.matmul(a, W.T), lambda: np.matmul(h.T, a), lambda: np.sum(a, axis=0))
            return tuple(parts[k]() for k in argnums)

        return vjp

    forward.__name__ = name
    function = primitive(forward)
    defvjp_argnums(function, vjp_maker)
    return function


relu_layer = _layer("relu_layer", activate_relu, relu_slope)
"""max(h W + b, 0): `tcvae_ref.networks.relu_layer`."""
tanh_layer = _layer("tanh_layer", activate_tanh, tanh_slope)
"""tanh(h W + b): `tcvae_ref.networks.tanh_layer`."""
linear_layer = _layer("linear_layer", add_bias, lambda g, h: g)
"""h W + b: `tcvae_ref.networks.linear_layer`."""


# --- Adam ------------------------------------------------------------------------------------------------------


@jit
def _adam(p, g, m, v, beta1, beta2, rest1, rest2, rate, epsilon):
    """Adam's update of one block of numbers, in place : 1-D arrays."""
    vector_loop()
    for k in range(p.size):
        g_k = g[k]
        m_k = beta1 * m[k] + rest1 * g_k
        v_k = beta2 * v[k] + rest2 * (g_k * g_k)
        m[k], v[k] = m_k, v_k
        p[k] -= rate * (m_k / (np.sqrt(v_k) + epsilon))


def adam_update(p: Array, g: Array, m: Array, v: Array, numbers: tuple[float, ...]) -> None:
    """Update one parameter array and its moments in place: `tcvae_ref.training.adam.adam_update`."""
    scalars = [p.dtype.type(number) for number in numbers]

    def work(b: int) -> None:
        part = slice(b * BLOCK, (b + 1) * BLOCK)
        _adam(p[part], g[part], m[part], v[part], *scalars)

    with np.errstate(all="ignore"):
        threads.run(work, -(-p.size // BLOCK))
