"""The weighted log-sum-exp over all pairs (sample i, posterior j), and its gradient, without a matrix of pairs.

    log q(z_i)  = log sum_j w_ij exp( sum_d L_ijd )       L_ijd = -1/2 ( t_ijd^2 + log_var_jd + log 2 pi )
    log q(z_id) = log sum_j w_ij exp( L_ijd )             t_ijd = (z_id - mu_jd) exp(-log_var_jd / 2)

Everything is carried doubled, 2 L, so that exp(x / 2) needs no halving. For the marginals g_jd = h_d - log_var_jd
with h_d the smallest log-variance is at most 0, so exp((g - t^2) / 2) cannot overflow and needs no maximum; where
all of a row underflows, or the log-variances of a dimension lie so far apart, or are so large, that precision would
suffer, that row is done again from its true maximum.

Four samples at a time share each posterior's mu, 1 / sigma and g, eight the gradient's sums. For the gradient, eight
samples go dimension by dimension; the marginals' exponentials multiplied are the joint's, which follows, and which is
done again likewise: squares t^2 added up, less their true maximum, and one more exponential. For values only that is
how every joint is taken.
Weights other than a constant are two entries of a row, j = i and j = i + 1: they are put right in the row of
exponentials.

In these arrays the posterior j is the last axis, for the loops: mu, 1 / sigma, g and the sums of a gradient are (D, N),
rows of squares and of exponentials (samples, N).

What a thread needs besides results: 16 rows of N numbers. Buffers start on cache lines, and at different
places within a page: streams that all lie at the same place would push one another out of the cache.
"""

import itertools
import math
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_kernels import threads
from tcvae_kernels._jit import by_type, flush_subnormals, jit, larger, multiply_add, restore_subnormals, vector_loop
from tcvae_kernels.exp import sum_of_weights, weight, weight_four, weight_or_zero
from tcvae_ref.types import Array

LOG_2PI = math.log(2.0 * math.pi)
ROWS = 4
"""Samples whose exponentials are taken together."""
TOGETHER = 8
"""Samples that go through all dimensions together for a gradient, whose rows are whole eights."""
TILE = {8: 2048, 4: 1024}
"""Posteriors taken together for a gradient, by the size of a number: a sum within is in that precision, beyond in
float64. So float32's error does not grow with N; nor with the samples (`FLUSH_ROWS`)."""
SPREAD = 16.0
"""Log-variances of a dimension further apart than this are summed from each row's true maximum."""
WIDEST = {8: 400.0, 4: 64.0}
"""So are those of a dimension that has larger ones, before the product of a weight of `TINY` and 1 / sigma underflows.

Where a tiny weight of its own stands in a row whose sum is not below `TINY`, underflow may still take as much as
2e-143 (1 + 1 / sigma) from a derivative in z, in float32 2e-33 (1 + 1 / sigma)."""
TINY = {8: 2.0**-600, 4: 2.0**-40}
"""A sum below this has lost terms to underflow: that row is done again from its true maximum."""
NEAR = 512
"""Posteriors taken together for values only: four rows of their squares stay in a core's first cache."""
FORWARD_ROWS = 128
"""Rows of a block when only values are wanted; no result depends on it."""
BLOCKS, BLOCK_ROWS = 10, 256
"""So many blocks of rows with gradient sums of their own, or one for so many rows where that is more."""
TAPERED = 10
"""Of so many blocks the last six are halves and quarters: threads of unequal speed end more nearly together."""
GRADIENT_BYTES = 2**25
"""What the sums of more than `FEWEST` blocks may fill."""
FEWEST, FEWEST_BYTES = 4, 2**26
"""So many blocks for the threads' sake, where their sums fit into so much memory; where not, two."""
FINISHED = 4096
"""Posteriors whose gradients are finished together; no result depends on it."""
FLUSH_ROWS = 128
"""float32 gradients are added up over so many rows at most, then in float64."""


# --- what goes in and comes out ---------------------------------------------------------------------------------


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
    """(D,): log-variances further apart than `SPREAD`, or beyond `WIDEST`."""


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


def _logarithm(total, top, less, log_base):
    return np.log(total) + 0.5 * (top - less) + log_base


@by_type(float64=_logarithm)
def logarithm(total, top, less, log_base):
    """The logarithm of a sum whose (doubled) maximum is top - less, and of its weights; not reassociated."""


# --- loops over posteriors j ---------------------------------------------------------------------------------


