"""Which inputs a step sees, from the seed and the step alone."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.training.settings import ESTIMATORS, STUDY_ESTIMATORS, Settings
from tcvae_ref.training.streams import ORDER, generator

FOR_WEIGHTED_DATA = ("mws", "minibatch")
"""Estimators whose weights are the same for draws with replacement; this package's others are for draws without."""


def epoch_order(seed: int, epoch: int, dataset_size: int, stream: int = ORDER) -> NDArray[np.int64]:
    """The order in which an epoch visits the data : (N,)."""
    return generator(seed, stream, epoch).permutation(dataset_size)


def batches(settings: Settings, data: FactorDataset, stream: int = ORDER) -> Callable[[int], NDArray[np.int64]]:
    """Make a function from a step, counted from 0, to its batch : (M,), indices of inputs.

    Without weights every epoch visits the data once, in an order of its own, a remainder below M left out. With weights
    each batch is M independent draws from p(n), with replacement, and an epoch is only as many of them. The stratified
    estimators weigh a batch as uniform draws without replacement, and would be wrong then, as another package's may be;
    they are refused with every objective, for those that do not maximise the estimate record it.

    Parameters
    ----------
    settings : Settings
    data : FactorDataset
    stream : int
        `streams.ORDER`, or `streams.SECOND_ORDER` for batches independent of those.

    Raises
    ------
    InputError
        The batch is larger than the data set; or the data have weights and the estimator is none of
        `FOR_WEIGHTED_DATA`.
    """
    if data.weights is not None and settings.estimator not in FOR_WEIGHTED_DATA:
        ours = settings.estimator in (*ESTIMATORS, *STUDY_ESTIMATORS)
        reason = "its own weights are for uniform draws without" if ours else "of another package's that is not known"
        raise InputError(
            f"settings: estimator={settings.estimator!r} with {data.name}, which is drawn by its weights, with "
            f"replacement; {reason}: choose mws"
        )
    N, M, seed = len(data), settings.batch, settings.seed
    steps_per_epoch = settings.steps_per_epoch(N)
    if data.weights is not None:
        cumulative = np.cumsum(data.weights)
        cumulative /= cumulative[-1]

        def drawn(step: int) -> NDArray[np.int64]:
            return np.searchsorted(cumulative, generator(seed, stream, step).random(M), side="right")

        return drawn
    kept: dict[int, NDArray[np.int64]] = {}  # the order of one epoch

    def in_order(step: int) -> NDArray[np.int64]:
        epoch, nth = divmod(step, steps_per_epoch)
        if epoch not in kept:
            kept.clear()
            kept[epoch] = epoch_order(seed, epoch, N, stream)
        return kept[epoch][nth * M : (nth + 1) * M]

    return in_order
