"""Every mistake that has a name, in the ways it is seen in public code, and how two of them go together."""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref import extensions
from tcvae_ref.checks import InputError
from tcvae_ref.oracle.catalogue import CATALOGUE, Entry
from tcvae_ref.oracle.estimators import may_hold
from tcvae_ref.oracle.mistakes import aggregate, constants, density, reduction
from tcvae_ref.oracle.mistakes.steps import Loss, gradients
from tcvae_ref.oracle.types import Case


class Mistake(NamedTuple):
    """One way in which one mistake is seen."""

    id: str
    """Its stable id; "unknown" where it has none."""
    words: str
    steps: type[Loss]
    goes_in_pairs: bool = True
    """Whether it is looked for together with others: parameters seldom seen are not."""


def _with(steps: type[Loss], **parameters: Any) -> type[Loss]:
    return type(steps.__name__, (steps,), parameters)


_CONSTANTS = (
    Mistake(
        "missing-constant", "log q(z) and log q(z_d) without the constant of the weights", constants.MissingConstant
    ),
    Mistake("only-log-m", "log M for log(N M)", constants.OnlyLogM),
    Mistake("only-log-n", "log N for log(N M)", constants.OnlyLogN),
    Mistake("wrong-dataset-size", "the batch size for N", constants.BatchSizeForDatasetSize),
    *(
        Mistake("wrong-dataset-size", f"N = {N:,} whatever dataset_size is", _with(constants.OtherDatasetSize, other=N))
        for N in (737280, 60000, 50000, 70000, 202599, 162770, 100000, 10000, 1000, 1)
    ),
    Mistake(
        "marginal-constant-once", "the constant once for all marginals, not for each", constants.MarginalConstantOnce
    ),
    Mistake("missing-two-pi", "q without log 2 pi, p(z) with it", constants.MissingTwoPi),
    Mistake("missing-two-pi", "p(z) without log 2 pi, q with it", constants.PriorWithoutTwoPi),
)

_WEIGHTS = (
    Mistake("mss-weights-in-columns", "1/N and (N - m)/(N m) down columns 0 and 1", constants.WeightsInColumns),
    Mistake(
        "mss-weights-in-columns",
        "1/N and (N - m)/(N m) down columns 0 and 1, no corner",
        constants.WeightsInColumnsWithoutCorner,
    ),
    Mistake(
        "mss-weights-in-columns",
        "1/N and (N - m)/(N m) down columns 0 and 1, the corner in the last row",
        constants.WeightsInColumnsLastCorner,
    ),
    Mistake(
        "mss-weights-in-columns",
        "the weights down columns 0 and 1, with m = M",
        constants.WeightsInColumnsBatchSize,
        False,
    ),
    Mistake("unknown", "the stratified weights along rows 0 and 1", constants.WeightsInRows, False),
    Mistake("weight-before-sum", "the weight added before the sum over d: its D-th power", constants.WeightBeforeSum),
    Mistake("weights-on-joint-only", "marginals without weights", constants.UnweightedMarginals),
    Mistake("weights-on-joint-only", "marginals with weights 1/M", constants.EvenMarginals),
    Mistake("unknown", "the joint without weights, marginals with them", constants.UnweightedJoint, False),
    Mistake("weights-and-constant", "log(N M) subtracted besides the weights", constants.WeightsAndConstant),
    Mistake("unknown", "no weight (N - m)/(N m) for the data left out", constants.NoStratum),
    Mistake("unknown", "(N - M)/(N m) where (N - m)/(N m) is due", constants.StratumOfBatchSize),
    Mistake("unknown", "the batch size for m = M - 1 in the weights", constants.BatchSizeForM),
)

