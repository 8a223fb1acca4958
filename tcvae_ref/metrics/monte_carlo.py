"""The mutual information gap as the paper estimates it: entropies as means over samples (section 4.1, appendix)."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from tcvae_ref import checks
from tcvae_ref.gaussian import LOG_2PI
from tcvae_ref.metrics.draws import check_widths, generator
from tcvae_ref.metrics.mig import MIG, MIGErrors, gaps, prepared
from tcvae_ref.types import Array, ProgressHook

_BLOCK = 2**20  # log-densities held at a time
_MOST_SAMPLES = 2**31 - 1

LogDensity: TypeAlias = Callable[[Array, Array, Array, Array], Array]
"""`log_density(points, mu, log_var, log_weights)` : (P,), that of this module, or another of its signature."""


def log_density(points: Array, mu: Array, log_var: Array, log_weights: Array) -> Array:
    """Log-density of a weighted one-dimensional mixture : (P,), nats.

    log sum_n exp(log_weights_n) N(x_i; mu_n, exp(log_var_n)), all pairs, a block of points at a time.

    Parameters
    ----------
    points : (P,)
    mu, log_var, log_weights : (N,)
        The components.
    """
    inverse_sigma, heights = np.exp(-0.5 * log_var), log_weights - 0.5 * (log_var + LOG_2PI)
    values, block = np.empty(len(points)), max(1, _BLOCK // len(mu))
    for start in range(0, len(points), block):
        part = slice(start, start + block)
        t = (points[part, None] - mu) * inverse_sigma
        values[part] = logsumexp(heights - 0.5 * t * t, axis=1)  # over components n
    return values


def mig_monte_carlo(
    mu: Array,
    log_var: Array,
    classes: NDArray[np.integer],
    *,
    weights: Array | None = None,
    rng: np.random.Generator | int,
    samples: int = 10_000,
    batches: int = 10,
    progress: ProgressHook | None = None,
    log_density: LogDensity = log_density,
) -> MIG:
    """Mutual information gap by the paper's recipe, with standard errors.

    H(z_d)           = - mean_s log q(z_s),        z_s drawn from q(z_d),       scored against all N components
    H(z_d | v_k = v) = - mean_s log q(z_s | v),    z_s drawn from q(z_d | v),   scored against those with v_k = v alone
    I(z_d; v_k)      = max( 0, H(z_d) - sum_v p(v) H(z_d | v_k = v) )

    each from draws of its own (paper, section 4.1, and the code released with it). The expectation is that of
    `mig_quadrature` but for the maximum, which lifts an information near 0, and for the choice of the top two, which
    lifts the gap of latents that are nearly level: both biases are of the size of the standard error. The paper's code
    draws inputs without replacement, at most N of them; here S are drawn with replacement, which any S and p(n) allow.

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of all inputs, D >= 2.
    classes : (N, K) of int
        Each input's class of each factor; every factor takes at least two values.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.
    rng : numpy.random.Generator or int
        Of the draws, or its seed.
    samples : int
        S, draws for each entropy. The cost is S N D (1 + K) densities.
    batches : int
        The draws are divided into so many; the standard errors are from the spread over them.
    progress : function, optional
        Called as progress(done, total), in components that draws have been scored against.
    log_density : function, optional
        Scores draws: the function of this module in NumPy, or the compiled `tcvae_kernels.mixture.log_density`.

    Returns
    -------
    MIG
        `error` holds standard errors: the spread over the batches, each a whole estimate, over the square root of their
        number. Those of the gaps and the score are of the difference of the two latents that come first and second in
        all draws, before the maximum with 0.

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a weight is negative, a factor has a single value with
        weight, batches < 2, or samples < batches.
    """
    where = "mig_monte_carlo"
    labels, sizes, p, factor_entropies = prepared(where, mu, log_var, classes, weights)
    checks.log_variances(where, log_var=log_var)
    check_widths(where, mu.astype(np.float64), log_var.astype(np.float64))
    batches = checks.whole_number(where, "batches", batches, 2, _MOST_SAMPLES)
    samples = checks.whole_number(where, "samples", samples, batches, _MOST_SAMPLES)
    draws = generator(where, rng)
    slices = [_slices(labels[:, k], size, p) for k, size in enumerate(sizes)]
    D, K = mu.shape[1], len(sizes)
    per_pass = (1 + K) * int(np.count_nonzero(p))
    done = 0

    def entropy(d: int, members: NDArray[np.intp]) -> NDArray[np.float64]:
        nonlocal done
        components = (mu[members, d].astype(np.float64), log_var[members, d].astype(np.float64), p[members])
        estimates = _entropy_estimates(*components, samples, batches, draws, log_density)
        done += len(members)
        if progress is not None:
            progress(done, D * per_pass)
        return estimates

    entropies, information = np.empty((batches, D)), np.empty((batches, D, K))
    for d in range(D):
        entropies[:, d] = entropy(d, np.flatnonzero(p))
        for k, groups in enumerate(slices):
            conditional = sum(p[members].sum() * entropy(d, members) for members in groups)  # over values v
            information[:, d, k] = entropies[:, d] - conditional
    return _summary(entropies, information, factor_entropies)


def _slices(labels: NDArray[np.int64], size: int, p: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """The inputs with weight, by their value of one factor."""
    members = np.flatnonzero(p)
    by_value = members[np.argsort(labels[members], kind="stable")]
    return np.split(by_value, np.cumsum(np.bincount(labels[members], minlength=size))[:-1])


def _entropy_estimates(
    mu: Array,
    log_var: Array,
    p: NDArray[np.float64],
    samples: int,
    batches: int,
    rng: np.random.Generator,
    log_density: LogDensity,
) -> NDArray[np.float64]:
    """Independent estimates of the entropy of a mixture with weights proportional to p : (batches,), nats."""
    p = p / p.sum()
    n = rng.choice(len(p), samples, p=p)
    z = mu[n] + np.exp(0.5 * log_var[n]) * rng.standard_normal(samples)
    log_weights = np.log(p)
    return np.array([-log_density(batch, mu, log_var, log_weights).mean() for batch in np.array_split(z, batches)])


def _summary(
    entropies: NDArray[np.float64], information: NDArray[np.float64], factor_entropies: NDArray[np.float64]
) -> MIG:
    """Means over batches, and their standard errors; entropies : (B, D), information : (B, D, K)."""
    mean_information = np.maximum(information.mean(axis=0), 0.0)
    by_factor = gaps(mean_information, factor_entropies)
    second, first = np.argsort(mean_information, axis=0)[-2:]
    k = np.arange(len(factor_entropies))
    gap_of_batch = (information[:, first, k] - information[:, second, k]) / factor_entropies
    error = MIGErrors(
        score=float(_standard_error(gap_of_batch.mean(axis=1))),
        gaps=_standard_error(gap_of_batch),
        information=_standard_error(information),
        entropies=_standard_error(entropies),
    )
    score = float(by_factor.mean())
    return MIG(score, by_factor, mean_information, entropies.mean(axis=0), error, "Monte Carlo", factor_entropies)


def _standard_error(batches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of a mean over independent batches, along the first axis."""
    return np.asarray(batches.std(axis=0, ddof=1) / np.sqrt(len(batches)))
