"""The weighted log-sum-exp over all pairs (sample i, posterior j), and its gradient, without a matrix of pairs.

    log q(z_i)  = log sum_j w_ij exp( sum_d L_ijd )       L_ijd = -1/2 ( t_ijd^2 + log_var_jd + log 2 pi )
    log q(z_id) = log sum_j w_ij exp( L_ijd )             t_ijd = (z_id - mu_jd) exp(-log_var_jd / 2)

Everything is carried doubled, 2 L, so that exp(x / 2) needs no halving. For the marginals g_jd = h_d - log_var_jd
with h_d the smallest log-variance is at most 0, so exp((g - t^2) / 2) cannot overflow and needs no maximum; where
all of a row underflows, or the log-variances of a dimension lie so far apart that precision would suffer, that row is
done again from its true maximum. The joint takes its true maximum always: one pass in D + 1.

Four samples at a time share each posterior's mu, 1 / sigma and g, and the gradient's sums. For the gradient, the joint
goes block of rows by block of rows; the marginals go dimension by dimension, whose sums then stay in the cache.
Weights other than a constant are two entries of a row, j = i and j = i + 1: they are put right in the row of
exponentials.

What a thread needs besides results: `JOINT_ROWS` rows of N numbers. Buffers start on cache lines, and at different
places within a page: streams that all lie at the same place would push one another out of the cache.
"""

import math
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_kernels import threads
from tcvae_kernels._jit import by_type, jit, larger, multiply_add, vector_loop
from tcvae_kernels.exp import sum_of_weights, weight, weight_four
from tcvae_ref.types import Array

LOG_2PI = math.log(2.0 * math.pi)
ROWS = 4
"""Samples taken together."""
TILE = {8: 2048, 4: 1024}
"""Posteriors taken together, by the size of a number: a sum within a tile is of one precision, beyond it float64."""
SPREAD = 16.0
"""Log-variances of a dimension further apart than this are summed from each row's true maximum."""
TINY = {8: 2.0**-600, 4: 2.0**-40}
"""A sum below this has lost terms to underflow: that row is done again from its true maximum."""
JOINT_ROWS = 8
"""Samples whose joint weights are kept at a time, so that what is read of the posteriors serves them all."""
NEAR = 512
"""Posteriors whose squares are added up at a time: four rows of them stay in a core's first cache."""
FORWARD_ROWS = 128
"""Rows of a block when only values are wanted; no result depends on it."""
JOINT_BLOCKS, GRADIENT_BYTES = 4, 2**25
"""At most so many blocks of rows with a joint's gradient sums of their own, filling at most so much memory."""
MARGINAL_TASKS = (16, 40)
"""So many pieces of the marginals' work at least, blocks of rows times dimensions; more while memory allows it."""
FINISHED = 512
"""Posteriors whose gradients are finished together; no result depends on it."""
FLUSH_ROWS = 128
"""float32 gradients are added up over so many rows at most, then in float64."""


# --- exponents that round the same wherever they are computed --------------------------------------------------


def _exponent(x, mu, s, g):
    t = (x - mu) * s
    return g - t * t


@by_type(float64=_exponent, float32=_exponent)
def exponent(x, mu, s, g):
    """g - t^2, not reassociated."""


def _exponent_below(x, mu, s, g, top):
    return exponent(x, mu, s, g) - top


@by_type(float64=_exponent_below, float32=_exponent_below)
def exponent_below(x, mu, s, g, top):
    """g - t^2 - top, not reassociated: 0 where `top` is the `exponent` itself.

    Were g - t^2 rounded otherwise here than where the maximum was found, then at t^2 = 1e10 in float32 the result
    would be hundreds below 0, and the sum 0, or hundreds above.
    """


def _joint_exponent(S, T):
    return T - S


@by_type(float64=_joint_exponent, float32=_joint_exponent)
def joint_exponent(S, T):
    """T - S, not reassociated."""


def _joint_exponent_below(S, T, top):
    return joint_exponent(S, T) - top


@by_type(float64=_joint_exponent_below, float32=_joint_exponent_below)
def joint_exponent_below(S, T, top):
    """T - S - top, not reassociated: 0 where `top` is the `joint_exponent` itself."""


# --- loops over posteriors j ---------------------------------------------------------------------------------


@jit
def _squares(z, i, mu, s, S0, S1, S2, S3, start, n, at):
    """S_r[at + k] = sum_d t^2 for the samples i ... i + 3 and the posteriors start + k, k < n."""
    vector_loop()
    lo, to = np.uint64(start), np.uint64(at)
    zero = mu.dtype.type(0)
    for k in range(np.uint64(n)):
        S0[to + k], S1[to + k], S2[to + k], S3[to + k] = zero, zero, zero, zero
    D = z.shape[1]
    for d in range(0, D - 1, 2):  # two dimensions at a time: half the traffic through S
        a0, a1, a2, a3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
        b0, b1, b2, b3 = z[i, d + 1], z[i + 1, d + 1], z[i + 2, d + 1], z[i + 3, d + 1]
        for k in range(np.uint64(n)):
            j, h = lo + k, to + k
            mu_a, s_a, mu_b, s_b = mu[d, j], s[d, j], mu[d + 1, j], s[d + 1, j]
            t0, u0 = (a0 - mu_a) * s_a, (b0 - mu_b) * s_b
            t1, u1 = (a1 - mu_a) * s_a, (b1 - mu_b) * s_b
            t2, u2 = (a2 - mu_a) * s_a, (b2 - mu_b) * s_b
            t3, u3 = (a3 - mu_a) * s_a, (b3 - mu_b) * s_b
            S0[h] += t0 * t0 + u0 * u0
            S1[h] += t1 * t1 + u1 * u1
            S2[h] += t2 * t2 + u2 * u2
            S3[h] += t3 * t3 + u3 * u3
    if D % 2:
        d = D - 1
        a0, a1, a2, a3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
        for k in range(np.uint64(n)):
            j, h = lo + k, to + k
            t0, t1, t2, t3 = (
                (a0 - mu[d, j]) * s[d, j],
                (a1 - mu[d, j]) * s[d, j],
                (a2 - mu[d, j]) * s[d, j],
                (a3 - mu[d, j]) * s[d, j],
            )
            S0[h] += t0 * t0
            S1[h] += t1 * t1
            S2[h] += t2 * t2
            S3[h] += t3 * t3