@jit
def _exponentials(z, i, d, mu, s, g, squares, products, kept, copied):
    """The sums of e = exp((g - t^2) / 2), for the samples i ... i + 3 and one dimension's mu, s, g.

    Where they are not None: squares += t^2, products *= e, kept = e, copied = e, each four rows.
    """
    vector_loop()
    if products is not None:  # they are 0 from 2^-1022 on (float32: 2^-126)
        mode = flush_subnormals()
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    zero = mu.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    for j in range(mu.size):
        mu_j, s_j, g_j = mu[j], s[j], g[j]
        t0, t1, t2, t3 = (z0 - mu_j) * s_j, (z1 - mu_j) * s_j, (z2 - mu_j) * s_j, (z3 - mu_j) * s_j
        if squares is not None:
            squares[0][j] = multiply_add(t0, t0, squares[0][j])
            squares[1][j] = multiply_add(t1, t1, squares[1][j])
            squares[2][j] = multiply_add(t2, t2, squares[2][j])
            squares[3][j] = multiply_add(t3, t3, squares[3][j])
        e0, e1, e2, e3 = weight_four(
            multiply_add(-t0, t0, g_j),
            multiply_add(-t1, t1, g_j),
            multiply_add(-t2, t2, g_j),
            multiply_add(-t3, t3, g_j),
        )
        if products is not None:
            products[0][j] *= e0
            products[1][j] *= e1
            products[2][j] *= e2
            products[3][j] *= e3
        if kept is not None:
            kept[0][j], kept[1][j], kept[2][j], kept[3][j] = e0, e1, e2, e3
        if copied is not None:
            copied[0][j], copied[1][j], copied[2][j], copied[3][j] = e0, e1, e2, e3
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    if products is not None:
        restore_subnormals(mode)
    return sum0, sum1, sum2, sum3


@jit
def _squares(z, i, d, mu, s, S0, S1, S2, S3):
    """S_r += t^2, as in `_exponentials`."""
    vector_loop()
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    for j in range(mu.size):
        mu_j, s_j = mu[j], s[j]
        t0, t1, t2, t3 = (z0 - mu_j) * s_j, (z1 - mu_j) * s_j, (z2 - mu_j) * s_j, (z3 - mu_j) * s_j
        S0[j] = multiply_add(t0, t0, S0[j])
        S1[j] = multiply_add(t1, t1, S1[j])
        S2[j] = multiply_add(t2, t2, S2[j])
        S3[j] = multiply_add(t3, t3, S3[j])


@jit
def _sum(a):
    vector_loop()
    total = a.dtype.type(0)
    for j in range(a.size):
        total += a[j]
    return total


@jit
def _scale(a, factor):
    vector_loop()
    for j in range(a.size):
        a[j] *= factor


@jit
def _highest_joints(S0, S1, S2, S3, T):
    """The largest of T - S_r of each of four rows."""
    vector_loop()
    top0, top1 = joint_exponent(S0[0], T[0]), joint_exponent(S1[0], T[0])
    top2, top3 = joint_exponent(S2[0], T[0]), joint_exponent(S3[0], T[0])
    for j in range(T.size):
        T_j = T[j]
        top0 = larger(top0, joint_exponent(S0[j], T_j))
        top1 = larger(top1, joint_exponent(S1[j], T_j))
        top2 = larger(top2, joint_exponent(S2[j], T_j))
        top3 = larger(top3, joint_exponent(S3[j], T_j))
    return top0, top1, top2, top3


@jit
def _joint_exponentials(S0, S1, S2, S3, T, top0, top1, top2, top3):
    """S_r <- exp((T - S_r - top_r) / 2), in place; their sums."""
    vector_loop()
    zero = T.dtype.type(0)
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    for j in range(T.size):
        T_j = T[j]
        e0, e1, e2, e3 = weight_four(
            joint_exponent_below(S0[j], T_j, top0),
            joint_exponent_below(S1[j], T_j, top1),
            joint_exponent_below(S2[j], T_j, top2),
            joint_exponent_below(S3[j], T_j, top3),
        )
        S0[j], S1[j], S2[j], S3[j] = e0, e1, e2, e3
        sum0 += e0
        sum1 += e1
        sum2 += e2
        sum3 += e3
    return sum0, sum1, sum2, sum3


@jit
def _highest_marginal(z_id, mu, s, g):
    """The largest of g - t^2."""
    vector_loop()
    top = exponent(z_id, mu[0], s[0], g[0])
    for j in range(mu.size):
        top = larger(top, exponent(z_id, mu[j], s[j], g[j]))
    return top


@jit
def _marginal_exponentials(z_id, mu, s, g, top, E):
    """E = exp((g - t^2 - top) / 2) of one sample; their sum."""
    vector_loop()
    total = top - top
    for j in range(mu.size):
        e = weight(exponent_below(z_id, mu[j], s[j], g[j], top))
        E[j] = e
        total += e
    return total


@jit
def _normalise(W0, W1, W2, W3, r0, r1, r2, r3, P):
    """W_r <- r_r W_r, in place, 0 where W_r is too small; P += their sum over the four samples."""
    vector_loop()
    for j in range(P.size):
        w0, w1 = weight_or_zero(W0[j]) * r0, weight_or_zero(W1[j]) * r1
        w2, w3 = weight_or_zero(W2[j]) * r2, weight_or_zero(W3[j]) * r3
        W0[j], W1[j], W2[j], W3[j] = w0, w1, w2, w3
        P[j] += w0 + w1 + w2 + w3


def _joint_share(z_id, mu, s, w, first, second):
    t = (z_id - mu) * s
    wt = w * t
    return wt, first + wt, multiply_add(wt, t, second)


@by_type(float64=_joint_share, float32=_joint_share)
def joint_share(z_id, mu, s, w, first, second):
    """w t, and a sample's share in its posterior's sums, added : first + w t, second + w t^2.

    Sample by sample: reassociated, the sums over eight samples need more registers than there are.
    """


