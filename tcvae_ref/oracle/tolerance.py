"""How far a right implementation in floating point may be off: derived, not chosen.

`TOLERANCE.md` of this folder derives every line below. In short: one pairwise log-density is a sum of three kinds of
terms, each rounded a known number of times; a weighted log-sum-exp passes the errors of its terms on with the weights
of the softmax; means and differences add absolute errors up; a gradient is a sum over pairs of a softmax weight times
a slope, and both have relative errors. Nothing is assumed about the order of a summation or about which of the usual
algebraic forms is taken, except that squares are not expanded: z^2 - 2 z mu + mu^2 has an allowance of its own.

Names: u is the unit roundoff, `gamma(k)` = k u / (1 - k u) bounds k roundings, `eta` is the smallest normal number,
which bounds what underflow loses.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import logsumexp

from tcvae_ref.oracle import estimators
from tcvae_ref.oracle.formats import FORMATS, Format
from tcvae_ref.oracle.truth import combinations
from tcvae_ref.oracle.types import Allowances, Case, Primitives
from tcvae_ref.types import Array

LOG_2PI = float(np.log(2 * np.pi))


SOURCES = {
    "quadratic": "(z - mu)^2 / sigma^2",
    "log_var": "log sigma^2",
    "constant": "log 2 pi",
    "weights": "the weights log w_ij",
    "log_sum_exp": "the log-sum-exp over posteriors",
    "sums": "means and differences",
    "expanded": "z^2 - 2 z mu + mu^2, expanded",
}
"""What an allowance is made of."""

PRIMITIVE_MARGIN, LEAST_PRIMITIVE = 2.0, 2.0
"""What is allowed for exp and log, in units of u: twice the worst of the points that were probed, at least 2."""

_OWN_ROUNDING = 1 + 2.0**-20  # covers the roundings of this module, which computes in float64


@dataclass(frozen=True)
class _Rounding:
    """The constants of one format and framework; `without` silences one of SOURCES, to see its share."""

    format: Format
    exp: float
    log: float
    expanded: bool
    without: str

    def gamma(self, k: float) -> float:
        product = k * self.format.roundoff
        return product / (1 - product) if product < 1 else np.inf

    def of(self, source: str, value: Array | float) -> Array:
        return np.zeros_like(value) if source == self.without else np.asarray(value)


def allowances(
    case: Case,
    estimator: str,
    dtype: str,
    primitives: Primitives,
    *,
    expanded: bool = False,
    without: str = "",
    gradients: bool = True,
) -> Allowances:
    """Bound the error of every quantity and gradient of a case, computed in a dtype.

    Parameters
    ----------
    case : Case
        As the framework received it: representable in `dtype`.
    estimator, dtype : str
    primitives : Primitives
        Errors of the framework's exp and log as probed, in units of u.
    expanded : bool
        Allow the square (z - mu)^2 to be expanded.
    without : str
        One of `SOURCES`, to be left out: the rest is what the other sources cause.
    gradients : bool
        Whether those of the gradients are wanted too.

    Returns
    -------
    Allowances
        Infinite where an intermediate result of some usual form leaves the range of the dtype.
    """
    exp, log = (max(LEAST_PRIMITIVE, PRIMITIVE_MARGIN * error) for error in primitives)
    rounding = _Rounding(FORMATS[dtype], exp, log, expanded, without)
    with np.errstate(all="ignore"):
        return _Derivation(rounding, case, estimator).allowances(gradients=gradients)


def sources(
    case: Case,
    estimator: str,
    dtype: str,
    primitives: Primitives,
    quantity: str,
    argument: str,
    index: tuple[int, ...],
    *,
    expanded: bool = False,
) -> tuple[tuple[float, str], ...]:
    """Where the allowance of one number comes from: (share, in words), the largest first."""

    def amount(without: str) -> float:
        bound = allowances(case, estimator, dtype, primitives, expanded=expanded, without=without)
        entries = bound.gradients[quantity][argument] if argument else bound.values[quantity]
        return float(np.asarray(entries)[index])

    whole = amount("")
    parts = {source: whole - amount(source) for source in SOURCES}
    total = sum(parts.values())
    if not np.isfinite(total) or total <= 0:
        return ()
    ranked = sorted(((part / total, source) for source, part in parts.items() if part > 0.005 * total), reverse=True)
    return tuple((share, SOURCES[source] + _place(case, estimator, source)) for share, source in ranked)


def _place(case: Case, estimator: str, source: str) -> str:
    """Where the largest term of a source stands, weighted by what it contributes."""
    if source not in ("quadratic", "log_var"):
        return ""
    d = _Derivation(_Rounding(FORMATS["float64"], 1, 1, False, ""), case, estimator)
    terms = d.P[..., None] * (d.q if source == "quadratic" else np.abs(d.log_var)[None])
    i, j, k = np.unravel_index(int(np.argmax(terms)), terms.shape)
    return f", most at i = {i}, j = {j}, d = {k}"


@lru_cache(maxsize=256)
def _log_weights(estimator: estimators.Estimator, M: int, N: int) -> Array:
    return np.log(np.array(estimator.weights(M, N), dtype=np.float64))


def log_variances(case: Case) -> Array:
    """The widths of the posteriors as log sigma^2."""
    s = case.spread
    if case.parameterisation == "log_var":
        return s
    if case.parameterisation == "log_std":
        return np.asarray(2 * s)
    return np.log(s) * (2 if case.parameterisation == "std" else 1)


def _chain_rule(case: Case) -> Array:
    """The derivative of log sigma^2 in the parameter that was given."""
    ones = np.ones_like(case.spread)
    slope = {"log_var": 1.0, "log_std": 2.0}.get(case.parameterisation, 0.0) * ones
    return slope if slope.any() else (2 if case.parameterisation == "std" else 1) / case.spread


def _near_top(terms: Array, error: Array) -> Array:
    """Which terms may be taken for the largest of their row."""
    top = np.argmax(terms, axis=1, keepdims=True)
    reach = error + np.take_along_axis(error, top, axis=1)
    return np.asarray(np.take_along_axis(terms, top, axis=1) - reach <= terms)


class _Derivation:
    """The derivation for one case, step by step. Axes [i, j, d] throughout."""

    def __init__(self, rounding: _Rounding, case: Case, estimator: str):
        self.r, self.case = rounding, case
        self.M, self.D = case.z.shape
        M, N = self.M, case.dataset_size
        self.log_var = log_variances(case)
        self.precision = np.exp(-self.log_var)
        self.from_width = self._logarithm_taken()
        self.distance = np.abs(case.z[:, None] - case.mu[None])
        self.q = (self.distance * np.exp(-0.5 * self.log_var)) ** 2
        self.is_inside = self.inside()
        weights = estimators.find(estimator)
        self.log_w = _log_weights(weights, M, N)
        terms = math.log(M) + (math.log(N) if weights.uses_dataset_size else 0.0)
        largest = float(np.max(np.abs(self.log_w)))  # of another package's; this one's are within their terms
        self.log_w_terms = terms if largest <= terms * _OWN_ROUNDING else largest
        L = -0.5 * (self.q + self.log_var + LOG_2PI)
        self.S = L.sum(axis=2)
        self.T, self.T_d = self.S + self.log_w, L + self.log_w[..., None]
        self.y, self.y_d = logsumexp(self.T, axis=1), logsumexp(self.T_d, axis=1)
        self.P, self.Q = np.exp(self.T - self.y[:, None]), np.exp(self.T_d - self.y_d[:, None])

    def _logarithm_taken(self) -> Array:
        """Relative error of a precision exp(-v), where v itself is the logarithm of a given sigma or sigma^2."""
        given = self.case.parameterisation in ("std", "var")
        return (self.r.log + 1) * self.r.format.roundoff * np.abs(self.log_var) * given

    # --- one pairwise log-density ---------------------------------------------------------------------------

    def density_error(self, D: int) -> Array:
        """Per dimension, the error of a log-density that is summed over D dimensions: (M, M, D)."""
        r, u = self.r, self.r.format.roundoff
        lost = self.lost_in_quadratic()
        relative = r.gamma(3 * D + 8 + 2 * r.exp) + self.from_width
        error = r.of("quadratic", 0.5 * relative * self.q + lost)
        error = error + r.of("log_var", 0.5 * r.gamma(3 * D + 2 + r.log) * np.abs(self.log_var) + (r.exp + 1) * u)
        if r.expanded:
            error = error + r.of("expanded", 0.5 * relative * self.squares())
        return error + r.of("constant", 0.5 * r.gamma(3 * D + 2) * np.full_like(self.q, LOG_2PI))

    def lost_in_quadratic(self) -> Array:
        """What underflow may take from q: of z, mu, their difference, a square, a precision, a ratio, a product."""
        d, p = self.distance, self.precision
        return self.r.format.smallest * (p * (1 + 4 * d) + 2 * np.sqrt(self.q) + d**2 + 1)

    def squares(self) -> Array:
        """The terms of an expanded square, over the variance."""
        z, mu = np.abs(self.case.z)[:, None], np.abs(self.case.mu)[None]
        return (z + mu) ** 2 * self.precision

    # --- the weighted log-sum-exp over posteriors j ---------------------------------------------------------

    def term_error(self, density_error: Array, S: Array, T: Array) -> Array:
        """Error of the logarithm of one term w_ij exp(S_ij), over the largest of its row."""
        r, u = self.r, self.r.format.roundoff
        weight_error = r.of("weights", np.full_like(S, 2 * (r.log + 2) * u * self.log_w_terms + 4 * u))
        adding = r.of("weights", u * (np.abs(S) + self.log_w_terms))
        error = density_error + weight_error + adding
        top = np.argmax(T, axis=1, keepdims=True)
        shift = np.take_along_axis(T, top, axis=1) - T
        shift_error = r.of("log_sum_exp", u * shift)
        error = error + shift_error + u * (error + np.take_along_axis(error, top, axis=1))
        return error + r.of("log_sum_exp", np.full_like(S, r.gamma(r.exp)))

    def shift_holds(self, term_error: Array) -> bool:
        """Whether the largest term, computed a second time in another precision, still lies near its first value.

        A compiler that fuses may round a term for the maximum and not for the difference from it.
        """
        return bool(np.max(term_error) <= 0.5 * np.log(self.r.format.largest))

    def log_sum_exp_error(self, term_error: Array, y: Array, P: Array) -> Array:
        """Error of y_i = log sum_j exp(T_ij), whose softmax is P, for any tree of additions or of log-add-exps."""
        r, u = self.r, self.r.format.roundoff
        # log sum_j P_ij exp(error_ij), which as it stands, a sum close to 1, would lose the digits of small errors
        passed_on = np.log1p(np.sum(P * np.expm1(term_error), axis=1))
        size = np.abs(y) + self.log_w_terms + r.exp + r.log + 2
        summing = (self.M + 3) * u * size + self.M * r.format.smallest
        return passed_on + r.of("log_sum_exp", summing)

    # --- everything ------------------------------------------------------------------------------------------

    def allowances(self, *, gradients: bool) -> Allowances:
        density = self.density_error(self.D).sum(axis=2)
        L = self.T_d - self.log_w[..., None]
        term, term_d = self.term_error(density, self.S, self.T), self.term_error(self.density_error(1), L, self.T_d)
        self.is_inside = self.is_inside and self.shift_holds(term) and self.shift_holds(term_d)
        error = self.log_sum_exp_error(term, self.y, self.P)
        error_d = self.log_sum_exp_error(term_d, self.y_d, self.Q)

        reach, reach_d = self.reaches()
        means, mean_reaches = self.batch_means(density, error, error_d, reach, reach_d)
        values = {"log_qz": error, "log_qz_marginals": error_d}
        scales = {"log_qz": reach, "log_qz_marginals": reach_d}
        for name, parts in combinations(self.case).items():
            if name not in values:
                c = self.magnitudes(name, parts)
                values[name], scales[name] = c @ means, c @ mean_reaches
        values["kl_penalty"], scales["kl_penalty"] = self.kl_penalty(means, mean_reaches)
        slopes, slope_scales = self.gradients(term, term_d, error, error_d) if gradients else ({}, {})
        return Allowances(
            {name: self.within_range(x, scales[name]) for name, x in values.items()},
            {
                name: {a: self.within_range(x, slope_scales[name][a]) for a, x in one.items()}
                for name, one in slopes.items()
            },
            scales,
            slope_scales,
        )

    def density_size(self) -> Array:
        """One pairwise log-density with its terms added up without cancellation: (M, M, D)."""
        return 0.5 * (self.q + np.abs(self.log_var) + LOG_2PI)

    def reaches(self) -> tuple[Array, Array]:
        """Sizes of log q(z_i) and log q(z_id), without cancellation."""
        size = self.density_size()
        reach = np.abs(self.y) + self.log_w_terms + np.sum(self.P * size.sum(axis=2), axis=1)
        return reach, np.abs(self.y_d) + self.log_w_terms + np.sum(self.Q * size, axis=1)

    def batch_means(
        self, density: Array, error: Array, error_d: Array, reach: Array, reach_d: Array
    ) -> tuple[Array, Array]:
        """Errors of E1 .. E4, and their sizes without cancellation.

        Adding up E2 has M summands, the others M D where samples and dimensions are summed at once, in any order.
        """
        r, M, D, own = self.r, self.M, self.D, np.arange(self.M)
        prior = 0.5 * np.sum(self.case.z**2 + LOG_2PI, axis=1)
        prior_error = r.of("constant", r.gamma(3 * D + 5) * prior + D * r.format.smallest)
        errors = np.array([density[own, own].mean(), error.mean(), error_d.sum(axis=1).mean(), prior_error.mean()])
        given_x = self.density_size()[own, own].sum(axis=1).mean()
        joint = (np.abs(self.y) + self.log_w_terms).mean()
        marginals = (np.abs(self.y_d) + self.log_w_terms).sum(axis=1).mean()
        extents = np.array([given_x, joint, marginals, prior.mean()])
        rounding = np.array([r.gamma(n + 6) for n in (M * D, M, M * D, M * D)])
        reaches = np.array([given_x, reach.mean(), reach_d.sum(axis=1).mean(), prior.mean()])
        return errors + r.of("sums", rounding * (extents + errors)), reaches

    def magnitudes(self, name: str, parts: tuple[float, ...]) -> Array:
        """Weights of E1 .. E4 in a scalar, none cancelled: alpha MI + beta TC uses E2 twice."""
        if name != "penalty":
            return np.abs(parts)
        a, b, c = abs(self.case.alpha), abs(self.case.beta), abs(self.case.gamma)
        return np.array([a, a + b, b + c, c])

    def kl_penalty(self, means: Array, reaches: Array) -> tuple[Array, Array]:
        """Allowance and scale of KL + (beta - 1) TC; the KL adds up mu^2, sigma^2, log sigma^2 and 1."""
        r, weight = self.r, abs(self.case.beta - 1)
        size = np.sum(self.case.mu**2 + np.exp(self.log_var) + np.abs(self.log_var) + 1) / (2 * self.M)
        k = 4 * self.M * self.D + 10 + 2 * r.exp + r.log
        error = r.of("sums", r.gamma(k) * size + self.D * (r.exp + 1) * r.format.roundoff)
        error = error + r.of("sums", self.weight_error() * (reaches[1] + reaches[2]))
        return error + weight * (means[1] + means[2]), size + weight * (reaches[1] + reaches[2])

    def weight_error(self) -> float:
        """Error of beta - 1, where beta is in the dtype too."""
        return 2 * self.r.format.roundoff * (1 + abs(self.case.beta))

    def inside(self) -> bool:
        """Whether no intermediate result of a usual form overflows or underflows."""
        largest, z, mu = self.r.format.largest, self.case.z, self.case.mu
        return bool(
            np.abs(self.log_var).max() <= 0.5 * np.log(largest)
            and 4 * max(np.abs(z).max(), np.abs(mu).max()) ** 2 <= largest
            and 4 * self.M * self.D * (self.q.max() + 1) <= largest
            and 4 * self.M * np.max(self.q * self.precision) <= largest
            and self.case.dataset_size * self.M <= min(largest, 1 / self.r.format.smallest)
        )

    def within_range(self, bound: Array, scale: Array) -> Array:
        """The bound, infinite where it cannot be had, or where adding up may leave the range."""
        bound = np.asarray(bound) * _OWN_ROUNDING
        fits = self.is_inside and 2 * self.M * np.max(scale) <= self.r.format.largest
        return np.where(np.isfinite(bound), bound, np.inf) if fits else np.full_like(bound, np.inf)

    # --- gradients -------------------------------------------------------------------------------------------

    def slope(self) -> tuple[Array, Array, Array]:
        """|z - mu| / sigma^2, what underflow may take from it, and from its product with a softmax weight."""
        d, p, eta = self.distance, self.precision, self.r.format.smallest
        return d * p, eta * (1 + d + np.sqrt(p) + 4 * p), np.zeros_like(d)

    def share_error(self, term_error: Array, error: Array, y: Array, S: Array, T: Array) -> Array:
        """Absolute error of a softmax weight, the shift's own derivative and underflow included."""
        r, u = self.r, self.r.format.roundoff
        y, error = np.expand_dims(y, 1), np.expand_dims(error, 1)
        share = np.exp(T - y)
        relative = np.expm1(term_error + 2 * error + self.M * u * np.abs(T - y)) + r.gamma(self.M * (r.exp + 3) + 8)
        shifted = _near_top(T, term_error) | _near_top(S, term_error)  # the weight in the exponent, or outside
        shift = np.where(shifted, r.gamma(2 * self.M + 8 + r.exp), 0.0)
        return share * relative + r.of("log_sum_exp", shift) + 4 * r.format.smallest

    def gradients(
        self, term: Array, term_d: Array, error: Array, error_d: Array
    ) -> tuple[dict[str, dict[str, Array]], dict[str, dict[str, Array]]]:
        M, D, r = self.M, self.D, self.r
        shares = [
            np.broadcast_to(np.eye(M)[..., None], (M, M, D)),
            np.broadcast_to(self.P[..., None], (M, M, D)),
            self.Q,
        ]
        share_errors = [
            np.zeros((M, M, D)),
            np.broadcast_to(self.share_error(term, error, self.y, self.S, self.T)[..., None], (M, M, D)),
            self.share_error(term_d, error_d, self.y_d, self.T_d - self.log_w[..., None], self.T_d),
        ]
        k = r.gamma(4 * M + 24 + 6 * r.exp)
        relative = k + self.from_width
        slope, slope_lost, product_lost = self.slope()
        slope_error = relative * slope + slope_lost
        width, width_error = 0.5 * (self.q + 1), 0.5 * relative * (self.q + 1) + self.lost_in_quadratic()
        if r.expanded:
            slope_error = slope_error + r.of(
                "expanded", relative * (np.abs(self.case.z)[:, None] + np.abs(self.case.mu)[None]) * self.precision
            )
            width_error = width_error + r.of("expanded", 0.5 * relative * self.squares())
        chain_rule = _chain_rule(self.case)

        bounds, sizes = self._empty(), self._empty()
        for n, (share, share_error) in enumerate(zip(shares, share_errors, strict=True)):
            for pairs, pair_errors, argument, axis in (
                (slope, slope_error, "z", 1),
                (slope, slope_error, "mu", 0),
                (width, width_error, self.case.parameterisation, 0),
            ):
                weight = chain_rule if argument == self.case.parameterisation else 1.0
                bound = share_error * (pairs + pair_errors) + share * pair_errors + product_lost
                bounds[argument][n] = weight * bound.sum(axis=axis) / M
                sizes[argument][n] = weight * (share * pairs).sum(axis=axis) / M
        bounds["z"][3], sizes["z"][3] = k * np.abs(self.case.z) / M, np.abs(self.case.z) / M
        scales = self._scalars(sizes, 1.0)
        slopes = self._flushed(self._scalars(bounds, k))
        for argument, p in sizes.items():
            slopes["kl_penalty"][argument] = slopes["kl_penalty"][argument] + self.weight_error() * (p[1] + p[2])
        return slopes, scales

    def _flushed(self, slopes: dict[str, dict[str, Array]]) -> dict[str, dict[str, Array]]:
        """Add what is lost where the partial sums of a derivative, small as they may be, are flushed to zero."""
        weights = 1 + abs(self.case.alpha) + abs(self.case.beta) + abs(self.case.gamma)
        lost = (8 * self.M + 32) * self.r.format.smallest * weights * (1 + np.max(_chain_rule(self.case)))
        return {name: {a: bound + lost for a, bound in one.items()} for name, one in slopes.items()}

    def _empty(self) -> dict[str, Array]:
        return {name: np.zeros((4, self.M, self.D)) for name in self.case.arrays}

    def _scalars(self, parts: dict[str, Array], k: float) -> dict[str, dict[str, Array]]:
        """The four means' parts added up for each quantity; for the closed-form KL its own terms times k."""
        result = {
            name: {a: (self.magnitudes(name, c)[:, None, None] * p).sum(axis=0) for a, p in parts.items()}
            for name, c in combinations(self.case).items()
        }
        weight = abs(self.case.beta - 1)
        result["kl_penalty"] = {a: weight * (p[1] + p[2]) for a, p in parts.items()}
        result["kl_penalty"]["mu"] = result["kl_penalty"]["mu"] + k * np.abs(self.case.mu) / self.M
        width = self.case.parameterisation
        own = _chain_rule(self.case) * (np.exp(self.log_var) + 1) / (2 * self.M)
        result["kl_penalty"][width] = result["kl_penalty"][width] + k * own
        return result