@jit
def _exponentials(z, i, d, mu, s, g, E0, E1, E2, E3, start, n, at):
    """E_r[at + k] = exp((g - t^2) / 2) of dimension d, as in `_squares`; their sums over these posteriors."""
    vector_loop()
    lo, to = np.uint64(start), np.uint64(at)
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    zero = mu.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    for k in range(np.uint64(n)):
        mu_j, s_j, g_j = mu[d, lo + k], s[d, lo + k], g[d, lo + k]
        t0, t1, t2, t3 = (z0 - mu_j) * s_j, (z1 - mu_j) * s_j, (z2 - mu_j) * s_j, (z3 - mu_j) * s_j
        e0, e1, e2, e3 = weight_four(g_j - t0 * t0, g_j - t1 * t1, g_j - t2 * t2, g_j - t3 * t3)
        E0[to + k], E1[to + k], E2[to + k], E3[to + k] = e0, e1, e2, e3
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    return sum0, sum1, sum2, sum3


@jit
def _squares_and_sums(z, i, d, mu, s, g, S0, S1, S2, S3, start, n):
    """S_r[k] += t^2 and the sums of exp((g - t^2) / 2), for posteriors start + k, k < n; nothing else is kept."""
    vector_loop()
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    zero = mu.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    lo = np.uint64(start)
    for k in range(np.uint64(n)):
        mu_j, s_j, g_j = mu[d, lo + k], s[d, lo + k], g[d, lo + k]
        t0, t1, t2, t3 = (z0 - mu_j) * s_j, (z1 - mu_j) * s_j, (z2 - mu_j) * s_j, (z3 - mu_j) * s_j
        S0[k] = multiply_add(t0, t0, S0[k])
        S1[k] = multiply_add(t1, t1, S1[k])
        S2[k] = multiply_add(t2, t2, S2[k])
        S3[k] = multiply_add(t3, t3, S3[k])
        e0, e1, e2, e3 = weight_four(
            multiply_add(-t0, t0, g_j),
            multiply_add(-t1, t1, g_j),
            multiply_add(-t2, t2, g_j),
            multiply_add(-t3, t3, g_j),
        )
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    return sum0, sum1, sum2, sum3


@jit
def _sum(a, start, stop):
    vector_loop()
    total = a.dtype.type(0)
    for j in range(np.uint64(start), np.uint64(stop)):
        total += a[j]
    return total


@jit
def _highest_joints(S0, S1, S2, S3, T, start, n):
    """The largest of T - S_r of each of four rows, S_r from 0 and T from start on."""
    vector_loop()
    lo = np.uint64(start)
    top0, top1 = joint_exponent(S0[0], T[lo]), joint_exponent(S1[0], T[lo])
    top2, top3 = joint_exponent(S2[0], T[lo]), joint_exponent(S3[0], T[lo])
    for k in range(np.uint64(n)):
        T_j = T[lo + k]
        top0 = larger(top0, joint_exponent(S0[k], T_j))
        top1 = larger(top1, joint_exponent(S1[k], T_j))
        top2 = larger(top2, joint_exponent(S2[k], T_j))
        top3 = larger(top3, joint_exponent(S3[k], T_j))
    return top0, top1, top2, top3


@jit
def _joint_exponentials(S0, S1, S2, S3, T, top0, top1, top2, top3, start, n):
    """S_r <- exp((T - S_r - top_r) / 2), in place; their sums."""
    vector_loop()
    lo = np.uint64(start)
    zero = T.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    for k in range(np.uint64(n)):
        T_j = T[lo + k]
        e0, e1, e2, e3 = weight_four(
            joint_exponent_below(S0[k], T_j, top0),
            joint_exponent_below(S1[k], T_j, top1),
            joint_exponent_below(S2[k], T_j, top2),
            joint_exponent_below(S3[k], T_j, top3),
        )
        S0[k], S1[k], S2[k], S3[k] = e0, e1, e2, e3
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    return sum0, sum1, sum2, sum3


@jit
def _highest_marginal(z_id, d, mu, s, g, start, stop):
    """The largest of g - t^2."""
    vector_loop()
    lo, hi = np.uint64(start), np.uint64(stop)
    top = exponent(z_id, mu[d, lo], s[d, lo], g[d, lo])
    for j in range(lo, hi):
        top = larger(top, exponent(z_id, mu[d, j], s[d, j], g[d, j]))
    return top


