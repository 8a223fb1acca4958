"""Judging what surrounds the penalty in a training step: sampler, whole loss, and the warm-up of its weights."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from tcvae_ref import __version__, checks
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import adapters, diagnosis, encoding, estimators, harder_batches, sampler, whole_loss
from tcvae_ref.oracle.adapters.base import Adapter
from tcvae_ref.oracle.aliases import WEIGHTS
from tcvae_ref.oracle.catalogue import find as find_entry
from tcvae_ref.oracle.lookup import Factory, find, shown_name
from tcvae_ref.oracle.primitives import probe
from tcvae_ref.oracle.records import OF_THE_LOSS, StepRecord
from tcvae_ref.oracle.sampler import Fault
from tcvae_ref.oracle.step_loss import StepLoss, understand, width_of
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.types import (
    CheckProgress,
    CheckResult,
    Diagnosis,
    Report,
    TargetFault,
    Verdict,
)
from tcvae_ref.oracle.warm_up import STEPS, TERMS, growth, schedule, weights_at
from tcvae_ref.oracle.whole_loss import EQUAL, FITS, SHAPES, Effective
from tcvae_ref.types import Array

Handed: TypeAlias = str | Callable[..., Any] | None
"""A function or its name, as `target.load` takes it."""

_ADVICE = "tcvae-ref check of a function of the penalty alone says more"
_OFF_BY_FLOAT32 = 1e-6
"""Relative to the terms: what one number in float32 costs a loss in float64."""
BETA = 6.0
"""What a loss that takes beta is handed where nothing else is said: the paper's on dSprites."""
_ARRIVED = 1e-3
"""How far weights may be from what is meant at the end: a schedule may only tend to it."""


