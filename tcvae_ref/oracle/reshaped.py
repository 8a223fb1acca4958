"""Cases made over into what a property needs."""

from collections.abc import Callable, Sequence

import numpy as np

from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.tolerance import log_variances
from tcvae_ref.oracle.types import Case
from tcvae_ref.types import Array


def with_each(case: Case, change: Callable[[Array], Array]) -> Case:
    """The same done to z, mu and the widths."""
    z, mu, spread = map(change, (case.z, case.mu, case.spread))
    return case._replace(z=z, mu=mu, spread=spread)


def taken(case: Case, order: Sequence[int] | Array) -> Case:
    """Samples and posteriors in another order, or some of them."""
    return with_each(case, lambda a: a[np.asarray(order)])


def cut_down(case: Case, estimator: str, M: int, D: int) -> Case:
    """At most M samples and D dimensions; where a batch is the whole data set, these are."""
    few = with_each(case, lambda a: a[:M, :D])
    return few._replace(dataset_size=find(estimator).dataset_size(len(few.z), few.dataset_size))


def widths(case: Case) -> Array:
    """Sigma : (M, D)."""
    return np.exp(0.5 * log_variances(case))


def at_first_posterior(case: Case) -> Case:
    """All posteriors equal to the first, each sample as many standard deviations out as it was."""
    if (case.mu == case.mu[0]).all() and (case.spread == case.spread[0]).all():
        return case
    sigma = widths(case)
    mu, spread = (np.zeros_like(a) + a[0] for a in (case.mu, case.spread))
    return case._replace(z=mu + sigma[0] * ((case.z - case.mu) / sigma), mu=mu, spread=spread)


def population(case: Case) -> Case:
    """Four posteriors with a sample of each; where a case has fewer, its own again, a standard deviation along."""
    at, again = np.arange(4) % len(case.z), (np.arange(4) // len(case.z))[:, None]
    four = taken(case, at)._replace(dataset_size=4)
    return four._replace(z=four.z + again * widths(four), mu=four.mu + again * widths(four))


def on_grid(case: Case, dtype: str) -> tuple[Case, float]:
    """Samples and means rounded to a grid on which adding c is exact in a dtype, and c, a power of two.

    With |z|, |mu| < 2^e the grid's step is 2^(e - b), with b = 30 in float64 and half the significand elsewhere, and
    c = 2^(e + s): |z| + c is below 2^(e + s + 1), that is b + s + 1 bits, and these are at most the significand's.
    s is at most 10, for a shift that changes no density by itself.
    """
    digits = FORMATS[dtype].digits
    bits = 30 if digits == 53 else digits // 2
    e = int(np.frexp(max(np.abs(case.z).max(), np.abs(case.mu).max()))[1])
    z, mu = (np.ldexp(np.trunc(np.ldexp(a, bits - e)), e - bits) for a in (case.z, case.mu))
    return case._replace(z=z, mu=mu), float(np.ldexp(1.0, e + min(digits - bits - 1, 10)))


def shortened(array: Array, bits: int = 36) -> Array:
    """Rounded to so many significant bits; formats that have fewer keep their numbers."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