_AGGREGATE = (
    Mistake("transposed-pairs", "the sum runs over samples, not over posteriors", aggregate.TransposedPairs),
    Mistake("transposed-pairs", "the joint's sum runs over samples", aggregate.TransposedJoint, False),
    Mistake("transposed-pairs", "the marginals' sum runs over samples", aggregate.TransposedMarginals, False),
    Mistake("own-pairs-only", "each sample meets its own posterior only", aggregate.OwnPairsOnly),
    Mistake("conditional-as-aggregate", "log q(z|x) for log q(z) and its marginals", aggregate.ConditionalAsAggregate),
    Mistake("conditional-as-aggregate", "log q(z|x) for log q(z)", aggregate.ConditionalAsJoint),
    Mistake("conditional-as-aggregate", "log q(z_d|x) for log q(z_d)", aggregate.ConditionalAsMarginals),
    Mistake("missing-logsumexp", "log-densities added up over posteriors", aggregate.SumOfLogs),
    Mistake("missing-logsumexp", "weighted log-densities added up over posteriors", aggregate.SumOfWeightedLogs, False),
    Mistake("missing-logsumexp", "the mean of weighted log-densities over posteriors", aggregate.MeanOfLogs),
    Mistake("missing-logsumexp", "the mean of log-densities over posteriors", aggregate.PlainMeanOfLogs, False),
    Mistake("missing-logsumexp", "the largest log-density for the log-sum-exp", aggregate.LargestTermOnly, False),
    Mistake("logsumexp-sum-swapped", "log-sum-exp over j before the sum over d in the joint", aggregate.SumBeforeJoint),
    Mistake("logsumexp-sum-swapped", "the product of the marginals for the joint", aggregate.ProductAsJoint),
    Mistake("prior-as-marginals", "log p(z_d) for log q(z_d)", aggregate.PriorAsMarginals),
    Mistake("dwkl-without-prior", "DWKL without - log p(z)", aggregate.DWKLWithoutPrior),
    Mistake("leave-one-out", "the joint without the sample's own posterior", aggregate.LeaveOneOutJoint),
    Mistake("leave-one-out", "the sums without the sample's own posterior", aggregate.LeaveOneOut),
    Mistake("leave-one-out", "means over the M - 1 other posteriors", aggregate.LeaveOneOutMean),
    Mistake(
        "leave-one-out", "the joint as a mean over the M - 1 other posteriors", aggregate.LeaveOneOutJointMean, False
    ),
    Mistake("unknown", "the last posterior left out of the sums", aggregate.LastPosteriorDropped, False),
    Mistake("unknown", "the batch mean of log sigma^2 for each posterior of q(z)", aggregate.SharedVariance, False),
    Mistake("kernel-density", "kernels around the samples, bandwidth M^(-1/(D+4))", aggregate.KernelDensity),
    Mistake(
        "kernel-density", "kernels around the samples, Silverman's bandwidth", aggregate.SilvermanKernelDensity, False
    ),
    Mistake("kernel-density", "kernels around the samples, bandwidth 1", aggregate.UnitKernelDensity, False),
)

