"""The exponential, written so that LLVM turns a loop over it into packed instructions, without a vector library.

exp(x / 2): the kernels carry twice the log-density, g - t^2, so that no halving is needed in their loops.

    x / 2 = n log 2 + r,  |r| <= log(2) / 2    n by adding and subtracting 1.5 2^52, which rounds to a whole number
    exp(r) = 1 + r + r^2 q(r)                   q of degree 9 (float32: 4), interpolated at Chebyshev nodes
    times 2^n                                    n added to the exponent's bits

The adding and subtracting must be left as it stands, so these functions are compiled without `reassoc`. The
coefficients carry the powers of two that turn r into 2 r (x is not halved) and raise the result by 2^54 (float32:
2^26), so that adding a negative n to the exponent stays a normal number; the last product takes it back, and rounds
once where the result is subnormal.

Four at a time, step by step: the chain of one exponential is 20 instructions long, and a processor that looks at
four chains side by side keeps both its arithmetic units busy.

Not for large positive x: above x = 1300 (float32: 140) the result is wrong, not infinite.
"""

import math

import numpy as np

from tcvae_kernels._jit import bits32, bits64, by_type, float32, float64, int32, jit, vector_loop

LEAST_64 = 2 * -745.2
LEAST_32 = np.float32(2 * -104.0)
"""exp(x / 2) is 0 below these: it would round to zero."""
LEAST_WEIGHT_64, LEAST_WEIGHT_32 = 2.0**-960, np.float32(2.0**-90)
"""Weights below this are taken as 0, the largest being 1: products with subnormal numbers are slow.

Where a sum is not taken from its largest term (`tcvae_kernels.pairwise.TINY`), that is 2^-360 (2^-50) of the sum."""
CUT_64, CUT_32 = 2 * math.log(LEAST_WEIGHT_64), np.float32(2 * math.log(LEAST_WEIGHT_32))

_MAGIC_64, _INVERSE_64 = 6755399441055744.0, 0.5 / math.log(2)
_HIGH_64, _LOW_64 = 2 * 6.93147180369123816490e-01, 2 * 1.90821492927058770002e-10  # log 2 in two parts
_Q_64 = (
    *(0.50000000000000010211, 0.16666666666666667452, 0.041666666666624161903, 0.0083333333333300644495),
    *(0.0013888888917196719077, 0.00019841269863040545271, 0.000024801521322368693266, 2.7557268480310025526e-6),
    *(2.7620075879983366586e-7, 2.5100375832561233664e-8),
)
_A0, _A1 = 2.0**54, 2.0**53
_A2, _A3, _A4, _A5, _A6, _A7, _A8, _A9, _A10, _A11 = (c * 2.0 ** (52 - k) for k, c in enumerate(_Q_64))
_BACK_64 = 2.0**-54

_MAGIC_32, _INVERSE_32 = np.float32(12582912.0), np.float32(0.5 / math.log(2))
_HIGH_32, _LOW_32 = np.float32(2 * 0.693145751953125), np.float32(2 * 1.42860682030941723212e-6)
_Q_32 = (0.5, 0.1666657702559798819, 0.041666554662050533982, 0.0083631730745137109028, 0.0013926176119935578884)
_B0, _B1 = np.float32(2.0**26), np.float32(2.0**25)
_B2, _B3, _B4, _B5, _B6 = (np.float32(c * 2.0 ** (24 - k)) for k, c in enumerate(_Q_32))
_BACK_32, _ZERO_32, _SHIFT_32 = np.float32(2.0**-26), np.float32(0.0), np.int32(23)


def _four_64(x0, x1, x2, x3, least):
    n0, n1, n2, n3 = (
        x0 * _INVERSE_64 + _MAGIC_64,
        x1 * _INVERSE_64 + _MAGIC_64,
        x2 * _INVERSE_64 + _MAGIC_64,
        x3 * _INVERSE_64 + _MAGIC_64,
    )
    k0, k1, k2, k3 = bits64(n0) << 52, bits64(n1) << 52, bits64(n2) << 52, bits64(n3) << 52
    n0, n1, n2, n3 = n0 - _MAGIC_64, n1 - _MAGIC_64, n2 - _MAGIC_64, n3 - _MAGIC_64
    r0, r1, r2, r3 = x0 - n0 * _HIGH_64, x1 - n1 * _HIGH_64, x2 - n2 * _HIGH_64, x3 - n3 * _HIGH_64
    r0, r1, r2, r3 = r0 - n0 * _LOW_64, r1 - n1 * _LOW_64, r2 - n2 * _LOW_64, r3 - n3 * _LOW_64
    p0, p1, p2, p3 = _A11 * r0 + _A10, _A11 * r1 + _A10, _A11 * r2 + _A10, _A11 * r3 + _A10
    p0, p1, p2, p3 = p0 * r0 + _A9, p1 * r1 + _A9, p2 * r2 + _A9, p3 * r3 + _A9
    p0, p1, p2, p3 = p0 * r0 + _A8, p1 * r1 + _A8, p2 * r2 + _A8, p3 * r3 + _A8
    p0, p1, p2, p3 = p0 * r0 + _A7, p1 * r1 + _A7, p2 * r2 + _A7, p3 * r3 + _A7
    p0, p1, p2, p3 = p0 * r0 + _A6, p1 * r1 + _A6, p2 * r2 + _A6, p3 * r3 + _A6
    p0, p1, p2, p3 = p0 * r0 + _A5, p1 * r1 + _A5, p2 * r2 + _A5, p3 * r3 + _A5
    p0, p1, p2, p3 = p0 * r0 + _A4, p1 * r1 + _A4, p2 * r2 + _A4, p3 * r3 + _A4
    p0, p1, p2, p3 = p0 * r0 + _A3, p1 * r1 + _A3, p2 * r2 + _A3, p3 * r3 + _A3
    p0, p1, p2, p3 = p0 * r0 + _A2, p1 * r1 + _A2, p2 * r2 + _A2, p3 * r3 + _A2
    p0, p1, p2, p3 = p0 * r0 + _A1, p1 * r1 + _A1, p2 * r2 + _A1, p3 * r3 + _A1
    p0, p1, p2, p3 = p0 * r0 + _A0, p1 * r1 + _A0, p2 * r2 + _A0, p3 * r3 + _A0
    e0 = 0.0 if x0 < least else float64(bits64(p0) + k0) * _BACK_64
    e1 = 0.0 if x1 < least else float64(bits64(p1) + k1) * _BACK_64
    e2 = 0.0 if x2 < least else float64(bits64(p2) + k2) * _BACK_64
    e3 = 0.0 if x3 < least else float64(bits64(p3) + k3) * _BACK_64
    return e0, e1, e2, e3


