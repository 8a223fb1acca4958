"""Densities, the KL in closed form, likelihoods and exponentials: formulas in balls, beside the sizes they add up.

An error is allowed k roundings, relative to the sum of the absolute terms, as in the oracle's derivation; k counts
the operations of the formula and what exp and log may be off.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from autograd import make_vjp
from autograd import numpy as anp

import tcvae_ref
from tcvae_ref.oracle import balls
from tcvae_ref.oracle.balls import Balls
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.truth import NARROW
from tcvae_ref.oracle.types import Enclosure
from tcvae_ref.selftest.draws import Batch
from tcvae_ref.selftest.types import CUTS, PRIMITIVES, Comparison, gamma
from tcvae_ref.types import Array

LOG_2PI = math.log(2 * math.pi)
LOWEST = 1e-300
_MOST_BITS = 1 << 15


class Terms(NamedTuple):
    """Balls, the sizes of the terms that make them up, and what underflow may take."""

    balls: Any
    size: Array
    lost: Array | float = 0.0
    """In units of the smallest normal number."""


class Formula(NamedTuple):
    """A function's value and the gradient of its sum, in balls."""

    value: Terms
    slopes: dict[str, Terms]
    roundings: float
    """k, without what exp and log may be off."""


def enclosed(
    formula: Callable[[Balls], Any], parts: Callable[[Any], list[tuple[Any, Array]]]
) -> tuple[Any, list[Enclosure]]:
    """Evaluate a formula in more and more bits until all of its parts are narrow beside their sizes."""
    bits = 192
    while bits <= _MOST_BITS:
        with balls.arithmetic(bits) as arithmetic:
            result = formula(arithmetic)
            enclosures = [balls.enclosure(arithmetic, numbers) for numbers, _ in parts(result)]
        sizes = [np.maximum(size, LOWEST) for _, size in parts(result)]
        if all(np.all(e.radius <= NARROW * s) for e, s in zip(enclosures, sizes, strict=True)):
            return result, enclosures
        bits *= 2
    raise ArithmeticError(f"{_MOST_BITS} bits do not suffice")


class _Exact:
    """Arrays of balls, and functions of them entry by entry."""

    def __init__(self, arithmetic: Balls, **arrays: Array):
        self.b = arithmetic
        self.arrays = {name: self.of(array) for name, array in arrays.items()}
        self.exp, self.log = np.frompyfunc(arithmetic.exp, 1, 1), np.frompyfunc(arithmetic.log, 1, 1)
        self.log_2pi = arithmetic.log(2 * arithmetic.pi())

    def of(self, array: Array) -> Any:
        return np.frompyfunc(lambda x: self.b.number(float(x)), 1, 1)(np.asarray(array, dtype=np.float64))

    def size(self, numbers: Any) -> Array:
        return np.asarray(np.frompyfunc(self.b.size, 1, 1)(numbers), dtype=np.float64)


def _density(e: _Exact, z: Any, mu: Any, log_var: Any) -> tuple[Terms, Terms, Terms]:
    """Log N(z; mu, exp(log_var)) and its derivatives in z and log_var, entry by entry."""
    u = (z - mu) * e.exp(-log_var)
    q = (z - mu) * u
    size_q, size_v, inverse = e.size(q), e.size(log_var), e.size(e.exp(-log_var / 2))
    value = Terms(-(q + log_var + e.log_2pi) / 2, 0.5 * (size_q + size_v + LOG_2PI), 2 * np.sqrt(size_q) + 2)
    return value, Terms(-u, e.size(u), 8 * (1 + inverse)), Terms((q - 1) / 2, 0.5 * (size_q + 1), 8 * (1 + inverse))


def _added(t: Terms, axis: int | tuple[int, ...]) -> Terms:
    lost = np.broadcast_to(np.asarray(t.lost, dtype=np.float64), np.shape(t.size))
    return Terms(np.sum(t.balls, axis=axis), t.size.sum(axis=axis), lost.sum(axis=axis))


def _negative(t: Terms) -> Terms:
    return t._replace(balls=-t.balls)


def log_density(b: Balls, z: Array, mu: Array, log_var: Array) -> Formula:
    """-1/2 [ (z - mu)^2 exp(-log_var) + log_var + log 2 pi ], entry by entry."""
    e = _Exact(b, z=z, mu=mu, v=log_var)
    value, at_z, at_v = _density(e, *e.arrays.values())
    return Formula(value, {"z": at_z, "mu": _negative(at_z), "log_var": at_v}, 14)