@jit
def _marginal_exponentials(z_id, d, mu, s, g, top, E, start, n):
    """E[k] = exp((g - t^2 - top) / 2) of one sample; their sum."""
    vector_loop()
    lo = np.uint64(start)
    total = top - top
    for k in range(np.uint64(n)):
        e = weight(exponent_below(z_id, mu[d, lo + k], s[d, lo + k], g[d, lo + k], top))
        E[k] = e
        total += e
    return total


@jit
def _normalise(W0, W1, W2, W3, r0, r1, r2, r3, P):
    """W_r <- r_r W_r, in place; P += their sum over the four samples."""
    vector_loop()
    for j in range(P.size):
        w0, w1, w2, w3 = W0[j] * r0, W1[j] * r1, W2[j] * r2, W3[j] * r3
        W0[j], W1[j], W2[j], W3[j] = w0, w1, w2, w3
        P[j] += w0 + w1 + w2 + w3


@jit
def _joint_sums(z, i, d, mu, s, W0, W1, W2, W3, joint1, joint2, at_z, start, stop):
    """Add four samples' share to the joint's sums of dimension d : joint1[d, j] += W t, joint2 += W t^2.

    at_z[i, d] += sum_j W t s.
    """
    vector_loop()
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    zero = mu.dtype.type(0)
    a0, a1, a2, a3 = zero, zero, zero, zero
    for j in range(np.uint64(start), np.uint64(stop)):
        mu_j, s_j = mu[d, j], s[d, j]
        t0, t1, t2, t3 = (z0 - mu_j) * s_j, (z1 - mu_j) * s_j, (z2 - mu_j) * s_j, (z3 - mu_j) * s_j
        w0, w1, w2, w3 = W0[j] * t0, W1[j] * t1, W2[j] * t2, W3[j] * t3
        a0 += w0 * s_j
        a1 += w1 * s_j
        a2 += w2 * s_j
        a3 += w3 * s_j
        joint1[d, j] += w0 + w1 + w2 + w3
        joint2[d, j] += w0 * t0 + w1 * t1 + w2 * t2 + w3 * t3
    at_z[i, d] += a0
    at_z[i + 1, d] += a1
    at_z[i + 2, d] += a2
    at_z[i + 3, d] += a3


@jit
def _own_sums(z, i, d, mu, s, E0, E1, E2, E3, r0, r1, r2, r3, own1, own2, at_z, start, stop):
    """Add four samples' share to a marginal's sums : own1[d, j] += p t, own2 += p (t^2 - 1) with p = r E.

    at_z[i, d] += sum_j p t s.
    """
    vector_loop()
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    zero = mu.dtype.type(0)
    b0, b1, b2, b3 = zero, zero, zero, zero
    for j in range(np.uint64(start), np.uint64(stop)):
        mu_j, s_j = mu[d, j], s[d, j]
        t0, t1, t2, t3 = (z0 - mu_j) * s_j, (z1 - mu_j) * s_j, (z2 - mu_j) * s_j, (z3 - mu_j) * s_j
        e0, e1, e2, e3 = E0[j], E1[j], E2[j], E3[j]
        y0, y1, y2, y3 = e0 * t0, e1 * t1, e2 * t2, e3 * t3
        b0 += y0 * s_j
        b1 += y1 * s_j
        b2 += y2 * s_j
        b3 += y3 * s_j
        own1[j] += r0 * y0 + r1 * y1 + r2 * y2 + r3 * y3
        own2[j] += r0 * (y0 * t0 - e0) + r1 * (y1 * t1 - e1) + r2 * (y2 * t2 - e2) + r3 * (y3 * t3 - e3)
    at_z[i, d] += b0 * r0
    at_z[i + 1, d] += b1 * r1
    at_z[i + 2, d] += b2 * r2
    at_z[i + 3, d] += b3 * r3


# --- one row's weights, one row's way out ----------------------------------------------------------------------


@jit
def _reweight(a, i, N, at_own, at_next, start, n):
    """Multiply the entries of posteriors i and i + 1 (cyclic), if a holds them: a[k] is posterior start + k, k < n.

    True when it did.
    """
    if i >= N:  # a row of padding
        return False
    own, following = i - start, (i + 1 if i + 1 < N else 0) - start
    touched = False
    if 0 <= own < n:
        a[own] *= at_own
        touched = True
    if at_next != 1 and 0 <= following < n:
        a[following] *= at_next
        touched = True
    return touched


@jit
def _marginal_again(z, i, d, mu, s, g, N, at_own, at_next, E, keep, tile):
    """The sum of a row's exponentials from the row's true maximum, and that maximum; the row is left in E if `keep`."""
    z_id = z[i, d]
    top = _highest_marginal(z_id, d, mu, s, g, 0, N)
    if top == -np.inf:
        top = mu.dtype.type(0)
    total = 0.0
    for start in range(0, N, tile):
        n = min(tile, N - start)
        part = E[start : start + n] if keep else E[:n]
        added = _marginal_exponentials(z_id, d, mu, s, g, top, part, start, n)
        if at_own != 1 and _reweight(part, i, N, at_own, at_next, start, n):
            added = _sum(part, 0, n)
        total += added
    return total, top