def _own_share(z_id, mu, s, e, share, first, second):
    t = (z_id - mu) * s
    y = e * t
    return y, multiply_add(share, y, first), multiply_add(share, multiply_add(y, t, -e), second)


@by_type(float64=_own_share, float32=_own_share)
def own_share(z_id, mu, s, e, share, first, second):
    """e t, and first + share e t, second + share e (t^2 - 1), as in `joint_share`."""


@jit
def _joint_sums(z, i, d, mu, s, W, joint1, joint2, at_z):
    """Add eight samples' share to the joint's sums of a dimension : joint1[j] += W t, joint2 += W t^2.

    W : eight rows. at_z[i, d] += sum_j W t s.
    """
    vector_loop()
    W0, W1, W2, W3, W4, W5, W6, W7 = W
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    z4, z5, z6, z7 = z[i + 4, d], z[i + 5, d], z[i + 6, d], z[i + 7, d]
    zero = mu.dtype.type(0)
    a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
    for j in range(mu.size):
        mu_j, s_j, first, second = mu[j], s[j], zero, zero
        w0, first, second = joint_share(z0, mu_j, s_j, W0[j], first, second)
        w1, first, second = joint_share(z1, mu_j, s_j, W1[j], first, second)
        w2, first, second = joint_share(z2, mu_j, s_j, W2[j], first, second)
        w3, first, second = joint_share(z3, mu_j, s_j, W3[j], first, second)
        w4, first, second = joint_share(z4, mu_j, s_j, W4[j], first, second)
        w5, first, second = joint_share(z5, mu_j, s_j, W5[j], first, second)
        w6, first, second = joint_share(z6, mu_j, s_j, W6[j], first, second)
        w7, first, second = joint_share(z7, mu_j, s_j, W7[j], first, second)
        a0 += w0 * s_j
        a1 += w1 * s_j
        a2 += w2 * s_j
        a3 += w3 * s_j
        a4 += w4 * s_j
        a5 += w5 * s_j
        a6 += w6 * s_j
        a7 += w7 * s_j
        joint1[j] += first
        joint2[j] += second
    at_z[i, d] += a0
    at_z[i + 1, d] += a1
    at_z[i + 2, d] += a2
    at_z[i + 3, d] += a3
    at_z[i + 4, d] += a4
    at_z[i + 5, d] += a5
    at_z[i + 6, d] += a6
    at_z[i + 7, d] += a7


@jit
def _own_sums(z, i, d, mu, s, E, shares, own1, own2, at_z):
    """Add eight samples' share to a marginal's sums : own1[j] += p t, own2 += p (t^2 - 1) with p = share E.

    E : eight rows, shares : eight numbers. at_z[i, d] += sum_j p t s.
    """
    vector_loop()
    E0, E1, E2, E3, E4, E5, E6, E7 = E
    r0, r1, r2, r3, r4, r5, r6, r7 = shares
    z0, z1, z2, z3 = z[i, d], z[i + 1, d], z[i + 2, d], z[i + 3, d]
    z4, z5, z6, z7 = z[i + 4, d], z[i + 5, d], z[i + 6, d], z[i + 7, d]
    zero = mu.dtype.type(0)
    b0, b1, b2, b3, b4, b5, b6, b7 = zero, zero, zero, zero, zero, zero, zero, zero
    for j in range(mu.size):
        mu_j, s_j, first, second = mu[j], s[j], zero, zero
        y0, first, second = own_share(z0, mu_j, s_j, E0[j], r0, first, second)
        y1, first, second = own_share(z1, mu_j, s_j, E1[j], r1, first, second)
        y2, first, second = own_share(z2, mu_j, s_j, E2[j], r2, first, second)
        y3, first, second = own_share(z3, mu_j, s_j, E3[j], r3, first, second)
        y4, first, second = own_share(z4, mu_j, s_j, E4[j], r4, first, second)
        y5, first, second = own_share(z5, mu_j, s_j, E5[j], r5, first, second)
        y6, first, second = own_share(z6, mu_j, s_j, E6[j], r6, first, second)
        y7, first, second = own_share(z7, mu_j, s_j, E7[j], r7, first, second)
        b0 += y0 * s_j
        b1 += y1 * s_j
        b2 += y2 * s_j
        b3 += y3 * s_j
        b4 += y4 * s_j
        b5 += y5 * s_j
        b6 += y6 * s_j
        b7 += y7 * s_j
        own1[j] += first
        own2[j] += second
    at_z[i, d] += b0 * r0
    at_z[i + 1, d] += b1 * r1
    at_z[i + 2, d] += b2 * r2
    at_z[i + 3, d] += b3 * r3
    at_z[i + 4, d] += b4 * r4
    at_z[i + 5, d] += b5 * r5
    at_z[i + 6, d] += b6 * r6
    at_z[i + 7, d] += b7 * r7


# --- one row's weights, one row's way out ----------------------------------------------------------------------


