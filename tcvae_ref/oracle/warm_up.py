"""The weights of a loss's terms over training."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.oracle.adapters.common import attempt
from tcvae_ref.oracle.aliases import ARGUMENT_OF, WEIGHTS, key
from tcvae_ref.oracle.foreign import said
from tcvae_ref.oracle.sampler import Fault
from tcvae_ref.oracle.types import TargetFault
from tcvae_ref.oracle.whole_loss import EQUAL
from tcvae_ref.types import Array

STEPS = (0, 1, 10, 100, 1_000, 10_000, 100_000)
"""Steps of training at which weights are looked at."""
TERMS = ("MI", "TC", "DWKL")


class Growth(NamedTuple):
    """What is wrong with a warm-up, and what is only remarkable."""

    faults: tuple[Fault, ...] = ()
    note: str = ""


def weights_at(function: Callable[..., Any], step: float, claimed: Mapping[str, float]) -> Array:
    """(3,): alpha, beta and gamma as a function of the step gives them; as claimed those that it does not.

    Raises
    ------
    TargetFault
        It raised, or returned what is no such weights.
    """
    returned = attempt(f"weights({step:g})", lambda: function(step))
    numbers = dict(claimed)
    try:
        if isinstance(returned, Mapping):
            meant = {ARGUMENT_OF.get(key(str(name)), ""): float(weight) for name, weight in returned.items()}
            if not meant or not set(meant) <= set(WEIGHTS):
                raise ValueError("an unknown name")
            numbers.update(meant)
        elif isinstance(returned, Sequence) or np.ndim(returned):
            numbers = {name: float(one) for name, one in zip(WEIGHTS, returned, strict=True)}
        else:
            numbers["beta"] = float(returned)
    except Exception as error:  # whatever is raised by what was returned
        raise TargetFault(
            f"weights({step:g}) returned {said(repr, returned)}; alpha, beta and gamma by name or in order, or beta"
        ) from error
    found = np.array([numbers[name] for name in WEIGHTS])
    if not np.isfinite(found).all():
        raise TargetFault(f"weights({step:g}) returned {said(repr, returned)}; finite numbers are needed")
    return found


def growth(by_step: Mapping[float, Array], meant: Collection[str] | None, dtype: str) -> Growth:
    """Weights that grow, and others that should and do not.

    Parameters
    ----------
    by_step : mapping of float to (3,) array
        Step -> weights; the last is the end of training.
    meant : collection of str, optional
        Of `TERMS`, those whose weight is to grow; by default all together, or TC alone.
    dtype : str
        Which the weights were found in.
    """
    path = np.array(list(by_step.values()))
    last = path[-1]
    near = EQUAL[dtype] * max(1.0, float(np.max(np.abs(path))))
    grows = np.max(np.abs(path - last), axis=0) > near
    moving = {term for term, g in zip(TERMS, grows, strict=True) if g}
    weighted = {term for term, weight in zip(TERMS, last, strict=True) if abs(weight) > near}
    if not moving and meant:
        words = f"no weight changes ({schedule(by_step)}), that of {', '.join(meant)} is to"
        return Growth((Fault("unknown", words),))
    if meant is None and moving == {"TC"}:
        return Growth(note="the weight of TC alone changes during training; MI and DWKL have theirs from the start")
    if not moving or (_proportional(path, near) if meant is None else moving == set(meant)):
        return Growth()
    still = ", ".join(sorted((weighted if meant is None else set(meant)) - moving))
    beside = f"that of {still} does not" if still else "and not all in proportion"
    words = f"the weight of {' and '.join(sorted(moving))} changes ({schedule(by_step)}), {beside}"
    return Growth((Fault("annealing-on-one-term", words),))


def _proportional(path: Array, near: float) -> bool:
    """Whether (steps, 3) weights are multiples of the last."""
    last = path[-1]
    factor = path @ last / (last @ last) if last.any() else np.zeros(len(path))
    return bool(np.max(np.abs(path - factor[:, None] * last)) <= near)


def schedule(by_step: Mapping[float, Array]) -> str:
    """Weights over the steps, where they change."""
    path = np.array(list(by_step.values()))
    steps = list(by_step)
    parts = []
    for term, column in zip(TERMS, path.T, strict=True):
        kept = [k for k in range(len(steps)) if k in (0, len(steps) - 1) or column[k] != column[k - 1]]
        constant = np.ptp(column) <= 1e-9 * max(1.0, float(np.max(np.abs(column))))
        shown = f"{column[-1]:.4g}" if constant else ", ".join(f"{column[k]:.4g} at {steps[k]:g}" for k in kept)
        parts.append(f"{term} {shown}")
    return "; ".join(parts)