@jit
def _joint_rows(W0, W1, W2, W3, T, i, N, at_own, at_next, tile, joint, joint_tops):
    """Turn four rows of squares into exponentials; their sums go to joint, the maxima taken out to joint_tops."""
    zero = T.dtype.type(0)
    top0, top1, top2, top3 = _highest_joints(W0, W1, W2, W3, T, 0, N)
    top0, top1 = (zero if top0 == -np.inf else top0), (zero if top1 == -np.inf else top1)
    top2, top3 = (zero if top2 == -np.inf else top2), (zero if top3 == -np.inf else top3)
    sum0, sum1, sum2, sum3 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        part0, part1, part2, part3 = W0[start:stop], W1[start:stop], W2[start:stop], W3[start:stop]
        a0, a1, a2, a3 = _joint_exponentials(part0, part1, part2, part3, T, top0, top1, top2, top3, start, stop - start)
        if at_own != 1:
            a0 = _reweighted(part0, i, N, at_own, at_next, start, stop, a0)
            a1 = _reweighted(part1, i + 1, N, at_own, at_next, start, stop, a1)
            a2 = _reweighted(part2, i + 2, N, at_own, at_next, start, stop, a2)
            a3 = _reweighted(part3, i + 3, N, at_own, at_next, start, stop, a3)
        sum0 += a0
        sum1 += a1
        sum2 += a2
        sum3 += a3
    joint[i], joint[i + 1], joint[i + 2], joint[i + 3] = sum0, sum1, sum2, sum3
    joint_tops[i], joint_tops[i + 1], joint_tops[i + 2], joint_tops[i + 3] = top0, top1, top2, top3


@jit
def _raised(top, i, joint, joint_tops, S):
    """The maximum of row i so far, `top` included, in S's precision; what is summed already is rescaled to it."""
    before = joint_tops[i]
    if top > before:
        joint[i] *= np.exp(0.5 * (before - top))
        joint_tops[i] = top
        return top
    return S.dtype.type(0 if before == -np.inf else before)


@jit
def _reweighted(part, i, N, at_own, at_next, start, stop, added):
    """The sum of a tile of a row's exponentials, `added` before, once its special weights are in."""
    if _reweight(part, i, N, at_own, at_next, start, stop - start):
        return _sum(part, 0, stop - start)
    return added


# --- blocks of rows --------------------------------------------------------------------------------------------


@jit
def _weighted_sums(z, i, mu, s, g, S0, S1, S2, S3, E0, E1, E2, E3, N, at_own, at_next, start, n, marginals):
    """`_squares_and_sums` over all d for a tile that holds a posterior of special weight."""
    _squares(z, i, mu, s, S0, S1, S2, S3, start, n, 0)
    stop = start + n
    for d in range(z.shape[1]):
        a0, a1, a2, a3 = _exponentials(z, i, d, mu, s, g, E0, E1, E2, E3, start, n, 0)
        marginals[i, d] += _reweighted(E0[:n], i, N, at_own, at_next, start, stop, a0)
        marginals[i + 1, d] += _reweighted(E1[:n], i + 1, N, at_own, at_next, start, stop, a1)
        marginals[i + 2, d] += _reweighted(E2[:n], i + 2, N, at_own, at_next, start, stop, a2)
        marginals[i + 3, d] += _reweighted(E3[:n], i + 3, N, at_own, at_next, start, stop, a3)


@jit
def values(
    z, mu, s, g, T, unsafe, at_own, at_next, first, last, tile, tiny, S, E, joint, joint_tops, marginals, marginal_tops
):
    """Sums of exponentials joint[i] and marginals[i, d] and the maxima taken out, for the rows first ... last - 1.

    z : (rows, D), mu, s, g : (D, >= N), T : (N,), S, E : (4, >= tile).
    """
    N, D = T.size, z.shape[1]
    S0, S1, S2, S3, E0, E1, E2, E3 = S[0], S[1], S[2], S[3], E[0], E[1], E[2], E[3]
    weighted = at_own != 1
    joint_tops[first:last] = -np.inf
    marginals[first:last] = 0.0
    joint[first:last] = 0.0
    for start in range(0, N, tile):  # tiles outside: one tile of posteriors serves all rows from the cache
        n = min(tile, N - start)
        for i in range(first, last, 4):
            S[:] = 0
            special = weighted and ((i < start + n and i + 4 >= start) or (start == 0 and i + 4 >= N))
            if special:
                _weighted_sums(
                    *(z, i, mu, s, g, S0, S1, S2, S3, E0, E1, E2, E3, N, at_own, at_next, start, n, marginals)
                )
            else:
                for d in range(D):
                    a0, a1, a2, a3 = _squares_and_sums(z, i, d, mu, s, g, S0, S1, S2, S3, start, n)
                    marginals[i, d] += a0
                    marginals[i + 1, d] += a1
                    marginals[i + 2, d] += a2
                    marginals[i + 3, d] += a3
            top0, top1, top2, top3 = _highest_joints(S0, S1, S2, S3, T, start, n)
            top0, top1 = _raised(top0, i, joint, joint_tops, T), _raised(top1, i + 1, joint, joint_tops, T)
            top2, top3 = _raised(top2, i + 2, joint, joint_tops, T), _raised(top3, i + 3, joint, joint_tops, T)
            a0, a1, a2, a3 = _joint_exponentials(S0, S1, S2, S3, T, top0, top1, top2, top3, start, n)
            if special:
                stop = start + n
                a0 = _reweighted(S0[:n], i, N, at_own, at_next, start, stop, a0)
                a1 = _reweighted(S1[:n], i + 1, N, at_own, at_next, start, stop, a1)
                a2 = _reweighted(S2[:n], i + 2, N, at_own, at_next, start, stop, a2)
                a3 = _reweighted(S3[:n], i + 3, N, at_own, at_next, start, stop, a3)
            joint[i] += a0
            joint[i + 1] += a1
            joint[i + 2] += a2
            joint[i + 3] += a3
    for i in range(first, last):
        for d in range(D):
            if unsafe[d] or not marginals[i, d] >= tiny:
                total, top = _marginal_again(z, i, d, mu, s, g, N, at_own, at_next, E0, False, tile)
                marginals[i, d] = total
                marginal_tops[i, d] = top


