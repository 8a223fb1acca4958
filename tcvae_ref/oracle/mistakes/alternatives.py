"""Valid alternatives to what a target claims: other weights, another form of the penalty."""

import itertools
from collections.abc import Sequence

import numpy as np

from tcvae_ref.oracle import estimators
from tcvae_ref.oracle.mistakes.sightings import Sighting
from tcvae_ref.oracle.mistakes.steps import Loss, gradients, values
from tcvae_ref.oracle.tolerance import log_variances
from tcvae_ref.oracle.types import Case
from tcvae_ref.types import Array

FREE_COLUMN = "valid alternative: MSS with another choice of the free column"
"""Said of weights as right as the paper's, which are no estimator's here."""

_MOST_CHOICES = 300_000
_EXACT = 1e-12
"""Agreement asked of one among thousands of choices, relative to what is added up."""

_VALID = {
    ("mss", "symmetric-mss"): "valid alternative: symmetric MSS, the average over the free column",
    ("symmetric-mss", "mss"): "valid alternative: MSS with one free column, not the average over it",
}

_MISTAKEN = {("mws", "minibatch")}
"""What is no alternative: the constant 1/N is missing."""


def notes(sightings: Sequence[Sighting], estimator: str, quantities: tuple[str, ...], needed: float) -> tuple[str, ...]:
    """What else that is right the target computes; nothing where it computes nothing of the kind."""
    for other in estimators.candidates():
        if other != estimator and (estimator, other) not in _MISTAKEN and _is(sightings, other, needed):
            return (
                _VALID.get((estimator, other), f"computes {other}, not {estimator} as claimed: --estimator {other}"),
            )
    if quantities in (("penalty",), ("kl_penalty",)):
        other = {"penalty": "kl_penalty", "kl_penalty": "penalty"}[quantities[0]]
        if _is_penalty(sightings, estimator, quantities[0], other, needed):
            form = {"kl_penalty": "KL + (beta - 1) TC", "penalty": "alpha MI + beta TC + gamma DWKL"}[other]
            return (f"valid alternative: {form} for the other form of the penalty: --returns {other}",)
    if estimator == "mss" and _has_free_columns(sightings, needed):
        return (FREE_COLUMN,)
    return ()


def _is(sightings: Sequence[Sighting], estimator: str, needed: float) -> bool:
    """Whether the target is right as another estimator."""
    stratified = estimators.find(estimator).without_replacement
    if stratified and not all(2 <= len(s.case.z) <= s.case.dataset_size for s in sightings):
        return False
    return all(_agrees(s, Loss, estimator, needed) for s in sightings)


def _agrees(s: Sighting, steps: type[Loss], estimator: str, needed: float) -> bool:
    names = tuple(s.observed.values)
    if not s.agreement(values(steps, estimator, s.case, names), None, needed):
        return False
    asked = tuple(s.observed.gradients)
    slopes = gradients(steps, estimator, s.case, asked)
    return bool(s.agreement(values(steps, estimator, s.case, names), slopes, needed))


def _is_penalty(sightings: Sequence[Sighting], estimator: str, name: str, other: str, needed: float) -> bool:
    """Whether the penalty is the other form of it."""
    for s in sightings:
        if (s.case.alpha, s.case.gamma) != (1.0, 1.0) and "kl_penalty" in (name, other):
            continue  # KL + (beta - 1) TC knows neither
        value = {name: values(Loss, estimator, s.case, (other,))[other]}
        slope = {name: gradients(Loss, estimator, s.case, (other,))[other]} if s.observed.gradients else None
        if not s.agreement(value, slope, needed):
            return False
    return any((s.case.alpha, s.case.gamma) == (1.0, 1.0) for s in sightings)


# --- the free column of MSS ---------------------------------------------------------------------------------------


def _has_free_columns(sightings: Sequence[Sighting], needed: float) -> bool:
    """Whether on every case some choice of a column for each row gives all values and gradients."""
    by_size: dict[int, Array] = {}
    for s in sightings:
        M = len(s.case.z)
        if not s.finite or (M - 1) ** M > _MOST_CHOICES:
            return False
        if M in by_size and _agrees(s, _with_columns(by_size[M]), "mss", needed):
            continue
        columns = _columns(s)
        if columns is None or not _agrees(s, _with_columns(columns), "mss", needed):
            return False
        by_size[M] = columns
    return True


def _with_columns(columns: Array) -> type[Loss]:
    """MSS in which `columns[i]` stands, for sample i, for the data left out of the batch."""

    class FreeColumns(Loss):
        """MSS with these columns."""

        def log_weights(self, M: int, N: float) -> Array:
            """As ever but for the columns."""
            m, i = M - 1, np.arange(M)
            w = np.full((M, M), 1 / m)
            w[i, columns] = (N - m) / (N * m)
            w[i, i] = 1 / N
            return np.log(w)

    return FreeColumns


def _rows(case: Case) -> tuple[Array, Array]:
    """Log q(z_i) and sum_d log q(z_id) for each choice of column of sample i: (M, M - 1) each."""
    M = len(case.z)
    joint, product = np.empty((M, M - 1)), np.empty((M, M - 1))
    for step in range(1, M):
        found = values(_with_columns((np.arange(M) + step) % M), "mss", case, ("log_qz", "log_qz_marginals"))
        joint[:, step - 1], product[:, step - 1] = found["log_qz"], found["log_qz_marginals"].sum(axis=1)
    return joint, product


def _columns(s: Sighting) -> Array | None:
    """The columns that a target used, from its arrays or by trying all."""
    M = len(s.case.z)
    joint, product = _rows(s.case)
    got = s.observed.values
    if "log_qz_marginals" in got or "log_qz" in got:
        missed = np.zeros((M, M - 1))
        for name, table in (("log_qz", joint), ("log_qz_marginals", product)):
            if name in got:
                missed += np.abs(table - got[name].reshape(M, -1).sum(axis=1, keepdims=True))
        return np.asarray((np.arange(M) + np.argmin(missed, axis=1) + 1) % M)
    choices = np.array(list(itertools.product(range(M - 1), repeat=M)))
    fits = np.ones(len(choices), dtype=bool)
    rows = np.arange(M)
    E2, E3 = joint[rows, choices].mean(axis=1), product[rows, choices].mean(axis=1)
    E1, E4 = s.true.values["log_qz_given_x"].middle.mean(), s.true.values["log_pz"].middle.mean()
    terms = {"mi": E1 - E2, "tc": E2 - E3, "dwkl": E3 - E4}
    a, b, c = s.case.alpha, s.case.beta, s.case.gamma
    terms["penalty"] = a * terms["mi"] + b * terms["tc"] + c * terms["dwkl"]
    right = Loss("mss")
    terms["kl_penalty"] = right.kl(s.case.mu, log_variances(s.case)) + (b - 1) * terms["tc"]
    for name, value in got.items():
        fits &= np.abs(terms[name] - value) <= _EXACT * float(np.max(s.allowed.value_scales[name]))
    at = np.flatnonzero(fits)
    return np.asarray((rows + choices[at[0]] + 1) % M) if len(at) else None