@jit
def _reweighted(part, i, N, special, start, added):
    """The sum of a tile of row i, part[k] being posterior start + k, once its special weights are in; before: `added`.

    These are the entries of posteriors i and i + 1 (cyclic), where the tile holds them.
    """
    at_own, at_next = special
    if (at_own == 1 and at_next == 1) or i >= N:  # no special weights, or a row of padding
        return added
    own, following = i - start, (i + 1 if i + 1 < N else 0) - start
    touched = False
    if 0 <= own < part.size:
        part[own] *= at_own
        touched = True
    if at_next != 1 and 0 <= following < part.size:
        part[following] *= at_next
        touched = True
    return _sum(part) if touched else added


@jit
def _marginal_again(z_id, i, mu, s, g, special, E, keep, tile):
    """The sum of a row's exponentials from the row's true maximum, and that maximum; the row is left in E if `keep`."""
    N = mu.size
    top = _highest_marginal(z_id, mu, s, g)
    if top == -np.inf:
        top = mu.dtype.type(0)
    total = 0.0
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        part = E[start:stop] if keep else E[: stop - start]
        added = _marginal_exponentials(z_id, mu[start:stop], s[start:stop], g[start:stop], top, part)
        total += _reweighted(part, i, N, special, start, added)
    return total, top


@jit
def _joint_rows(z, i, posteriors, W0, W1, W2, W3, special, tile, tiny, found):
    """The sums of four rows of products of exponentials, and what was taken out of them: each dimension's highest peak.

    Where that will not do (`TINY`, `Posteriors.unsafe`), all four are done again from their true maxima.
    """
    N, top = posteriors.T.size, -_sum(posteriors.h)
    sum0, sum1, sum2, sum3 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        part0, part1, part2, part3 = W0[start:stop], W1[start:stop], W2[start:stop], W3[start:stop]
        sum0 += _reweighted(part0, i, N, special, start, _sum(part0))
        sum1 += _reweighted(part1, i + 1, N, special, start, _sum(part1))
        sum2 += _reweighted(part2, i + 2, N, special, start, _sum(part2))
        sum3 += _reweighted(part3, i + 3, N, special, start, _sum(part3))
    if posteriors.unsafe.any() or not (sum0 >= tiny and sum1 >= tiny and sum2 >= tiny and sum3 >= tiny):
        _joint_rows_again(z, i, posteriors, W0, W1, W2, W3, special, tile, found)
    else:
        found.joint[i], found.joint[i + 1], found.joint[i + 2], found.joint[i + 3] = sum0, sum1, sum2, sum3
        found.joint_tops[i : i + 4] = top


@jit
def _joint_rows_again(z, i, posteriors, W0, W1, W2, W3, special, tile, found):
    """The exponentials of four rows, their sums and the true maxima taken out of them."""
    T = posteriors.T
    N, zero = T.size, T.dtype.type(0)
    W0[:], W1[:], W2[:], W3[:] = zero, zero, zero, zero
    for d in range(z.shape[1]):
        _squares(z, i, d, posteriors.mu[d, :N], posteriors.s[d, :N], W0, W1, W2, W3)
    top0, top1, top2, top3 = _highest_joints(W0, W1, W2, W3, T)
    top0, top1 = (zero if top0 == -np.inf else top0), (zero if top1 == -np.inf else top1)
    top2, top3 = (zero if top2 == -np.inf else top2), (zero if top3 == -np.inf else top3)
    sum0, sum1, sum2, sum3 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        part0, part1, part2, part3 = W0[start:stop], W1[start:stop], W2[start:stop], W3[start:stop]
        a0, a1, a2, a3 = _joint_exponentials(part0, part1, part2, part3, T[start:stop], top0, top1, top2, top3)
        sum0 += _reweighted(part0, i, N, special, start, a0)
        sum1 += _reweighted(part1, i + 1, N, special, start, a1)
        sum2 += _reweighted(part2, i + 2, N, special, start, a2)
        sum3 += _reweighted(part3, i + 3, N, special, start, a3)
    found.joint[i], found.joint[i + 1], found.joint[i + 2], found.joint[i + 3] = sum0, sum1, sum2, sum3
    tops = found.joint_tops
    tops[i], tops[i + 1], tops[i + 2], tops[i + 3] = top0, top1, top2, top3


@jit
def _raised(top, i, joint, joint_tops, S):
    """The maximum of row i so far, `top` included, in S's precision; what is summed already is rescaled to it."""
    before = joint_tops[i]
    if top > before:
        joint[i] *= np.exp(0.5 * (before - top))
        joint_tops[i] = top
        return top
    return S.dtype.type(0 if before == -np.inf else before)


# --- blocks of rows --------------------------------------------------------------------------------------------


@jit
def _weighted_sums(z, i, posteriors, S0, S1, S2, S3, E0, E1, E2, E3, special, start, marginals):
    """`_exponentials` over all d for a tile that holds a posterior of special weight."""
    N, stop = posteriors.T.size, start + S0.size
    for d in range(z.shape[1]):
        mu, s, g = posteriors.mu[d, start:stop], posteriors.s[d, start:stop], posteriors.g[d, start:stop]
        a0, a1, a2, a3 = _exponentials(z, i, d, mu, s, g, (S0, S1, S2, S3), None, (E0, E1, E2, E3), None)
        marginals[i, d] += _reweighted(E0, i, N, special, start, a0)
        marginals[i + 1, d] += _reweighted(E1, i + 1, N, special, start, a1)
        marginals[i + 2, d] += _reweighted(E2, i + 2, N, special, start, a2)
        marginals[i + 3, d] += _reweighted(E3, i + 3, N, special, start, a3)


