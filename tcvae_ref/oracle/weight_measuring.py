"""The weights w_ij a loss gives to each posterior j for each sample i, read off what it returns.

Posteriors of unit variance stand 12 apart in every dimension and z = mu: each sample sees its own posterior only, and
log q(z_r) = log w_rr - D/2 log 2 pi but for 1e-31. Put z_r on mu_c, and it is log w_rc in place of log w_rr. Batch
means change by that over M, and by log-densities that are known. Put the *first coordinate* of z_r on that of mu_c,
and of the weights only that of one marginal changes: so one number, TC, gives both the weights of the joint and those
of the marginals.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.truth import combinations
from tcvae_ref.oracle.types import ARRAYS, PENALTIES, TERMS, Case
from tcvae_ref.types import Array

DIMENSIONS = 3
"""Of the cases; from three on, a sample one of whose coordinates moved is nearest to its own posterior still."""

SPACING, WIDE = 12.0, 18.0

NOTHING = -40.0
"""A log-weight this far below others is that of a posterior which is not there."""

_LOG_2PI = math.log(2 * math.pi)


class Ratios(NamedTuple):
    """log w_rc - log w_rr, and log w_rr where it is known."""

    joint: Array | None
    marginals: Array | None
    own_joint: Array | None
    """(M,)"""
    own_marginals: Array | None
    factors: dict[str, float]
    """Quantity -> what it is multiplied by, where that is not 1."""
    by_sample: bool = False
    """Whether log w_rr was seen at each sample, not as a mean over the batch alone."""
    torn: bool = False
    """Whether the sizes of the weights differ between the quantities returned."""
    fault: str = ""
    """Why these are no weights."""


# --- the cases ---------------------------------------------------------------------------------------------


class _Placed(NamedTuple):
    """A case, and what is known of the sums over its batch."""

    case: Case
    known: tuple[float, float, float, float]
    """log q(z|x), log q(z), sum_d log q(z_d), log p(z) summed over samples, without the weights."""


def _place(M: int, N: int, r: int, c: int, moved: int, spacing: float = SPACING) -> _Placed:
    """Posterior c next to posterior r, and the first `moved` coordinates of z_r on those of mu_c."""
    D = DIMENSIONS
    order = [r, c, *(j for j in range(M) if j not in (r, c))]
    mu = np.repeat(spacing * np.argsort(order)[:, None], D, axis=1).astype(float)
    z = mu.copy()
    z[r, :moved] = mu[c, :moved]
    constant = -0.5 * M * D * _LOG_2PI
    own = -0.5 * float(np.sum((z - mu) ** 2))
    joint = -0.5 * spacing**2 if 0 < moved < D else 0.0
    prior = -0.5 * float(np.sum(z**2))
    known = (constant + own, constant + joint, constant, constant + prior)
    return _Placed(Case(z, mu, np.zeros((M, D)), N), known)


# --- what a target returned, as sums over the batch --------------------------------------------------------

_WEIGHT_OF = {"alpha": "mi", "beta": "tc", "gamma": "dwkl"}


def _parts(name: str, case: Case) -> tuple[float, ...]:
    """How much of log q(z|x), log q(z), sum_d log q(z_d) and log p(z) is in a scalar; the closed-form KL has no z."""
    if name == "kl_penalty":
        return (0.0, case.beta - 1, 1 - case.beta, 0.0)
    return combinations(case)[name]


class _Target:
    """A subject that is asked about placed cases."""

    def __init__(self, subject: Subject, quantities: Sequence[str]):
        self.subject = subject
        self.arrays = [name for name in ARRAYS if name in quantities]
        self.terms = [name for name in TERMS if name in quantities]
        self.penalties = [name for name in PENALTIES if name in quantities]
        self.taken = [name for name in _WEIGHT_OF if name not in subject.weights]

    def __call__(self, case: Case) -> dict[str, Array]:
        """Its values; the terms of a penalty by what a unit of each weight adds to it, where it takes the weight."""
        case = case._replace(alpha=1.0, beta=3.0, gamma=1.0)
        observed = self._values(case)
        values = {name: observed[name] for name in (*self.arrays, *self.terms) if name in observed}
        for name in self.penalties:
            if name not in observed:
                continue
            added = self._added(name, case, observed[name])
            values.update(added or {name: observed[name]})
        return values

    def _added(self, name: str, case: Case, value: Array) -> dict[str, Array]:
        weights = [weight for weight in self.taken if name == "penalty" or weight == "beta"]
        added = {}
        for weight in weights:
            more = self._values(case._replace(**{weight: getattr(case, weight) + 1}))[name]
            if np.any(more != value):
                added[_WEIGHT_OF[weight]] = more - value
        return added

    def _values(self, case: Case) -> dict[str, Array]:
        return self.subject.observe(self.subject.receive(case)).values

    def parts(self, name: str) -> tuple[float, ...]:
        case = Case(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), 1, 1.0, 3.0, 1.0)
        return _parts(name, case._replace(**self.subject.weights))  # type: ignore[arg-type]


class _Scalar(NamedTuple):
    """A batch mean as a sum over the batch of parts, times a factor."""

    name: str
    parts: tuple[float, ...]
    factor: float

    def weights_in(self, value: Array, placed: _Placed) -> float:
        """What the log-weights make of it: parts[1] sum log w + parts[2] sum_d log w_d."""
        return len(placed.case.z) * float(value) / self.factor - float(np.dot(self.parts, placed.known))


def _scalars(target: _Target, M: int, N: int, close: float) -> list[_Scalar]:
    """The batch means that change with distances as a sum of log-densities does, and their factors."""
    moves = (1, DIMENSIONS)
    near, far = ([_place(M, N, 0, 1, moved, s) for moved in moves] for s in (SPACING, WIDE))
    pairs = [(a, b, target(a.case), target(b.case)) for a, b in zip(near, far, strict=True)]
    result = []
    for name in pairs[0][2]:
        parts = target.parts(name) if name not in ARRAYS else (0.0,) * 4
        due = np.array([np.dot(parts, np.subtract(b.known, a.known)) for a, b, *_ in pairs])
        if name in ARRAYS or not due.any():
            continue
        got = np.array([M * (float(y[name]) - float(x[name])) for *_, x, y in pairs])
        if not np.isfinite(got).all():
            continue
        factor = float(got @ due / (due @ due))
        if math.isfinite(factor) and abs(factor) > 1e-9 and np.allclose(got, factor * due, rtol=0, atol=close * M):
            result.append(_Scalar(name, parts, factor))
    return result


# --- measuring ---------------------------------------------------------------------------------------------


def measure(subject: Subject, quantities: Sequence[str], M: int, N: int, close: float) -> Ratios | None:
    """The ratios of weights in what a target returns; None if it returns nothing to look at."""
    target = _Target(subject, quantities)
    base = _place(M, N, 0, 1, 0)
    at_rest = target(base.case)
    scalars = _scalars(target, M, N, close)
    known = [name for name in ARRAYS if name in at_rest]
    if not known and not scalars:
        return Ratios(None, None, None, None, {}, fault=_no_sums(at_rest)) if at_rest else None
    rest = [s.weights_in(at_rest[s.name], base) for s in scalars]
    changes, disturbed = _changes(target, scalars, rest, known, at_rest, M, N, close)
    joint, marginals, off = _solve(_equations(scalars, known), changes.reshape(len(changes), -1))
    fault = _unmoved(target, at_rest, known, M, N) or disturbed
    if not off <= 10 * close:
        fault = fault or "what was returned does not change as the log of weighted sums of densities does"
    own_joint, own_marginals, torn = _own(at_rest, scalars, rest, M, close)
    joint, marginals = (None if x is None else x.reshape(M, M) for x in (joint, marginals))
    seen_by_sample = [name in known for name, x in zip(ARRAYS, (joint, marginals), strict=True) if x is not None]
    factors = {s.name: s.factor for s in scalars if abs(s.factor - 1) > close}
    return Ratios(joint, marginals, own_joint, own_marginals, factors, all(seen_by_sample), torn, fault)


def _equations(scalars: list[_Scalar], known: list[str]) -> Array:
    """(E, 2): how log w_rc - log w_rr of the joint and of the marginals enter what is measured.

    First the batch means with z_r on mu_c, then with its first coordinate there, then the arrays with z_r on mu_c.
    """
    onto = [(s.parts[1], DIMENSIONS * s.parts[2]) for s in scalars]
    beside = [(0.0, s.parts[2]) for s in scalars]
    arrays = [{"log_qz": (1.0, 0.0), "log_qz_marginals": (0.0, 1.0)}[name] for name in known]
    return np.array([*onto, *beside, *arrays])


def _changes(
    target: _Target,
    scalars: list[_Scalar],
    rest: list[float],
    known: list[str],
    at_rest: dict[str, Array],
    M: int,
    N: int,
    close: float,
) -> tuple[Array, str]:
    """(E, M, M): what is measured for each r and c, and what should not have changed but did."""
    result = np.zeros((2 * len(scalars) + len(known), M, M))
    fault = ""
    for r, c in ((r, c) for r in range(M) for c in range(M) if r != c):
        onto, beside = _place(M, N, r, c, DIMENSIONS), _place(M, N, r, c, 1)
        seen = target(onto.case)
        seen_beside = target(beside.case) if scalars else {}
        result[:, r, c] = [
            *(s.weights_in(seen[s.name], onto) - a for s, a in zip(scalars, rest, strict=True)),
            *(s.weights_in(seen_beside[s.name], beside) - a for s, a in zip(scalars, rest, strict=True)),
            *(float(np.mean(seen[name][r] - at_rest[name][r])) for name in known),
        ]
        fault = fault or _disturbed(seen, at_rest, known, r, close)
    return result, fault


def _unmoved(target: _Target, at_rest: dict[str, Array], known: list[str], M: int, N: int) -> str:
    """Whether log q does not fall where a sample leaves all posteriors, or only one of a joint's marginals does."""
    z = (base := _place(M, N, 0, 1, 0).case).z.copy()
    z[0] -= 0.5 * SPACING
    away, beside = target(base._replace(z=z)), target(_place(M, N, 0, 1, 1).case)
    for name in known:
        if not np.all(away[name][0] < at_rest[name][0] - 1):
            return f"{name} of a sample that leaves all posteriors does not fall"
    if "log_qz" in known and not beside["log_qz"][0] < at_rest["log_qz"][0] + NOTHING:
        return "log_qz of a sample that leaves its posterior in one dimension does not fall as a joint density does"
    return ""


