"""The derivation of `tolerance` for the form this package computes in, which reaches further than others may.

`tcvae_ref` and its kernels take (z - mu) exp(-log_var / 2), then its square: no precision exp(-log_var) is formed, so
log-variances of +-700 fit float64, and the largest term of a log-sum-exp is computed once. All else is as derived
there.
"""

from typing import NamedTuple

import numpy as np

from tcvae_ref.oracle.formats import FORMATS
from tcvae_ref.oracle.tolerance import _Derivation, _Rounding
from tcvae_ref.oracle.types import Allowances, Case, Primitives
from tcvae_ref.types import Array


class Cut(NamedTuple):
    """Terms of a log-sum-exp that are left out, as powers of two."""

    below: float
    """Terms, before they are weighted, below this share of the largest..."""
    tiny: float
    """... or of a number of which the sum itself is at least this share."""

    def left_out(self, M: int, log_w: Array) -> float:
        """At most this share of a sum over M weighted terms."""
        return float(M * self.below * max(1 / self.tiny, np.exp(np.ptp(log_w))))


NO_CUT = Cut(0.0, 1.0)


def allowances(case: Case, estimator: str, dtype: str, primitives: Primitives, cut: Cut = NO_CUT) -> Allowances:
    """Bound the error of every quantity and gradient of a case in this package's own form.

    Parameters
    ----------
    case : Case
        Representable in `dtype`, its width a log_var.
    estimator, dtype : str
    primitives : Primitives
        Errors of exp and log, in units of u.
    cut : Cut
        Terms that are left out on purpose.

    Returns
    -------
    Allowances
        Infinite where a result leaves the range of the dtype.
    """
    with np.errstate(all="ignore"):
        rounding = _Rounding(FORMATS[dtype], primitives.exp, primitives.log, expanded=False, without="")
        return _Standardised(rounding, case, estimator, cut).allowances(gradients=True)


class _Standardised(_Derivation):
    def __init__(self, rounding: _Rounding, case: Case, estimator: str, cut: Cut):
        super().__init__(rounding, case, estimator)
        self.left_out = cut.left_out(self.M, self.log_w)

    def inside(self) -> bool:
        """Whether neither the squares nor the slopes (z - mu) / sigma^2 overflow, nor z^2 and the weights."""
        largest, inverse = self.r.format.largest, np.exp(-0.5 * self.log_var)
        slope = np.max(self.distance * inverse * inverse)
        return bool(
            4 * np.abs(self.case.z).max() ** 2 <= largest
            and 4 * self.M * self.D * (self.q.max() + 1) <= largest
            and 4 * self.M * max(slope, inverse.max()) <= largest
            and self.case.dataset_size * self.M <= min(largest, 1 / self.r.format.smallest)
        )

    def lost_in_quadratic(self) -> Array:
        """What underflow may take from t^2: of the product (z - mu) / sigma, and of its square."""
        return self.r.format.smallest * (2 * np.sqrt(self.q) + 2)

    def shift_holds(self, term_error: Array) -> bool:
        """The largest term is the very number that was found."""
        return True

    def log_sum_exp_error(self, term_error: Array, y: Array, P: Array) -> Array:
        return super().log_sum_exp_error(term_error, y, P) + 2 * self.left_out

    def share_error(self, term_error: Array, error: Array, y: Array, S: Array, T: Array) -> Array:
        """Never more than the whole."""
        return np.minimum(super().share_error(term_error, error, y, S, T), 1.0) + 2 * self.left_out

    def slope(self) -> tuple[Array, Array, Array]:
        """Softmax weights are multiplied by (z - mu) / sigma, or by z - mu, before 1 / sigma follows."""
        inverse, eta = np.exp(-0.5 * self.log_var), self.r.format.smallest
        each = np.broadcast_to(8 * eta * (1 + inverse), self.distance.shape)
        return self.distance * inverse * inverse, each, each