def check_step(
    sampler: Handed = None,
    loss: Handed = None,
    weights: Handed = None,
    *,
    alpha: float = 1.0,
    beta: float | None = None,
    gamma: float = 1.0,
    estimator: str = "auto",
    framework: str | None = None,
    steps: Sequence[float] = STEPS,
    warm_up: Sequence[str] | None = None,
    bind: Mapping[str, Any] | None = None,
    arguments: Mapping[str, str] | None = None,
    parameterisation: str | None = None,
    packed: str | None = None,
    returns: str | Sequence[str] | Mapping[str, str | int] | None = None,
    image_shape: Sequence[int] | None = None,
    factory: Factory = None,
    init: Mapping[str, Any] | None = None,
    dataset_size: int | None = None,
    seed: int = 0,
    progress: CheckProgress | None = None,
) -> Report:
    """Judge what surrounds the penalty: any of the sampler, the whole loss, and the weights of its terms over training.

    Parameters
    ----------
    sampler : str or callable, optional
        Of mu and a width, and of eps or a key if it takes one; returns z : (M, D).
    loss : str or callable, optional
        The scalar that is minimised, of z, mu, a width, the reconstruction and, if it takes them, dataset_size, alpha,
        beta, gamma and step. The reconstruction is log_px or nll : (M,), or x with logits or probabilities : (M, P).
    weights : str or callable, optional
        Of step; returns alpha, beta and gamma, as a tuple or by name, or beta alone.
    alpha, beta, gamma : float
        What the weights are meant to be at the end of training. Where beta is not given, a loss that takes it is handed
        6, and what a loss has inside, or weights return, is reported and not judged.
    estimator : str
        Of the loss; "auto" finds it.
    framework : str, optional
        By default seen from what the functions' module uses.
    steps : sequence of float
        Where a loss or weights that change with the step are looked at; the last is the end of training.
    warm_up : sequence of str, optional
        Of MI, TC and DWKL, those whose weight is meant to grow; by default all together, or TC alone.
    bind : mapping, optional
        Parameter of the loss -> the value it always receives.
    arguments, parameterisation, packed : optional
        How the loss is called, where the names of its parameters do not say: `inference.map_arguments`, and in
        `arguments` also those of `aliases.ROLES`.
    returns : optional
        Which part of what the loss returns is minimised, where its name does not say: "loss=1", "-,loss", "loss=elbo".
        By default the part called loss, total_loss or objective, or the first of a tuple.
    image_shape : sequence of int, optional
        Of one of the images that the loss takes, as (1, 28, 28); by default they are flat: (M, 6).
    factory : optional
        Makes the instance, where the loss is a class that takes arguments: `lookup.find`.
    init : mapping, optional
        Arguments of the class, or of the factory, by name.
    dataset_size : int, optional
        N inside a loss that does not take it. Where neither is known, log(N M) is not judged.
    seed : int
    progress : function, optional
        Called as progress(done, total, what).

    Returns
    -------
    Report
        A result for each part that was handed over, and the names of what is wrong.

    Raises
    ------
    InputError
        Nothing was handed over, or it cannot be imported or understood.
    """
    where = "check_step"
    if sampler is None and loss is None and weights is None:
        raise InputError(f"{where}: nothing is handed over; give a sampler, a loss or weights")
    meant = (alpha, BETA if beta is None else beta, gamma)
    claimed = {name: checks.real_number(where, name, w) for name, w in zip(WEIGHTS, meant, strict=True)}
    checks.option(where, "estimator", estimator, ("auto", *estimators.names()))
    checks.whole_number(where, "seed", seed, 0)
    if dataset_size is not None:
        checks.whole_number(where, "dataset_size", dataset_size, 1)
    for step in steps:
        checks.real_number(where, "steps", step)
    steps = [int(step) if float(step).is_integer() else step for step in steps]
    if len(steps) < 1 or list(steps) != sorted(set(steps)):
        raise InputError(
            f"{where}: steps are {list(steps)}; numbers that grow are needed, the last the end of training"
        )
    for term in warm_up or ():
        checks.option(where, "warm_up", term, TERMS)
    handed = {
        name: one for name, one in (("sampler", sampler), ("loss", loss), ("weights", weights)) if one is not None
    }
    how: dict[str, Any] = {"arguments": arguments, "parameterisation": parameterisation, "packed": packed}
    if returns is not None:
        how["returns"] = returns
    if image_shape is not None:
        how["image_shape"] = image_shape
    for name, option in {**how, "factory": factory, "init": init, "bind": bind}.items():
        if option and loss is None:
            raise InputError(f"{where}: {name} is of the loss, and none is handed over; give a loss, or leave it out")
    functions = {name: find(one, factory, init) if name == "loss" else find(one) for name, one in handed.items()}
    for name, function in functions.items():
        if not callable(function):
            kind = type(function).__name__
            raise InputError(f"{shown_name(handed[name])}: is a {kind}, not callable; name a function or method")
    shown = ", ".join(f"{name} {shown_name(one)}" for name, one in handed.items())
    differentiated = [functions[name] for name in ("loss", "sampler") if name in functions]
    adapter = adapters.chosen(shown, differentiated, framework) if differentiated else adapters.by_name("numpy")
    judge = _Judge(adapter, shown, claimed, tuple(steps), None if warm_up is None else frozenset(warm_up), seed)
    judge.progress = progress or judge.progress
    judge.any_beta = beta is None
    if "sampler" in functions:
        judge.sampler(functions["sampler"], shown_name(handed["sampler"]))
    if "loss" in functions:
        judge.loss(functions["loss"], shown_name(handed["loss"]), estimator, {**how, "bind": bind or {}}, dataset_size)
    if "weights" in functions:
        judge.weights(functions["weights"])
    options = {
        "handed": {name: shown_name(one) for name, one in handed.items()},
        "handed_as": judge.handed_as,
        **{"alpha": alpha, "beta": beta, "gamma": gamma, "estimator": estimator, "framework": framework},
        **{"steps": steps, "warm_up": warm_up, "dataset_size": dataset_size, "bind": bind, **how},
        "factory": factory if factory is None or isinstance(factory, bool) else shown_name(factory),
        **({} if init is None else {"init": init}),
    }
    return judge.report(options)