def _no_sums(values: dict[str, Array]) -> str:
    return f"{', '.join(values)}: not a sum of log-densities"


def _disturbed(seen: dict[str, Array], at_rest: dict[str, Array], known: list[str], r: int, close: float) -> str:
    """Whether moving z_r changed log q at another sample, or one marginal apart from others."""
    for name in known:
        change = seen[name] - at_rest[name]
        if not np.all(np.abs(np.delete(change, r, axis=0)) <= close):
            return f"{name} of other samples changes when one sample moves"
        if not np.ptp(change[r]) <= close:
            return f"{name} has other weights in each dimension"
    return ""


def _solve(equations: Array, right: Array) -> tuple[Array | None, Array | None, float]:
    """The two unknowns of linear equations, None for one that is in none of them, and how far off they are."""
    if not np.isfinite(right).all():
        return None, None, math.inf
    solution, *_ = np.linalg.lstsq(equations, right, rcond=None)
    off = float(np.max(np.abs(equations @ solution - right), initial=0.0))
    determined = [_determined(equations, k) for k in (0, 1)]
    joint, marginals = (x if known else None for x, known in zip(solution, determined, strict=True))
    return joint, marginals, off


def _determined(equations: Array, k: int) -> bool:
    unit = np.eye(2)[k]
    rank = np.linalg.matrix_rank(equations)
    return bool(np.linalg.matrix_rank(np.vstack([equations, unit])) == rank)


def _own(
    at_rest: dict[str, Array], scalars: list[_Scalar], rest: list[float], M: int, close: float
) -> tuple[Array | None, Array | None, bool]:
    """Own weights, log w_rr, of joint and marginals, or their means alone; and whether what was returned disagrees."""
    equations = [(s.parts[1], DIMENSIONS * s.parts[2]) for s in scalars]
    right = [a / M for a in rest]
    rows: list[Array | None] = [None, None]
    for k, name in enumerate(ARRAYS):
        if name in at_rest:
            log_w = at_rest[name] + 0.5 * _LOG_2PI * (DIMENSIONS if name == "log_qz" else 1)
            rows[k] = log_w if name == "log_qz" else log_w.mean(axis=1)
            equations.append((1.0 - k, float(k)))
            right.append(float(np.mean(log_w)))
    *means, off = _solve(np.array(equations), np.array(right)[:, None])
    if not off <= 10 * close:  # a constant is missing somewhere: no telling which weight it belongs to
        return None, None, True
    joint, marginals = (
        row if row is not None or mean is None else np.full(M, float(mean[0]))
        for row, mean in zip(rows, means, strict=True)
    )
    return joint, marginals, False
