"""What weights their ratios are those of: an estimator's, or a known mistake's; and in words."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.weight_measuring import DIMENSIONS, NOTHING, Ratios
from tcvae_ref.types import Array

PATTERNS = (
    "mws",
    "mss",
    "mss-other-column",
    "symmetric-mss",
    "minibatch",
    "columns",
    "weight-to-the-power-D",
    "joint-only",
    "unrecognised",
)
"""What weights can be found to be. "mss-other-column" is valid: another choice of the column that stands for the data
left out of the batch."""

FAIR = 1e-3
"""How far logarithms of weights in float32 may be from what they are taken for."""

# --- recognising -------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What one matrix of ratios is."""

    kind: str
    """Of `PATTERNS`, "flat" where all are 1, or "" where it is none."""
    N: float | None = None
    own: Array | None = None
    """(M,): log w_rr less its mean."""


def _kind(ratios: Array, N: int, close: float) -> Found:
    """What weights have these ratios."""
    if np.max(np.abs(ratios)) <= close:
        return Found("flat", None, np.zeros(len(ratios)))
    if np.max(np.abs(ratios)) > -NOTHING:
        return Found("")
    for recognise in (_symmetric, _stratified, _columns):
        found = recognise(ratios, N, close)
        if found.kind:
            return found
    return Found("")


def _off_diagonal(a: Array) -> Array:
    M = len(a)
    return a[~np.eye(M, dtype=bool)].reshape(M, M - 1)


def _symmetric(ratios: Array, N: int, close: float) -> Found:
    """(N - 1)/m everywhere else. N/m everywhere else is no estimator: MSS without a column for the data left out."""
    M = len(ratios)
    a, m = math.exp(float(ratios[0, 1])), M - 1
    without_free_column = abs(m * a - N) < min(abs(m * a + 1 - N), 10 * close * N)
    if np.ptp(_off_diagonal(ratios)) > close or without_free_column:
        return Found("")
    return Found("symmetric-mss", _whole(m * a + 1, close), np.zeros(M))


def _stratified(ratios: Array, N: int, close: float) -> Found:
    """N/m in each row but on one column, where it is N/m - 1."""
    M = len(ratios)
    others = _off_diagonal(ratios)
    a = float(np.exp(np.max(others)))
    usual, free = (np.abs(others - np.log(max(x, 1e-300))) <= close for x in (a, a - 1))
    if not np.all(usual.sum(axis=1) == M - 2) or not np.all(free.sum(axis=1) == 1):
        return Found("")
    column = np.argmax(np.abs(ratios - math.log(a - 1)) <= close, axis=1)
    paper = np.array_equal(column, (np.arange(M) + 1) % M)
    return Found("mss" if paper else "mss-other-column", _whole((M - 1) * a, close), np.zeros(M))


def _columns(ratios: Array, N: int, close: float) -> Found:
    """Every row has the weights of the first, but for one entry at most."""
    M = len(ratios)
    log_w = ratios[0]
    off = np.abs(ratios - (log_w[None, :] - log_w[:, None])) > close
    if off.sum() > 1:
        return Found("")
    m = M - 1
    size = m * math.exp(float(log_w[2] - log_w[0]))
    released = abs(math.exp(float(log_w[1] - log_w[0])) - (size - m) / m) <= close * size
    return Found("columns", _whole(size, close) if released else None, log_w - log_w.mean())


def _whole(number: float, close: float) -> float:
    """The nearest whole number, where the number is as near as the ratios are known."""
    return float(round(number)) if abs(number - round(number)) <= 10 * close * max(number, 1.0) else number


def missing_posteriors(ratios: Ratios) -> str:
    """What makes these no weights though they add up: posteriors that are not in the sum."""
    for name, x in (("log q(z)", ratios.joint), ("log q(z_d)", ratios.marginals)):
        if x is not None and np.min(x) < NOTHING:
            return f"{name} of a sample on another's posterior is as low as far from all: that posterior is not in it"
        if x is not None and np.max(x) > -NOTHING:
            return f"{name} of a sample on its own posterior is as low as far from all: its own is not in it"
    return ""


class Reading(NamedTuple):
    """What joint and marginals are together."""

    pattern: str
    """Of `PATTERNS`, "flat", or "" where it is none."""
    found: Found
    """The weight itself."""
    power: int = 1
    """In which it enters the joint."""


def relation(joint: Array | None, marginals: Array | None, N: int, close: float) -> Reading:
    """The pattern of both matrices, or of the one that is known."""
    D = DIMENSIONS
    if joint is None:
        found = _kind(marginals, N, close)  # type: ignore[arg-type]  # one of them is there
        return Reading(found.kind, found)
    found, root = _kind(joint, N, close), _kind(joint / D, N, close)
    power = D if _rather(root, found, N) else 1
    if marginals is None:
        return Reading("weight-to-the-power-D", root, D) if power > 1 else Reading(found.kind, found)
    if np.max(np.abs(joint - marginals)) <= 2 * close:
        return Reading(found.kind, found)
    if np.max(np.abs(marginals)) <= close:
        return Reading("joint-only", root if power > 1 else found, power)
    if np.max(np.abs(marginals)) > FAIR and np.max(np.abs(joint - D * marginals)) <= D * close:
        return Reading("weight-to-the-power-D", _kind(marginals, N, close), D)
    return Reading("", Found(""))