@jit
def _add_to(total, part, n):
    """total[j] += part[j] for j < n; a float32 part is added in float64."""
    vector_loop()
    for j in range(np.uint64(n)):
        total[j] += part[j]


@jit
def _add_joints(
    z, mu, s, T, at_own, at_next, first, last, tile, weight_joint, W, joint1, joint2, P, joint, joint_tops, at_z
):
    """`joint_and_gradient`, added to sums of one precision."""
    N, D = T.size, z.shape[1]
    real = mu.dtype.type
    for i in range(first, last, JOINT_ROWS):
        rows = min(JOINT_ROWS, last - i)
        for start in range(0, N, NEAR):
            n = min(NEAR, N - start)
            for r in range(0, rows, 4):
                _squares(z, i + r, mu, s, W[r], W[r + 1], W[r + 2], W[r + 3], start, n, start)
        for r in range(0, rows, 4):
            W0, W1, W2, W3 = W[r], W[r + 1], W[r + 2], W[r + 3]
            _joint_rows(W0, W1, W2, W3, T, i + r, N, at_own, at_next, tile, joint, joint_tops)
        for start in range(0, N, NEAR):
            stop = min(N, start + NEAR)
            for r in range(0, rows, 4):
                k = i + r
                W0, W1, W2, W3 = W[r, start:stop], W[r + 1, start:stop], W[r + 2, start:stop], W[r + 3, start:stop]
                c0, c1 = real(weight_joint[k] / joint[k]), real(weight_joint[k + 1] / joint[k + 1])
                c2, c3 = real(weight_joint[k + 2] / joint[k + 2]), real(weight_joint[k + 3] / joint[k + 3])
                _normalise(W0, W1, W2, W3, c0, c1, c2, c3, P[start:stop])
            for d in range(D):
                for r in range(0, rows, 4):
                    W0, W1, W2, W3 = W[r], W[r + 1], W[r + 2], W[r + 3]
                    _joint_sums(z, i + r, d, mu, s, W0, W1, W2, W3, joint1, joint2, at_z, start, stop)


@jit
def joint_and_gradient(
    z, mu, s, T, at_own, at_next, first, last, tile, weight_joint, W, sums, parts, joint, joint_tops, at_z
):
    """Sums joint[i] and the maxima taken out, and the gradient of sum_i weight_joint[i] log joint[i].

    The gradient is left in sums = joint1, joint2 : (D, >= N), P : (>= N,): those of `_joint_sums`, and sum_i W_ij.
    With `parts`, float32 arrays of their shapes, they are added up there for `FLUSH_ROWS` rows at a time, and the sums
    are float64. W : (JOINT_ROWS, >= N).
    """
    N, D = T.size, z.shape[1]
    joint1, joint2, P = sums
    joint1[:], joint2[:], P[:] = 0, 0, 0
    if parts is None:
        _add_joints(
            *(z, mu, s, T, at_own, at_next, first, last, tile, weight_joint, W),
            *(joint1, joint2, P, joint, joint_tops, at_z),
        )
    else:
        part1, part2, part_P = parts
        for start in range(first, last, FLUSH_ROWS):
            part1[:], part2[:], part_P[:] = 0, 0, 0
            _add_joints(
                *(z, mu, s, T, at_own, at_next, start, min(last, start + FLUSH_ROWS), tile, weight_joint, W),
                *(part1, part2, part_P, joint, joint_tops, at_z),
            )
            _add_to(P, part_P, N)
            for d in range(D):
                _add_to(joint1[d], part1[d], N)
                _add_to(joint2[d], part2[d], N)