@jit
def values(z, posteriors, special, first, last, tile, tiny, S, E, found):
    """Sums of exponentials joint[i] and marginals[i, d] and the maxima taken out, for the rows first ... last - 1.

    z : (rows, D), special : the weights `at_own` and `at_next`, S, E : (4, >= tile).
    """
    mu, s, g, T, _, unsafe = posteriors
    joint, joint_tops, marginals, marginal_tops = found
    N, D = T.size, z.shape[1]
    joint_tops[first:last] = -np.inf
    marginals[first:last] = 0.0
    joint[first:last] = 0.0
    for start in range(0, N, tile):  # tiles outside: one tile of posteriors serves all rows from the cache
        stop = min(N, start + tile)
        n = stop - start
        S0, S1, S2, S3, E0, E1, E2, E3 = S[0, :n], S[1, :n], S[2, :n], S[3, :n], E[0, :n], E[1, :n], E[2, :n], E[3, :n]
        for i in range(first, last, 4):
            S[:] = 0
            if (special[0] != 1 or special[1] != 1) and ((i < stop and i + 4 >= start) or (start == 0 and i + 4 >= N)):
                _weighted_sums(z, i, posteriors, S0, S1, S2, S3, E0, E1, E2, E3, special, start, marginals)
            else:
                for d in range(D):
                    mu_d, s_d, g_d = mu[d, start:stop], s[d, start:stop], g[d, start:stop]
                    a0, a1, a2, a3 = _exponentials(z, i, d, mu_d, s_d, g_d, (S0, S1, S2, S3), None, None, None)
                    marginals[i, d] += a0
                    marginals[i + 1, d] += a1
                    marginals[i + 2, d] += a2
                    marginals[i + 3, d] += a3
            top0, top1, top2, top3 = _highest_joints(S0, S1, S2, S3, T[start:stop])
            top0, top1 = _raised(top0, i, joint, joint_tops, T), _raised(top1, i + 1, joint, joint_tops, T)
            top2, top3 = _raised(top2, i + 2, joint, joint_tops, T), _raised(top3, i + 3, joint, joint_tops, T)
            a0, a1, a2, a3 = _joint_exponentials(S0, S1, S2, S3, T[start:stop], top0, top1, top2, top3)
            joint[i] += _reweighted(S0, i, N, special, start, a0)
            joint[i + 1] += _reweighted(S1, i + 1, N, special, start, a1)
            joint[i + 2] += _reweighted(S2, i + 2, N, special, start, a2)
            joint[i + 3] += _reweighted(S3, i + 3, N, special, start, a3)
    for i in range(first, last):
        for d in range(D):
            if unsafe[d] or not marginals[i, d] >= tiny:
                marginals[i, d], marginal_tops[i, d] = _marginal_again(
                    z[i, d], i, mu[d, :N], s[d, :N], g[d, :N], special, E[0], False, tile
                )


@jit
def logarithms(found, h, log_2pi, log_base, first, last, joint, marginals):
    """joint[i] = log q(z_i) and marginals[i, d] = log q(z_id) for the rows first ... last - 1."""
    D = h.size
    for i in range(first, last):
        top = found.joint_tops[i]
        if top == -np.inf:  # all exponentials are 0: the logarithm is -inf
            top = 0.0
        joint[i] = logarithm(found.joint[i], top, D * log_2pi, log_base)
        for d in range(D):
            total, top = found.marginals[i, d], found.marginal_tops[i, d]
            marginals[i, d] = logarithm(total, top, h[d] + log_2pi, log_base)


@jit
def _add_to(total, part):
    """total += part; a float32 part is added in float64."""
    vector_loop()
    for j in range(total.size):
        total[j] += part[j]


@jit
def _settled(z, i, d, mu, s, g, again, special, tile, tiny, weights, total, E, found):
    """Note a row's sum; return what its exponentials E are still to be multiplied by: weight / sum.

    A row done again is divided by its sum at once: where the weight of its only term is tiny, so is the term, and its
    product with a tiny t would underflow.
    """
    real = mu.dtype.type
    if again or not total >= tiny:
        total, found.marginal_tops[i, d] = _marginal_again(z[i, d], i, mu, s, g, special, E, True, tile)
        _scale(E, real(1.0 / total))
        share = real(weights[i, d])
    else:
        share = real(weights[i, d] / total)
    found.marginals[i, d] = total
    return share


