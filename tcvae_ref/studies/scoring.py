"""What is kept of a run: its exact decomposition and its scores, as the cells of a table's row."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.evaluation import DECOMPOSITION, Evaluation
from tcvae_ref.metrics import MIG
from tcvae_ref.scores import headlines
from tcvae_ref.studies.table import TERMS

Cells: TypeAlias = dict[str, float | str | None]


def last_epoch(history: NDArray[np.float64], names: Sequence[str], steps: int) -> Cells:
    """Steps done and the mean over the last epoch of all that was recorded, as trained."""
    means = zip(names, history[-1].tolist(), strict=True)
    return {"steps": steps, **{f"last_{name}": value for name, value in means}}


def cells(result: Evaluation) -> dict[str, Cells]:
    """The parts of an evaluation by name: `decomposition` and each score; of what was left out, the reason."""
    found: dict[str, Cells] = {
        name: {f"{name.replace('-', '_')}_left_out": reason} for name, reason in result.left_out.items()
    }
    if result.decomposition is not None:
        found[DECOMPOSITION] = _decomposition(result)
    for name, score in result.scores.items():
        column = name.replace("-", "_")
        own: Cells = {}
        for headline in headlines(name, score):
            label = headline.label.partition(",")[0].replace(name, column).replace(" ", "_")
            own |= {label: headline.value, f"{label}_error": headline.error}
        if isinstance(score, MIG):
            gaps = zip(result.factors, score.gaps.tolist(), strict=True)
            own |= {f"{'' if name == 'mig' else column + '_'}gap_{factor}": gap for factor, gap in gaps}
        found[name] = own
    return found


def _decomposition(result: Evaluation) -> Cells:
    parts = result.decomposition
    assert parts is not None
    estimates = {name: getattr(result if name == "reconstruction" else parts, name) for name in TERMS}
    found: Cells = {"inputs": result.inputs}
    for name, estimate in estimates.items():
        if estimate is not None:
            found |= {name: estimate.value, f"{name}_error": estimate.standard_error}
    return found | {"kl": parts.kl_analytic, "elbo": result.elbo}
