"""The words of the oracle: cases, enclosures, allowances, what was observed, verdicts and reports."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tcvae_ref.oracle.estimators import OWN
from tcvae_ref.types import Array

ESTIMATORS = tuple(OWN)
"""This package's own estimators, by their names on the command line; `estimators.names` has those of others too."""

DTYPES = ("float64", "float32", "bfloat16", "float16")
USUAL_DTYPES = ("float64", "float32")
"""What a target is judged in where nothing is asked for, as far as its framework has it."""

PARAMETERISATIONS = ("log_var", "log_std", "std", "var")
"""What a target may call the width of a posterior: log sigma^2, log sigma, sigma, sigma^2."""

ARRAYS = ("log_qz", "log_qz_marginals")
"""Quantities with an entry for each sample, (M,) and (M, D)."""

TERMS = ("mi", "tc", "dwkl")
"""The terms of eq. 2: batch means, nats."""

PENALTIES = ("penalty", "kl_penalty")
"""What a loss adds to the reconstruction: alpha MI + beta TC + gamma DWKL, or, with the closed-form KL,
KL(q(z|n) || p(z)) + (beta - 1) TC. The two differ by the noise of one sample of z."""

QUANTITIES = (*ARRAYS, *TERMS, *PENALTIES)
"""What a target may return."""


PARTS = ("sampler", "loss", "warm-up")
"""What `check_step` judges, as a report names it."""