def replay_step(record: StepRecord, target: Handed = None) -> CheckResult:
    """Judge a saved part of a training step again.

    Parameters
    ----------
    record : StepRecord
        From `records.load_any`.
    target : optional
        What to judge, in place of the function it was saved for.

    Returns
    -------
    CheckResult
        Of the part; where it is not reached, of what comes before it.

    Raises
    ------
    InputError
        The function cannot be loaded, or the options are none of `check_step`.
    """
    leave_out = ("handed", "handed_as", *(OF_THE_LOSS if record.handed != "loss" else ()))
    options = {name: value for name, value in record.options.items() if name not in leave_out}
    options.update({record.handed: target or record.target, "framework": record.framework, "seed": record.seed})
    report = check_step(**options)
    parts = {result.check: result for result in report.results}
    return parts.get(record.check, report.results[-1])


class _Judge:
    """One call of `check_step`."""

    def __init__(
        self,
        adapter: Adapter,
        shown: str,
        claimed: Mapping[str, float],
        steps: tuple[float, ...],
        warm_up: frozenset[str] | None,
        seed: int,
    ):
        self.adapter, self.shown, self.claimed = adapter, shown, claimed
        self.steps, self.warm_up, self.seed = steps, warm_up, seed
        self.dtype = "float64" if "float64" in adapter.dtypes else "float32"
        self.progress: CheckProgress = lambda done, total, what: None
        self.results: list[CheckResult] = []
        self.judged = ""
        """Which of what was handed over is being judged."""
        self.handed_as: list[str] = []
        """What each result was found in."""
        self.diagnoses: list[Diagnosis] = []
        self.notes: list[str] = []
        self.mapping: list[str] = []
        self.estimator = "-"
        self.any_beta = False
        """Whether nothing was said of beta: then what is inside a loss is reported, and not judged."""
        self.alternative = ""
        """What the terms of a loss are, where they are as right as those of an estimator here and are none of them."""
        self.likelihoods: dict[str, float] = {}
        """Those that explain how the loss changes with its images, where it takes such, and the weight it then has."""
        adapter.warm_up()

    @property
    def wanted(self) -> Array:
        """(3,): alpha, beta, gamma at the end of training."""
        return np.array([self.claimed[name] for name in WEIGHTS])

    def conclude(self, part: str, faults: Sequence[Fault], began: float, cases: int, said: str) -> None:
        """Keep what was found out about a part."""
        gradients = bool(faults) and all(fault.id == "detached-sample" for fault in faults)
        verdict = Verdict.PASS if not faults else Verdict.WRONG_GRADIENT if gradients else Verdict.WRONG
        self.keep(part, verdict, "; ".join(fault.words for fault in faults) if faults else said, began, cases)
        self.diagnoses += [Diagnosis(f.id, find_entry(f.id).title, f"{part}: {f.words}") for f in faults]

    def failed(self, part: str, fault: TargetFault, began: float) -> None:
        """Keep that a part could not be judged."""
        self.keep(part, Verdict.ERROR, str(fault), began)

    def keep(self, part: str, verdict: Verdict, message: str, began: float, cases: int = 0) -> None:
        """Keep a verdict."""
        where = (part, self.dtype, self.adapter.variants[0], verdict, cases, cases if verdict is Verdict.PASS else 0)
        self.results.append(CheckResult(*where, message=message, seconds=time.monotonic() - began))
        self.handed_as.append(self.judged)

    # --- the sampler ----------------------------------------------------------------------------------------

    def sampler(self, function: Callable[..., Any], name: str) -> None:
        """Judge a sampler, which complaints call by this name."""
        began, self.judged = time.monotonic(), "sampler"
        self.progress(0, 1, "sampler")
        roles = sampler.parameters(function, name)
        self.mapping.append(f"sampler({', '.join(f'{p}={role}' for p, role in roles.items())})")
        try:
            with self.adapter.seeded(self.seed):
                draws = sampler.draw(function, name, self.adapter, self.dtype, self.seed)
        except TargetFault as fault:
            return self.failed("sampler", fault, began)
        entries = sampler.CALLS * sampler.ROWS * sampler.DIMENSIONS
        return self.conclude("sampler", sampler.faults(draws), began, sampler.CALLS, f"{entries:,} entries of noise")

    # --- the loss -------------------------------------------------------------------------------------------

    def loss(
        self, function: Callable[..., Any], name: str, estimator: str, how: Mapping[str, Any], dataset_size: int | None
    ) -> None:
        """Judge a loss at the end of training, and on the way there if it is told the step."""
        began, self.judged = time.monotonic(), "loss"
        loss = understand(name, function, self.adapter, self.dtype, self.claimed, **how)
        loss = replace(loss, step=self.steps[-1], dataset_size=dataset_size or loss.dataset_size)
        self.mapping.append(f"loss({loss.arguments})")
        candidates = estimators.candidates() if estimator == "auto" else (estimator,)
        try:
            loss, self.estimator, found = self._solved(loss, candidates)
            case = whole_loss.batches(loss, SHAPES[0], self.seed, exact=_is_exact(self.estimator))[0]
            which = whole_loss.which_part(loss, case)
            self.mapping[-1] += which and f" -> {which}"
            faults = self._faults(loss, found, candidates)
        except TargetFault as fault:
            return self.failed("loss", fault, began)
        if self.alternative and not faults:
            self.keep("loss", Verdict.INCONCLUSIVE, self.alternative, began, len(SHAPES) * whole_loss.COUNT)
            return None
        self.conclude("loss", faults, began, len(SHAPES) * whole_loss.COUNT, whole_loss.in_words(found[0]))
        if "step" in loss.takes and found[0].misfit <= FITS[self.dtype]:
            began = time.monotonic()
            by_step = {}
            try:
                for k, step in enumerate(self.steps):
                    self.progress(k, len(self.steps), f"step {step:g}")
                    at = self._solve(replace(loss, step=step), self.estimator, SHAPES[:1])[0]
                    if at.misfit > FITS[self.dtype]:
                        raise TargetFault(f"at step {step:g} the loss is no weighted sum of its terms")
                    by_step[step] = at.weights
            except TargetFault as fault:
                return self.failed("warm-up", fault, began)
            self.conclude("warm-up", self._warm_up(by_step), began, len(self.steps), schedule(by_step))
        return None

    def _solved(self, loss: StepLoss, candidates: Sequence[str]) -> tuple[StepLoss, str, list[Effective]]:
        """The weights in effect for each size of batch, as the estimator that fits best."""
        exact = _is_exact(candidates[0])
        loss = whole_loss.first_called(loss, self.seed, exact=exact)
        self.likelihoods = whole_loss.reconstructions(loss, self.seed, exact=exact) if loss.of_pixels else {}
        weights = self.likelihoods or {loss.likelihood: 1.0}
        if loss.of_pixels and not self.likelihoods:
            self.notes.append("no log p(x|z) that is known here fits: its weight and the constant were not judged")
        called = self._called(loss, SHAPES, exact=exact)
        trials = []
        for k, (one, likelihood) in enumerate(itertools.product(candidates, weights)):
            self.progress(k, len(candidates) * len(weights), f"loss as {one}")
            this = replace(loss, likelihood=likelihood, weight=weights[likelihood])
            found = [whole_loss.effective(this, each, one) for each in called]
            misfit = max(each.misfit for each in found)
            fits = misfit <= FITS[self.dtype]
            odd = _oddness(found, told=loss.is_told_dataset_size) if fits else (round(abs(this.weight - 1.0), 6), 0.0)
            trials.append((not fits, odd, misfit, k, this, one, found))
        *_, loss, estimator, found = min(trials, key=lambda trial: trial[:4])
        if loss.handed == "mean" and _are_means_of_sums(found):
            self.notes.append("right if the reconstruction it is handed is the sum over the batch, not the mean")
            loss = replace(loss, handed="sum")
            found = self._solve(loss, estimator)
        return loss, estimator, found

    def _solve(
        self, loss: StepLoss, estimator: str, shapes: Sequence[tuple[int, int, int]] = SHAPES
    ) -> list[Effective]:
        """The weights in effect for each size of batch, as one estimator."""
        called = self._called(loss, shapes, exact=_is_exact(estimator))
        return [whole_loss.effective(loss, each, estimator) for each in called]

    def _called(self, loss: StepLoss, shapes: Sequence[tuple[int, int, int]], *, exact: bool) -> list[whole_loss.Calls]:
        """What a loss returns for batches of some sizes, with images that change where it is known what it does."""
        known = not loss.of_pixels or bool(self.likelihoods)
        return [whole_loss.calls(loss, shape, self.seed, exact=exact, known_pixels=known) for shape in shapes]

    def _names(self, loss: StepLoss, found: Sequence[Effective], dtype: str) -> list[list[Fault]]:
        """What is wrong with weights in effect, for each size of batch, as far as a dtype can say."""
        inside = set(WEIGHTS) - loss.takes

        def named(wanted: Array) -> list[list[Fault]]:
            pairs = zip(found, SHAPES, strict=True)
            return [whole_loss.names(one, wanted, shape, dtype, loss.pixels, inside) for one, shape in pairs]

        if not self.any_beta or "beta" in loss.takes:
            return named(self.wanted)
        readings = [named(self.wanted * [1, 0, 1] + [0, beta, 0]) for beta in self._betas(found[0])]
        best = min([*readings, named(self.wanted)], key=_vagueness)
        if not any(best):
            self.notes.append(f"the loss has beta = {found[0].beta:.4g} inside; --beta says what it is meant to be")
        return best

    def _betas(self, found: Effective) -> list[float]:
        """What beta inside a loss may be meant to be, where nothing is said of it."""
        weight = found.beta
        scales = [found.alpha / self.claimed["alpha"] if self.claimed["alpha"] else 1.0, found.reconstruction]
        guesses = [weight, abs(weight), weight - 1.0, *(weight / scale for scale in scales if abs(scale) > 1e-9)]
        return [beta for beta in guesses if beta > EQUAL[self.dtype]]

    def _faults(self, loss: StepLoss, found: list[Effective], candidates: Sequence[str]) -> list[Fault]:
        """The names of what is wrong with a loss: its weights, or else its terms."""
        digits = self._digits(found)
        largest = whole_loss.OFFSET[digits] * max(1.0, float(np.max(np.abs(self.wanted))))
        told = loss.is_told_dataset_size
        known = not loss.of_pixels or bool(self.likelihoods)
        fits = max(each.misfit for each in found) <= FITS[digits]
        offset = fits and told and known and max(abs(each.constant) for each in found) > largest
        if not fits and not told:
            raise TargetFault("the loss takes no dataset_size, and fits none of those tried; say N with --dataset-size")
        if not told:
            self.notes.append("N is inside the loss: log(N M) was not judged; say N with --dataset-size")
        if not fits and not known:
            return [Fault("unknown", f"its terms are not those of {self.estimator}; {_ADVICE}")]
        if not fits and self.any_beta and "beta" not in loss.takes:
            inside = f"{self.claimed['beta']:g}"
            self.notes.append(f"beta inside the loss is taken for {inside}; say --beta if it is another")
        if not fits:
            return self._of_the_images(loss, candidates, self.wanted)
        by_shape = self._names(loss, found, digits)
        common = [f for f in by_shape[0] if any(f.id == other.id for other in by_shape[1])]
        common = [f for f in common if f.id != whole_loss.GENERAL] or common
        if any(by_shape):
            self._say_likelihood(loss)
            words = "; ".join(whole_loss.in_words(each) for each in found)
            return common or [Fault("unknown", f"in effect, for M = {SHAPES[0][0]} and {SHAPES[1][0]}: {words}")]
        case = whole_loss.batches(loss, SHAPES[0], self.seed, exact=_is_exact(self.estimator))[0]
        if digits != self.dtype and not (known and told):
            return [Fault("unknown", diagnosis.RIGHT_IN_FLOAT32)]
        if offset or digits != self.dtype or whole_loss.gradients_off(loss, case, self.estimator, found[0]):
            return self._of_the_images(loss, candidates, self._plain(found[0].weights))
        faults = self._on_harder_batches(loss, found[0], candidates if known and told else ())
        if not faults:
            self._say_likelihood(loss)
        return faults

    def _on_harder_batches(self, loss: StepLoss, found: Effective, candidates: Sequence[str]) -> list[Fault]:
        """What is wrong with a loss that is right on ordinary batches; without candidates it gets no name."""
        self.progress(0, 1, "harder batches")
        primitives = probe(self.adapter, self.dtype)
        off = harder_batches.off(loss, found, self.estimator, primitives, self.seed)
        named = self._of_the_images(loss, candidates, self._plain(found.weights)) if off and candidates else []
        if not off or (named and not _is_unknown(named)):
            return named
        words = f"right on ordinary batches, and not on these: {'; '.join(off)}"
        return [Fault("unknown", f"{words}; {_ADVICE}")]

    def _digits(self, found: Sequence[Effective]) -> str:
        """The dtype to whose digits weights fit: float32 where that is all that float64 gives."""
        misfit = max(each.misfit for each in found)
        return "float32" if self.dtype == "float64" and FITS["float64"] < misfit <= _OFF_BY_FLOAT32 else self.dtype

    def _plain(self, weights: Array) -> Array:
        """Weights in effect without the rounding of having been solved for: near fractions in their place."""
        near = np.array([float(Fraction(w).limit_denominator(1000)) for w in weights])
        return np.where(np.abs(near - weights) <= EQUAL[self.dtype], near, weights)

    def _of_the_images(self, loss: StepLoss, candidates: Sequence[str], weights: Array) -> list[Fault]:
        """The penalty's own mistake where weights do not explain it, beside a reconstruction of another weight than 1.

        Likelihoods that differ by a constant cannot be told apart by images: the one that leaves the fewest mistakes.
        """
        alike = [one for one, weight in self.likelihoods.items() if abs(weight - loss.weight) <= EQUAL[self.dtype]]
        read: list[tuple[list[Fault], StepLoss]] = []
        for likelihood in alike or [loss.likelihood]:
            this = replace(loss, likelihood=likelihood)
            read.append((self._of_the_terms(this, candidates, weights), this))
        faults, chosen = min(read, key=lambda one: (_is_unknown(one[0]), len(one[0])))
        if len(alike) < 2 or not _is_unknown(faults):
            self._say_likelihood(chosen)
        if abs(loss.weight - 1.0) > EQUAL[self.dtype]:
            words = f"the reconstruction is {loss.weight:.4g} times what it should be"
            faults = [*faults, Fault("reconstruction-scaled", words)]
        return faults

    def _say_likelihood(self, loss: StepLoss) -> None:
        """Note which likelihood was found, where there were several."""
        if self.likelihoods and len(loss.likelihoods) > 1:
            self.notes.append(f"log p(x|z) is {loss.likelihood}, by how the loss changes with its images")
            width = width_of(loss.likelihood, loss.weight)
            if width and abs(loss.weight - 1.0) > EQUAL[self.dtype]:
                self.notes.append(f"its weight {loss.weight:.4g} is right for {width}, if that is meant")

    def _of_the_terms(self, loss: StepLoss, candidates: Sequence[str], weights: Array) -> list[Fault]:
        """The penalty's own mistake, as `diagnosis.diagnose` names it: without the reconstruction."""
        primitives = probe(self.adapter, self.dtype)
        fixed = {name: float(w) for name, w in zip(WEIGHTS, weights, strict=True) if name not in loss.takes}
        subject = Subject(
            *(loss.penalty, self.adapter, self.adapter.variants[0], self.dtype, self.estimator),
            *(loss.arguments.parameterisation, primitives, fixed),
            loss.dataset_size,
        )
        self.progress(0, 1, "diagnosis")
        said: list[Diagnosis] = []
        for quantity in ("penalty", "kl_penalty"):
            this = replace(subject, function=_renamed(loss.penalty, quantity))
            others = [one for one in candidates if one != self.estimator]
            found = diagnosis.diagnose(this, (quantity,), others=others)
            if found.notes and not found.diagnosis:
                return self._of_an_alternative(found)
            if found.diagnosis and found.settled:
                self.notes.extend(found.notes)
                self.estimator = found.estimator or self.estimator
                return [Fault(one.id, one.evidence) for one in found.diagnosis]
            said = said or list(found.diagnosis)
        return [Fault(one.id, f"{one.evidence}; {_ADVICE}") for one in said] or [
            Fault("unknown", f"its terms are not those of {self.estimator}; {_ADVICE}")
        ]

    def _of_an_alternative(self, found: diagnosis.Findings) -> list[Fault]:
        """What is wrong with a penalty that is right as something else than was claimed: nothing, where it is valid."""
        self.notes.extend(found.notes)
        self.estimator = found.estimator or self.estimator
        if not found.valid:
            return [Fault("unknown", f"its terms are not those of {self.estimator}")]
        self.alternative = f"{found.notes[0]}; right on the cases of the diagnosis, and not held to others"
        return []

    # --- the warm-up ----------------------------------------------------------------------------------------

    def weights(self, function: Callable[..., Any]) -> None:
        """Judge weights as a function of the step."""
        began, self.judged = time.monotonic(), "weights"
        self.mapping.append("weights(step)")
        try:
            by_step = {step: weights_at(function, step, self.claimed) for step in self.steps}
        except TargetFault as fault:
            return self.failed("warm-up", fault, began)
        last = by_step[self.steps[-1]]
        faults = self._warm_up(by_step)
        judged = np.array([name != "beta" or not self.any_beta for name in WEIGHTS])
        wanted = np.where(judged, self.wanted, last)
        given = ", ".join(f"{name}={weight:g}" for name, weight in zip(WEIGHTS, last, strict=True))
        if self.any_beta:
            self.notes.append(f"at step {self.steps[-1]:g} beta = {last[1]:g}; --beta says what it is meant to be")
        if not np.max(np.abs(last - wanted)) <= _ARRIVED * max(1.0, float(np.max(np.abs(wanted)))):
            meant = ", ".join(f"{name}={w:g}" for name, w, one in zip(WEIGHTS, wanted, judged, strict=True) if one)
            words = f"at step {self.steps[-1]:g} they are {given}, and meant to be {meant}"
            faults.append(Fault("other-weights", words))
        return self.conclude("warm-up", faults, began, len(self.steps), schedule(by_step))

    def _warm_up(self, by_step: Mapping[float, Array]) -> list[Fault]:
        """What is wrong with weights over the steps."""
        found = growth(by_step, self.warm_up, self.dtype)
        self.notes += [found.note] if found.note else []
        return list(found.faults)

    def report(self, options: Mapping[str, Any]) -> Report:
        """Everything."""
        return Report(
            self.shown,
            self.adapter.name,
            self.estimator,
            "; ".join(self.mapping),
            tuple(self.results),
            notes=tuple(dict.fromkeys(self.notes)),
            versions={"tcvae-ref": __version__, self.adapter.name: self.adapter.version()},
            seed=self.seed,
            options=encoding.plain(options),
            diagnosis=tuple(self.diagnoses),
        )