def log_density_matrix(b: Balls, z: Array, mu: Array, log_var: Array) -> Formula:
    """The same of every sample under every posterior."""
    e = _Exact(b, z=z, mu=mu, v=log_var)
    value, at_z, at_v = _density(e, e.arrays["z"][:, None], e.arrays["mu"][None], e.arrays["v"][None])
    slopes = {"z": _added(at_z, 1), "mu": _negative(_added(at_z, 0)), "log_var": _added(at_v, 0)}
    return Formula(value, slopes, 14 + len(z))


def gaussian_log_likelihood(b: Balls, x: Array, mean: Array, log_var: Array) -> Formula:
    """The same, added up over pixels."""
    entries = log_density(b, x, mean, log_var)
    slopes = dict(zip(("x", "mean", "log_var"), entries.slopes.values(), strict=True))
    return Formula(_added(entries.value, 1), slopes, 14 + x.shape[1])


def log_standard_normal(b: Balls, z: Array) -> Formula:
    """-1/2 sum_d [ z^2 + log 2 pi ]."""
    e = _Exact(b, z=z)
    z_ = e.arrays["z"]
    value = Terms(-(z_ * z_ + e.log_2pi) / 2, 0.5 * (e.size(z_ * z_) + LOG_2PI), 1.0)
    return Formula(_added(value, 1), {"z": Terms(-z_, e.size(z_))}, 5 + z.shape[1])


def log_laplace(b: Balls, z: Array) -> Formula:
    """- sum_d [ |z| + log 2 ]."""
    e = _Exact(b, z=z)
    size = e.size(e.arrays["z"])
    value = Terms(-(np.abs(e.arrays["z"]) + b.log(b.number(2))), size + math.log(2))
    return Formula(_added(value, 1), {"z": Terms(e.of(-np.sign(z)), np.ones_like(size))}, 4 + z.shape[1])


def kl_to_standard_normal(b: Balls, mu: Array, log_var: Array) -> Formula:
    """1/2 sum_d [ mu^2 + (exp(log_var) - 1) - log_var ]."""
    e = _Exact(b, mu=mu, v=log_var)
    m, v = e.arrays.values()
    variance = e.exp(v)
    size = 0.5 * (e.size(m * m) + e.size(variance - 1) + e.size(v))
    slopes = {"mu": Terms(m, e.size(m)), "log_var": Terms((variance - 1) / 2, 0.5 * (e.size(variance) + 1), 1.0)}
    return Formula(_added(Terms((m * m + variance - 1 - v) / 2, size, 2.0), 1), slopes, 8 + mu.shape[1])


def reparameterise(b: Balls, mu: Array, log_var: Array, eps: Array) -> Formula:
    """Mu + exp(log_var / 2) eps."""
    e = _Exact(b, mu=mu, v=log_var, eps=eps)
    m, v, noise = e.arrays.values()
    sigma = e.exp(v / 2)
    value = Terms(m + sigma * noise, e.size(m) + e.size(sigma * noise), 1.0)
    slopes = {
        "mu": Terms(e.of(np.ones_like(mu)), np.ones(mu.shape)),
        "log_var": Terms(sigma * noise / 2, e.size(sigma * noise) / 2, 2.0),
        "eps": Terms(sigma, e.size(sigma)),
    }
    return Formula(value, slopes, 6)


def bernoulli_log_likelihood(b: Balls, x: Array, logits: Array) -> Formula:
    """Sum_p [ l (x - [l > 0]) - log(1 + exp(-|l|)) ]: both halves have one sign."""
    e = _Exact(b, x=x, l=logits)
    x_, l_ = e.arrays.values()
    tail = e.exp(-np.abs(l_))
    far = np.where(logits > 0, x_ - 1, x_) * l_
    value = far - e.log(1 + tail)
    sigmoid = np.where(logits > 0, 1, tail) / (1 + tail)
    slopes = {
        "x": Terms(l_, e.size(l_)),
        "logits": Terms(x_ - sigmoid, e.size(x_) + e.size(sigmoid), 4.0),
    }
    return Formula(_added(Terms(value, e.size(far) + e.size(value - far), 4.0), 1), slopes, 10 + x.shape[1])


FORMULAS: dict[str, Callable[..., Formula]] = {
    f.__name__: f
    for f in (
        *(log_density, log_density_matrix, gaussian_log_likelihood, log_standard_normal, log_laplace),
        *(kl_to_standard_normal, reparameterise, bernoulli_log_likelihood),
    )
}


