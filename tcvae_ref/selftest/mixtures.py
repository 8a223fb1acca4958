"""Mixtures of one dimension: the kernels' density at many points, entropies and MIG within the errors they state.

Entropies are enclosed by Arb's rigorous integration, for which mpmath has nothing.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.metrics import mig_quadrature, mixture_entropies
from tcvae_ref.oracle import balls
from tcvae_ref.oracle.balls import Balls
from tcvae_ref.oracle.types import Enclosure
from tcvae_ref.selftest.densities import LOG_2PI, Terms, _Exact, enclosed
from tcvae_ref.selftest.draws import Batch
from tcvae_ref.selftest.types import CUTS, PRIMITIVES, Comparison, gamma
from tcvae_ref.types import Array

# --- the density at many points --------------------------------------------------------------------------------


def log_weights(rng: np.random.Generator, N: int, dtype: str) -> Array:
    """Weights of components, some of them 0."""
    result = rng.choice([0.0, 1.0, 20.0]) * rng.standard_normal(N)
    result[1:][rng.random(N - 1) < 0.2] = -np.inf
    return np.asarray(result.astype(dtype))


def judge_log_density(batch: Batch, log_w: Array, log_density: Any) -> list[Comparison]:
    """Compare log sum_n w_n N(x_i; mu_n, sigma_n^2) at the first coordinates of the samples."""
    x, mu, log_var = (np.ascontiguousarray(a[:, 0]) for a in (batch.z, batch.mu, batch.log_var))
    there, dtype = log_w > -np.inf, batch.dtype
    terms, (true,) = enclosed(
        lambda b: _log_mixture(b, x, mu[there], log_var[there], log_w[there]), lambda t: [(t.balls, t.size)]
    )
    (exp, log), size = PRIMITIVES[dtype], terms.size
    left_out = 2 * CUTS[dtype].left_out(len(mu), np.zeros(1))
    allowed = gamma(20 + 2 * exp, dtype) * size + gamma(len(mu) + 24 + exp + log, dtype) * (1 + size) + left_out
    return [
        Comparison(
            "tcvae_kernels.mixture.log_density", "value", "", log_density(x, mu, log_var, log_w), true, allowed, size
        )
    ]


def _log_mixture(b: Balls, x: Array, mu: Array, log_var: Array, log_w: Array) -> Terms:
    e = _Exact(b, x=x, mu=mu, v=log_var, w=log_w)
    v, w = e.arrays["v"], e.arrays["w"]
    q = (e.arrays["x"][:, None] - e.arrays["mu"]) ** 2 * e.exp(-v)
    terms = e.exp(w - (q + v + e.log_2pi) / 2)
    total = terms.sum(axis=1)
    y = e.log(total)
    shares = e.size(terms / total[:, None])
    sizes = 0.5 * (e.size(q) + e.size(v) + LOG_2PI) + e.size(w)
    return Terms(y, e.size(y) + np.sum(shares * sizes, axis=1))


# --- entropies -------------------------------------------------------------------------------------------------

SIGMAS = 17.0
"""Beyond so many widths of every component -q log q integrates to less than 1e-28 (sqrt q bounds it)."""
_TAIL = 1e-28
_BITS = 160


class Components(NamedTuple):
    """A mixture for each of two dimensions, with labels, all components of weight above 0."""

    mu: Array
    """(N, 2)."""
    log_var: Array
    labels: Array
    """(N, K)."""
    weights: Array


def components(rng: np.random.Generator) -> Components:
    """Up to six components; labels with at least two values each."""
    N, K = int(rng.integers(2, 7)), int(rng.integers(1, 3))
    apart, widths = rng.choice([0.0, 1.0, 1.0, 30.0, 1e4]), rng.choice([0.0, 1.0, 1.0, 12.0])
    labels = rng.integers(0, 2, (N, K))
    labels[:2] = [[0], [1]]
    return Components(
        apart * rng.standard_normal((N, 2)), widths * rng.uniform(-1, 1, (N, 2)), labels, rng.uniform(0.05, 1, N)
    )


def _entropy(mu: Array, log_var: Array, shares: Sequence[Any]) -> Any:
    """Entropy of sum_n p_n N(mu_n, exp(log_var_n)) as a ball."""
    from flint import acb, arb

    centres, widths = [arb(float(m)) for m in mu], [arb(float(v)) for v in log_var]
    heights = [p * (-v / 2).exp() / (2 * arb.pi()).sqrt() for p, v in zip(shares, widths, strict=True)]
    precisions = [(-v).exp() / 2 for v in widths]

    def integrand(x: Any, analytic: bool) -> Any:
        q = acb(0)
        for height, centre, precision in zip(heights, centres, precisions, strict=True):
            q += height * (-((x - centre) ** 2) * precision).exp()
        return -q * q.log(analytic=analytic)

    sigma = np.exp(0.5 * log_var)
    steps = np.array([-SIGMAS, -4.0, -1.0, 0.0, 1.0, 4.0, SIGMAS])
    places = np.unique(mu[:, None] + sigma[:, None] * steps)
    inside = [
        (a, b)
        for a, b in itertools.pairwise(places.tolist())
        if np.any((mu - SIGMAS * sigma < b) & (a < mu + SIGMAS * sigma))
    ]
    tolerance = arb(2) ** -80
    total = sum((acb.integral(integrand, a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in inside), acb(0)).real
    return total + arb(0, _TAIL * len(mu))


def judge_entropies(c: Components, group_densities: Any, name: str) -> list[Comparison]:
    """Compare the entropies of each dimension with their stated error, and MIG with its own.

    Parameters
    ----------
    c : Components
    group_densities : function
        Sums the components on the grids.
    name : str
        Where that function is, for the report.
    """
    from flint import arb

    result, entropies, information = [], [], []
    with balls.arithmetic(_BITS) as arithmetic:
        total = sum((arb(float(w)) for w in c.weights), arb(0))
        p = np.array([arb(float(w)) / total for w in c.weights], dtype=object)
        for d in range(2):
            marginal, conditional = _exact_entropies(c, d, p)
            entropies.append(marginal)
            information.append([marginal - h for h in conditional])
            got = mixture_entropies(c.mu[:, d], c.log_var[:, d], c.labels, c.weights, group_densities=group_densities)
            ours = np.array([got.marginal, *got.conditional])
            true = balls.enclosure(arithmetic, [marginal, *conditional])
            result.append(_stated(f"tcvae_ref.metrics.mixture_entropies on {name}", "entropy", ours, true, got.error))
        mig = mig_quadrature(c.mu, c.log_var, c.labels, weights=c.weights, group_densities=group_densities)
        of_factors = [-sum((s * s.log() for s in _shares(column, p)), arb(0)) for column in c.labels.T]
        true_gaps = [abs(a - b) / h for a, b, h in zip(*information, of_factors, strict=True)]
        where = f"tcvae_ref.metrics.mig_quadrature on {name}"
        score = sum(true_gaps, arb(0)) / len(true_gaps)
        for quantity, ours, exact, error in (
            ("entropies", mig.entropies, entropies, mig.error.entropies),
            ("information", mig.information, information, mig.error.information),
            ("gaps", mig.gaps, true_gaps, mig.error.gaps),
            ("score", np.array(mig.score), [score], mig.error.score),
        ):
            true = balls.enclosure(arithmetic, np.array(exact, dtype=object).reshape(np.shape(ours)))
            result.append(_stated(where, quantity, ours, true, error))
    return result


def _shares(column: Array, p: Any) -> list[Any]:
    return [p[column == value].sum() for value in np.unique(column)]


def _exact_entropies(c: Components, d: int, p: Any) -> tuple[Any, list[Any]]:
    """H(z_d) and each H(z_d | v_k)."""
    mu, log_var = c.mu[:, d], c.log_var[:, d]
    conditional = []
    for column in c.labels.T:
        parts = []
        for value in np.unique(column):
            ours = column == value
            share = p[ours].sum()
            parts.append(share * _entropy(mu[ours], log_var[ours], list(p[ours] / share)))
        conditional.append(sum(parts[1:], parts[0]))
    return _entropy(mu, log_var, list(p)), conditional


def _stated(where: str, quantity: str, got: Array, true: Enclosure, error: Any) -> Comparison:
    """A number beside the error it states of itself."""
    allowed = np.broadcast_to(np.asarray(error, dtype=np.float64), np.shape(got))
    return Comparison(where, quantity, "", got, true, allowed, 1 + np.abs(true.middle))
