"""The sampler of a training step, judged: z = mu + sigma eps, with standard normal noise that is new for each entry.

A sampler is called a few times on one batch of many widths. The power of sigma with which its spread grows is the slope
of E[log|z - mu|] in log sigma^2; what is left after division by sigma is held to the standard normal distribution; the
gradients follow from the numbers that were returned, for d z/d mu = 1 and d z/d log sigma^2 = (z - mu) / 2 on any draw.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tcvae_ref.checks import InputError
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.aliases import ARGUMENT_OF, key, keys
from tcvae_ref.oracle.inference import parameters_of
from tcvae_ref.oracle.subject import WIDTHS
from tcvae_ref.oracle.types import PARAMETERISATIONS, Observed, TargetFault
from tcvae_ref.types import Array

ROWS, DIMENSIONS, CALLS = 2048, 6, 3
SIGMAS = 7.0
"""Standard errors that an average may be off: a right sampler is accused once in 4e11 averages."""
LEAST_P = 1e-11
"""Of the Kolmogorov-Smirnov test for normal noise."""
ALIKE = 1e-4
"""Numbers as near as this, relatively, are the same."""

NOISE = keys("eps epsilon noise standard_normal normal_noise e u")
KEYS = keys("key rng rng_key prng_key random_key generator")
TRAINING = keys("training is_training train")
SCALES = {0.0: "unit-noise", 0.25: "log-std-as-log-var", 1.0: "log-var-as-log-std"}
"""Power of sigma^2 with which the spread grows -> the mistake; 1/2 is right."""


class Fault(NamedTuple):
    """What is wrong with a part of a training step."""

    id: str
    words: str


class Draws(NamedTuple):
    """Samples of one batch, call by call."""

    mu: Array
    log_var: Array
    observed: list[Observed]
    parameterisation: str

    @property
    def z(self) -> list[Array]:
        """(M, D) for each call."""
        return [one.values[QUANTITY] for one in self.observed]

    @property
    def noise(self) -> Array:
        """(calls, M, D): (z - mu) / sigma."""
        return (np.stack(self.z) - self.mu) / np.exp(0.5 * self.log_var)


QUANTITY = "log_qz_marginals"
"""The (M, D) quantity that samples travel as: an adapter differentiates the batch mean of its sum over d."""


def draw(function: Callable[..., Any], name: str, adapter: Adapter, dtype: str, seed: int) -> Draws:
    """Call a sampler on one batch, and differentiate it.

    Raises
    ------
    InputError
        A parameter has no known meaning.
    TargetFault
        It raised, or returned no (M, D) array.
    """
    rng = np.random.default_rng([seed, 20180214])
    mu = rng.standard_normal((ROWS, DIMENSIONS))
    log_var = rng.uniform(-5.0, 1.5, (ROWS, DIMENSIONS))
    roles = parameters(function, name)
    width = next(role for role in roles.values() if role in PARAMETERISATIONS)
    received = {"mu": mu, width: WIDTHS[width](log_var)}
    asked = (QUANTITY,) if adapter.differentiable else ()
    observed = []
    for call in range(CALLS):
        others = {"noise": rng.standard_normal(mu.shape), "key": seed + call}
        target = _Sampler(function, roles, adapter, dtype, others)
        one = adapter.observe(target, received, {}, dtype, adapter.variants[0], asked)
        if one.values[QUANTITY].shape != mu.shape:
            raise TargetFault(
                f"the sampler returned {one.values[QUANTITY].shape}; z of the shape of mu, (M, D), is needed"
            )
        lost = int(np.count_nonzero(~np.isfinite(one.values[QUANTITY])))
        if lost:
            raise TargetFault(
                f"the sampler returned {lost:,} nan or infinite of {mu.size:,} numbers, for ordinary widths"
            )
        observed.append(one)
    sent_mu, sent_log_var = (adapter.array(adapter.tensor(a, dtype)) for a in (mu, log_var))
    return Draws(sent_mu, sent_log_var, observed, width)


def parameters(function: Callable[..., Any], name: str) -> dict[str, str]:
    """Parameter -> mu, a width, noise or key.

    Raises
    ------
    InputError
        There is no mu or no width among them, or a parameter without default is none of these.
    """
    roles: dict[str, str] = {}
    signature = [p for p in parameters_of(function) if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for parameter in signature:
        word = key(parameter.name)
        role = "noise" if word in NOISE else "key" if word in KEYS else ARGUMENT_OF.get(word, "")
        role = "seed" if word == "seed" else role
        if role in ("noise", "key") and parameter.default is not parameter.empty:
            continue  # as in training, where it draws for itself
        if role in ("mu", "noise", "key", "seed", *PARAMETERISATIONS):
            roles[parameter.name] = role
        elif word in TRAINING:
            roles[parameter.name] = "training"
        elif parameter.default is parameter.empty:
            raise InputError(
                f"{name}: parameter {parameter.name!r} of the sampler is not understood; "
                f"write a function of mu, a width ({', '.join(PARAMETERISATIONS)}) and, if it takes them, eps or key"
            )
    if "mu" not in roles.values() or not set(roles.values()) & set(PARAMETERISATIONS):
        raise InputError(
            f"{name}: takes ({', '.join(p.name for p in signature)}); a sampler takes mu and a width: "
            f"{', '.join(PARAMETERISATIONS)}"
        )
    return roles


class _Sampler:
    """A sampler as a `TensorFunction`."""

    def __init__(
        self,
        function: Callable[..., Any],
        roles: Mapping[str, str],
        adapter: Adapter,
        dtype: str,
        others: Mapping[str, Any],
    ):
        self.function, self.roles = function, roles
        self.adapter, self.dtype, self.others = adapter, dtype, others

    def __call__(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        z = self.function(**{p: self._given(role, tensors) for p, role in self.roles.items()})
        if isinstance(z, tuple | list | dict):
            raise TargetFault(f"the sampler returned {len(z)} things; a function that returns z alone is needed")
        return {QUANTITY: z}

    def _given(self, role: str, tensors: Mapping[str, Any]) -> Any:
        if role == "noise":
            return self.adapter.tensor(self.others["noise"], self.dtype)
        if role == "training":
            return True
        if role == "seed":
            return self.others["key"]
        return self.adapter.random_state(self.others["key"]) if role == "key" else tensors[role]


# --- what the draws show ---------------------------------------------------------------------------------------------


def faults(draws: Draws) -> list[Fault]:
    """What is wrong with a sampler, the first thing first; nothing where it is right."""
    width = _constant(draws) or _scale(draws)
    if width is not None:
        return [width]  # whose noise and gradients are those of another width
    noise = _repeated(draws) or _distribution(draws)
    return [*([noise] if noise is not None else []), *_gradients(draws)]


def _constant(draws: Draws) -> Fault | None:
    """Without noise."""
    if all(np.allclose(z, draws.mu, rtol=ALIKE, atol=ALIKE) for z in draws.z):
        return Fault("mean-as-sample", "z = mu, without noise, in training")
    return None


def _scale(draws: Draws) -> Fault | None:
    """The power of sigma^2 with which the spread of z grows, where it is not 1/2."""
    with np.errstate(divide="ignore"):
        size = np.log(np.abs(np.stack(draws.z) - draws.mu)).mean(axis=0)  # over calls
    kept = np.isfinite(size)
    x, y = draws.log_var[kept], size[kept]
    fit = stats.linregress(x, y)
    power, error = float(fit.slope), float(fit.stderr)
    if abs(power - 0.5) <= SIGMAS * error:
        return None
    said = f"the spread of z grows as sigma^{2 * power:.3f} (plus or minus {2 * error:.3f}), and not as sigma"
    for known, name in SCALES.items():
        if abs(power - known) <= SIGMAS * error:
            return Fault(name, said)
    return Fault("unknown", f"{said}: over widths from {math.exp(x.min() / 2):.2f} to {math.exp(x.max() / 2):.2f}")


def _repeated(draws: Draws) -> Fault | None:
    """Noise that is the same for each call, sample or dimension, or depends on it."""
    noise = draws.noise
    for axis, words in ((0, "in each call"), (1, "for each sample of the batch"), (2, "in each dimension")):
        spread = np.ptp(noise, axis=axis) / (np.abs(noise).max(axis=axis) + ALIKE)
        if np.median(spread) < ALIKE:
            return Fault("shared-noise", f"eps is the same {words}")
    if len(np.unique(np.round(noise[0], 3), axis=0)) < len(noise[0]) // 2:
        return Fault("shared-noise", "rows of eps come several times in a batch")
    for words, one, other in _neighbours(noise):
        correlation = float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
        if abs(correlation) > SIGMAS / math.sqrt(one.size):
            return Fault("shared-noise", f"eps of {words} is correlated by {correlation:.3f}")
    return None


def _neighbours(noise: Array) -> Iterator[tuple[str, Array, Array]]:
    yield from (("two calls", noise[a], noise[b]) for a, b in itertools.combinations(range(len(noise)), 2))
    yield "neighbouring samples", noise[:, 1:], noise[:, :-1]
    for d, e in itertools.combinations(range(noise.shape[2]), 2):
        yield f"dimensions {d} and {e}", noise[:, :, d], noise[:, :, e]


def _distribution(draws: Draws) -> Fault | None:
    """Noise that is not standard normal."""
    eps: NDArray[np.float64] = draws.noise.ravel()
    mean, deviation, count = float(eps.mean()), float(eps.std()), eps.size
    normal = float(stats.kstest(eps, "norm").pvalue) > LEAST_P
    off_mean = abs(mean) * math.sqrt(count) > SIGMAS
    off_width = abs(deviation**2 - 1) * math.sqrt(count / 2) > SIGMAS
    if normal and not off_mean and not off_width:
        return None
    shape = float(stats.kstest((eps - mean) / deviation, "norm").pvalue) > LEAST_P
    said = f"eps has mean {mean:.3f} and standard deviation {deviation:.3f}, for 0 and 1"
    return Fault("wrong-noise", said if shape else f"{said}, and is not normal (Kolmogorov-Smirnov)")


def _gradients(draws: Draws) -> Iterator[Fault]:
    """Derivatives of z that are not those of mu + sigma eps."""
    for z, one in zip(draws.z, draws.observed, strict=True):
        if QUANTITY not in one.gradients:
            return
        slopes = {"mu": np.ones_like(z), draws.parameterisation: _slope(draws, z)}
        got = {name: ROWS * one.gradients[QUANTITY][name] for name in slopes}  # of the batch mean
        off = [name for name, slope in slopes.items() if not _close(got[name], slope)]
        if off:
            zero = [name for name in off if not got[name].any()]
            words = (
                f"z is detached from {' and '.join(zero)}" if zero else f"d z/d {off[0]} is not that of mu + sigma eps"
            )
            yield Fault("detached-sample" if zero else "unknown", words)
            return


def _close(got: Array, right: Array) -> bool:
    return bool(np.max(np.abs(got - right)) <= 1e-4 * np.max(np.abs(right)))


def _slope(draws: Draws, z: Array) -> Array:
    """Derivative of z in the width, from the noise that is in z."""
    away = z - draws.mu
    sigma = np.exp(0.5 * draws.log_var)
    return {"log_var": away / 2, "log_std": away, "std": away / sigma, "var": away / (2 * sigma**2)}[
        draws.parameterisation
    ]
