"""The mutual information gap of binned posterior means: the recipe of disentanglement_lib."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.draws import LARGEST_CODE, draw, generator
from tcvae_ref.metrics.entropy import probabilities
from tcvae_ref.metrics.mig import MIG, MIGErrors, gaps, prepared
from tcvae_ref.types import Array


def mig_binned(
    mu: Array,
    log_var: Any,
    classes: NDArray[np.integer],
    *,
    weights: Array | None = None,
    rng: np.random.Generator | int | None = None,
    samples: int | None = 10_000,
    bins: int = 20,
) -> MIG:
    """Mutual information gap of posterior means in equal-width bins.

    I(b_d; v_k) = sum_bv p(b, v) log[ p(b, v) / ( p(b) p(v) ) ],    MIG = mean_k ( I_top1 - I_top2 ) / H(v_k)

    b_d is the bin of mu_d among `bins` of equal width from its least to its greatest value. The recipe of
    disentanglement_lib (Locatello et al., 2019), whose settings are the defaults; not the quantity of the beta-TCVAE
    paper (`mig_quadrature`), and not comparable with it: the posteriors' widths do not enter, so as they go to 0
    this score stays while the paper's goes to 0.

    Biased upwards: information counted from S inputs exceeds the true by about (bins - 1)(V - 1) / 2S, V the number of
    the factor's values, also for a code of pure noise. One far outlier puts all other inputs of its code into one bin.

    Parameters
    ----------
    mu : (N, D)
        The posterior means, D >= 2.
    log_var
        Not read, may be None; here so that all recipes are called alike.
    classes : (N, K) of int
        Each input's class of each factor; every factor takes at least two values.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.
    rng : numpy.random.Generator or int
        Of the samples; needed unless samples is None.
    samples : int or None
        Inputs drawn by p(n), with replacement; None counts every input once, with its weight, and nothing is random.
    bins : int
        At least 2.

    Returns
    -------
    MIG
        `information`, `entropies` and `factor_entropies` are those of the inputs drawn: discrete, nats. `error` is 0
        throughout, as they are counts; the spread over draws is seen by other seeds.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a weight is negative, a factor has a single value among the
        inputs drawn, or there is no rng.
    """
    where = "mig_binned"
    checks.matrices(where, mu=mu)
    checks.labels(where, "classes", classes, len(mu))
    checks.whole_number(where, "bins", bins, 2)
    p = probabilities(where, len(mu), weights)
    if samples is None:
        drawn = np.flatnonzero(p)
        counts = np.ones(len(drawn)) if weights is None else p[drawn]
    elif rng is None:
        raise InputError(f"{where}: samples={samples} are drawn, with no rng; give rng=0, say, or samples=None for all")
    else:
        drawn = draw(p, (checks.whole_number(where, "samples", samples, 2),), generator(where, rng))
        counts = np.ones(len(drawn))
    codes = mu[drawn]
    if np.abs(codes).max() > LARGEST_CODE:
        raise InputError(f"{where}: codes reach {np.abs(codes).max():.3g} in size; rescale to {LARGEST_CODE:g} at most")
    labels, sizes, _, _ = prepared(f"{where}, of {len(drawn)} inputs", codes, codes, classes[drawn], counts)
    D, K = mu.shape[1], len(sizes)
    factor_entropies = np.array([_entropy(labels[:, k], counts) for k in range(K)])  # rounded as the joint ones are
    entropies, information = np.empty(D), np.empty((D, K))
    for d in range(D):
        b = _bin(codes[:, d], bins)
        entropies[d] = _entropy(b, counts)
        joint = np.array([_entropy(sizes[k] * b + labels[:, k], counts) for k in range(K)])
        information[d] = entropies[d] + factor_entropies - joint
    by_factor = gaps(information, factor_entropies)
    exact = MIGErrors(0.0, np.zeros(K), np.zeros((D, K)), np.zeros(D))
    return MIG(float(by_factor.mean()), by_factor, information, entropies, exact, "binned", factor_entropies)


def _bin(code: Array, bins: int) -> NDArray[np.int64]:
    """Bin of each value, 0 ... bins - 1: [edge_b, edge_b+1), the last with its right edge; all in one if constant."""
    low, high = float(code.min()), float(code.max())
    if high - low <= 2 * bins * max(np.spacing(abs(low)), np.spacing(abs(high))):
        return np.zeros(len(code), dtype=np.int64)  # there are no such bins
    return np.searchsorted(np.histogram_bin_edges(code, bins)[1:-1], code, side="right")


def _entropy(values: NDArray[np.int64], counts: NDArray[np.float64]) -> float:
    """Discrete entropy, nats, of values that count as often as they are said to."""
    total = np.bincount(values, counts)
    p = total / total.sum()
    return -float(np.sum(xlogy(p, p)))