@jit
def _add_marginals(
    z,
    d,
    mu,
    s,
    g,
    N,
    again,
    at_own,
    at_next,
    first,
    last,
    tile,
    tiny,
    weight_marginals,
    E,
    own1,
    own2,
    marginals,
    marginal_tops,
    at_z,
):
    """`marginal_and_gradient`, added to sums of one precision."""
    real = mu.dtype.type
    E0, E1, E2, E3 = E[0, :N], E[1, :N], E[2, :N], E[3, :N]
    weighted = at_own != 1
    for i in range(first, last, 4):
        sum0, sum1, sum2, sum3 = 0.0, 0.0, 0.0, 0.0
        for start in range(0, N, tile):
            stop = min(N, start + tile)
            a0, a1, a2, a3 = _exponentials(z, i, d, mu, s, g, E0, E1, E2, E3, start, stop - start, start)
            if weighted:
                a0 = _reweighted(E0[start:stop], i, N, at_own, at_next, start, stop, a0)
                a1 = _reweighted(E1[start:stop], i + 1, N, at_own, at_next, start, stop, a1)
                a2 = _reweighted(E2[start:stop], i + 2, N, at_own, at_next, start, stop, a2)
                a3 = _reweighted(E3[start:stop], i + 3, N, at_own, at_next, start, stop, a3)
            sum0 += a0
            sum1 += a1
            sum2 += a2
            sum3 += a3
        if again or not sum0 >= tiny:
            sum0, top = _marginal_again(z, i, d, mu, s, g, N, at_own, at_next, E0, True, tile)
            marginal_tops[i, d] = top
        if again or not sum1 >= tiny:
            sum1, top = _marginal_again(z, i + 1, d, mu, s, g, N, at_own, at_next, E1, True, tile)
            marginal_tops[i + 1, d] = top
        if again or not sum2 >= tiny:
            sum2, top = _marginal_again(z, i + 2, d, mu, s, g, N, at_own, at_next, E2, True, tile)
            marginal_tops[i + 2, d] = top
        if again or not sum3 >= tiny:
            sum3, top = _marginal_again(z, i + 3, d, mu, s, g, N, at_own, at_next, E3, True, tile)
            marginal_tops[i + 3, d] = top
        marginals[i, d], marginals[i + 1, d], marginals[i + 2, d], marginals[i + 3, d] = sum0, sum1, sum2, sum3
        c0, c1 = real(weight_marginals[i, d] / sum0), real(weight_marginals[i + 1, d] / sum1)
        c2, c3 = real(weight_marginals[i + 2, d] / sum2), real(weight_marginals[i + 3, d] / sum3)
        for start in range(0, N, tile):
            stop = min(N, start + tile)
            _own_sums(z, i, d, mu, s, E0, E1, E2, E3, c0, c1, c2, c3, own1, own2, at_z, start, stop)


@jit
def marginal_and_gradient(
    z,
    d,
    mu,
    s,
    g,
    N,
    again,
    at_own,
    at_next,
    first,
    last,
    tile,
    tiny,
    weight_marginals,
    E,
    sums,
    parts,
    marginals,
    marginal_tops,
    at_z,
):
    """Sums marginals[i, d] and the maxima taken out, and the gradient of sum_i weight_marginals[i, d] log of them.

    One pass over the exponentials. What is read of one dimension's posteriors, and its sums, stay in the cache. The
    gradient is left in sums = own1, own2 : (>= N,), those of `_own_sums`; `parts` as in `joint_and_gradient`.
    E : (4, >= N).
    """
    own1, own2 = sums
    own1[:], own2[:] = 0, 0
    if parts is None:
        _add_marginals(
            *(z, d, mu, s, g, N, again, at_own, at_next, first, last, tile, tiny, weight_marginals, E),
            *(own1, own2, marginals, marginal_tops, at_z),
        )
    else:
        part1, part2 = parts
        for start in range(first, last, FLUSH_ROWS):
            stop = min(last, start + FLUSH_ROWS)
            part1[:], part2[:] = 0, 0
            _add_marginals(
                *(z, d, mu, s, g, N, again, at_own, at_next, start, stop, tile, tiny, weight_marginals, E),
                *(part1, part2, marginals, marginal_tops, at_z),
            )
            _add_to(own1, part1, N)
            _add_to(own2, part2, N)


@jit
def _add_blocks(a, start, stop):
    """a[0, j] += a[1, j] + a[2, j] + ..., in this order, for start <= j < stop; a : (blocks, columns)."""
    for b in range(1, a.shape[0]):
        _add_to(a[0, start:stop], a[b, start:stop], stop - start)


@jit
def gradients(joint1, joint2, P, own1, own2, s, start, stop, joint_mu, joint_log_var, own_mu, own_log_var):
    """Add up the sums of all blocks, and turn them into derivatives in mu and log_var of posteriors start ... stop - 1.

    The sums : (blocks, D, >= N), P : (blocks, >= N), s : (D, >= N), the results : (N, D).
    """
    _add_blocks(P, start, stop)
    for d in range(s.shape[0]):
        for sums in (joint1, joint2, own1, own2):
            _add_blocks(sums[:, d], start, stop)
    for j in range(start, stop):
        for d in range(s.shape[0]):
            joint_mu[j, d] = s[d, j] * joint1[0, d, j]
            joint_log_var[j, d] = 0.5 * (joint2[0, d, j] - P[0, j])
            own_mu[j, d] = s[d, j] * own1[0, d, j]
            own_log_var[j, d] = 0.5 * own2[0, d, j]


# --- from arrays to arrays -------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """w_ij = base, but base * at_own for j = i and base * at_next for j = i + 1 (cyclic)."""

    log_base: float
    at_own: float = 1.0
    at_next: float = 1.0


class Posteriors(NamedTuple):
    """What the kernels read of N posteriors; rows padded to whole cache lines."""

    mu: Array
    """(D, >= N)."""
    s: Array
    """(D, >= N): exp(-log_var / 2)."""
    g: Array
    """(D, >= N): h - log_var."""
    T: Array
    """(N,): - sum_d log_var."""
    h: NDArray[np.float64]
    """(D,)."""
    unsafe: NDArray[np.bool_]
    """(D,): log-variances further apart than `SPREAD`."""


class Gradient(NamedTuple):
    """Derivatives of a joint and a marginal part, apart."""

    joint: tuple[Array, Array, Array]
    """In z (S, D), mu (N, D), log_var (N, D)."""
    marginals: tuple[Array, Array, Array]