def _four_32(x0, x1, x2, x3, least):
    n0, n1, n2, n3 = (
        x0 * _INVERSE_32 + _MAGIC_32,
        x1 * _INVERSE_32 + _MAGIC_32,
        x2 * _INVERSE_32 + _MAGIC_32,
        x3 * _INVERSE_32 + _MAGIC_32,
    )
    k0, k1, k2, k3 = (
        int32(bits32(n0) << _SHIFT_32),
        int32(bits32(n1) << _SHIFT_32),
        int32(bits32(n2) << _SHIFT_32),
        int32(bits32(n3) << _SHIFT_32),
    )
    n0, n1, n2, n3 = n0 - _MAGIC_32, n1 - _MAGIC_32, n2 - _MAGIC_32, n3 - _MAGIC_32
    r0, r1, r2, r3 = x0 - n0 * _HIGH_32, x1 - n1 * _HIGH_32, x2 - n2 * _HIGH_32, x3 - n3 * _HIGH_32
    r0, r1, r2, r3 = r0 - n0 * _LOW_32, r1 - n1 * _LOW_32, r2 - n2 * _LOW_32, r3 - n3 * _LOW_32
    p0, p1, p2, p3 = _B6 * r0 + _B5, _B6 * r1 + _B5, _B6 * r2 + _B5, _B6 * r3 + _B5
    p0, p1, p2, p3 = p0 * r0 + _B4, p1 * r1 + _B4, p2 * r2 + _B4, p3 * r3 + _B4
    p0, p1, p2, p3 = p0 * r0 + _B3, p1 * r1 + _B3, p2 * r2 + _B3, p3 * r3 + _B3
    p0, p1, p2, p3 = p0 * r0 + _B2, p1 * r1 + _B2, p2 * r2 + _B2, p3 * r3 + _B2
    p0, p1, p2, p3 = p0 * r0 + _B1, p1 * r1 + _B1, p2 * r2 + _B1, p3 * r3 + _B1
    p0, p1, p2, p3 = p0 * r0 + _B0, p1 * r1 + _B0, p2 * r2 + _B0, p3 * r3 + _B0
    e0 = _ZERO_32 if x0 < least else float32(int32(bits32(p0) + k0)) * _BACK_32
    e1 = _ZERO_32 if x1 < least else float32(int32(bits32(p1) + k1)) * _BACK_32
    e2 = _ZERO_32 if x2 < least else float32(int32(bits32(p2) + k2)) * _BACK_32
    e3 = _ZERO_32 if x3 < least else float32(int32(bits32(p3) + k3)) * _BACK_32
    return e0, e1, e2, e3


@by_type(float64=_four_64, float32=_four_32)
def exp_half_four(x0, x1, x2, x3, least):
    """Four of exp(x / 2), each 0 where x < least."""


def _weights_64(x0, x1, x2, x3):
    return exp_half_four(x0, x1, x2, x3, CUT_64)


def _weights_32(x0, x1, x2, x3):
    return exp_half_four(x0, x1, x2, x3, CUT_32)


@by_type(float64=_weights_64, float32=_weights_32)
def weight_four(x0, x1, x2, x3):
    """Four of exp(x / 2) for x <= 0, each 0 below `CUT_64` or `CUT_32`: weights relative to the largest."""


def _weight(x):
    return weight_four(x, x, x, x)[0]


@by_type(float64=_weight, float32=_weight)
def weight(x):
    """One of `weight_four`; the compiler drops the other three."""


def _weight_or_zero_64(w):
    return 0.0 if w < LEAST_WEIGHT_64 else w


def _weight_or_zero_32(w):
    return _ZERO_32 if w < LEAST_WEIGHT_32 else w


@by_type(float64=_weight_or_zero_64, float32=_weight_or_zero_32)
def weight_or_zero(w):
    """A weight, 0 where it is below `LEAST_WEIGHT_64` or `LEAST_WEIGHT_32`."""


def _exp_64(x):
    y = 2.0 * x
    return x if x != x else exp_half_four(y, y, y, y, LEAST_64)[0]


def _exp_32(x):
    y = np.float32(2.0) * x
    return x if x != x else exp_half_four(y, y, y, y, LEAST_32)[0]


@by_type(float64=_exp_64, float32=_exp_32)
def exp(x):
    """exp(x) for x <= 650 (float32: 70), at most 2 ulp off; right at 0, -inf, nan and where it is subnormal."""


@jit
def exp_into(x, out):
    """`exp` of every entry : 1-D arrays of one length."""
    vector_loop()
    for j in range(x.size):
        out[j] = exp(x[j])


@jit
def sum_of_weights(x):
    """The sum of `weight` over a 1-D array: nothing but exponentials."""
    vector_loop()
    total = x.dtype.type(0)
    for j in range(x.size):
        total += weight(x[j])
    return total
