"""The metric of the FactorVAE paper (Kim & Mnih, 2018, section 4): which code varies least when a factor is fixed."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.metrics.draws import Inputs, Shelves, draw, draw_with_value, generator, inputs, shelves
from tcvae_ref.types import Array, ProgressHook

_BLOCK = 2**18  # codes held at a time


class FactorVAEScore(NamedTuple):
    """An accuracy, and the votes it was read from."""

    score: float
    """Share of the test votes whose factor the majority classifier names; 0 when no code is active."""
    standard_error: float
    """sqrt( score (1 - score) / test_votes ): the spread over test votes, variances and classifier held fixed."""
    votes: NDArray[np.int64]
    """(D, K): training votes for code d while factor k was fixed."""
    test_votes: NDArray[np.int64]
    """(D, K): the fresh ones."""
    majority: NDArray[np.int64]
    """(D,): the factor each code stands for, the lowest of equals; that of a code without a training vote is 0."""
    active: NDArray[np.bool_]
    """(D,): codes that are not pruned."""
    variances: NDArray[np.float64]
    """(D,): of all inputs, ddof 1."""


def factor_vae_metric(
    codes: Array,
    classes: NDArray[np.integer],
    rng: np.random.Generator | int,
    *,
    weights: Array | None = None,
    batch: int = 64,
    train_votes: int = 10_000,
    test_votes: int = 5_000,
    prune_below: float = 0.05,
    variance_inputs: int | None = 10_000,
    progress: ProgressHook | None = None,
) -> FactorVAEScore:
    """Accuracy of guessing the fixed factor from the code that varies least.

    vote:  k ~ uniform, v ~ p(v_k), n_1 ... n_batch ~ p(n | v_k = v),   d = argmin_d  var( z_nd ) / var_all( z_d )

    over the active codes d, both variances with ddof 1. The classifier names for d the factor with most training votes.
    Kim & Mnih (2018), section 4 and appendix B. Two departures: inputs are drawn among those given, with
    replacement (`tcvae_ref.metrics.draws`), since new images cannot be made of codes; so two of a batch can be the same
    input, which matters where few share a value. And a code without any variance is never active, also at
    prune_below = 0.

    Chance is about 1 / K, but random codes are not at chance: a code that happens to separate a factor best still wins
    its votes. `batch`, the votes and `prune_below` are hyper-parameters of the metric and move the score.

    Parameters
    ----------
    codes : (N, D)
        The representation, posterior means or samples: the papers differ, and the score with them.
    classes : (N, K) of int
        Each input's class of each factor, K >= 2; every factor takes at least two values.
    rng : numpy.random.Generator or int
        Of all draws.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.
    batch : int
        Inputs of a vote, at least 2.
    train_votes, test_votes : int
    prune_below : float
        Codes whose standard deviation over all inputs is below this take no part, in units of the codes.
    variance_inputs : int or None
        The variance over all inputs is that of this many drawn by p(n), at least 2; None takes it from all, exactly.
        The paper's 10,000 leave an error of 1.4 % in each variance, which the standard error does not hold: where two
        codes are close, scores of two seeds differ by more than it says.
    progress : function, optional
        Called as progress(done, total), in votes.

    Returns
    -------
    FactorVAEScore

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, K < 2, a factor has a single value, or a count is too small.
    """
    where = "factor_vae_metric"
    given, rng = inputs(where, codes, classes, weights), generator(where, rng)
    checks.whole_number(where, "batch", batch, 2)
    checks.whole_number(where, "train_votes", train_votes, 1)
    checks.whole_number(where, "test_votes", test_votes, 1)
    checks.real_number(where, "prune_below", prune_below, 0.0)
    if variance_inputs is not None:
        checks.whole_number(where, "variance_inputs", variance_inputs, 2)
    variances = _variances(given, variance_inputs, rng)
    active = (np.sqrt(variances) >= prune_below) & (variances > 0)
    D, K = codes.shape[1], classes.shape[1]
    if not active.any():
        none = np.zeros((D, K), dtype=np.int64)
        return FactorVAEScore(0.0, 0.0, none, none, np.zeros(D, dtype=np.int64), active, variances)
    by_factor = [shelves(column, given.p) for column in given.labels.T]
    total = train_votes + test_votes
    scale = np.where(active, variances, np.nan)
    votes = _votes(given, by_factor, scale, train_votes, batch, rng, _shifted(progress, 0, total))
    fresh = _votes(given, by_factor, scale, test_votes, batch, rng, _shifted(progress, train_votes, total))
    majority = np.argmax(votes, axis=1)  # over factors k
    score = float(fresh[np.arange(D), majority].sum() / test_votes)
    error = math.sqrt(score * (1.0 - score) / test_votes)
    return FactorVAEScore(score, error, votes, fresh, majority, active, variances)


def _variances(given: Inputs, drawn: int | None, rng: np.random.Generator) -> NDArray[np.float64]:
    """Variance of each code over all inputs, unbiased: ddof 1 where all are equally probable."""
    if drawn is None:
        p, codes = given.p, given.codes.astype(np.float64)
        others = np.delete(p, np.argmax(p))
        remaining = p.max() * others.sum() + others @ (1.0 - others)  # 1 - sum p^2, also where one p is nearly 1
        variances = p @ (codes - p @ codes) ** 2 / remaining
    else:
        codes = given.codes[draw(given.p, (drawn,), rng)]
        variances = np.var(codes, axis=0, ddof=1, dtype=np.float64)
    return np.where(np.ptp(codes, axis=0) == 0, 0.0, variances)  # not the rounding of a constant's mean


def _votes(
    given: Inputs,
    by_factor: list[Shelves],
    scale: NDArray[np.float64],
    count: int,
    batch: int,
    rng: np.random.Generator,
    progress: ProgressHook,
) -> NDArray[np.int64]:
    """Count, for each code and factor, how often the code varied least: (D, K)."""
    D, K = len(scale), len(by_factor)
    votes, done = np.zeros((D, K), dtype=np.int64), 0
    for k, share in enumerate(np.bincount(rng.integers(K, size=count), minlength=K)):
        values = given.labels[draw(given.p, (int(share),), rng), k]
        for fixed in np.array_split(values, 1 + len(values) * batch * D // _BLOCK):
            members = draw_with_value(by_factor[k], np.repeat(fixed[:, None], batch, axis=1), rng)
            local = np.var(given.codes[members], axis=1, ddof=1, dtype=np.float64)  # over the batch
            votes[:, k] += np.bincount(np.nanargmin(local / scale, axis=1), minlength=D)
            done += len(fixed)
            progress(done, count)
    return votes


def _shifted(progress: ProgressHook | None, before: int, total: int) -> ProgressHook:
    """A hook for one part of the votes."""
    return lambda done, _: None if progress is None else progress(before + done, total)
