"""Properties that a right implementation has, beyond being equal to the truth.

Each is judged on a drawn case that is first made into what the property needs (`reshaped`). What is compared with what
is written down once for each property, in a function that evaluates the target and returns `Comparison`s; the verdict
is then the same for all (`property_verdicts`). Every tolerance is a sum of the derived allowances of the evaluations
that are compared.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from tcvae_ref.oracle.against_truth import Finding
from tcvae_ref.oracle.comparison import Comparison, exactly
from tcvae_ref.oracle.difference_quotients import central_differences
from tcvae_ref.oracle.estimators import OWN, find
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.one_check import Check
from tcvae_ref.oracle.property_verdicts import ROUNDOFF, Compare, Compared, Evaluation, equal, evaluate, judged
from tcvae_ref.oracle.reshaped import at_first_posterior, cut_down, on_grid, population, taken, with_each
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.truth import combinations, truth
from tcvae_ref.oracle.types import (
    ARRAYS,
    QUANTITIES,
    TERMS,
    Case,
    Enclosure,
    TargetFault,
    Verdict,
)
from tcvae_ref.types import Array

# --- the properties: order of the batch ------------------------------------------------------------------------


def _reordered(received: Case, orders: Sequence[Array], subject: Subject, expanded: bool) -> Compared:
    """The batch as it is, beside the batch in other orders, put back."""
    if len(received.z) == 1:
        return Compared(received, [], "a batch of one sample has one order")
    plain = evaluate(subject, received, expanded)
    comparisons = []
    for order in orders:
        moved = evaluate(subject, taken(received, order), expanded)
        comparisons += equal(plain, moved.rearranged(np.argsort(order)))
    return Compared(received, comparisons)


def _cyclic_shift(subject: Subject, case: Case, expanded: bool) -> Compared:
    received = subject.receive(case)
    return _reordered(received, [np.roll(np.arange(len(case.z)), 1)], subject, expanded)


def _permutation(subject: Subject, case: Case, expanded: bool) -> Compared:
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
    rows = [truth(taken(received, [i]), "minibatch").values for i in range(len(received.z))]
    names = ("log_qz_given_x", "log_qz_marginals", "log_pz")  # of one posterior, q(z) is q(z|x)
    return _Alone(*(np.concatenate([row[name].middle for row in rows]) for name in names))


def _identical_posteriors(subject: Subject, case: Case, expanded: bool) -> Compared:
    """Beside log q(z|x) plus the log of the sum of a row of weights: of 1, or 1 / N for MWS; so in each dimension."""
    received = subject.receive(at_first_posterior(case))
    found, alone = evaluate(subject, received, expanded), _alone(received)
    weights = find(subject.estimator).weights(len(received.z), received.dataset_size)
    shifts = -np.log([float(sum(row)) for row in weights])
    known = {"log_qz": alone.given_x - shifts, "log_qz_marginals": alone.given_x_marginals - shifts[:, None]}
    D, given_x, prior, shift = received.z.shape[1], alone.given_x.mean(), alone.prior.mean(), shifts.mean()
    for name, (a, b, c, d) in combinations(received).items():
        if name not in known:  # E2 = E1 - shift, E3 = E1 - D shift: what cancels is left out
            known[name] = np.asarray((a + b + c) * given_x - (b + D * c) * shift + d * prior)
    return Compared(received, [_known(found, name, known[name]) for name in known if name in found.values])


def _known(found: Evaluation, name: str, expected: Array) -> Comparison:
    """A quantity beside a number that this module rounds a few times."""
    scale = found.scales[name]
    return Comparison(name, found.values[name], exactly(expected), found.allowed[name] + 16 * ROUNDOFF * scale, scale)


def _one_dimension(subject: Subject, case: Case, expanded: bool) -> Compared:
    received = subject.receive(cut_down(case, subject.estimator, len(case.z), 1))
    values, allowed, scales = evaluate(subject, received, expanded)
    comparisons = []
    if "tc" in values:
        comparisons.append(Comparison("tc", values["tc"], exactly(np.zeros(())), allowed["tc"], scales["tc"]))
    if set(ARRAYS) <= set(values):
        joint, marginal = ARRAYS
        both = allowed[joint] + allowed[marginal][:, 0]
        comparisons.append(Comparison(joint, values[joint], exactly(values[marginal][:, 0]), both, scales[joint]))
    return Compared(received, comparisons)


def _large_dimension(subject: Subject, case: Case, expanded: bool) -> Compared:
    few = cut_down(case, subject.estimator, 4, 64)
    columns = np.arange(64) % few.z.shape[1]
    received = subject.receive(with_each(few, lambda a: a[:, columns]))
    found, true = evaluate(subject, received, expanded), truth(received, subject.estimator).values
    return Compared(
        received, [Comparison(n, v, true[n], found.allowed[n], found.scales[n]) for n, v in found.values.items()]
    )


# --- the estimate's expectation --------------------------------------------------------------------------------


def _unbiased(subject: Subject, case: Case, expanded: bool) -> Compared:
    """The mean of exp(log q(z_n)) over all ordered batches of 3 out of 4 with n in one place, beside the exact q(z_n).

    Each place is looked at, for weights may be right in the first row alone.
    """
    received = subject.receive(population(case))
    if received.dataset_size != 4:
        return Compared(received, [], "needs all batches of a data set of 4, and N is inside the target")
    exact = truth(received, "exact").values
    batches = list(itertools.permutations(range(4), 3))
    found = [evaluate(subject, taken(received, batch), expanded) for batch in batches]
    names = [name for name in ARRAYS if name in found[0].values]
    return Compared(
        received,
        [
            _mean_density([e for e, batch in zip(found, batches, strict=True) if batch[i] == n], i, name, n, exact)
            for name, n, i in itertools.product(names, range(4), range(3))
        ],
    )


def _mean_density(found: Sequence[Evaluation], i: int, name: str, n: int, exact: Mapping[str, Enclosure]) -> Comparison:
    """Row i of some evaluations, averaged as densities; log-mean-exp passes on at most the largest of their errors."""
    expected = exact[name].middle[n]
    mean = logsumexp([e.values[name][i] for e in found], axis=0) - np.log(len(found))
    allowed = np.max([e.allowed[name][i] for e in found], axis=0) + 16 * ROUNDOFF * (2 + np.abs(expected))
    scale = np.max([e.scales[name][i] for e in found], axis=0)
    return Comparison(name, np.asarray(mean), exactly(expected), allowed, scale, at=(n,))


# --- identities ------------------------------------------------------------------------------------------------


def _telescoping(subject: Subject, case: Case, expanded: bool) -> Compared:
    """DWKL beside mean(log q(z|x) - log p(z)) - MI - TC."""
    received = subject.receive(case)
    values, allowed, scales = evaluate(subject, received, expanded)
    alone = _alone(received)
    kl = (alone.given_x - alone.prior).mean()
    total = sum(allowed[name] + 16 * ROUNDOFF * scales[name] for name in TERMS)
    rest = exactly(kl - values["mi"] - values["tc"])
    comparison = Comparison("dwkl", values["dwkl"], rest, np.asarray(total), scales["dwkl"])
    return Compared(received, [comparison])


def _translation(subject: Subject, case: Case, expanded: bool) -> Compared:
    """The pair z + c, mu + c beside z, mu; DWKL and the penalties, which know the prior, are not compared."""
    received, c = on_grid(subject.receive(case), subject.dtype)
    plain = evaluate(subject, received, expanded)
    moved = evaluate(subject, received._replace(z=received.z + c, mu=received.mu + c), expanded)
    return Compared(received, equal(plain, moved, (*ARRAYS, "mi", "tc")))


# --- precision -------------------------------------------------------------------------------------------------


def _precisions(subject: Subject, case: Case, expanded: bool) -> Compared:
    """A target in its dtype beside itself in float64, on the same numbers."""
    received = subject.receive(case)
    if "float64" not in subject.adapter.dtypes:
        return Compared(received, [], f"{subject.adapter.name} has no float64 to compare with")
    double = replace(subject, dtype="float64")
    return Compared(received, equal(evaluate(subject, received, expanded), evaluate(double, received, expanded)))


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
    finding = judged(_precisions, _CLAIMS["dtype-stability"], Verdict.UNSTABLE, subject, case)
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
    compare: Compare,
    wrong: Verdict = Verdict.WRONG,
) -> Check:
    return Check(_CLAIMS[name], partial(judged, compare, _CLAIMS[name], wrong), applies)


_RELATED = (*ARRAYS, *TERMS, "penalty")  # what is made of the four batch means E1 .. E4

PROPERTIES: dict[str, Check] = {
    "cyclic-shift": _property("cyclic-shift", _needs_rolling, _cyclic_shift)._replace(least_batch=2),
    "permutation": _property("permutation", _needs_order_free, _permutation)._replace(least_batch=2),
    "identical-posteriors": _property("identical-posteriors", _any_of(*_RELATED), _identical_posteriors),
    "one-dimension": _property("one-dimension", _needs_one_dimension, _one_dimension),
    "unbiased": _property("unbiased", _needs_unbiased, _unbiased),
    "telescoping": _property("telescoping", _needs_terms, _telescoping)._replace(blind=True),
    "central-differences": _property(
        "central-differences", _any_of(*QUANTITIES), central_differences, Verdict.WRONG_GRADIENT
    )._replace(of_gradients=True),
    "translation": _property("translation", _any_of(*ARRAYS, "mi", "tc"), _translation),
    "dtype-stability": Check(_CLAIMS["dtype-stability"], _judge_dtype_stability, _needs_low_precision),
    "large-D": _property("large-D", _any_of(*QUANTITIES), _large_dimension),
}
"""Every property by its name; the names are stable."""
