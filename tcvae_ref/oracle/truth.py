"""The truth: every quantity and gradient of a case as numbers with a proven error.

Written from the definition of a mixture, in exact weights and with gradients in closed form: neither the reference,
nor automatic differentiation, nor a log-sum-exp is trusted here. With L_ijd = log N(z_id; mu_jd, sigma_jd^2),

    q(z_i)  = sum_j w_ij exp(sum_d L_ijd)      P_ij  = w_ij exp(sum_d L_ijd) / q(z_i)
    q(z_id) = sum_j w_ij exp(L_ijd)            Q_ijd = w_ij exp(L_ijd) / q(z_id)

and the derivatives of L: -u in z, u in mu, (u (z - mu) - 1) / 2 in log sigma^2, where u = (z - mu) / sigma^2.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref.checks import InputError
from tcvae_ref.oracle import balls, estimators
from tcvae_ref.oracle.balls import Balls
from tcvae_ref.oracle.types import Case, Enclosure, Truth
from tcvae_ref.types import Array

NARROW = 2.0**-60
"""Width of an enclosure, over the size of the terms that were added up, at which the precision suffices."""
_NEGLIGIBLE = 2.0**-1000  # a size below which nothing is asked for
_FIRST_BITS, _MOST_BITS = 192, 1 << 16


def truth(case: Case, estimator: str) -> Truth:
    """Enclose everything a right implementation may return for a case.

    The precision is doubled until every enclosure is narrow: 2^-60 of the terms that were added up.

    Parameters
    ----------
    case : Case
        With M samples from M posteriors; the exact estimator takes these M as the whole data set.
    estimator : str
        One of `estimators.names()`.

    Returns
    -------
    Truth

    Raises
    ------
    InputError
        The estimator is unknown or does not apply (M > N), or the numbers need more than 65,536 bits.
    """
    estimators.find(estimator, "truth").require("truth", len(case.z), case.dataset_size)
    key = tuple(np.ascontiguousarray(a).tobytes() for a in (case.z, case.mu, case.spread))
    return _cached(key, case.z.shape, case._replace(z=None, mu=None, spread=None), estimator)  # type: ignore[arg-type]


@lru_cache(maxsize=512)
def _cached(key: tuple[bytes, ...], shape: tuple[int, int], rest: Case, estimator: str) -> Truth:
    z, mu, spread = (np.frombuffer(data).reshape(shape) for data in key)
    case = rest._replace(z=z, mu=mu, spread=spread)
    bits = _FIRST_BITS
    while bits <= _MOST_BITS:
        with balls.arithmetic(bits) as arithmetic:
            result = _Computation(arithmetic, case, estimator).truth()
        if result is not None:
            return result
        bits *= 2
    raise InputError(f"truth: the case needs more than {_MOST_BITS} bits; its numbers are too far apart")


class _Posterior(NamedTuple):
    """One width in all the forms the formulas need."""

    log_var: Any
    precision: Any
    slope: Any  # of log_var in the parameter that was given


def _posterior(arithmetic: Balls, parameterisation: str, spread: float) -> _Posterior:
    s, one = arithmetic.number(spread), arithmetic.number(1)
    if parameterisation == "log_var":
        return _Posterior(s, arithmetic.exp(-s), one)
    if parameterisation == "log_std":
        return _Posterior(2 * s, arithmetic.exp(-2 * s), 2 * one)
    if parameterisation == "std":
        return _Posterior(2 * arithmetic.log(s), one / (s * s), 2 / s)
    return _Posterior(arithmetic.log(s), one / s, one / s)


class _Means(NamedTuple):
    """Something for each of the four batch means that every term is made of."""

    given_x: Any
    """E1 = mean_i log q(z_i|x_i)."""
    joint: Any
    """E2 = mean_i log q(z_i)."""
    marginals: Any
    """E3 = mean_i sum_d log q(z_id)."""
    prior: Any
    """E4 = mean_i log p(z_i)."""


def combinations(case: Case) -> dict[str, tuple[float, float, float, float]]:
    """The scalars as combinations of E1 .. E4; the differences of weights are rounded."""
    a, b, c = case.alpha, case.beta, case.gamma
    return {
        "log_qz": (0.0, 1.0, 0.0, 0.0),
        "log_qz_marginals": (0.0, 0.0, 1.0, 0.0),
        "mi": (1.0, -1.0, 0.0, 0.0),
        "tc": (0.0, 1.0, -1.0, 0.0),
        "dwkl": (0.0, 0.0, 1.0, -1.0),
        "penalty": (a, b - a, c - b, -c),
    }


class _Computation:
    """One evaluation at one precision."""

    def __init__(self, arithmetic: Balls, case: Case, estimator: str):
        self.b, self.case = arithmetic, case
        self.M, self.D = case.z.shape
        number = arithmetic.number
        self.z = [[number(x) for x in row] for row in case.z.tolist()]
        self.mu = [[number(x) for x in row] for row in case.mu.tolist()]
        self.width = [[_posterior(arithmetic, case.parameterisation, x) for x in row] for row in case.spread.tolist()]
        self.log_2pi = arithmetic.log(2 * arithmetic.pi())
        self.zero = number(0)
        exact = estimators.find(estimator, "truth").weights(self.M, case.dataset_size)
        as_balls = {w: balls.rational(arithmetic, w) for w in {w for row in exact for w in row}}
        self.weights = [[as_balls[w] for w in row] for row in exact]
        self.narrow = True

    def truth(self) -> Truth | None:
        """Everything, or None where the precision did not suffice."""
        M, D, rows = self.M, self.D, range(self.M)
        gradients = {name: self._zeros(4) for name in self.case.arrays}
        sizes = {name: np.zeros((4, M, D)) for name in self.case.arrays}
        given_x, joint, marginals, prior = [], [], [], []
        for i in rows:
            u = [[(self.z[i][d] - self.mu[j][d]) * self.width[j][d].precision for d in range(D)] for j in rows]
            q = [[(self.z[i][d] - self.mu[j][d]) * u[j][d] for d in range(D)] for j in rows]
            L = [[-(q[j][d] + self.width[j][d].log_var + self.log_2pi) / 2 for d in range(D)] for j in rows]
            S = [sum(row, self.zero) for row in L]
            given_x.append(S[i])
            prior.append(sum((-(x * x + self.log_2pi) / 2 for x in self.z[i]), self.zero))
            w = self.weights[i]
            value, P = self._mixture(w, S)
            joint.append(value)
            columns = [self._mixture(w, [L[j][d] for j in rows]) for d in range(D)]
            marginals.append([value for value, _ in columns])
            shares = _Means(
                [[self.b.number(int(i == j))] * D for j in rows],
                [[P[j]] * D for j in rows],
                [[columns[d][1][j] for d in range(D)] for j in rows],
                None,
            )
            self._differentiate(i, u, q, shares, gradients, sizes)
        return self._assemble(given_x, joint, marginals, prior, gradients, sizes)

    def _zeros(self, k: int) -> Array:
        result = np.empty((k, self.M, self.D), dtype=object)
        result.fill(self.zero)
        return result

    def _mixture(self, w: list[Any], log_terms: list[Any]) -> tuple[Any, list[Any]]:
        """Log sum_j w_j exp(l_j), and the share of each j."""
        terms = [a * self.b.exp(b) for a, b in zip(w, log_terms, strict=True)]
        total = sum(terms, self.zero)
        return self.b.log(total), [t / total for t in terms]

    def _differentiate(
        self, i: int, u: Any, q: Any, shares: _Means, gradients: dict[str, Array], sizes: dict[str, Array]
    ) -> None:
        """Add the derivatives of sample i's log q(z_i|x_i), log q(z_i), sum_d log q(z_id) and log p(z_i)."""
        width = self.case.parameterisation
        for k, share in enumerate(shares[:3]):
            for j in range(self.M):
                if k == 0 and j != i:
                    continue
                for d in range(self.D):
                    slope = share[j][d] * u[j][d]
                    gradients["z"][k, i, d] -= slope
                    gradients["mu"][k, j, d] += slope
                    scale = share[j][d] * self.width[j][d].slope / 2
                    gradients[width][k, j, d] += scale * (q[j][d] - 1)
                    size = self.b.size(slope)
                    sizes["z"][k, i, d] += size
                    sizes["mu"][k, j, d] += size
                    sizes[width][k, j, d] += self.b.size(scale * (q[j][d] + 1))
        for d in range(self.D):
            gradients["z"][3, i, d] -= self.z[i][d]
            sizes["z"][3, i, d] += abs(self.case.z[i, d])

    def _assemble(
        self, given_x: Any, joint: Any, marginals: Any, prior: Any, gradients: Any, sizes: Any
    ) -> Truth | None:
        means = [
            sum(given_x, self.zero) / self.M,
            sum(joint, self.zero) / self.M,
            sum((x for row in marginals for x in row), self.zero) / self.M,
            sum(prior, self.zero) / self.M,
        ]
        extents = [self.b.size(x) for x in means]
        values = {
            "log_qz_given_x": self._enclose(given_x),
            "log_pz": self._enclose(prior),
            "log_qz": self._enclose(joint),
            "log_qz_marginals": self._enclose(marginals),
        }
        slopes: dict[str, dict[str, Enclosure]] = {}
        for name, coefficients in combinations(self.case).items():
            exact = self._exactly(name, coefficients)
            if name not in values:
                total = sum((c * x for c, x in zip(exact, means, strict=True)), self.zero)
                values[name] = self._enclose(total, float(np.abs(coefficients) @ extents))
            slopes[name] = {
                argument: self._enclose(
                    sum(g * c / self.M for c, g in zip(exact, gradients[argument], strict=True)),
                    np.tensordot(np.abs(coefficients), sizes[argument], 1) / self.M,
                )
                for argument in gradients
            }
        values["kl_penalty"], slopes["kl_penalty"] = self._kl_penalty(means, gradients, sizes)
        return Truth(values, slopes) if self.narrow else None

    def _exactly(self, name: str, coefficients: tuple[float, ...]) -> list[Any]:
        """The coefficients of `combinations` as balls, differences of the weights taken here."""
        if name != "penalty":
            return [self.b.number(c) for c in coefficients]
        a, b, c = (self.b.number(x) for x in (self.case.alpha, self.case.beta, self.case.gamma))
        return [a, b - a, c - b, -c]

    def _kl_penalty(self, means: Any, gradients: Any, sizes: Any) -> tuple[Enclosure, dict[str, Enclosure]]:
        """KL(q(z|n) || p(z)) + (beta - 1) TC, the KL in closed form, and its gradients."""
        M, width = self.M, self.case.parameterisation
        weight = self.b.number(self.case.beta) - 1
        kl, size = self.zero, 0.0
        slopes = {a: (g[1] - g[2]) * weight / M for a, g in gradients.items()}
        extents = {a: self.b.size(weight) * (s[1] + s[2]) / M for a, s in sizes.items()}
        for j in range(M):
            for d in range(self.D):
                mu, p = self.mu[j][d], self.width[j][d]
                variance = 1 / p.precision
                kl += (mu * mu + variance - 1 - p.log_var) / (2 * M)
                size += self.b.size(mu * mu + variance + 1 + abs(p.log_var)) / (2 * M)
                slopes["mu"][j, d] += mu / M
                slopes[width][j, d] += (variance - 1) * p.slope / (2 * M)
                extents["mu"][j, d] += abs(self.case.mu[j, d]) / M
                extents[width][j, d] += self.b.size((variance + 1) * p.slope) / (2 * M)
        value = self._enclose(
            kl + weight * (means[1] - means[2]),
            size + self.b.size(weight) * (self.b.size(means[1]) + self.b.size(means[2])),
        )
        return value, {a: self._enclose(slopes[a], extents[a]) for a in slopes}

    def _enclose(self, numbers: Any, size: Any = 0.0) -> Enclosure:
        """Round outwards to floats, and note whether the result is narrow enough for terms of this size."""
        result = balls.enclosure(self.b, numbers)
        scale = np.maximum(np.maximum(np.abs(result.middle), size), _NEGLIGIBLE)
        self.narrow = self.narrow and bool(np.all(result.radius <= NARROW * scale))
        return result
