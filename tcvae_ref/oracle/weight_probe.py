"""The weight probe: the matrix of weights in a loss, and whose it is.

`weight_measuring` reads ratios of weights off what a loss returns, `weight_patterns` recognises them.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.types import TargetFault
from tcvae_ref.oracle.weight_measuring import DIMENSIONS, Ratios, measure
from tcvae_ref.oracle.weight_patterns import (
    FAIR,
    PATTERNS,
    Reading,
    Sizes,
    estimator_of_flat,
    in_words,
    missing_posteriors,
    own_by_row,
    relation,
)
from tcvae_ref.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DIMENSIONS", "PATTERNS", "WeightProbe", "probe_weights", "weights_figure", "weights_text"]

CLOSE = 1e-6
"""How far logarithms of weights may be from what they are taken for: a matrix of weights made in float32 is usual.
Where nothing is recognised so, `FAIR` is tried if N is at most `FEW`: there the estimators are still apart."""
FEW = 200

WIDTH = 100
"""Of the text."""


class WeightProbe(NamedTuple):
    """The weights that were found."""

    joint: Array | None
    """(M, M), row i for sample i. None where what was returned does not tell them."""
    marginals: Array | None
    N: float | None
    """The data set size in them; None where they hold none, or it cannot be told."""
    pattern: str
    """One of `PATTERNS`: what the ratios of the weights are. A constant factor besides does not change it."""
    said: str
    """What was found, in a line."""
    absolute: bool
    """Whether these are the weights, if any. If not, they are known up to a factor, and the first row sums to one; or
    up to a factor for each row, where they are unrecognised, and each row does. Where only batch means are returned,
    the size of a row is that of the pattern."""
    claimed: Array
    """(M, M): the weights of the estimator below."""
    estimator: str
    """What the target claims to be."""


MOST_ROWS = 64
"""Of a batch whose weights are asked for: each of its M^2 weights is measured by calls with M rows, and drawn."""


def probe_weights(subject: Subject, quantities: Sequence[str], M: int = 5, N: int | None = None) -> WeightProbe | None:
    """The weights of a target's joint and marginals.

    Parameters
    ----------
    subject : Subject
        Called in float64 where its framework has it.
    quantities : sequence of str
        What it returns.
    M : int
        Batch size, 4 to `MOST_ROWS`.
    N : int, optional
        Data set size it is told: what is bound, or 100, or 4 M if that is more; M where the estimator is exact.

    Returns
    -------
    WeightProbe or None
        None if the target fails, or returns none of these.

    Raises
    ------
    InputError
        M or N is too small, or M too large.
    """
    M = checks.whole_number("probe_weights", "M", M, 4, MOST_ROWS)
    N = _dataset_size(subject, M, N)
    if "float64" in subject.adapter.dtypes:
        subject = replace(subject, dtype="float64")
    try:
        probe = _probed(subject, quantities, M, N, CLOSE)
        if probe is not None and probe.pattern == "unrecognised" and N <= FEW:
            fair = _probed(subject, quantities, M, N, FAIR)
            if fair is not None and fair.pattern != "unrecognised":
                return fair._replace(said=f"{fair.said} (to within {FAIR:g}: not computed in float64)")
    except TargetFault:
        return None
    return probe


def _probed(subject: Subject, quantities: Sequence[str], M: int, N: int, close: float) -> WeightProbe | None:
    ratios = measure(subject, quantities, M, N, close)
    return None if ratios is None else _recognised(ratios, subject.estimator, M, N, close)


def _dataset_size(subject: Subject, M: int, N: int | None) -> int:
    if find(subject.estimator).whole_data_set:
        return M if N is None else checks.whole_data_set("probe_weights", M, N)
    return checks.whole_number("probe_weights", "N", (subject.dataset_size or max(100, 4 * M)) if N is None else N, M)


def _recognised(ratios: Ratios, estimator: str, M: int, N: int, close: float) -> WeightProbe:
    claimed = _claimed(estimator, M, N)
    fault = ratios.fault or missing_posteriors(ratios)
    matrices = (ratios.joint, ratios.marginals)
    if fault or all(x is None for x in matrices):
        return WeightProbe(None, None, None, "unrecognised", f"no weights: {fault}", True, claimed, estimator)
    reading = relation(*matrices, N, close)
    own = [own_by_row(o, x, reading, k == 0) for k, (o, x) in enumerate(zip(ratios[2:4], matrices, strict=True))]
    absolute = all(o is not None for o, x in zip(own, matrices, strict=True) if x is not None)
    absolute = absolute and (ratios.by_sample or bool(reading.found.kind))
    weights = [
        None if x is None else _sized(x, o if absolute else None, reading, k == 0)
        for k, (x, o) in enumerate(zip(matrices, own, strict=True))
    ]
    sizes = Sizes(own[0], own[1], M, N, close)
    size, said = in_words(reading, sizes, matrices, weights if absolute else [])
    if ratios.torn:
        said += "; the size of the weights differs between what is returned: a constant is missing somewhere"
    if ratios.factors:
        said += f"; {', '.join(f'{name} comes out times {x:.6g}' for name, x in ratios.factors.items())}"
    pattern = estimator_of_flat(sizes, estimator) if reading.pattern == "flat" else reading.pattern or "unrecognised"
    return WeightProbe(weights[0], weights[1], size, pattern, said, absolute, claimed, estimator)


def _claimed(estimator: str, M: int, N: int) -> Array:
    return np.array(find(estimator).weights(M, N), dtype=np.float64)


def _sized(ratios: Array, own: Array | None, reading: Reading, is_joint: bool) -> Array:
    """Weights from their ratios: of their size, or scaled as `WeightProbe.absolute` says."""
    if own is not None:
        return np.exp(ratios + own[:, None])
    guessed = own_by_row(np.zeros(len(ratios)), ratios, reading, is_joint)
    assert guessed is not None
    w = np.exp(ratios + guessed[:, None])
    return w / (w[0].sum() if reading.found.kind else w.sum(axis=1, keepdims=True))


# --- shown -------------------------------------------------------------------------------------------------


def weights_text(probe: WeightProbe) -> str:
    """The pattern in a line, and the weights as tables."""
    note = "" if probe.absolute else ", up to a factor"
    lines = textwrap.wrap(f"{probe.pattern}: {probe.said}", WIDTH, subsequent_indent="  ")
    for name, matrix in _matrices(probe):
        lines += ["", f"{name}{note}", *_table(matrix)]
    missing = [name for name in ("joint", "marginals") if getattr(probe, name) is None]
    return "\n".join([*lines, *(f"\n{name}: not seen in what is returned" for name in missing)])


def _matrices(probe: WeightProbe) -> list[tuple[str, Array]]:
    """(name, matrix) of what is known, and the matrix claimed, all in one scale."""
    claimed = probe.claimed if probe.absolute else probe.claimed / probe.claimed[0].sum()
    panels = [("joint", probe.joint), ("marginals", probe.marginals), (f"claimed ({probe.estimator})", claimed)]
    return [(name, matrix) for name, matrix in panels if matrix is not None]


def _table(matrix: Array) -> list[str]:
    """Samples i down, posteriors j across."""
    cells = [[f"{x:.4g}" for x in row] for row in matrix]
    width = max(len(cell) for row in cells for cell in row)
    head = "  i \\ j  " + "  ".join(str(j).rjust(width) for j in range(len(matrix)))
    return [head, *(f"  {i:<7}" + "  ".join(cell.rjust(width) for cell in row) for i, row in enumerate(cells))]


def weights_figure(probe: WeightProbe) -> "Figure":
    """The weights of the joint and of the marginals beside those claimed, each number in its field.

    Raises
    ------
    InputError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "weights_figure: matplotlib is not installed; pip install 'tcvae-ref[experiments]' brings it"
        ) from None
    panels, M = _matrices(probe), len(probe.claimed)
    logs = np.log10(np.maximum(np.concatenate([matrix.ravel() for _, matrix in panels]), 1e-300))
    figure = Figure(figsize=(0.4 + (0.55 * M + 0.5) * len(panels), 0.55 * M + 1.3), layout="constrained")
    for axis, (name, matrix) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw(axis, name, matrix, float(logs.min()), float(logs.max()))
    kind = "weight" if probe.absolute else "weight, up to a factor,"
    figure.suptitle(f"{probe.pattern}: {kind} of posterior j (across) for sample i (down)", fontsize=9)
    return figure


def _draw(axis: Any, name: str, matrix: Array, low: float, high: float) -> None:
    """One matrix, dark where weights are large, by their logarithms."""
    logs = np.log10(np.maximum(matrix, 1e-300))
    span = max(high - low, 1e-3)
    axis.imshow(logs, cmap="Blues", vmin=low - 0.3 * span, vmax=high + 0.3 * span)
    for (i, j), x in np.ndenumerate(matrix):
        color = "white" if logs[i, j] > low + 0.6 * span and high - low > 1e-3 else "black"
        axis.text(j, i, f"{x:.3g}", ha="center", va="center", fontsize=7, color=color)
    axis.set_title(name, fontsize=9)
    axis.set(xticks=range(len(matrix)), yticks=range(len(matrix)))
    axis.tick_params(length=0, labelsize=7)