@jit
def _four_marginals(z, i, d, mu, s, g, again, special, tile, tiny, weights, W0, W1, W2, W3, E0, E1, E2, E3, found):
    """One dimension of four samples: its exponentials and their sums; what `_settled` returns of each.

    W becomes the exponentials of the first dimension, and is multiplied by those of the others.
    """
    N = mu.size
    sum0, sum1, sum2, sum3 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        mu_t, s_t, g_t = mu[start:stop], s[start:stop], g[start:stop]
        part0, part1, part2, part3 = E0[start:stop], E1[start:stop], E2[start:stop], E3[start:stop]
        kept, products = (part0, part1, part2, part3), (W0[start:stop], W1[start:stop], W2[start:stop], W3[start:stop])
        if d == 0:
            a0, a1, a2, a3 = _exponentials(z, i, d, mu_t, s_t, g_t, None, None, kept, products)
        else:
            a0, a1, a2, a3 = _exponentials(z, i, d, mu_t, s_t, g_t, None, products, kept, None)
        sum0 += _reweighted(part0, i, N, special, start, a0)
        sum1 += _reweighted(part1, i + 1, N, special, start, a1)
        sum2 += _reweighted(part2, i + 2, N, special, start, a2)
        sum3 += _reweighted(part3, i + 3, N, special, start, a3)
    return (
        _settled(z, i, d, mu, s, g, again, special, tile, tiny, weights, sum0, E0, found),
        _settled(z, i + 1, d, mu, s, g, again, special, tile, tiny, weights, sum1, E1, found),
        _settled(z, i + 2, d, mu, s, g, again, special, tile, tiny, weights, sum2, E2, found),
        _settled(z, i + 3, d, mu, s, g, again, special, tile, tiny, weights, sum3, E3, found),
    )


@jit
def _eight(rows, start, stop):
    """The columns start ... stop - 1 of eight rows."""
    return (
        *(rows[0, start:stop], rows[1, start:stop], rows[2, start:stop], rows[3, start:stop]),
        *(rows[4, start:stop], rows[5, start:stop], rows[6, start:stop], rows[7, start:stop]),
    )


@jit
def _add_marginals(z, i, d, mu, s, g, again, special, tile, tiny, weights, W, E, own1, own2, found, at_z):
    """One dimension of eight samples: its sums and their gradient."""
    N = mu.size
    W0, W1, W2, W3, W4, W5, W6, W7 = _eight(W, 0, N)
    E0, E1, E2, E3, E4, E5, E6, E7 = _eight(E, 0, N)
    how = (again, special, tile, tiny, weights)
    first = _four_marginals(z, i, d, mu, s, g, *how, W0, W1, W2, W3, E0, E1, E2, E3, found)
    others = _four_marginals(z, i + 4, d, mu, s, g, *how, W4, W5, W6, W7, E4, E5, E6, E7, found)
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        _own_sums(
            *(z, i, d, mu[start:stop], s[start:stop], _eight(E, start, stop), first + others),
            *(own1[start:stop], own2[start:stop], at_z),
        )


@jit
def _add_joints(z, i, posteriors, special, tile, tiny, weights, W, joint1, joint2, P, found, at_z):
    """The joint of eight samples, whose products are in W: its sums and their gradient."""
    mu, s, joint = posteriors.mu, posteriors.s, found.joint
    N, real = posteriors.T.size, mu.dtype.type
    for r in range(0, 8, 4):
        k, W0, W1, W2, W3 = i + r, W[r, :N], W[r + 1, :N], W[r + 2, :N], W[r + 3, :N]
        _joint_rows(z, k, posteriors, W0, W1, W2, W3, special, tile, tiny, found)
        c0, c1 = real(weights[k] / joint[k]), real(weights[k + 1] / joint[k + 1])
        c2, c3 = real(weights[k + 2] / joint[k + 2]), real(weights[k + 3] / joint[k + 3])
        _normalise(W0, W1, W2, W3, c0, c1, c2, c3, P[:N])
    for start in range(0, N, tile):
        stop = min(N, start + tile)
        part = _eight(W, start, stop)
        for d in range(z.shape[1]):
            _joint_sums(
                *(z, i, d, mu[d, start:stop], s[d, start:stop], part),
                *(joint1[d, start:stop], joint2[d, start:stop], at_z),
            )


@jit
def _add_rows(z, posteriors, special, first, last, tile, tiny, weights, W, E, sums, found, at_z):
    """`values_and_gradient`, added to sums of one precision."""
    mu, s, g, T, _, unsafe = posteriors
    N, D = T.size, z.shape[1]
    joint1, joint2, own1, own2, P = sums[:D], sums[D : 2 * D], sums[2 * D : 3 * D], sums[3 * D : 4 * D], sums[4 * D]
    for i in range(first, last, 8):
        for d in range(D):
            _add_marginals(
                *(z, i, d, mu[d, :N], s[d, :N], g[d, :N], unsafe[d], special, tile, tiny, weights[1], W, E),
                *(own1[d, :N], own2[d, :N], found, at_z[1]),
            )
        _add_joints(z, i, posteriors, special, tile, tiny, weights[0], W, joint1, joint2, P, found, at_z[0])


