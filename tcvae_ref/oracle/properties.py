"""Properties that a right implementation has, beyond being equal to the truth.

Each is judged on a drawn case that is first made into what the property needs. What is compared with what is written
down once for each property, in a function that evaluates the target and returns `Comparison`s; the verdict is then
the same for all. Every tolerance is a sum of the derived allowances of the evaluations that are compared.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.special import logsumexp

from tcvae_ref.oracle.against_truth import Finding
from tcvae_ref.oracle.comparison import Comparison, exactly
from tcvae_ref.oracle.estimators import OWN, find
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.one_check import Check
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.tolerance import log_variances
from tcvae_ref.oracle.truth import combinations, truth
from tcvae_ref.oracle.types import (
    ARRAYS,
    QUANTITIES,
    TERMS,
    Case,
    Element,
    Enclosure,
    TargetFault,
    Verdict,
)
from tcvae_ref.types import Array

_ROUNDOFF = 2.0**-53  # of this module, which computes in float64


# --- comparisons and their verdict -----------------------------------------------------------------------------


class _Compared(NamedTuple):
    """All comparisons on one case; the elements' indices refer to `received`."""

    received: Case
    comparisons: list[Comparison]
    unfit: str = ""
    """Why this case shows nothing about the property."""

    @property
    def worst(self) -> float:
        return max((c.worst for c in self.comparisons), default=0.0)


_Compare: TypeAlias = Callable[[Subject, Case, bool], _Compared]
"""`compare(subject, case, expanded)`; `expanded` as in `Subject.allowances`."""


@np.errstate(all="ignore")  # targets return nan and infinity, and these are judged
def _judged(compare: _Compare, claim: str, wrong: Verdict, subject: Subject, case: Case) -> Finding:
    """Make the comparisons of a property and name what they show."""
    try:
        compared = compare(subject, case, False)
    except TargetFault as fault:
        return Finding(Verdict.ERROR, np.inf, subject.receive(case), message=str(fault))
    received, comparisons, unfit = compared
    if compared.worst <= 1:
        nothing = bool(unfit) or not comparisons or any(c.vacuous for c in comparisons)
        return Finding(Verdict.INCONCLUSIVE if nothing else Verdict.PASS, compared.worst, received, message=unfit)
    elements = sorted((e for c in comparisons for e in c.elements()), key=lambda e: -e.ratio)[:5]
    verdict, remark = _failure(compare, wrong, subject, case, compared)
    stage = "gradient" if elements[0].argument else ""
    return Finding(verdict, compared.worst, received, tuple(elements), stage, f"{claim}: {_line(elements[0])}" + remark)


def _failure(
    compare: _Compare, wrong: Verdict, subject: Subject, case: Case, compared: _Compared
) -> tuple[Verdict, str]:
    """Which failure it is, with a remark that says why where it is not plainly wrong."""
    if any(c.nonfinite for c in compared.comparisons):
        return Verdict.NONFINITE, ""
    if wrong is Verdict.UNSTABLE:
        return wrong, ""
    if subject.dtype != "float64" and "float64" in subject.adapter.dtypes:
        double = replace(subject, dtype="float64")
        if _holds(compare, double, compared.received, expanded=False):
            return Verdict.UNSTABLE, f"; holds in float64 on the same numbers, not in {subject.dtype}"
    if _holds(compare, subject, case, expanded=True):
        return Verdict.UNSTABLE, "; within what an expanded square, z^2 - 2 z mu + mu^2, loses to cancellation"
    return wrong, ""


def _holds(compare: _Compare, subject: Subject, case: Case, *, expanded: bool) -> bool:
    try:
        return compare(subject, case, expanded).worst <= 1
    except TargetFault:
        return False


def _line(element: Element) -> str:
    index = f"[{', '.join(map(str, element.index))}]" if element.index else ""
    name = f"d {element.quantity} / d {element.argument}" if element.argument else element.quantity
    return (
        f"{name}{index} is {element.got:.17g}, to equal {element.lower:.17g}; "
        f"off by {element.error:.3g} where {element.allowed:.3g} is allowed"
    )


class _Evaluation(NamedTuple):
    """What a target returned for a case, and how far that may be off."""

    values: dict[str, Array]
    allowed: dict[str, Array]
    scales: dict[str, Array]

    def rearranged(self, order: Array) -> "_Evaluation":
        """Entry i of each array taken from entry order[i]; scalars as they are."""
        return _Evaluation(*({n: a[order] if n in ARRAYS else a for n, a in part.items()} for part in self))


