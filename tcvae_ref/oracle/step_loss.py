"""Somebody's whole loss as the oracle calls it: its parameters, and a reconstruction to hand over."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.checks import InputError, option, whole_number
from tcvae_ref.gaussian import LOG_2PI
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.aliases import ARGUMENTS, ROLES, WEIGHTS, key, keys
from tcvae_ref.oracle.inference import by_place, is_named, map_arguments, parameters_of
from tcvae_ref.oracle.mapping import ArgumentMap, Slot
from tcvae_ref.oracle.returns import Returns, name_results, parse_returns
from tcvae_ref.oracle.types import TargetFault
from tcvae_ref.types import Array

IMAGES = keys("recon recons reconst reconstruction rec")
"""Names of the reconstruction that mean images where the loss takes x besides, and numbers else."""
LIKELIHOODS: dict[str, Callable[[Array, Array], Array]] = {
    "Bernoulli": lambda x, p: x * np.log(p) + (1 - x) * np.log1p(-p),
    "Bernoulli of logits": lambda x, r: x * r - np.logaddexp(0.0, r),
    "Gaussian of variance 1": lambda x, r: -0.5 * (x - r) ** 2,
    "Gaussian of variance 1, with log 2 pi": lambda x, r: -0.5 * ((x - r) ** 2 + LOG_2PI),
    "Gaussian of variance 1/2": lambda x, r: -((x - r) ** 2),
    "Laplace": lambda x, r: -np.abs(x - r),
}
"""log p(x|z) of a pixel, up to a constant, from what the decoder returns."""
IMAGE_SHAPE = (6,)
"""Of one image, where nothing is said of it."""
_MOST_PIXELS = 1_000_000


def width_of(likelihood: str, weight: float) -> str:
    """Whose log-density, but for a constant, a Gaussian or Laplace one with a weight above 0 is; "" for others."""
    if weight > 0 and likelihood.startswith("Gaussian"):
        return f"a Gaussian of variance {(0.5 if likelihood.endswith('1/2') else 1.0) / weight:.4g}"
    return f"a Laplace of scale {1.0 / weight:.4g}" if weight > 0 and likelihood == "Laplace" else ""


@dataclass(frozen=True)
class StepLoss:
    """Somebody's loss with its reconstruction, as the oracle calls it."""

    name: str
    callable: Callable[..., Any]
    arguments: ArgumentMap
    adapter: Adapter
    dtype: str
    weights: Mapping[str, float]
    """alpha, beta, gamma that it is meant to have."""
    step: float = 0.0
    images: int = 0
    """Which random images, and reconstructions of them, where it takes such."""
    handed: str = "samples"
    """How a reconstruction that is a number is handed over: "samples", "mean" or "sum" of the batch."""
    likelihood: str = "Bernoulli of logits"
    """Of pixels: one of `LIKELIHOODS`."""
    weight: float = 1.0
    """Of the reconstruction, as far as it is known."""
    dataset_size: int | None = None
    """N inside the loss, where it does not take it."""
    image_shape: tuple[int, ...] = IMAGE_SHAPE
    returns: Returns = None
    """Which part of what it returns is `LOSS`, where its name does not say so."""

    @property
    def takes(self) -> frozenset[str]:
        """What it receives, by the oracle's names; N too where it receives M/N."""
        names = self.arguments.names
        return names | {"dataset_size"} if "batch_fraction" in names else names

    @property
    def is_told_dataset_size(self) -> bool:
        """Whether N is known: the loss takes it, or it was said which it has inside."""
        return "dataset_size" in self.takes or self.dataset_size is not None

    def __call__(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        """The loss of a batch, as the oracle's quantity `penalty`."""
        return {"penalty": self.minimised(tensors, constants).value}

    def minimised(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> "Minimised":
        """The loss of a batch, and which part of what is returned it is."""
        fraction = int(tensors["z"].shape[0]) / constants["dataset_size"]
        given = {**tensors, **constants, **self._weights(constants), "step": self.step, "batch_fraction": fraction}
        given |= self._reconstruction(tensors)
        return minimised(self.arguments.call(self.callable, given, self.adapter.stack), self.returns)

    def penalty(self, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        """What the loss adds to minus the reconstruction."""
        loss = self(tensors, constants)["penalty"]
        return {"penalty": loss + self.weight * mean(self.log_px(tensors))}

    def log_px(self, tensors: Mapping[str, Any]) -> Any:
        """(M,) log p(x|z) of the batch, as tensors: a function of z where the loss takes it as a number."""
        if self.of_pixels:
            pixels = LIKELIHOODS[self.likelihood](*self._pixels(tensors))
            return self.adapter.tensor(np.sum(pixels, axis=tuple(range(1, pixels.ndim))), self.dtype)
        return 3.0 * tensors["z"][:, 0] - 20.0

    @property
    def pixels(self) -> int:
        """Of an image."""
        return math.prod(self.image_shape)

    @property
    def of_pixels(self) -> bool:
        """Whether the reconstruction is made in the loss, of images."""
        return bool({"logits", "decoded"} & self.takes)

    @property
    def likelihoods(self) -> tuple[str, ...]:
        """Those it may have."""
        if not self.of_pixels or "logits" in self.takes:
            return (self.likelihood,)
        return tuple(LIKELIHOODS)

    def _weights(self, constants: Mapping[str, Any]) -> dict[str, Any]:
        """The weights it is meant to have, where a case has no others."""
        return {name: self.weights[name] for name in WEIGHTS if name in self.takes and name not in constants}

    def _reconstruction(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        x, decoded = (self.adapter.tensor(array, self.dtype) for array in self._pixels(tensors))
        images = {"x": x, "logits": decoded, "decoded": decoded}
        if self.of_pixels:
            return images
        log_px = self.log_px(tensors)
        if self.handed != "samples":
            log_px = mean(log_px) * (log_px.shape[0] if self.handed == "sum" else 1)
        return {**images, "log_px": log_px, "nll": -log_px}

    def _pixels(self, tensors: Mapping[str, Any]) -> tuple[Array, Array]:
        """Images of 0 and 1 and what a decoder made of them, (M, *image_shape): logits, or numbers between 0 and 1."""
        M = int(tensors["z"].shape[0])
        rng, shape = np.random.default_rng([M, self.images]), (M, *self.image_shape)
        x, logits = rng.integers(0, 2, shape).astype(float), rng.standard_normal(shape)
        return x, logits if "logits" in self.takes else 1.0 / (1.0 + np.exp(-logits))


def mean(values: Any) -> Any:
    """Over samples, in whatever framework."""
    M = int(values.shape[0])
    return sum((values[i] for i in range(1, M)), values[0]) / M


LOSS = "loss"
"""What is minimised, by the name that the option `returns` has for it."""
TOTALS = keys("loss total_loss total objective loss_total")
"""Names of the whole among the parts that a loss returns."""


class Minimised(NamedTuple):
    """What is minimised, of what a loss returned."""

    value: Any
    which: str = ""
    """Which part it is, in words; "" where nothing else was returned."""


def minimised(result: Any, returns: Returns = None) -> Minimised:
    """The loss itself, of what a function returned: as asked for, or by its name, or the first.

    Raises
    ------
    TargetFault
        Of several things with names none is called a loss, or what is asked for is not there.
    """
    if returns:
        asked = returns[LOSS] if isinstance(returns, dict) else returns.index(LOSS)
        return Minimised(name_results(result, returns, with_penalty=True)[LOSS], f"part {asked}, as asked for")
    if hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(result, Mapping):
        return _by_name(result)
    if isinstance(result, tuple | list) and result:
        others = f"the first of {len(result)} parts; another is named by --returns {LOSS}=1"
        return Minimised(result[0], others if len(result) > 1 else "")
    return Minimised(getattr(result, LOSS, result))


def _by_name(result: Mapping[Any, Any]) -> Minimised:
    """The part that is called a loss, or the only one."""
    name = next((name for name in result if key(str(name)) in TOTALS), None)
    if name is None and len(result) != 1:
        names = ", ".join(map(str, result)) or "nothing"
        raise TargetFault(
            f"the loss returned {names}; which is minimised is not known: call it loss or total_loss, "
            f"or name it with --returns {LOSS}=NAME"
        )
    name = next(iter(result)) if name is None else name
    others = ", ".join(str(other) for other in result if other != name)
    return Minimised(result[name], f"{name}, of {len(result)} parts; not judged: {others}" if others else "")


class _Role(NamedTuple):
    """In place of a value that a parameter is bound to: it receives one of `ROLES`."""

    name: str


def _filled(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """Slots that receive what the roles say which they are bound to."""
    return tuple(
        slot._replace(arguments=(slot.value.name,), value=None) if isinstance(slot.value, _Role) else slot
        for slot in slots
    )


def _image_shape(where: str, sizes: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(whole_number(where, "image_shape", size, 1) for size in sizes)
    if math.prod(shape) > _MOST_PIXELS:
        raise InputError(f"{where}: image_shape={shape} has over {_MOST_PIXELS:,} numbers; give a smaller one")
    return shape


def understand(
    name: str, function: Callable[..., Any], adapter: Adapter, dtype: str, weights: Mapping[str, float], **options: Any
) -> StepLoss:
    """Map a loss's parameters.

    Raises
    ------
    InputError
        As `inference.map_arguments`, or no parameter has a name, and none is given by its place.
    """
    parameters = parameters_of(function)
    names = [p.name for p in parameters if is_named(p)]
    bound = options.pop("bind", None) or {}
    named = by_place(parameters, options.pop("arguments", None) or {})
    if not names and not named:
        raise InputError(
            f"{name}: its signature names no parameters; say what each receives, by its place or its name, like "
            "--args decoded=0,x=1,mu=2,log_var=3,z=4,batch_fraction=M_N"
        )
    returns = parse_returns(name, options.pop("returns", None), (LOSS,))
    image_shape = _image_shape(name, options.pop("image_shape", None) or IMAGE_SHAPE)
    found = {n: role for n in names for role, words in ROLES.items() if key(n) in words and n not in bound}
    found = {n: role for n, role in found.items() if n not in named.values() and role not in named}
    for ours in named:
        option(name, "arguments", ours, (*ARGUMENTS, *ROLES))
    found.update({theirs: role for role, theirs in named.items() if role in ROLES})
    options["arguments"] = {ours: theirs for ours, theirs in named.items() if ours not in ROLES}
    if "x" in found.values() and not {"logits", "decoded", "log_px"} & set(found.values()):
        found.update({n: "decoded" for n, role in found.items() if role == "nll" and key(n) in IMAGES})
    roles = {n: _Role(role) for n, role in found.items()}
    besides = [role for role in ROLES if role not in found.values()]
    mapped = map_arguments(name, function, bind={**bound, **roles}, besides=besides, **options)
    mapped = mapped._replace(positional=_filled(mapped.positional), keyword=_filled(mapped.keyword))
    loss = StepLoss(name, function, mapped, adapter, dtype, weights, image_shape=image_shape, returns=returns)
    return replace(loss, dataset_size=mapped.bound.get("dataset_size"))