@jit
def values_and_gradient(z, posteriors, special, first, last, tile, tiny, weights, W, E, sums, part, found, at_z):
    """`values`, and the gradients of sum_i weight_i log joint[i] and of sum_id weight_id log marginals[i, d], apart.

    One pass over the exponentials. weights = weight_i : (rows,), weight_id : (rows, D). The gradients are left in
    sums : (4 D + 1, >= N), which are joint1 and joint2 of `_joint_sums`, own1 and own2 of `_own_sums`, and sum_i W_ij,
    and in at_z : (2, rows, D). With `part`, a float32 array of their shape, they are added up there for `FLUSH_ROWS`
    rows at a time, and the sums are float64; without, `part` is None. W, E : (8, >= N).
    """
    sums[:] = 0
    if part is None:
        _add_rows(z, posteriors, special, first, last, tile, tiny, weights, W, E, sums, found, at_z)
    else:
        for start in range(first, last, FLUSH_ROWS):
            part[:] = 0
            stop = min(last, start + FLUSH_ROWS)
            _add_rows(z, posteriors, special, start, stop, tile, tiny, weights, W, E, part, found, at_z)
            add_rows(sums, part)


@jit
def add_rows(total, part):
    """total += part, row by row."""
    for row in range(total.shape[0]):
        _add_to(total[row], part[row])


@jit
def gradients(total, s, start, stop, joint_mu, joint_log_var, own_mu, own_log_var):
    """The derivatives in mu and log_var of the posteriors start ... stop - 1, from sums over all rows.

    total : (4 D + 1, >= N), s : (D, >= N), the results : (N, D).
    """
    D = s.shape[0]
    joint1, joint2, own1, own2, P = (
        total[:D],
        total[D : 2 * D],
        total[2 * D : 3 * D],
        total[3 * D : 4 * D],
        total[4 * D],
    )
    for j in range(start, stop):
        for d in range(D):
            joint_mu[j, d] = s[d, j] * joint1[d, j]
            joint_log_var[j, d] = 0.5 * (joint2[d, j] - P[j])
            own_mu[j, d] = s[d, j] * own1[d, j]
            own_log_var[j, d] = 0.5 * own2[d, j]