_DENSITY = (
    Mistake("log-var-as-log-std", "log sigma^2 taken for log sigma", density.LogVarAsLogStd),
    Mistake("log-std-as-log-var", "log sigma taken for log sigma^2", density.LogStdAsLogVar),
    Mistake("mean-as-sample", "the mean in place of the sample", density.MeanAsSample),
    *(
        Mistake("variance-epsilon", f"{words} + {e:g}", _with(steps, epsilon=e), e in (1e-6, 1e-8))
        for words, steps in (("sigma^2", density.VarianceEpsilon), ("sigma", density.StdEpsilon))
        for e in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
    ),
    *(
        Mistake(
            "variance-epsilon",
            f"(z - mu)^2 / (sigma^2 + {e:g})",
            _with(density.EpsilonUnderQuadratic, epsilon=e),
            False,
        )
        for e in (1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
    ),
    *(
        Mistake(
            "density-clamp",
            f"log-densities clamped to [{-x:g}, {x:g}]",
            _with(density.DensityClamp, low=-x, high=x),
            x == 50,
        )
        for x in (10.0, 20.0, 30.0, 50.0, 100.0)
    ),
    *(
        Mistake(
            "unknown",
            f"log sigma^2 clamped to [{low:g}, {high:g}]",
            _with(density.LogVarClamp, low=low, high=high),
            False,
        )
        for low, high in (
            (-5.0, 5.0),
            (-10.0, 10.0),
            (-6.0, 2.0),
            (-4.0, 4.0),
            (-8.0, 8.0),
            (-10.0, 2.0),
            (-3.0, 3.0),
            (-2.0, 2.0),
        )
    ),
    Mistake("wrong-quadratic", "((z - mu) / sigma^2)^2", density.DividedByVarianceTwice),
    Mistake("wrong-quadratic", "(z - mu)^2 / sigma", density.DividedByStdOnce),
    Mistake("wrong-quadratic", "(z - mu)^2 sigma^2", density.TimesVariance),
    Mistake("wrong-quadratic", "(z - mu)^2 / sigma^2 without the half", density.QuadraticNotHalved),
    Mistake("wrong-quadratic", "(z - mu)^2 / sigma^2 halved twice", density.QuadraticHalvedTwice, False),
    Mistake("wrong-quadratic", "|z - mu| / sigma, not squared", density.NotSquared, False),
    Mistake("unknown", "the density without log sigma^2", density.WithoutLogVariance, False),
    Mistake("unknown", "the density with log sigma^2, not half of it", density.LogVarianceNotHalved, False),
    Mistake("exp-sum-log", "the logarithm of a sum of exponentials, the largest term not taken out", density.ExpSumLog),
    *(
        Mistake("log-epsilon", f"log(sum + {e:g})", _with(density.LogEpsilon, epsilon=e), e in (1e-6, 1e-8, 1e-10))
        for e in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-16, 1e-20, 1e-30)
    ),
)

_REDUCTION = (
    Mistake("sum-not-mean", "the sum over the batch for the mean", reduction.SumNotMean),
    Mistake("divided-by-d", "the mean over samples and dimensions", reduction.DividedByD),
    Mistake("constant-factor", "all terms in bits: divided by log 2", reduction.ConstantFactor),
    Mistake("constant-factor", "half of each term", _with(reduction.ConstantFactor, factor=0.5)),
    Mistake("constant-factor", "twice each term", _with(reduction.ConstantFactor, factor=2.0), False),
    Mistake("sign-flipped", "TC with the other sign", reduction.SignFlipped),
    Mistake("sign-flipped", "all terms with the other sign", _with(reduction.ConstantFactor, factor=-1.0)),
    Mistake("sign-flipped", "MI with the other sign", reduction.MISignFlipped),
    Mistake("sign-flipped", "DWKL with the other sign", reduction.DWKLSignFlipped),
    Mistake("term-clamp", "max(TC, 0)", reduction.TCClamp),
    Mistake("term-clamp", "max(., 0) of each term", reduction.TermClamp, False),
    Mistake("term-clamp", "max(., 0) of each sample's TC", reduction.SampleClamp),
    Mistake("term-clamp", "|TC|", reduction.TCAbsolute, False),
    Mistake("beta-for-beta-minus-one", "the KL and beta TC, where (beta - 1) TC is due", reduction.BetaForBetaMinusOne),
    Mistake(
        "beta-for-beta-minus-one",
        "MI + TC + DWKL and beta TC, where (beta - 1) TC is due",
        reduction.BetaForBetaMinusOneUnweighted,
        False,
    ),
    Mistake("kl-counted-twice", "the KL on top of its own decomposition", reduction.KLCountedTwice),
)

GRADIENTS = (
    Mistake("detached-posterior", "mu and log sigma^2 detached", reduction.DetachedPosterior),
    Mistake("detached-posterior", "mu and log sigma^2 detached in q(z)", reduction.DetachedAggregate),
    Mistake("no-gradient", "everything detached", reduction.NoGradient),
    Mistake("no-gradient", "batch means taken out of the graph as numbers", reduction.NumbersForTerms),
    Mistake("unknown", "mu detached", reduction.DetachedMean),
    Mistake("unknown", "log sigma^2 detached", reduction.DetachedVariance),
    Mistake("unknown", "z detached", reduction.DetachedSample),
    Mistake("unknown", "log q(z_d) detached", reduction.DetachedMarginals),
    Mistake("unknown", "log q(z) detached", reduction.DetachedJoint),
    Mistake("unknown", "the gradient of the largest term for that of the log-sum-exp", reduction.LargestTermGradient),
    Mistake("unknown", "the gradient of the mean for that of the log-sum-exp", reduction.UniformGradient),
    Mistake("unknown", "the largest term detached only where it is added back", reduction.ShiftDetachedOnce),
)
"""Mistakes that leave the values right."""