def _is_exact(estimator: str) -> bool:
    return estimators.find(estimator).whole_data_set


def _vagueness(by_shape: Sequence[Sequence[Fault]]) -> int:
    """How little the names of what is wrong say: 0 for nothing wrong, 1 for a name."""
    ids = {faults[0].id for faults in by_shape if faults}
    return 0 if not ids else 3 if ids & {"unknown", "other-weights"} else 2 if whole_loss.GENERAL in ids else 1


def _oddness(found: Sequence[Effective], *, told: bool) -> tuple[float, float]:
    """How far what fits is from a reconstruction of weight 1 and no constant, to choose of several readings.

    Where N is not told, a constant is expected: it decides between readings of one weight alone.
    """
    weight = max(abs(np.nan_to_num(each.reconstruction, nan=1.0) - 1.0) for each in found)
    constant = max(abs(each.constant) for each in found)
    return (weight + constant, 0.0) if told else (round(weight, 6), constant)


def _is_unknown(faults: Sequence[Fault]) -> bool:
    """Whether nothing is known of what is wrong."""
    return bool(faults) and faults[0].id == "unknown" and not faults[0].words.startswith(diagnosis.RIGHT_IN_FLOAT32)


def _are_means_of_sums(found: Sequence[Effective]) -> bool:
    """Whether reconstructions handed over as means count 1/M: then sums are what is meant."""
    return all(abs(each.reconstruction * M - 1.0) < 1e-3 for each, (M, *_) in zip(found, SHAPES, strict=True))


def _renamed(function: Callable[..., Any], quantity: str) -> Callable[..., dict[str, Any]]:
    """A `TensorFunction` whose penalty goes by another name."""
    return lambda tensors, constants: {quantity: function(tensors, constants)["penalty"]}
