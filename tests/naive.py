"""The formulas once more, as loops over plain floats: the rung below the reference.

Imports the standard library only. Lists of lists in, floats out; every sum is math.fsum.
"""

import math

LOG_2PI = math.log(2 * math.pi)


def log_density(z, mu, log_var):
    """log N(z; mu, exp(log_var)) of one number."""
    return -0.5 * ((z - mu) ** 2 * math.exp(-log_var) + log_var + LOG_2PI)


def log_sum_exp(terms):
    top = max(terms)
    return top + math.log(math.fsum(math.exp(t - top) for t in terms))


def weight(estimator, i, j, M, N):
    """w_ij, the weight of posterior j for sample i."""
    if estimator in ("exact", "minibatch"):
        return 1 / M
    if estimator == "mws":
        return 1 / (N * M)
    m = M - 1
    if j == i:
        return 1 / N
    if estimator == "symmetric_mss":
        return (N - 1) / (N * m)
    return (N - m) / (N * m) if j == (i + 1) % M else 1 / m


def log_qz(estimator, z, mu, log_var, N):
    """(joint, marginals): log q(z_i) and log q(z_id)."""
    M, D = len(mu), len(mu[0])
    joint, marginals = [], []
    for i in range(len(z)):
        log_w = [math.log(weight(estimator, i, j, M, N)) for j in range(M)]
        pairs = [[log_density(z[i][d], mu[j][d], log_var[j][d]) for d in range(D)] for j in range(M)]
        joint.append(log_sum_exp([math.fsum(pairs[j]) + log_w[j] for j in range(M)]))
        marginals.append([log_sum_exp([pairs[j][d] + log_w[j] for j in range(M)]) for d in range(D)])
    return joint, marginals


def kl_terms(estimator, z, mu, log_var, N):
    """(MI, TC, DWKL) of eq. 2."""
    M, D = len(z), len(z[0])
    joint, marginals = log_qz(estimator, z, mu, log_var, N)
    conditional = [math.fsum(log_density(z[i][d], mu[i][d], log_var[i][d]) for d in range(D)) for i in range(M)]
    prior = [math.fsum(log_density(z[i][d], 0.0, 0.0) for d in range(D)) for i in range(M)]
    product = [math.fsum(row) for row in marginals]
    return (
        math.fsum(conditional[i] - joint[i] for i in range(M)) / M,
        math.fsum(joint[i] - product[i] for i in range(M)) / M,
        math.fsum(product[i] - prior[i] for i in range(M)) / M,
    )


def kl_to_standard_normal(mu, log_var):
    return [
        0.5 * math.fsum(m * m + math.exp(v) - 1 - v for m, v in zip(mu_row, var_row, strict=True))
        for mu_row, var_row in zip(mu, log_var, strict=True)
    ]


def bernoulli_log_likelihood(x, logits):
    total = []
    for x_row, l_row in zip(x, logits, strict=True):
        p = [1 / (1 + math.exp(-v)) for v in l_row]
        total.append(math.fsum(math.log(s) if pixel else math.log1p(-s) for pixel, s in zip(x_row, p, strict=True)))
    return total


def mixture_density(t, mu, log_var):
    return math.fsum(math.exp(log_density(t, m, v)) for m, v in zip(mu, log_var, strict=True)) / len(mu)


def pixel_on(x, y, polygon):
    """Even-odd rule for one point; an edge covers its upper end, and points on an edge lie right of it."""
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if min(y1, y2) <= y < max(y1, y2):
            # crossing at x1 + (y - y1) (x2 - x1) / (y2 - y1), compared without division
            side = (x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)
            if side * (1 if y2 > y1 else -1) >= 0:
                inside = not inside
    return inside