WEIGHTS = _WEIGHTS

MISTAKES: tuple[Mistake, ...] = (*_CONSTANTS, *_WEIGHTS, *_AGGREGATE, *_DENSITY, *_REDUCTION, *GRADIENTS)
"""The library, the likelier first."""


class NamedMistake(NamedTuple):
    """A mistake that another package adds (`tcvae_ref.extensions`), under its id: what is said of it, and its ways."""

    entry: Entry
    ways: tuple[Mistake, ...]


def added() -> tuple[Mistake, ...]:
    """The mistakes of other packages, but for those that cannot be used."""
    theirs = extensions.usable(extensions.names("mistake", CATALOGUE), ways_of)
    return tuple(itertools.chain.from_iterable(theirs.values()))


@functools.cache
def ways_of(id: str) -> tuple[Mistake, ...]:
    """The ways of a mistake that another package adds.

    Raises
    ------
    InputError
        It cannot be loaded, its parts have not the id that it is added under, or a way is none: no step of the loss is
        changed, or the loss cannot be computed with it.
    """
    found: NamedMistake = extensions.load("mistake", id, NamedMistake._fields)
    if not found.ways or not all(isinstance(way, Mistake) for way in found.ways):
        raise InputError(f"mistake {id!r}: its ways are {found.ways!r:.60}; a tuple of Mistake is needed")
    ids = {found.entry.id, *(way.id for way in found.ways)}
    if ids != {id}:
        raise InputError(f"mistake {id!r}: its entry and its ways are called {', '.join(sorted(ids))}; call all {id}")
    for way in found.ways:
        if not (isinstance(way.steps, type) and issubclass(way.steps, Loss) and changed(way.steps)):
            steps = ", ".join(name for name in vars(Loss) if not name.startswith("_"))
            raise InputError(f"mistake {id!r}: {way.steps!r} changes no step of Loss; these are {steps}")
        _try(id, way.steps)
    return found.ways


def _try(id: str, steps: type[Loss]) -> None:
    """Compute a loss with these steps, and its gradient, once."""
    z = np.array([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1], [0.0, 0.9]])
    try:
        gradients(steps, "mss", Case(z, 0.5 * z, 0.1 * z, 20), ("tc",))
    except Exception as error:
        raise InputError(
            f"mistake {id!r}: a loss with the steps of {steps.__qualname__} raised {type(error).__name__}: {error}"
        ) from error


def changed(steps: type[Loss]) -> frozenset[str]:
    """The steps that a mistake changes."""
    own = (vars(cls) for cls in steps.__mro__[: steps.__mro__.index(Loss)])
    return frozenset(name for one in own for name in one if hasattr(Loss, name) and not name.startswith("__")) - {
        "claims",
        "needs",
    }


def together(one: type[Loss], other: type[Loss]) -> type[Loss] | None:
    """A loss with both mistakes; None where they change the same step."""
    if changed(one) & changed(other):
        return None
    bases = tuple(steps for steps in (one, other) if steps is not Loss)
    return type("Together", bases or (Loss,), {})


def possible(estimator: str, quantities: tuple[str, ...]) -> list[Mistake]:
    """Those that an estimate of this kind can have, and that would show in what is returned."""
    return [
        mistake
        for mistake in (*MISTAKES, *added())
        if may_hold(mistake.steps.claims, estimator)
        and (not mistake.steps.needs or set(mistake.steps.needs) & set(quantities))
    ]