class Case(NamedTuple):
    """One call of a target: its arguments as exact numbers."""

    z: Array
    """(M, D), float64."""
    mu: Array
    spread: Array
    """The width of each posterior, in the parameterisation below."""
    dataset_size: int
    alpha: float = 1.0
    beta: float = 6.0
    gamma: float = 1.0
    parameterisation: str = "log_var"

    @property
    def arrays(self) -> dict[str, Array]:
        """The differentiable arguments by name; the width goes by its parameterisation's name."""
        return {"z": self.z, "mu": self.mu, self.parameterisation: self.spread}

    @property
    def constants(self) -> dict[str, Any]:
        """The arguments that are numbers."""
        return {"dataset_size": self.dataset_size, "alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}


class Enclosure(NamedTuple):
    """Numbers known to lie within `radius` of middle + rest, an unevaluated sum of two floats each."""

    middle: Array
    """The nearest floats, or their neighbours."""
    rest: Array
    """What the middles leave out: a further 53 bits."""
    radius: Array

    @property
    def lower(self) -> Array:
        """Floats that the numbers are not below."""
        return self._outwards(self.rest - self.radius, -np.inf)

    @property
    def upper(self) -> Array:
        """Floats that the numbers are not above."""
        return self._outwards(self.rest + self.radius, np.inf)

    def _outwards(self, beyond: Array, direction: float) -> Array:
        """The middles moved by `beyond`, one float further where that was rounded."""
        return np.where(beyond == 0, self.middle, np.nextafter(self.middle + beyond, direction))

    def distance(self, values: Array) -> Array:
        """How far values are off at least, far below their own last digit; nan for nan."""
        return np.maximum(np.abs((values - self.middle) - self.rest) - self.radius, 0.0)


class Truth(NamedTuple):
    """What a right implementation returns in exact arithmetic."""

    values: dict[str, Enclosure]
    """Every quantity, and the stages before them: log_qz_given_x (M,), log_pz (M,)."""
    gradients: dict[str, dict[str, Enclosure]]
    """Quantity -> argument -> (M, D). Of log_qz the batch mean is differentiated, of log_qz_marginals the batch
    mean of the sum over d."""


class Allowances(NamedTuple):
    """How far a right implementation in floating point may be off, and the size of what it adds up."""

    values: dict[str, Array]
    gradients: dict[str, dict[str, Array]]
    value_scales: dict[str, Array]
    """Sums of absolute terms; an allowance above `VACUOUS` of it says nothing."""
    gradient_scales: dict[str, dict[str, Array]]


VACUOUS = 0.25


class Primitives(NamedTuple):
    """Error of a framework's exp and log in one dtype, in units of the dtype's roundoff u (half an ulp at 1)."""

    exp: float
    log: float


class Observed(NamedTuple):
    """What a target returned for one case, read back as float64."""

    values: dict[str, Array]
    gradients: dict[str, dict[str, Array]]
    """Quantity -> argument -> (M, D); a quantity whose gradient was not asked for is absent."""
    dtypes: dict[str, str]
    """Quantity -> dtype of what was returned ("float" for a Python number)."""
    detached: dict[str, tuple[str, ...]]
    """Quantity -> arguments on which it does not depend, as far as differentiation can see. Their gradient is 0."""


class TargetFault(Exception):
    """The target did not return what can be judged: it raised, or hung, or returned the wrong thing."""


TensorFunction: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
"""`function(tensors, constants) -> {quantity: output}`: a target behind its argument and return mapping.
The tensors go by the names of `Case.arrays`, the constants by those of `Case.constants`."""


CheckProgress: TypeAlias = Callable[[int, int, str], None]
"""Called as progress(cases done, of how many, what is being checked)."""


class Verdict(enum.StrEnum):
    """Exactly one for each (check, dtype, variant), from best to worst."""

    PASS = "PASS"
    WARN = "WARN"
    INCONCLUSIVE = "INCONCLUSIVE"
    PRIMITIVE = "PRIMITIVE"
    UNSTABLE = "UNSTABLE"
    NONFINITE = "NONFINITE"
    ERROR = "ERROR"
    WRONG_GRADIENT = "WRONG-GRADIENT"
    WRONG = "WRONG"

    @property
    def rank(self) -> int:
        """0 for PASS, more for worse."""
        return list(Verdict).index(self)


FAILURES = frozenset(
    {
        Verdict.PRIMITIVE,
        Verdict.UNSTABLE,
        Verdict.NONFINITE,
        Verdict.ERROR,
        Verdict.WRONG_GRADIENT,
        Verdict.WRONG,
    }
)


@dataclass(frozen=True)
class Element:
    """One number that was compared."""

    quantity: str
    argument: str
    """"" for a value, else the argument it is the derivative in."""
    index: tuple[int, ...]
    got: float
    lower: float
    upper: float
    error: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Error/allowed: above 1 is a counterexample."""
        return self.error / self.allowed if self.allowed else (0.0 if self.error == 0 else np.inf)


@dataclass(frozen=True)
class Counterexample:
    """A case on which a target is off, shrunk, and the evidence."""

    case: Case
    """As the framework received it."""
    elements: tuple[Element, ...] = ()
    """The worst five, worst first."""
    stage: str = ""
    """The first quantity that is wrong, in the order log q(z|x), log q(z), log q(z_d), MI, TC, DWKL, gradient."""
    allowance: tuple[tuple[float, str], ...] = ()
    """Where the allowance of the worst element comes from: (share, in words), largest first."""
    message: str = ""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check in one dtype and variant."""

    check: str
    dtype: str
    variant: str
    verdict: Verdict
    cases: int = 0
    certified: int = 0
    inconclusive: int = 0
    worst: float = 0.0
    """Largest error/allowed among the certified cases."""
    message: str = ""
    counterexample: Counterexample | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Cases that are neither certified nor inconclusive."""
        return self.cases - self.certified - self.inconclusive


@dataclass(frozen=True)
class Diagnosis:
    """The name of a mistake."""

    id: str
    title: str
    evidence: str


@dataclass(frozen=True)
class Report:
    """Everything that was found out about a target."""

    target: str
    framework: str
    estimator: str
    mapping: str
    """The signature as it was understood, in one line."""
    results: tuple[CheckResult, ...]
    not_run: tuple[tuple[str, str], ...] = ()
    """(check, why it does not apply)."""
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """What is needed to run it again: the options of `check`, as JSON can hold them."""
    diagnosis: tuple[Diagnosis, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict; INCONCLUSIVE where nothing was certified."""
        verdicts = [result.verdict for result in self.results]
        worst = max(verdicts, key=lambda v: v.rank, default=Verdict.INCONCLUSIVE)
        if worst in FAILURES:
            return worst
        judged = [v for v in verdicts if v is not Verdict.INCONCLUSIVE]
        return max(judged, key=lambda v: v.rank, default=Verdict.INCONCLUSIVE)

    @property
    def exit_status(self) -> int:
        """0 all that was judged passed, 1 a counterexample, 3 nothing was certified."""
        if self.verdict in FAILURES:
            return 1
        return 3 if self.verdict is Verdict.INCONCLUSIVE else 0

    @property
    def counts(self) -> dict[str, int]:
        """How many checks there were, and cases: certified, inconclusive or failed.

        A case is certified that was judged with an allowance that says something, and found right.
        """
        return {
            "checks": len(self.results),
            "cases": sum(r.cases for r in self.results),
            "certified": sum(r.certified for r in self.results),
            "inconclusive": sum(r.inconclusive for r in self.results),
            "failed": sum(r.failed for r in self.results),
        }

    @property
    def worst(self) -> float:
        """Largest error/allowed of the target; the framework's exp and log have a measure of their own."""
        return max((r.worst for r in self.results if r.check != "primitives"), default=0.0)

    def __str__(self) -> str:
        """The report for a person, as the command line prints it."""
        from tcvae_ref.oracle import report

        of_a_step = any(result.check in PARTS for result in self.results)
        return report.step_text(self) if of_a_step else report.text(self)