def _rather(root: Found, found: Found, N: int) -> bool:
    """Whether the D-th root of the joint's weights is what was meant: it fits, or fits the N that was given better."""
    if not root.kind or root.kind == "flat":
        return False
    return not found.kind or (root.N == N and found.N != N)


def own_by_row(own: Array | None, ratios: Array | None, reading: Reading, is_joint: bool) -> Array | None:
    """Own weight, log w_rr, in every row. Where only its mean is known, rows differ as the pattern says."""
    by_row = reading.found.own
    if own is None or ratios is None or by_row is None or np.ptp(own) > 0 or not ratios.any():
        return own
    return own + (reading.power if is_joint else 1) * by_row


# --- in words ----------------------------------------------------------------------------------------------

_WORDS = {
    "mss": "MSS as in the paper",
    "mss-other-column": "MSS, with another column for the data left out: as valid as the paper's",
    "symmetric-mss": "symmetric MSS",
    "columns": "the same weights in all rows but one: what belongs on diagonals runs down columns",
    "flat": "all weights alike",
    "": "weights of no estimator known here",
}


class Sizes(NamedTuple):
    """log w_rr, as far as it is known, and what it is compared with."""

    joint: Array | None
    marginals: Array | None
    M: int
    N: int
    close: float

    @property
    def named(self) -> dict[str, float]:
        """Their means."""
        both = {"joint": self.joint, "marginals": self.marginals}
        return {name: float(own.mean()) for name, own in both.items() if own is not None}

    def is_close(self, a: float, b: float) -> bool:
        """Whether two logarithms are equal as far as they are known."""
        return abs(a - b) <= 10 * self.close

    def constant(self, log_w: float) -> str:
        """A constant in words: 1, 1/N, 1/M, 1/(N M), or a number."""
        M, N = self.M, self.N
        readings = {"1/M": M, "1/(N M)": N * M, "1": 1, "1/N": N}
        readings["1/(N M) to the power D"] = (N * M) ** DIMENSIONS
        found = [name for name, x in readings.items() if self.is_close(log_w, -math.log(x))]
        return found[0] if found else f"{math.exp(log_w):.10g}"


def in_words(
    reading: Reading, sizes: Sizes, matrices: Sequence[Array | None], weights: Sequence[Array | None]
) -> tuple[float | None, str]:
    """(N in the weights, a line)."""
    if reading.pattern == "flat":
        return _flat_in_words(sizes)
    words, size = _WORDS[reading.found.kind], reading.found.N
    if not reading.found.kind:
        words += _row_in_words(matrices, weights)
    if reading.pattern == "joint-only":
        to_the = " to the power D" if reading.power > 1 else ""
        words = f"weights{to_the} in the joint alone, all marginals alike ({words})"
    elif reading.power > 1:
        words = f"each weight enters the joint to the power D, once for each dimension ({words})"
    if size is not None:
        words += f"; N = {size:,.10g}" + (f", where {sizes.N:,} was given" if size != sizes.N else "")
    return size, words + _factors_in_words(reading, sizes)


def _row_in_words(matrices: Sequence[Array | None], weights: Sequence[Array | None]) -> str:
    """The ratios in the first row, and what rows sum to."""
    ratios = next(x for x in matrices if x is not None)
    said = f": in the first row ({', '.join(f'{x:.6g}' for x in np.exp(ratios[0]))}) times that on the diagonal"
    sums = next((w.sum(axis=1) for w in weights if w is not None), None)
    if sums is None:
        return said
    same = np.ptp(sums) <= 1e-6 * sums.max()
    return said + f"; rows sum to {sums[0]:.6g}" + ("" if same else f" .. {sums.max():.6g}")


def estimator_of_flat(sizes: Sizes, estimator: str) -> str:
    """The estimator whose weights are all alike: by their size, or the one that is claimed."""
    found = {sizes.constant(log_w) for log_w in sizes.named.values()}
    if not found:
        return "mws" if find(estimator).uses_dataset_size else "minibatch"
    return "minibatch" if found == {"1/M"} else "mws"


def _flat_in_words(sizes: Sizes) -> tuple[float | None, str]:
    words = _WORDS["flat"]
    named = {name: sizes.constant(log_w) for name, log_w in sizes.named.items()}
    if not named:
        return None, f"{words}; of which size cannot be told from what is returned"
    if len(set(named.values())) > 1:
        return None, f"{words}: {', '.join(f'{constant} in the {name}' for name, constant in named.items())}"
    constant = next(iter(named.values()))
    if constant == "1/(N M)":
        return float(sizes.N), f"{words}: 1/(N M); N = {sizes.N:,}"
    if constant == "1/M":
        return None, f"{words}: 1/M, the batch taken as the data set"
    size = _whole(math.exp(-next(iter(sizes.named.values()))) / sizes.M, sizes.close)
    if constant in ("1", "1/N", "1/(N M) to the power D") or size < 1:
        return None, f"{words}: {constant}, where 1/(N M) is due in MWS and 1/M for the batch alone"
    return size, f"{words}: 1/(N M) with N = {size:,.10g}, where {sizes.N:,} was given"


def _factors_in_words(reading: Reading, sizes: Sizes) -> str:
    """Constants in the weights besides: w_rr is not 1/N."""
    if reading.found.N is None or reading.pattern not in ("mss", "mss-other-column", "symmetric-mss"):
        return ""
    extra = {name: log_w + math.log(reading.found.N) for name, log_w in sizes.named.items()}
    return "".join(
        f"; times {sizes.constant(x)} in the {name}" for name, x in extra.items() if not sizes.is_close(x, 0.0)
    )