def inputs(name: str, batch: Batch, rng: np.random.Generator) -> dict[str, Array]:
    """Arguments of one of the functions, from a batch."""
    z, mu, log_var = batch.z, batch.mu, batch.log_var
    if name in ("log_density", "log_density_matrix"):
        return {"z": z, "mu": mu, "log_var": log_var}
    if name == "gaussian_log_likelihood":
        return {"x": z, "mean": mu, "log_var": log_var}
    if name in ("log_standard_normal", "log_laplace"):
        return {"z": z}
    if name == "kl_to_standard_normal":
        return {"mu": mu, "log_var": log_var}
    if name == "reparameterise":
        return {"mu": mu, "log_var": log_var, "eps": rng.standard_normal(mu.shape).astype(batch.dtype)}
    shape = len(z), int(rng.integers(1, 12))
    logits = rng.standard_normal(shape) * 10.0 ** rng.choice([0, 0, 0, 1, 2, 3, -10, -300])
    grey = rng.choice([np.zeros(shape), np.ones(shape), rng.random(shape), rng.integers(0, 2, shape)])
    return {"x": grey.astype(batch.dtype), "logits": logits.astype(batch.dtype)}


def judge(name: str, arrays: dict[str, Array], module: ModuleType) -> list[Comparison]:
    """Compare one function's values, and the gradient of their sum.

    Parameters
    ----------
    name : str
        One of `FORMULAS`.
    arrays : dict
        Its arguments.
    module : module
        Where it is: `tcvae_ref`, or `tcvae_kernels.elementwise`, which is differentiable in the last argument alone.
    """
    dtype, where = str(next(iter(arrays.values())).dtype), f"{module.__name__}.{name}"
    function, given = getattr(module, name), list(arrays.values())
    differentiable = list(arrays) if module is tcvae_ref else list(arrays)[-1:]
    smallest = FORMATS[dtype].smallest if module is tcvae_ref else max(FORMATS[dtype].smallest, CUTS[dtype].below)
    positions = tuple(list(arrays).index(argument) for argument in differentiable)
    exact, true = enclosed(
        lambda b: FORMULAS[name](b, *given),
        lambda f: [(t.balls, t.size) for t in (f.value, *(f.slopes[a] for a in differentiable))],
    )
    k = exact.roundings + 2 * PRIMITIVES[dtype].exp + PRIMITIVES[dtype].log
    vjp, _ = make_vjp(lambda *a: anp.sum(function(*a)), positions)(*given)
    got = [function(*given), *vjp(np.dtype(dtype).type(1))]
    result = []
    for argument, terms, ours, enclosure in zip(
        ("", *differentiable), (exact.value, *(exact.slopes[a] for a in differentiable)), got, true, strict=True
    ):
        allowed = gamma(k, dtype) * terms.size + smallest * np.asarray(terms.lost) + FORMATS[dtype].smallest
        # what overflows when it is added up is not asked
        fits = 4 * terms.size.size * np.max(terms.size, initial=0.0) < FORMATS[dtype].largest
        bound = np.where(fits, allowed, np.inf)
        result.append(
            Comparison(where, "gradient" if argument else "value", argument, ours, enclosure, bound, terms.size)
        )
    return result


# --- the exponential -------------------------------------------------------------------------------------------

_EXPONENTS = {"float64": (-745.2, 670.0), "float32": (-104.0, 70.0)}
ULPS = {"numpy.exp": {"float64": 2.0, "float32": 4.0}, "tcvae_kernels.exp": {"float64": 2.0, "float32": 2.0}}


def exponents(rng: np.random.Generator, dtype: str, count: int = 64) -> Array:
    """Arguments of exp, where it underflows among them."""
    low, high = _EXPONENTS[dtype]
    x = np.concatenate([rng.uniform(low, high, count), rng.uniform(-1, 1, count), 10.0 ** rng.uniform(-30, 0, count)])
    return np.clip(x, low, high).astype(dtype)


def judge_exp(x: Array, name: str, exp: Callable[[Array], Array]) -> list[Comparison]:
    """Compare an exponential, in ulp of the result."""
    dtype = str(x.dtype)
    with balls.arithmetic(192) as arithmetic:
        true = balls.enclosure(arithmetic, [arithmetic.exp(arithmetic.number(float(value))) for value in x])
    ulp = np.spacing(true.middle.astype(dtype)).astype(np.float64)
    return [Comparison(name, "value", "", exp(x), true, ULPS[name][dtype] * ulp, np.maximum(true.middle, 32 * ulp))]
