"""Random cases: half of them of moderate scales, the others hard in one way or several.

Case `number` of a seed is drawn from [seed, number] alone, so each is repeated without those before it.
"""

from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.estimators import OWN
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.types import Array

DTYPES = ("float64", "float32")
_WIDEST = {"float64": 700.0, "float32": 80.0}
"""Of |log_var|."""
_LARGEST = {"float64": 150.0, "float32": 17.0}
"""Decimal exponents of |mu|."""


class Batch(NamedTuple):
    """Samples and posteriors, one sample for each."""

    z: Array
    mu: Array
    log_var: Array
    dtype: str
    estimator: str
    dataset_size: int
    hard: str
    """What is hard about it, in words; "" for moderate scales."""

    @property
    def what(self) -> str:
        """In one line."""
        M, D = self.z.shape
        sizes = f"estimator {self.estimator}, {self.dtype}, M = {M}, D = {D}, N = {self.dataset_size}"
        return f"{sizes}, {self.hard}" if self.hard else sizes


def generator(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one case."""
    return np.random.default_rng([seed, number])


def _sizes(rng: np.random.Generator) -> tuple[int, int]:
    """M and D: mostly up to 8 and 3, small ones more often; once in 100 large."""
    kind = rng.random()
    if kind < 0.005:
        return int(rng.integers(20, 60)), int(rng.integers(1, 6))
    if kind < 0.01:
        return int(rng.integers(1, 4)), int(rng.integers(50, 300))
    return 1 + int(8 * rng.random() ** 2), 1 + int(3 * rng.random() ** 2)


def _dataset_size(rng: np.random.Generator, M: int) -> int:
    kind = rng.random()
    if kind < 0.1:
        return M
    if kind < 0.85:
        return M + int(rng.integers(0, 10 ** int(rng.integers(1, 7))))
    return M + int(rng.choice([2**24, 2**31 - 1, 2**40, 2**53 + 1, 2**62]))


def batch(rng: np.random.Generator) -> Batch:
    """A batch whose squares ((z - mu) / sigma)^2 and slopes (z - mu) / sigma^2 fit the dtype, which has results."""
    dtype, estimator = str(rng.choice(DTYPES)), str(rng.choice(list(OWN)))
    while True:
        M, D = _sizes(rng)
        M = max(M, OWN[estimator].least_batch)
        N = M if OWN[estimator].whole_data_set else _dataset_size(rng, M)
        z, mu, log_var, hard = _arrays(rng, M, D, dtype)
        with np.errstate(all="ignore"):
            z, mu, log_var = (a.astype(dtype) for a in (z, mu, log_var))
            if fits(z.astype(np.float64), mu.astype(np.float64), log_var.astype(np.float64), dtype):
                return Batch(z, mu, log_var, dtype, estimator, N, hard)


def fits(z: Array, mu: Array, log_var: Array, dtype: str) -> bool:
    """Whether squares of z and mu, ((z - mu) / sigma)^2 and (z - mu) / sigma^2 leave room within the dtype."""
    largest = FORMATS[dtype].largest
    if not np.isfinite([z, mu, log_var]).all():
        return False
    inverse = np.exp(-0.5 * log_var)
    t = np.abs(z[:, None] - mu) * inverse
    return bool(max((t**2).max(), (t * inverse).max(), (z**2).max(), (mu**2).max()) * 8 * z.size < largest)


def _arrays(rng: np.random.Generator, M: int, D: int, dtype: str) -> tuple[Array, Array, Array, str]:
    """z, mu and log_var in float64, and what is hard about them."""
    mu, log_var, eps = rng.standard_normal((M, D)), 1.5 * rng.uniform(-1, 1, (M, D)), rng.standard_normal((M, D))
    if rng.random() < 0.5:
        return mu + np.exp(0.5 * log_var) * eps, mu, log_var, ""
    hard, widest, largest = [], _WIDEST[dtype], _LARGEST[dtype]

    width = str(rng.choice(["", "wide", "narrow", "far apart", "extreme"]))
    if width:
        hard.append(f"log_var {width}")
    if width == "wide":
        log_var = 8 * rng.uniform(-1, 1, (M, D))
    elif width == "narrow":
        log_var = rng.uniform(-18, -4, (M, D))
    elif width == "far apart":
        log_var = widest * rng.uniform(-1, 1, (M, D)) * rng.random()
    elif width == "extreme":
        log_var = widest * rng.uniform(-1, 1) + rng.uniform(-1, 1, (M, D))

    place = str(rng.choice(["", "close", "spread", "tiny", "huge", "0", "subnormal"]))
    if place:
        hard.append(f"mu {place}")
    scale = {
        "close": 1e-3,
        "spread": 20.0,
        "tiny": 10.0 ** -rng.uniform(3, 2 * largest),
        "huge": 10.0 ** rng.uniform(0, largest),
        "0": 0.0,
        "subnormal": 4 * FORMATS[dtype].smallest * FORMATS[dtype].roundoff * 2.0 ** int(rng.integers(0, 20)),
    }.get(place, 1.0)
    mu = scale * mu

    if rng.random() < 0.2:
        hard.append("samples far out")
        eps = eps * 10.0 ** rng.uniform(0, 3)
    z = mu + np.exp(0.5 * log_var) * eps
    relation = str(rng.choice(["", "", "duplicates", "identical", "z = mu", "z elsewhere", "z = 0"]))
    if relation:
        hard.append(relation)
    if relation == "duplicates":
        mu[-1], log_var[-1], z[-1] = mu[0], log_var[0], z[0]
    elif relation == "identical":
        mu[:], log_var[:], z[:] = mu[0], log_var[0], z[0]
    elif relation == "z = mu":
        z = mu.copy()
    elif relation == "z elsewhere":
        z = rng.standard_normal((M, D)) * max(scale, 1.0)
    elif relation == "z = 0":
        z = np.zeros((M, D))
    return z, mu, log_var, ", ".join(hard)