# --- from arrays to arrays -------------------------------------------------------------------------------------


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
        if self._lock.acquire(blocking=False):  # who holds it may be the call that a signal's handler interrupted
            try:
                fitting = [k for k, memory in enumerate(self._free) if size <= memory.size <= 2 * size]
                if fitting:
                    return self._free.pop(fitting[0])
            finally:
                self._lock.release()
        return np.empty(size, np.uint8)

    def give_back(self, memory: list[NDArray[np.uint8]]) -> None:
        """Keep what fits; the oldest goes first."""
        if self._lock.acquire(blocking=False):
            try:
                self._free += memory
                while sum(m.size for m in self._free) > self.KEPT:
                    self._free.pop(0)
            finally:
                self._lock.release()


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
    width += (9 - width // per_line) % 16 * per_line  # nor do neighbouring rows of one buffer, nor near one another
    size = rows * width * dtype.itemsize
    step = -(-size // page) * page + 5 * line
    memory = _scratch.take(count * step + 2 * page)
    used.append(memory)
    begin = -memory.ctypes.data % page + 13 * len(used) % (page // line) * line
    return [memory[begin + k * step : begin + k * step + size].view(dtype).reshape(rows, width) for k in range(count)]


def prepare(mu: Array, log_var: Array, used: list[NDArray[np.uint8]]) -> Posteriors:
    """Arrange posteriors (N, D) for the kernels, in `buffers`."""
    N, D = mu.shape
    ours = buffers(3, D, N, mu.dtype, used)
    mu_T, s, g = (a[:, :N] for a in ours)
    mu_T[:] = mu.T
    log_var = np.ascontiguousarray(log_var.T)
    low, high = log_var.min(axis=1), log_var.max(axis=1)
    apart = high - low > SPREAD
    unsafe = apart | (high > WIDEST[mu.dtype.itemsize])
    h = np.where(apart, 0, low).astype(mu.dtype)
    np.multiply(log_var, -0.5, out=s)
    np.exp(s, out=s)
    np.subtract(h[:, None], log_var, out=g)
    T = -log_var.sum(axis=0, dtype=np.float64).astype(mu.dtype)
    return Posteriors(*ours, T, h.astype(np.float64), unsafe)


def fill_up(z: Array, multiple: int) -> Array:
    """Samples or points, C-contiguous, the last repeated until there are a multiple of so many."""
    missing = -len(z) % multiple
    return np.ascontiguousarray(np.concatenate([z, np.repeat(z[-1:], missing, axis=0)]) if missing else z)


def _own(scratch: dict[int, list[Array]], make: Callable[[], list[Array]]) -> list[Array]:
    """Buffers of this thread: made when it takes its first block."""
    me = threading.get_ident()
    if me not in scratch:
        scratch[me] = make()
    return scratch[me]


class _InOrder:
    """Sums of blocks, added to the first block's in their order, while other blocks are still at work."""

    def __init__(self, sums: Array) -> None:
        self._sums, self._done, self._next = sums, [False] * len(sums), 0
        self._lock = threading.Lock()

    def add(self, block: int) -> None:
        """Note that a block is done, and add what can be added, unless another thread is at it."""
        self._done[block] = True
        self._go_on()

    def total(self) -> Array:
        """The sums of all blocks, once all are done."""
        self._go_on()
        return self._sums[0]

    def _go_on(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                while self._next < len(self._sums) and self._done[self._next]:
                    if self._next:
                        add_rows(self._sums[0], self._sums[self._next])
                    self._next += 1
            finally:
                self._lock.release()


def _cut(rows: int, count: int) -> list[tuple[int, int]]:
    """At most `count` blocks of whole eights of rows: the first row of each, and the row after its last."""
    tapered = count >= TAPERED
    block = -(-rows // ((count - 4 * tapered) * TOGETHER)) * TOGETHER
    half, quarter = (-(-block // (part * TOGETHER)) * TOGETHER for part in (2, 4))
    sizes = [block] * (count - 6) + [half] * 2 + [quarter] * 4 if tapered else [block] * count
    firsts = [first for first in itertools.accumulate(sizes, initial=0) if first < rows]
    return list(zip(firsts, [*firsts[1:], rows], strict=True))


def _count(rows: int, N: int, D: int) -> int:
    """Blocks of rows whose gradients are summed apart: enough for the threads, in bounded memory."""
    each = 8 * (4 * D + 1) * N
    fitting = max(2, min(FEWEST, FEWEST_BYTES // each), GRADIENT_BYTES // each)
    return min(max(BLOCKS, rows // BLOCK_ROWS), fitting - fitting % 2)


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
    padded = fill_up(z, ROWS)
    rows, N, size = len(padded), len(mu), z.dtype.itemsize
    sums = _Sums.zeros(rows, D)
    joint, marginals = np.empty(S, z.dtype), np.empty((S, D), z.dtype)
    block = min(FORWARD_ROWS, -(-rows // (4 * threads.get_num_threads() * ROWS)) * ROWS)
    blocks, done, report = -(-rows // block), list[int](), threads.in_order(progress)
    scratch: dict[int, list[Array]] = {}
    dtype = z.dtype.type

    def work(b: int) -> None:
        first, last = b * block, min(rows, (b + 1) * block)
        squares, exponentials = _own(scratch, lambda: buffers(2, ROWS, min(N, NEAR), z.dtype, used))
        values(
            *(padded, posteriors, (dtype(weights.at_own), dtype(weights.at_next)), first, last),
            *(NEAR, TINY[size], squares, exponentials, sums),
        )
        logarithms(sums, posteriors.h, LOG_2PI, weights.log_base, first, min(last, S), joint, marginals)
        if progress is not None:
            done.append(last - first)
            report(min(sum(done), S), S)

    with np.errstate(all="ignore"):
        threads.run(work, blocks)
    _scratch.give_back(used)
    return joint, marginals


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
    S, D = z.shape
    padded = fill_up(z, TOGETHER)
    rows, N, size = len(padded), len(mu), z.dtype.itemsize
    found, at_z = _Sums.zeros(rows, D), np.zeros((2, rows, D))
    for_joint, for_marginals = np.zeros(rows), np.zeros((rows, D))
    for_joint[:S], for_marginals[:S] = weight_joint, weight_marginals
    special, tiny = (z.dtype.type(weights.at_own), z.dtype.type(weights.at_next)), TINY[size]
    blocks = _cut(rows, _count(rows, N, D))
    sums = buffers(1, len(blocks) * (4 * D + 1), N, np.dtype(np.float64), used)[0].reshape(len(blocks), 4 * D + 1, -1)
    in_order = _InOrder(sums)
    scratch: dict[int, list[Array]] = {}

    def make() -> list[Array]:
        kept = buffers(2, TOGETHER, N, z.dtype, used)
        return kept if size == 8 else [*kept, *buffers(1, 4 * D + 1, N, z.dtype, used)]

    log_joint, log_marginals, in_z = np.empty(S, z.dtype), np.empty((S, D), z.dtype), np.empty((2, S, D), z.dtype)
    of_posteriors = [np.empty((N, D), z.dtype) for _ in range(4)]

    def work(b: int) -> None:
        (first, last), (W, E, *part) = blocks[b], _own(scratch, make)
        values_and_gradient(
            *(padded, posteriors, special, first, last, TILE[size], tiny, (for_joint, for_marginals), W, E),
            *(sums[b], part[0] if part else None, found, at_z),
        )
        last = min(last, S)
        logarithms(found, posteriors.h, LOG_2PI, weights.log_base, first, last, log_joint, log_marginals)
        in_z[:, first:last] = -at_z[:, first:last]
        in_order.add(b)

    def finish(task: int) -> None:
        gradients(total, posteriors.s, task * FINISHED, min(N, (task + 1) * FINISHED), *of_posteriors)

    with np.errstate(all="ignore"):
        threads.run(work, len(blocks))
        total = in_order.total()
        threads.run(finish, -(-N // FINISHED))
    _scratch.give_back(used)
    joint_mu, joint_log_var, own_mu, own_log_var = of_posteriors
    return (
        log_joint,
        log_marginals,
        Gradient((in_z[0], joint_mu, joint_log_var), (in_z[1], own_mu, own_log_var)),
    )


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
