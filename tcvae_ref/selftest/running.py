"""Case after case, each function of each compared with the truth, until there are enough or the time is over."""

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import tcvae_ref
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.octaves import group_densities
from tcvae_ref.oracle.types import CheckProgress
from tcvae_ref.selftest import densities, draws, estimators, mixtures
from tcvae_ref.selftest.types import Case, Comparison, Result

TOPICS = {"estimators": 0.57, "densities": 0.3, "exp": 0.08, "mixture": 0.045, "entropies": 0.005}
"""How often each is drawn."""

Judgements = Iterator[tuple[str, Callable[[], list[Comparison]]]]
"""Functions by name, each with a call that compares it."""


class Kernels(NamedTuple):
    """The compiled kernels, where there are any."""

    estimators: ModuleType
    elementwise: ModuleType
    log_density: Callable[..., Any]
    group_densities: Callable[..., Any]
    exp: Callable[[Any], Any]
    log_joint: Callable[..., Any]


def kernels() -> Kernels | None:
    """Import the kernels; None where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    import tcvae_kernels
    from tcvae_kernels import elementwise, mixture
    from tcvae_kernels.exp import exp_into

    def exp(x: Any) -> Any:
        out = np.empty_like(x)
        with np.errstate(all="ignore"):
            exp_into(x, out)
        return out

    return Kernels(tcvae_kernels, elementwise, mixture.log_density, mixture.group_densities, exp, mixture.log_joint)


def run(
    seed: int,
    first: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    compiled: Kernels | None = None,
    progress: CheckProgress | None = None,
) -> Result:
    """Judge the cases first, first + 1, ... of a seed.

    Parameters
    ----------
    seed, first : int
    cases : int, optional
        How many.
    seconds : float, optional
        After which no further case is begun. One of the two limits is needed.
    compiled : Kernels, optional
        Judged beside the reference.
    progress : function, optional
        Called as progress(done, total, text), in cases, or in seconds where those are the limit.

    Raises
    ------
    InputError
        Neither limit is given.
    """
    if cases is None and seconds is None:
        raise InputError("selftest: neither cases nor seconds are given; one of them is needed")
    result, start = Result(seed, first), time.monotonic()
    number = first
    while cases is None or number < first + cases:
        passed = time.monotonic() - start
        if seconds is not None and passed >= seconds:
            break
        judge(result, number, compiled)
        number += 1
        if progress is not None:
            done = (number - first, cases) if cases is not None else (int(passed), int(seconds or 0))
            progress(*done, f"{number - first:,} cases, {len(result.findings)} numbers outside")
    result.cases, result.seconds = number - first, time.monotonic() - start
    return result


def judge(result: Result, number: int, compiled: Kernels | None) -> None:
    """Judge one case; an exception is a finding as well."""
    rng = draws.generator(result.seed, number)
    topic = str(rng.choice(list(TOPICS), p=list(TOPICS.values())))
    case = Case(number, topic, {})
    try:
        case, judgements = _POSED[topic](number, rng, compiled)
        for function, compare in judgements:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", RuntimeWarning)  # a result within range gives no cause for one
                    comparisons = compare()
            except Exception as error:
                result.raised(case, function, error)
            else:
                result.add(case, comparisons)
    except Exception as error:  # beyond what is judged
        result.raised(case, f"the truth of {topic}", error)


def _estimators(number: int, rng: np.random.Generator, compiled: Kernels | None) -> tuple[Case, Judgements]:
    batch = draws.batch(rng)
    inputs = {"z": batch.z, "mu": batch.mu, "log_var": batch.log_var, "dataset_size": batch.dataset_size}
    subjects = [tcvae_ref, *([compiled.estimators] if compiled is not None else [])]
    return Case(number, batch.what, inputs), estimators.judge(batch, subjects, rng)


def _densities(number: int, rng: np.random.Generator, compiled: Kernels | None) -> tuple[Case, Judgements]:
    name, batch = str(rng.choice(list(densities.FORMULAS))), draws.batch(rng)
    inputs = densities.inputs(name, batch, rng)
    modules = [tcvae_ref]
    if name == "bernoulli_log_likelihood" and compiled is not None:
        modules.append(compiled.elementwise)
    shapes = f"{name}, {batch.dtype}, {next(iter(inputs.values())).shape}"
    case = Case(number, f"{shapes}, {batch.hard}" if batch.hard else shapes, inputs)
    return case, ((f"{m.__name__}.{name}", partial(densities.judge, name, inputs, m)) for m in modules)


def _exp(number: int, rng: np.random.Generator, compiled: Kernels | None) -> tuple[Case, Judgements]:
    dtype = str(rng.choice(draws.DTYPES))
    x = densities.exponents(rng, dtype)
    exps: list[tuple[str, Callable[[Any], Any]]] = [("numpy.exp", np.exp)]
    if compiled is not None:
        exps.append(("tcvae_kernels.exp", compiled.exp))
    case = Case(number, f"exp, {dtype}, {x.shape}", {"x": x})
    return case, ((name, partial(densities.judge_exp, x, name, exp)) for name, exp in exps)


def _mixture(number: int, rng: np.random.Generator, compiled: Kernels | None) -> tuple[Case, Judgements]:
    batch = draws.batch(rng)
    log_w = mixtures.log_weights(rng, len(batch.z), batch.dtype)
    inputs = {"z": batch.z, "mu": batch.mu, "log_var": batch.log_var, "log_weights": log_w}
    case = Case(number, f"mixture of the first columns, {batch.what}", inputs)
    if compiled is None:
        return case, iter(())
    compare = partial(mixtures.judge_log_density, batch, log_w, compiled.log_density)
    return case, iter([("tcvae_kernels.mixture.log_density", compare)])


def _entropies(number: int, rng: np.random.Generator, compiled: Kernels | None) -> tuple[Case, Judgements]:
    components = mixtures.components(rng)
    case = Case(number, f"entropies of {len(components.mu)} components", components._asdict())
    sums = {"tcvae_ref.metrics": group_densities}
    if compiled is not None:
        sums["tcvae_kernels"] = compiled.group_densities
    return case, (
        (f"entropies on {name}", partial(mixtures.judge_entropies, components, f, name)) for name, f in sums.items()
    )


_POSED: dict[str, Callable[[int, np.random.Generator, Kernels | None], tuple[Case, Judgements]]] = {
    "estimators": _estimators,
    "densities": _densities,
    "exp": _exp,
    "mixture": _mixture,
    "entropies": _entropies,
}