class Scratch:
    """Memory for buffers, kept from call to call up to `KEPT`: new pages cost more than the arithmetic on them."""

    KEPT = 2**26

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> NDArray[np.uint8]:
        """So many bytes at least, of any content."""
        with self._lock:
            fitting = [k for k, memory in enumerate(self._free) if size <= memory.size <= 2 * size]
            if fitting:
                return self._free.pop(fitting[0])
        return np.empty(size, np.uint8)

    def give_back(self, memory: list[NDArray[np.uint8]]) -> None:
        """Keep what fits; the oldest goes first."""
        with self._lock:
            self._free += memory
            while sum(m.size for m in self._free) > self.KEPT:
                self._free.pop(0)


_scratch = Scratch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_scratch.__init__)  # another thread of the parent's may have held its lock


def buffers(count: int, rows: int, columns: int, dtype: np.dtype, used: list[NDArray[np.uint8]]) -> list[Array]:
    """Buffers of any content : `count` times (rows, >= columns), on cache lines, at different places within a page.

    Their memory is added to `used`, to be given back.
    """
    line, page = 64, 4096
    per_line = line // dtype.itemsize
    width = -(-columns // per_line) * per_line
    if width // per_line % 2 == 0:
        width += per_line  # an odd number of lines: the rows of one buffer do not lie at the same place either
    size = rows * width * dtype.itemsize
    step = -(-size // page) * page + 5 * line
    memory = _scratch.take(count * step + page)
    used.append(memory)
    begin = -memory.ctypes.data % page
    return [memory[begin + k * step : begin + k * step + size].view(dtype).reshape(rows, width) for k in range(count)]


def prepare(mu: Array, log_var: Array, used: list[NDArray[np.uint8]]) -> Posteriors:
    """Arrange posteriors (N, D) for the kernels, in `buffers`."""
    N, D = mu.shape
    ours = buffers(3, D, N, mu.dtype, used)
    mu_T, s, g = (a[:, :N] for a in ours)
    mu_T[:] = mu.T
    log_var = np.ascontiguousarray(log_var.T)
    low, high = log_var.min(axis=1), log_var.max(axis=1)
    unsafe = high - low > SPREAD
    h = np.where(unsafe, 0, low).astype(mu.dtype)
    np.multiply(log_var, -0.5, out=s)
    np.exp(s, out=s)
    np.subtract(h[:, None], log_var, out=g)
    T = -log_var.sum(axis=0, dtype=np.float64).astype(mu.dtype)
    return Posteriors(*ours, T, h.astype(np.float64), unsafe)


def _fours(z: Array) -> Array:
    """Samples, C-contiguous, the last repeated until they are whole fours."""
    missing = -len(z) % ROWS
    return np.ascontiguousarray(np.concatenate([z, np.repeat(z[-1:], missing, axis=0)]))


class _Sums(NamedTuple):
    """Sums of exponentials, and the (doubled) maxima that were taken out of them."""

    joint: NDArray[np.float64]
    """(rows,)."""
    joint_tops: NDArray[np.float64]
    marginals: NDArray[np.float64]
    """(rows, D)."""
    marginal_tops: NDArray[np.float64]

    @classmethod
    def zeros(cls, rows: int, D: int) -> "_Sums":
        return cls(np.zeros(rows), np.zeros(rows), np.zeros((rows, D)), np.zeros((rows, D)))

    def logarithms(self, S: int, weights: Weights, posteriors: Posteriors) -> tuple[Array, Array]:
        """log q(z_i) : (S,) and log q(z_id) : (S, D)."""
        dtype, D = posteriors.mu.dtype, len(posteriors.h)
        tops = np.where(self.joint_tops == -np.inf, 0.0, self.joint_tops)  # all exponentials 0: the logarithm is -inf
        joint = np.log(self.joint) + 0.5 * (tops - D * LOG_2PI) + weights.log_base
        marginals = np.log(self.marginals) + 0.5 * (self.marginal_tops - posteriors.h - LOG_2PI) + weights.log_base
        return joint[:S].astype(dtype), marginals[:S].astype(dtype)


def _own(scratch: dict[int, list[Array]], make: Callable[[], list[Array]]) -> list[Array]:
    """Buffers of this thread: made when it takes its first block."""
    me = threading.get_ident()
    if me not in scratch:
        scratch[me] = make()
    return scratch[me]


def _cut(rows: int, count: int) -> list[tuple[int, int]]:
    """At most `count` blocks of whole fours of rows: the first row of each, and the row after its last."""
    block = -(-rows // (count * ROWS)) * ROWS
    return [(first, min(rows, first + block)) for first in range(0, rows, block)]


def log_sums(
    z: Array,
    mu: Array,
    log_var: Array,
    weights: Weights,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Array, Array]:
    """The logarithms of sum_j w_ij q(z_i|n_j) : (S,) and of sum_j w_ij q(z_id|n_j) : (S, D), nats."""
    used: list[NDArray[np.uint8]] = []
    posteriors = prepare(mu, log_var, used)
    S, D = z.shape
    padded = _fours(z)
    rows, N, size = len(padded), len(mu), z.dtype.itemsize
    sums = _Sums.zeros(rows, D)
    block = min(FORWARD_ROWS, -(-rows // (4 * threads.get_num_threads() * ROWS)) * ROWS)
    blocks, done, report = -(-rows // block), list[int](), threads.in_order(progress)
    scratch: dict[int, list[Array]] = {}
    dtype = z.dtype.type

    def work(b: int) -> None:
        first, last = b * block, min(rows, (b + 1) * block)
        squares, exponentials = _own(scratch, lambda: buffers(2, ROWS, min(N, NEAR), z.dtype, used))
        values(
            *(padded, *posteriors[:4], posteriors.unsafe, dtype(weights.at_own), dtype(weights.at_next)),
            *(first, last, NEAR, TINY[size], squares, exponentials, *sums),
        )
        if progress is not None:
            done.append(last - first)
            report(min(sum(done), S), S)

    with np.errstate(all="ignore"):
        threads.run(work, blocks)
        result = sums.logarithms(S, weights, posteriors)
    _scratch.give_back(used)
    return result


def log_sums_and_gradient(
    z: Array,
    mu: Array,
    log_var: Array,
    weights: Weights,
    weight_joint: Array,
    weight_marginals: Array,
) -> tuple[Array, Array, Gradient]:
    """`log_sums`, and the gradients of sum_i weight_joint_i joint_i and sum_id weight_marginals_id marginals_id."""
    used: list[NDArray[np.uint8]] = []
    posteriors = prepare(mu, log_var, used)
    mu_T, s, g, T, _, unsafe = posteriors
    S, D = z.shape
    padded = _fours(z)
    rows, N, size = len(padded), len(mu), z.dtype.itemsize
    values_of, at_z = _Sums.zeros(rows, D), np.zeros((2, rows, D))
    for_joint, for_marginals = np.zeros(rows), np.zeros((rows, D))
    for_joint[:S], for_marginals[:S] = weight_joint, weight_marginals
    special = z.dtype.type(weights.at_own), z.dtype.type(weights.at_next)
    fitting = GRADIENT_BYTES // (16 * D * N)
    joint_blocks = _cut(rows, max(2, min(JOINT_BLOCKS, fitting)))
    fewest, most = (-(-tasks // D) for tasks in MARGINAL_TASKS)
    own_blocks = _cut(rows, max(fewest, min(most, fitting)))
    joint1, joint2, own1, own2 = (
        buffers(1, blocks * D, N, np.dtype(np.float64), used)[0].reshape(blocks, D, -1)
        for blocks in (len(joint_blocks), len(joint_blocks), len(own_blocks), len(own_blocks))
    )
    P = buffers(1, len(joint_blocks), N, np.dtype(np.float64), used)[0]
    scratch: dict[int, list[Array]] = {}

    def make() -> list[Array]:
        rows_of_weights = buffers(1, JOINT_ROWS, N, z.dtype, used)
        if size == 8:
            return rows_of_weights
        return [*rows_of_weights, *buffers(2, D, N, z.dtype, used), buffers(1, 1, N, z.dtype, used)[0][0]]

    def joint_part(b: int) -> None:
        W, *parts = _own(scratch, make)
        joint_and_gradient(
            *(padded, mu_T, s, T, *special, *joint_blocks[b], TILE[size], for_joint, W),
            *((joint1[b], joint2[b], P[b]), tuple(parts) or None, values_of.joint, values_of.joint_tops, at_z[0]),
        )

    def marginal_part(b: int, d: int) -> None:
        E, *parts = _own(scratch, make)
        marginal_and_gradient(
            *(padded, d, mu_T, s, g, N, unsafe[d], *special, *own_blocks[b], TILE[size], TINY[size], for_marginals, E),
            *((own1[b, d], own2[b, d]), tuple(a[0] for a in parts[:2]) or None),
            *(values_of.marginals, values_of.marginal_tops, at_z[1]),
        )

    def work(task: int) -> None:
        if task < len(joint_blocks):
            joint_part(task)
        else:
            marginal_part(*divmod(task - len(joint_blocks), D))

    results = [np.empty((N, D), z.dtype) for _ in range(4)]
    at_samples: list[Any] = []

    def finish(task: int) -> None:
        if task == 0:
            at_samples.extend(values_of.logarithms(S, weights, posteriors))
            at_samples.extend((-at_z[:, :S]).astype(z.dtype))
        else:
            columns = (task - 1) * FINISHED, min(N, task * FINISHED)
            gradients(joint1, joint2, P, own1, own2, s, *columns, *results)

    with np.errstate(all="ignore"):
        threads.run(work, len(joint_blocks) + len(own_blocks) * D)
        threads.run(finish, 1 + -(-N // FINISHED))
    _scratch.give_back(used)
    log_joint, log_marginals, joint_z, own_z = at_samples
    joint_mu, joint_log_var, own_mu, own_log_var = results
    return log_joint, log_marginals, Gradient((joint_z, joint_mu, joint_log_var), (own_z, own_mu, own_log_var))


def exponentials_only(M: int, N: int, D: int, dtype: str) -> float:
    """Evaluate M N (D + 1) exponentials with the kernels' own `weight` on the same threads, and nothing else.

    The limit of any algorithm that takes the exponential of every pair: what benchmarks divide by.
    """
    x = -40.0 * np.random.default_rng(0).random(512).astype(dtype)
    blocks = 16
    each = M * N * (D + 1) // (blocks * len(x))
    sums = np.zeros(blocks)

    def work(b: int) -> None:
        sums[b] = _repeated(x, each)

    threads.run(work, blocks)
    return float(sums.sum())


@jit
def _repeated(x, times):
    total = 0.0
    for _ in range(times):
        total += sum_of_weights(x)
    return total
