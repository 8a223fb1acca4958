"""Rigorous enclosures by ball arithmetic (Arb, through python-flint), and the scale errors are measured on.

Written from the formulas of the paper, apart from the reference: values by the definition of a mixture, gradients
in closed form, so that neither autograd nor log-sum-exp tricks are trusted.
"""

from typing import NamedTuple

import numpy as np
from flint import arb, ctx

BITS = 300  # the balls stay narrower than 1e-40 for every case drawn here


class Truth(NamedTuple):
    joint: np.ndarray  # (S,) midpoints rounded to float64
    marginals: np.ndarray  # (S, D)
    joint_scale: np.ndarray  # what a relative error refers to: |y| + sum_j p_ij A_ij
    marginals_scale: np.ndarray
    gradients: dict[str, np.ndarray]  # of mean_i [ joint_i + sum_d marginals_id ] in z, mu, log_var
    gradient_scales: dict[str, np.ndarray]


def weight(estimator, i, j, M, N):
    """w_ij as a ball: the rational number, not its rounding."""
    m = M - 1
    if estimator in ("exact", "minibatch"):
        return arb(1) / M
    if estimator == "mws":
        return arb(1) / (arb(N) * M)
    if i == j:
        return arb(1) / N
    if estimator == "symmetric_mss":
        return arb(N - 1) / (arb(N) * m)
    return arb(N - m) / (arb(N) * m) if j == (i + 1) % M else arb(1) / m


def _float(ball):
    value = float(ball.mid())
    assert float(ball.rad()) <= 1e-30 * max(abs(value), 1e-200), f"the enclosure {ball} is too wide"
    return value


def truth(estimator, z, mu, log_var, N):
    """Enclose log q(z_i), log q(z_id), and the gradient of their batch means' sum."""
    before, ctx.prec = ctx.prec, BITS
    try:
        return _truth(estimator, z, mu, log_var, N)
    finally:
        ctx.prec = before


def _truth(estimator, z, mu, log_var, N):
    S, D = z.shape
    M = len(mu)
    log_2pi = (2 * arb.pi()).log()
    zs, ms, vs = ([[arb(float(x)) for x in row] for row in a] for a in (z, mu, log_var))
    inverse = [[(-v).exp() for v in row] for row in vs]
    result = Truth(
        joint=np.empty(S),
        marginals=np.empty((S, D)),
        joint_scale=np.empty(S),
        marginals_scale=np.empty((S, D)),
        gradients={},
        gradient_scales={"z": np.zeros((S, D)), "mu": np.zeros((M, D)), "log_var": np.zeros((M, D))},
    )
    gradient = {name: np.full(s.shape, arb(0), dtype=object) for name, s in result.gradient_scales.items()}
    for i in range(S):
        w = [weight(estimator, i, j, M, N) for j in range(M)]
        size_w = np.array([abs(float(x.log())) for x in w])
        u = [[(zs[i][d] - ms[j][d]) * inverse[j][d] for d in range(D)] for j in range(M)]  # (z - mu) / variance
        q = [[(zs[i][d] - ms[j][d]) * u[j][d] for d in range(D)] for j in range(M)]
        L = [[-(q[j][d] + vs[j][d] + log_2pi) / 2 for d in range(D)] for j in range(M)]
        size = np.array([[float(q[j][d] + abs(vs[j][d]) + log_2pi) / 2 for d in range(D)] for j in range(M)])

        def mixture(dims, i=i, w=w, size_w=size_w, u=u, q=q, L=L, size=size):
            terms = [w[j] * sum((L[j][d] for d in dims), arb(0)).exp() for j in range(M)]
            total = sum(terms, arb(0))
            value = _float(total.log())
            share = [t / total for t in terms]
            A = size[:, dims].sum(axis=1) + size_w
            reach = float(np.array([float(p) for p in share]) @ A)
            for j in range(M):
                relative = 1.0 + A[j] + reach + abs(value)  # of a softmax weight, in units of the rounding
                for d in dims:
                    parts = {"z": (i, -u[j][d]), "mu": (j, u[j][d]), "log_var": (j, (q[j][d] - 1) / 2)}
                    for name, (row, slope) in parts.items():
                        gradient[name][row, d] += share[j] * slope / S
                        extent = abs(slope) if name != "log_var" else (q[j][d] + 1) / 2
                        result.gradient_scales[name][row, d] += float(share[j] * extent) * relative / S
            return value, abs(value) + reach

        result.joint[i], result.joint_scale[i] = mixture(list(range(D)))
        for d in range(D):
            result.marginals[i, d], result.marginals_scale[i, d] = mixture([d])
    return result._replace(gradients={k: np.vectorize(lambda b: float(b.mid()))(g) for k, g in gradient.items()})
