"""What the files of test vectors say: a header, and each case with its certified numbers, as JSON.

Computed from the inputs alone, and the same bytes whatever the machine and the arithmetic: ends of enclosures are
floats that do not depend on how narrow the enclosure is, allowances are rounded up to three digits.
"""

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from tcvae_ref.checks import InputError
from tcvae_ref.oracle import encoding
from tcvae_ref.oracle.estimators import OWN
from tcvae_ref.oracle.tolerance import allowances
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import QUANTITIES, Allowances, Case, Enclosure, Primitives, Truth
from tcvae_ref.types import Array

FORMAT = 1
"""Of the files; a file of another number is refused."""

FEW, MANY = 24, 128
"""Sizes M D of a batch: up to the first all gradients are there, up to the second that of the penalty alone."""

STAGES = ("log_qz_given_x", "log_pz")
"""What is certified without an allowance: steps on the way to the quantities."""

_PRIMITIVES = Primitives(1.0, 1.0)
_STEP = 2.0**-10  # of the allowance: width of the enclosures of what may be zero
_NOTHING = 2.0**-80  # of the allowance: what is taken for zero
_FEW_BITS = 2.0**-960  # below this the second half of an enclosure's middle runs into the smallest floats

# --- the header of a file ----------------------------------------------------------------------------------

_FORMULAS = {
    "L_ijd": "-1/2 [(z_id - mu_jd)^2 / sigma_jd^2 + log sigma_jd^2 + log 2 pi]",
    "log_qz_given_x": "[i] log q(z_i|x_i) = sum_d L_iid",
    "log_pz": "[i] log p(z_i) = -1/2 sum_d [z_id^2 + log 2 pi]",
    "log_qz": "[i] log q(z_i) = log sum_j w_ij exp(sum_d L_ijd)",
    "log_qz_marginals": "[i][d] log q(z_id) = log sum_j w_ij exp(L_ijd)",
    "mi": "mean_i [log q(z_i|x_i) - log q(z_i)]",
    "tc": "mean_i [log q(z_i) - sum_d log q(z_id)]",
    "dwkl": "mean_i [sum_d log q(z_id) - log p(z_i)]",
    "penalty": "alpha mi + beta tc + gamma dwkl",
    "kl_penalty": "mean_i 1/2 sum_d [mu_id^2 + sigma_id^2 - 1 - log sigma_id^2] + (beta - 1) tc",
    "gradients": "of mean_i log q(z_i), of mean_i sum_d log q(z_id), and of the others as they are",
}


def header(estimator: str) -> dict[str, Any]:
    """What a file says before its cases."""
    return {
        "format": FORMAT,
        "title": f"beta-TCVAE (arXiv:1802.04942), certified test vectors: {estimator}",
        "licence": "MIT",
        "estimator": estimator,
        "units": "nats",
        "axes": "arrays are [i][d]: sample i or posterior j of M, dimension d of D; N is dataset_size",
        "weights": OWN[estimator].formula,
        "formulas": dict(_FORMULAS),
        "bounds": "lower <= the number <= upper; right in float64: max(lower - got, got - upper, 0) <= allowed",
    }


# --- certified numbers as JSON -----------------------------------------------------------------------------


def certified(name: str, case: Case, estimator: str) -> dict[str, Any]:
    """One case as its file has it, computed from the inputs alone."""
    allowed = allowances(case, estimator, "float64", _PRIMITIVES)
    _require_finite(name, allowed)
    true = truth(case, estimator)
    return {
        "name": name,
        **encoding.case_to_json(case),
        "stages": {stage: _ends(true.values[stage]) for stage in STAGES},
        "values": {q: _bounds(true.values[q], allowed.values[q]) for q in QUANTITIES},
        "gradients": _gradients(true, allowed, _differentiated(case)),
    }


def _require_finite(name: str, allowed: Allowances) -> None:
    arrays = [*allowed.values.values(), *(a for one in allowed.gradients.values() for a in one.values())]
    if not all(np.isfinite(a).all() for a in arrays):
        raise InputError(f"case {name!r}: its inputs leave the range of float64; take smaller ones")


def _differentiated(case: Case) -> tuple[str, ...]:
    """The quantities whose gradients a file holds."""
    if case.z.size <= FEW:
        return QUANTITIES
    return ("penalty",) if case.z.size <= MANY else ()


def _gradients(true: Truth, allowed: Allowances, quantities: tuple[str, ...]) -> dict[str, Any]:
    return {
        q: {argument: _bounds(enclosure, allowed.gradients[q][argument]) for argument, enclosure in slopes.items()}
        for q, slopes in true.gradients.items()
        if q in quantities
    }


def _ends(enclosure: Enclosure, allowed: Array | None = None) -> dict[str, Any]:
    """Lower and upper floats of an enclosure, nested as its array is."""
    shape = enclosure.middle.shape
    parts = np.broadcast_arrays(*enclosure, np.zeros(shape) if allowed is None else allowed)
    pairs = [_floats_around(*map(float, entry)) for entry in zip(*(p.ravel() for p in parts), strict=True)]
    ends = np.array(pairs, dtype=np.float64).reshape(*shape, 2)
    return {"lower": ends[..., 0].tolist(), "upper": ends[..., 1].tolist()}


def _bounds(enclosure: Enclosure, allowed: Array) -> dict[str, Any]:
    """The ends of an enclosure, and the allowance."""
    generous = np.vectorize(_rounded_up, otypes=[np.float64])(np.broadcast_to(allowed, enclosure.middle.shape))
    return {**_ends(enclosure, generous), "allowed": generous.tolist()}


def _floats_around(middle: float, rest: float, radius: float, allowed: float) -> tuple[float, float]:
    """Floats close outside an enclosure that do not depend on how narrow it is, so not on what computed it.

    They are neighbours, or both neighbours of a float that the number may equal. Of what may be zero they are -+step,
    and near the smallest floats, where an enclosure has few bits, multiples of step: 2^k, some 1/1000 of the allowance.
    """
    exact = Fraction(middle) + Fraction(rest)
    lower, upper = _float_below(exact - Fraction(radius)), _float_above(exact + Fraction(radius))
    step, size = math.ldexp(1.0, math.frexp(allowed * _STEP)[1]), max(-lower, upper)
    if allowed and (lower < 0 < upper or size <= _NOTHING * allowed):
        return min(lower, -step), max(upper, step)
    if allowed and size <= _FEW_BITS:
        return step * math.floor(lower / step), step * math.ceil(upper / step)
    return lower, upper


def _float_below(exact: Fraction) -> float:
    """The largest float that a fraction is not below."""
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)


def _float_above(exact: Fraction) -> float:
    """The smallest float that a fraction is not above."""
    return -_float_below(-exact) + 0.0  # no -0.0


def _rounded_up(x: float) -> float:
    """The next number of three decimal digits, which the last bits of x do not reach."""
    text = f"{x:.2e}"
    if float(text) >= x:
        return float(text)
    digits, exponent = text.split("e")
    return float(f"{int(digits.replace('.', '')) + 1}e{int(exponent) - 2}")


def text(content: Any, indent: str = "") -> str:
    """JSON with an entry of an object on each line, and an array of numbers on one."""
    inner = indent + "  "
    if isinstance(content, Mapping):
        lines = (f"{inner}{json.dumps(key)}: {text(value, inner)}" for key, value in content.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        return "[\n" + ",\n".join(inner + text(value, inner) for value in content) + f"\n{indent}]"
    return json.dumps(content, allow_nan=False)