def _evaluate(subject: Subject, received: Case, expanded: bool) -> _Evaluation:
    observed = subject.observe(received)
    allowed = subject.allowances(received, expanded=expanded, gradients=False)
    return _Evaluation(observed.values, allowed.values, allowed.value_scales)


def _equal(first: _Evaluation, second: _Evaluation, names: Sequence[str] = QUANTITIES) -> list[Comparison]:
    """Two evaluations that are to agree, each within its own allowance."""
    return [
        Comparison(n, first.values[n], exactly(second.values[n]), first.allowed[n] + second.allowed[n], first.scales[n])
        for n in names
        if n in first.values and n in second.values
    ]


# --- cases made over -------------------------------------------------------------------------------------------


def _with(case: Case, change: Callable[[Array], Array]) -> Case:
    """The same done to z, mu and the widths."""
    z, mu, spread = map(change, (case.z, case.mu, case.spread))
    return case._replace(z=z, mu=mu, spread=spread)


def _rows(case: Case, order: Sequence[int] | Array) -> Case:
    """Samples and posteriors in another order, or some of them."""
    return _with(case, lambda a: a[np.asarray(order)])


def _first(case: Case, estimator: str, M: int, D: int) -> Case:
    """At most M samples and D dimensions; where a batch is the whole data set, these are."""
    few = _with(case, lambda a: a[:M, :D])
    return few._replace(dataset_size=find(estimator).dataset_size(len(few.z), few.dataset_size))


def _widths(case: Case) -> Array:
    return np.exp(0.5 * log_variances(case))


def _at_first_posterior(case: Case) -> Case:
    """All posteriors equal to the first, each sample as many standard deviations out as it was."""
    if (case.mu == case.mu[0]).all() and (case.spread == case.spread[0]).all():
        return case
    sigma = _widths(case)
    mu, spread = (np.zeros_like(a) + a[0] for a in (case.mu, case.spread))
    return case._replace(z=mu + sigma[0] * ((case.z - case.mu) / sigma), mu=mu, spread=spread)


