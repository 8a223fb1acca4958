"""The property that gradients are the difference quotients of the proven values."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tcvae_ref.oracle.comparison import Comparison, exactly
from tcvae_ref.oracle.property_verdicts import ROUNDOFF, Compared
from tcvae_ref.oracle.reshaped import cut_down, shortened, with_each
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.tolerance import log_variances
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import Case, Enclosure
from tcvae_ref.types import Array


def central_differences(subject: Subject, case: Case, expanded: bool) -> Compared:
    """Gradients beside difference quotients of the proven values, in two coordinates of each argument."""
    received = with_each(subject.receive(cut_down(case, subject.estimator, 3, 2)), shortened)
    if not subject.adapter.differentiable:
        return Compared(received, [], f"{subject.adapter.name} has no gradients")
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
    return Compared(received, comparisons)


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
        uncertainty = float(abs(fine - coarse) + 2 * (open_coarse + open_fine)) + 2 * ROUNDOFF * abs(slope)
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
