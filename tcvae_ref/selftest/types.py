"""The words of the self-test: what was compared, what was found, what came of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.standardised import Cut
from tcvae_ref.oracle.types import VACUOUS, Enclosure, Primitives
from tcvae_ref.types import Array

PRIMITIVES = {"float64": Primitives(exp=4.0, log=4.0), "float32": Primitives(exp=6.0, log=8.0)}
"""What exp and log may be off by, in units of u: 2 ulp in float64; in float32 what NumPy documents, 3 and 4 ulp.
The kernels' own exp is held to 2 ulp in both."""

CUTS = {"float64": Cut(2.0**-960, 2.0**-600), "float32": Cut(2.0**-90, 2.0**-40)}
"""What the kernels leave out: `CUT_64`, `CUT_32` of `tcvae_kernels.exp` and `TINY` of `tcvae_kernels.pairwise`."""


def gamma(k: float, dtype: str) -> float:
    """Relative error of k roundings, k u / (1 - k u)."""
    product = k * FORMATS[dtype].roundoff
    return product / (1 - product)


class Comparison(NamedTuple):
    """Numbers of one function side by side with their enclosure."""

    function: str
    """With its module, such as tcvae_kernels.log_qz_mss."""
    quantity: str
    """What was compared: value, log_qz, mi, ..."""
    argument: str
    """"" for a value, else the argument it is the derivative in."""
    got: Array
    true: Enclosure
    allowed: Array
    """Infinite where nothing is asked."""
    scale: Array
    """The size of what was added up: an allowance above `VACUOUS` of it says nothing."""


class Case(NamedTuple):
    """One random case, as it is drawn again from the seed and its number."""

    number: int
    what: str
    """In words: the topic, the sizes, what is hard about it."""
    inputs: Mapping[str, Any]
    """Arrays and numbers by name, in the dtype that was judged."""


@dataclass(frozen=True)
class Finding:
    """A number outside its bound, or an exception."""

    function: str
    case: Case
    quantity: str = ""
    argument: str = ""
    index: tuple[int, ...] = ()
    got: float = np.nan
    true: float = np.nan
    radius: float = 0.0
    """The true value lies within it of the one above."""
    error: float = np.nan
    allowed: float = 0.0
    numbers: int = 0
    """How many numbers of this comparison are outside."""
    raised: str = ""


@dataclass
class Tally:
    """The counts of one function."""

    cases: int = 0
    certified: int = 0
    undecided: int = 0
    """Numbers whose allowance is infinite or above `VACUOUS` of what was added up."""
    worst: float = 0.0
    """Largest error over allowance among those certified."""
    wrong: int = 0


@dataclass
class Result:
    """What a run found."""

    seed: int
    first: int
    cases: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, case: Case, comparisons: list[Comparison]) -> None:
        """Judge the comparisons of one case."""
        for comparison in comparisons:
            self._judge(case, comparison)
        for function in {c.function for c in comparisons}:
            self.tallies[function].cases += 1

    def _judge(self, case: Case, c: Comparison) -> None:
        tally = self.tallies.setdefault(c.function, Tally())
        got = np.asarray(c.got, dtype=np.float64)
        with np.errstate(all="ignore"):
            error = np.broadcast_to(c.true.distance(got), c.allowed.shape)
            asked = np.isfinite(c.allowed)
            bad = asked & ~(error <= c.allowed)  # nan is outside
            telling = asked & ((c.allowed <= VACUOUS * c.scale) | (c.allowed <= np.finfo(np.float64).smallest_normal))
            ratio = np.where(c.allowed > 0, error / c.allowed, 0.0)
        tally.certified += int((telling & ~bad).sum())
        tally.undecided += int((~telling & ~bad).sum())
        tally.worst = max(tally.worst, float(np.max(ratio, initial=0.0, where=telling & ~bad)))
        if not bad.any():
            return
        tally.wrong += int(bad.sum())
        at = np.unravel_index(int(np.argmax(np.where(bad, np.nan_to_num(ratio, nan=np.inf), -1.0))), bad.shape)
        true, radius = (np.broadcast_to(a, bad.shape)[at] for a in (c.true.middle, c.true.radius))
        place = tuple(int(i) for i in at)
        numbers = (float(np.broadcast_to(got, bad.shape)[at]), float(true), float(radius), float(error[at]))
        self.findings.append(
            Finding(c.function, case, c.quantity, c.argument, place, *numbers, float(c.allowed[at]), int(bad.sum()))
        )

    def raised(self, case: Case, function: str, error: Exception) -> None:
        """Note an exception where a number was due."""
        tally = self.tallies.setdefault(function, Tally())
        tally.cases += 1
        tally.wrong += 1
        self.findings.append(Finding(function, case, raised=f"{type(error).__name__}: {error}"))

    def total(self, name: str) -> int:
        """One of the counts, of all functions together."""
        return sum(getattr(tally, name) for tally in self.tallies.values())

    @property
    def worst(self) -> tuple[float, str]:
        """Largest error over allowance, and whose."""
        return max(((t.worst, name) for name, t in self.tallies.items()), default=(0.0, ""))

    @property
    def exit_status(self) -> int:
        """0 all inside their bounds, 1 a number outside, 3 nothing was certified."""
        if self.findings:
            return 1
        return 0 if self.total("certified") else 3