def _population(case: Case) -> Case:
    """Four posteriors with a sample of each; where a case has fewer, its own again, a standard deviation along."""
    at, again = np.arange(4) % len(case.z), (np.arange(4) // len(case.z))[:, None]
    four = _rows(case, at)._replace(dataset_size=4)
    return four._replace(z=four.z + again * _widths(four), mu=four.mu + again * _widths(four))


def _on_grid(case: Case, dtype: str) -> tuple[Case, float]:
    """Samples and means rounded to a grid on which adding c is exact in a dtype, and c, a power of two.

    With |z|, |mu| < 2^e the grid's step is 2^(e - b), with b = 30 in float64 and half the significand elsewhere, and
    c = 2^(e + s): |z| + c is below 2^(e + s + 1), that is b + s + 1 bits, and these are at most the significand's.
    s is at most 10, for a shift that changes no density by itself.
    """
    digits = FORMATS[dtype].digits
    bits = 30 if digits == 53 else digits // 2
    e = int(np.frexp(max(np.abs(case.z).max(), np.abs(case.mu).max()))[1])
    z, mu = (np.ldexp(np.trunc(np.ldexp(a, bits - e)), e - bits) for a in (case.z, case.mu))
    return case._replace(z=z, mu=mu), float(np.ldexp(1.0, e + min(digits - bits - 1, 10)))


def _short(array: Array, bits: int = 36) -> Array:
    """Rounded to so many significant bits; formats that have fewer keep their numbers."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


# --- the properties: order of the batch ------------------------------------------------------------------------


def _reordered(received: Case, orders: Sequence[Array], subject: Subject, expanded: bool) -> _Compared:
    """The batch as it is, beside the batch in other orders, put back."""
    if len(received.z) == 1:
        return _Compared(received, [], "a batch of one sample has one order")
    plain = _evaluate(subject, received, expanded)
    comparisons = []
    for order in orders:
        moved = _evaluate(subject, _rows(received, order), expanded)
        comparisons += _equal(plain, moved.rearranged(np.argsort(order)))
    return _Compared(received, comparisons)


def _cyclic_shift(subject: Subject, case: Case, expanded: bool) -> _Compared:
    received = subject.receive(case)
    return _reordered(received, [np.roll(np.arange(len(case.z)), 1)], subject, expanded)


def _permutation(subject: Subject, case: Case, expanded: bool) -> _Compared:
    M = len(case.z)
    orders = [np.arange(M)[::-1], np.random.default_rng(M).permutation(M)]
    return _reordered(subject.receive(case), orders, subject, expanded)


# --- special cases with a known answer -------------------------------------------------------------------------


class _Alone(NamedTuple):
    """Log-densities of each sample that no other posterior has a part in: floats nearest to proven values."""

    given_x: Array
    """log q(z_i|x_i) : (M,)."""
    given_x_marginals: Array
    """log q(z_id|x_i) : (M, D)."""
    prior: Array
    """log p(z_i) : (M,)."""


def _alone(received: Case) -> _Alone:
    rows = [truth(_rows(received, [i]), "minibatch").values for i in range(len(received.z))]
    names = ("log_qz_given_x", "log_qz_marginals", "log_pz")  # of one posterior, q(z) is q(z|x)
    return _Alone(*(np.concatenate([row[name].middle for row in rows]) for name in names))


def _identical_posteriors(subject: Subject, case: Case, expanded: bool) -> _Compared:
    """Beside log q(z|x) plus the log of the sum of a row of weights: of 1, or 1 / N for MWS; so in each dimension."""
    received = subject.receive(_at_first_posterior(case))
    found, alone = _evaluate(subject, received, expanded), _alone(received)
    weights = find(subject.estimator).weights(len(received.z), received.dataset_size)
    shifts = -np.log([float(sum(row)) for row in weights])
    known = {"log_qz": alone.given_x - shifts, "log_qz_marginals": alone.given_x_marginals - shifts[:, None]}
    D, given_x, prior, shift = received.z.shape[1], alone.given_x.mean(), alone.prior.mean(), shifts.mean()
    for name, (a, b, c, d) in combinations(received).items():
        if name not in known:  # E2 = E1 - shift, E3 = E1 - D shift: what cancels is left out
            known[name] = np.asarray((a + b + c) * given_x - (b + D * c) * shift + d * prior)
    return _Compared(received, [_known(found, name, known[name]) for name in known if name in found.values])


def _known(found: _Evaluation, name: str, expected: Array) -> Comparison:
    """A quantity beside a number that this module rounds a few times."""
    scale = found.scales[name]
    return Comparison(name, found.values[name], exactly(expected), found.allowed[name] + 16 * _ROUNDOFF * scale, scale)


def _one_dimension(subject: Subject, case: Case, expanded: bool) -> _Compared:
    received = subject.receive(_first(case, subject.estimator, len(case.z), 1))
    values, allowed, scales = _evaluate(subject, received, expanded)
    comparisons = []
    if "tc" in values:
        comparisons.append(Comparison("tc", values["tc"], exactly(np.zeros(())), allowed["tc"], scales["tc"]))
    if set(ARRAYS) <= set(values):
        joint, marginal = ARRAYS
        both = allowed[joint] + allowed[marginal][:, 0]
        comparisons.append(Comparison(joint, values[joint], exactly(values[marginal][:, 0]), both, scales[joint]))
    return _Compared(received, comparisons)


def _large_dimension(subject: Subject, case: Case, expanded: bool) -> _Compared:
    few = _first(case, subject.estimator, 4, 64)
    columns = np.arange(64) % few.z.shape[1]
    received = subject.receive(_with(few, lambda a: a[:, columns]))
    found, true = _evaluate(subject, received, expanded), truth(received, subject.estimator).values
    return _Compared(
        received, [Comparison(n, v, true[n], found.allowed[n], found.scales[n]) for n, v in found.values.items()]
    )


# --- the estimate's expectation --------------------------------------------------------------------------------


def _unbiased(subject: Subject, case: Case, expanded: bool) -> _Compared:
    """The mean of exp(log q(z_n)) over all ordered batches of 3 out of 4 with n in one place, beside the exact q(z_n).

    Each place is looked at, for weights may be right in the first row alone.
    """
    received = subject.receive(_population(case))
    if received.dataset_size != 4:
        return _Compared(received, [], "needs all batches of a data set of 4, and N is inside the target")
    exact = truth(received, "exact").values
    batches = list(itertools.permutations(range(4), 3))
    found = [_evaluate(subject, _rows(received, batch), expanded) for batch in batches]
    names = [name for name in ARRAYS if name in found[0].values]
    return _Compared(
        received,
        [
            _mean_density([e for e, batch in zip(found, batches, strict=True) if batch[i] == n], i, name, n, exact)
            for name, n, i in itertools.product(names, range(4), range(3))
        ],
    )


def _mean_density(
    found: Sequence[_Evaluation], i: int, name: str, n: int, exact: Mapping[str, Enclosure]
) -> Comparison:
    """Row i of some evaluations, averaged as densities; log-mean-exp passes on at most the largest of their errors."""
    expected = exact[name].middle[n]
    mean = logsumexp([e.values[name][i] for e in found], axis=0) - np.log(len(found))
    allowed = np.max([e.allowed[name][i] for e in found], axis=0) + 16 * _ROUNDOFF * (2 + np.abs(expected))
    scale = np.max([e.scales[name][i] for e in found], axis=0)
    return Comparison(name, np.asarray(mean), exactly(expected), allowed, scale, at=(n,))


# --- identities ------------------------------------------------------------------------------------------------


def _telescoping(subject: Subject, case: Case, expanded: bool) -> _Compared:
    """DWKL beside mean(log q(z|x) - log p(z)) - MI - TC."""
    received = subject.receive(case)
    values, allowed, scales = _evaluate(subject, received, expanded)
    alone = _alone(received)
    kl = (alone.given_x - alone.prior).mean()
    total = sum(allowed[name] + 16 * _ROUNDOFF * scales[name] for name in TERMS)
    rest = exactly(kl - values["mi"] - values["tc"])
    comparison = Comparison("dwkl", values["dwkl"], rest, np.asarray(total), scales["dwkl"])
    return _Compared(received, [comparison])


def _translation(subject: Subject, case: Case, expanded: bool) -> _Compared:
    """The pair z + c, mu + c beside z, mu; DWKL and the penalties, which know the prior, are not compared."""
    received, c = _on_grid(subject.receive(case), subject.dtype)
    plain = _evaluate(subject, received, expanded)
    moved = _evaluate(subject, received._replace(z=received.z + c, mu=received.mu + c), expanded)
    return _Compared(received, _equal(plain, moved, (*ARRAYS, "mi", "tc")))


# --- derivatives -----------------------------------------------------------------------------------------------


def _central_differences(subject: Subject, case: Case, expanded: bool) -> _Compared:
    """Gradients beside difference quotients of the proven values, in two coordinates of each argument."""
    received = _with(subject.receive(_first(case, subject.estimator, 3, 2)), _short)
    if not subject.adapter.differentiable:
        return _Compared(received, [], f"{subject.adapter.name} has no gradients")
    gradients = subject.observe(received, list(subject.observe(received).values)).gradients
    bounds = subject.allowances(received, expanded=expanded)
    comparisons, lengths = [], _lengths(received)
    for argument in received.arrays:
        scales = {q: bounds.gradient_scales[q][argument] for q in gradients}
        for at in _coordinates(next(iter(scales.values()), np.ones(received.z.shape))):
            slopes = _slopes(received, subject.estimator, argument, at, list(gradients))
            least = 2.0**-40 / lengths[argument][at]  # smaller slopes are as good as none
            for q, (slope, uncertainty) in slopes.items():
                got, allowed = gradients[q][argument][at], bounds.gradients[q][argument][at] + uncertainty
                size = np.maximum(np.max(scales[q]), least)
                comparisons.append(Comparison(q, got, exactly(slope), np.asarray(allowed), size, argument, at))
    return _Compared(received, comparisons)


def _coordinates(sizes: Array) -> list[tuple[int, ...]]:
    """The entry where the largest terms are added up, and the last one."""
    places = (int(np.argmax(sizes)), sizes.size - 1)
    return [tuple(int(k) for k in np.unravel_index(place, sizes.shape)) for place in sorted(set(places))]


def _slopes(
    case: Case, estimator: str, argument: str, at: tuple[int, ...], quantities: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Derivatives extrapolated from steps h and h / 2 (Richardson), and how far they may be off.

    The quotient with h / 2 differs from that with h by 3/4 of the latter's error to leading order; all of the
    difference is allowed, and what the enclosures leave open.
    """
    h = _exact_step(float(case.arrays[argument][at]), float(_lengths(case)[argument][at]))
    wide, narrow = (_quotients(case, estimator, argument, at, step, quantities) for step in (h, h / 2))
    result = {}
    for q in quantities:
        (coarse, open_coarse), (fine, open_fine) = wide[q], narrow[q]
        slope = float((4 * fine - coarse) / 3)
        uncertainty = float(abs(fine - coarse) + 2 * (open_coarse + open_fine)) + 2 * _ROUNDOFF * abs(slope)
        result[q] = slope, uncertainty
    return result


def _quotients(
    case: Case, estimator: str, argument: str, at: tuple[int, ...], h: float, quantities: Sequence[str]
) -> dict[str, tuple[Fraction, Fraction]]:
    """(f(x + h) - f(x - h)) / 2 h for each quantity, and what the enclosures of f leave open; exact."""
    ahead, behind = (truth(_moved(case, argument, at, step), estimator).values for step in (h, -h))
    M, width = len(case.z), 2 * Fraction(h)
    result = {}
    for q in quantities:
        (above, open_above), (below, open_below) = (_differentiated(values[q], M) for values in (ahead, behind))
        result[q] = (above - below) / width, (open_above + open_below) / width
    return result


def _differentiated(value: Enclosure, M: int) -> tuple[Fraction, Fraction]:
    """The scalar that is differentiated, and its radius: a scalar itself, of an array the sum over M."""
    count = M if value.middle.ndim else 1
    middle, rest, radius = (sum(map(Fraction, a.ravel().tolist()), Fraction(0)) / count for a in value)
    return middle + rest, radius


def _moved(case: Case, argument: str, at: tuple[int, ...], step: float) -> Case:
    array = case.arrays[argument].copy()
    array[at] += step
    if argument == "z":
        return case._replace(z=array)
    return case._replace(mu=array) if argument == "mu" else case._replace(spread=array)


def _lengths(case: Case) -> dict[str, Array]:
    """For each argument, the length on which some log-density changes by about 1."""
    log_var = log_variances(case)
    precision = np.exp(-log_var)
    distance = np.abs(case.z[:, None] - case.mu[None])
    rate, q = distance * precision + np.sqrt(precision), distance**2 * precision
    slope = {"log_var": 1.0, "log_std": 0.5, "std": case.spread / 2, "var": case.spread}[case.parameterisation]
    return {
        "z": 1 / rate.max(axis=1),  # over posteriors j
        "mu": 1 / rate.max(axis=0),  # over samples i
        case.parameterisation: slope / (1 + q.max(axis=0)),  # over samples i
    }


def _exact_step(x: float, length: float) -> float:
    """A power of two near 2^-30 of a length, for which x + h, x - h and the same with h / 2 are exact.

    With 36 significant bits x is a multiple of 2^(e - 36), |x| < 2^e; h / 2 is a multiple of 2^(e - 51).
    """
    wanted = math.frexp(length)[1] - 31
    return math.ldexp(1.0, max(wanted, math.frexp(x)[1] - 50) if x else wanted)


# --- precision -------------------------------------------------------------------------------------------------


def _precisions(subject: Subject, case: Case, expanded: bool) -> _Compared:
    """A target in its dtype beside itself in float64, on the same numbers."""
    received = subject.receive(case)
    if "float64" not in subject.adapter.dtypes:
        return _Compared(received, [], f"{subject.adapter.name} has no float64 to compare with")
    double = replace(subject, dtype="float64")
    return _Compared(received, _equal(_evaluate(subject, received, expanded), _evaluate(double, received, expanded)))


def _judge_dtype_stability(subject: Subject, case: Case) -> Finding:
    """UNSTABLE where digits are dropped on the way out; WARN where a wider format comes back.

    A result in a narrower format has lost digits that the inputs carried. One in a wider format is right, and costs
    time, and fails where there is no such format: a defect in the code, not in its numbers.
    """
    received = subject.receive(case)
    try:
        dtypes = subject.observe(received).dtypes
    except TargetFault as fault:
        return Finding(Verdict.ERROR, np.inf, received, message=str(fault))
    own = FORMATS[subject.dtype]
    others = {q: d for q, d in dtypes.items() if d in FORMATS and d != subject.dtype}
    narrower = {q: d for q, d in others.items() if FORMATS[d].digits < own.digits or FORMATS[d].largest < own.largest}
    if narrower:
        message = f"{_listed(narrower)} for {subject.dtype} arguments: digits are dropped"
        return Finding(Verdict.UNSTABLE, np.inf, received, message=message)
    finding = _judged(_precisions, _CLAIMS["dtype-stability"], Verdict.UNSTABLE, subject, case)
    if finding.verdict is Verdict.PASS and others:
        message = f"{_listed(others)} for {subject.dtype} arguments: silently promoted"
        return finding._replace(verdict=Verdict.WARN, message=message)
    return finding


def _listed(dtypes: Mapping[str, str]) -> str:
    return ", ".join(f"{quantity} comes back in {dtype}" for quantity, dtype in dtypes.items())


# --- the table -------------------------------------------------------------------------------------------------


def _any_of(*names: str) -> Callable[[Sequence[str], str, str], str]:
    """Applies where one of some quantities is returned."""

    def applies(quantities: Sequence[str], estimator: str, dtype: str) -> str:
        return "" if set(names) & set(quantities) else f"needs {', '.join(names[:-1])} or {names[-1]}"

    return applies


def _needs_order_free(quantities: Sequence[str], estimator: str, dtype: str) -> str:
    if not find(estimator).any_order:
        return f"{estimator} depends on the order of the batch"
    return _any_of(*QUANTITIES)(quantities, estimator, dtype)


def _needs_rolling(quantities: Sequence[str], estimator: str, dtype: str) -> str:
    if not find(estimator).rolls:
        return f"{estimator} depends on where the batch begins"
    return _any_of(*QUANTITIES)(quantities, estimator, dtype)


def _needs_unbiased(quantities: Sequence[str], estimator: str, dtype: str) -> str:
    if not find(estimator).unbiased:
        unbiased = " and ".join(name for name, one in OWN.items() if one.unbiased)
        return f"an unbiased estimate of q(z) is what {unbiased} are, not {estimator}"
    return "" if set(ARRAYS) & set(quantities) else "needs log_qz"


def _needs_one_dimension(quantities: Sequence[str], estimator: str, dtype: str) -> str:
    return "" if "tc" in quantities or set(ARRAYS) <= set(quantities) else "needs tc, or log_qz and log_qz_marginals"


def _needs_terms(quantities: Sequence[str], estimator: str, dtype: str) -> str:
    missing = [name for name in TERMS if name not in quantities]
    return f"needs {', '.join(missing)}" if missing else ""


def _needs_low_precision(quantities: Sequence[str], estimator: str, dtype: str) -> str:
    if dtype == "float64":
        return "compares a lower precision with float64"
    return _any_of(*QUANTITIES)(quantities, estimator, dtype)


_CLAIMS = {
    "cyclic-shift": "a batch that is rolled rolls log q(z) and changes no batch mean",
    "permutation": "a batch in another order has log q(z) in that order and the same batch means",
    "identical-posteriors": "where all posteriors are equal, log q(z) is log q(z|x) (less log N in MWS)",
    "one-dimension": "where D = 1, TC is 0 and log q(z) is log q(z_1)",
    "unbiased": "over all batches with n in one place, the mean estimate of q(z_n) is the exact q(z_n)",
    "telescoping": "MI + TC + DWKL is mean(log q(z|x) - log p(z)), whatever the estimate of q(z)",
    "central-differences": "gradients are the difference quotients of the proven values",
    "translation": "z and mu moved by the same amount leave log q(z), MI and TC as they are",
    "dtype-stability": "results keep the dtype of the arguments, and agree with float64",
    "large-D": "at D = 64 values are finite and right, though densities leave the range of the dtype",
}


def _property(
    name: str,
    applies: Callable[[Sequence[str], str, str], str],
    compare: _Compare,
    wrong: Verdict = Verdict.WRONG,
) -> Check:
    return Check(_CLAIMS[name], partial(_judged, compare, _CLAIMS[name], wrong), applies)


_RELATED = (*ARRAYS, *TERMS, "penalty")  # what is made of the four batch means E1 .. E4

PROPERTIES: dict[str, Check] = {
    "cyclic-shift": _property("cyclic-shift", _needs_rolling, _cyclic_shift)._replace(least_batch=2),
    "permutation": _property("permutation", _needs_order_free, _permutation)._replace(least_batch=2),
    "identical-posteriors": _property("identical-posteriors", _any_of(*_RELATED), _identical_posteriors),
    "one-dimension": _property("one-dimension", _needs_one_dimension, _one_dimension),
    "unbiased": _property("unbiased", _needs_unbiased, _unbiased),
    "telescoping": _property("telescoping", _needs_terms, _telescoping)._replace(blind=True),
    "central-differences": _property(
        "central-differences", _any_of(*QUANTITIES), _central_differences, Verdict.WRONG_GRADIENT
    )._replace(of_gradients=True),
    "translation": _property("translation", _any_of(*ARRAYS, "mi", "tc"), _translation),
    "dtype-stability": Check(_CLAIMS["dtype-stability"], _judge_dtype_stability, _needs_low_precision),
    "large-D": _property("large-D", _any_of(*QUANTITIES), _large_dimension),
}
"""Every property by its name; the names are stable."""
