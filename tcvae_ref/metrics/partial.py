"""What is known of the aggregate posterior after some of its components, and how two such parts become one.

A sum of exponentials over components n, sum_n exp(a_n), is carried as exp(m) * s with m the largest exponent seen so
far. Two of them, over different components, merge into

    m = max(m_1, m_2),    s = s_1 exp(m_1 - m) + s_2 exp(m_2 - m)

which is commutative to the bit and associative to rounding. Merged in the order of the components, from the first,
the bits depend on how the components are cut and on nothing else: not on who sums which part, nor when.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.gaussian import kl_to_standard_normal
from tcvae_ref.types import Array, LogQzEstimator, ProgressHook

DIGEST_BYTES = 32


class LogSum(NamedTuple):
    """Sums of exponentials, exp(maximum) * sum; over nothing, or where all underflow, the maximum is -inf."""

    maximum: NDArray[np.float64]
    """Of the terms, or any other number near their size, such as the logarithm of their mean."""
    sum: NDArray[np.float64]

    @classmethod
    def over_nothing(cls, *shape: int) -> "LogSum":
        """What merges with any other into that other."""
        return cls(np.full(shape, -np.inf), np.zeros(shape))

    @classmethod
    def of_log_mean(cls, log_mean: NDArray[np.float64], terms: int) -> "LogSum":
        """The sum of so many exponentials, from the logarithm of their mean."""
        return cls(log_mean, np.full(log_mean.shape, float(terms)))

    def merged(self, other: "LogSum") -> "LogSum":
        """The sums over the terms of both."""
        maximum = np.maximum(self.maximum, other.maximum)
        top = np.where(maximum == -np.inf, 0.0, maximum)  # -inf - -inf is nan
        with np.errstate(under="ignore"):
            ours, theirs = (part.sum * np.exp(part.maximum - top) for part in (self, other))
        return LogSum(maximum, ours + theirs)

    def log_mean(self, terms: int) -> NDArray[np.float64]:
        """The logarithm of the mean of so many exponentials."""
        with np.errstate(divide="ignore"):
            return self.maximum + np.log(self.sum / terms)


class Aggregate(NamedTuple):
    """Sums over some of the components, at S samples."""

    joint: LogSum
    """(S,): of q(z_s|n)."""
    marginals: LogSum
    """(S, D): of q(z_sd|n)."""
    kl: float
    """Of KL(q(z|n) || p(z)), nats."""
    components: int
    digests: bytes
    """SHA-256 of each chunk, one after the other; empty where nobody asked for them."""

    @classmethod
    def of_nothing(cls, S: int, D: int) -> "Aggregate":
        """No component."""
        return cls(LogSum.over_nothing(S), LogSum.over_nothing(S, D), 0.0, 0, b"")

    def merged(self, following: "Aggregate") -> "Aggregate":
        """The sums over the components of both; `following` holds those that come next."""
        return Aggregate(
            self.joint.merged(following.joint),
            self.marginals.merged(following.marginals),
            self.kl + following.kl,
            self.components + following.components,
            self.digests + following.digests,
        )


class Task(NamedTuple):
    """How a chunk of components is summed."""

    log_qz: LogQzEstimator
    """`tcvae_ref.estimators.log_qz_exact`, or another function of its signature."""
    samples: int
    """Given to it at a time; no result depends on it."""
    digested: bool


def aggregate(
    z: Array, mu: Array, log_var: Array, start: int, task: Task, progress: ProgressHook | None = None
) -> Aggregate:
    """Sums over one chunk of components.

    Parameters
    ----------
    z : (S, D)
    mu, log_var : (n, D)
        The components start ... start + n - 1.
    start : int
    task : Task
    progress : function, optional
        Called as progress(done, total), in samples.

    Raises
    ------
    InputError, TypeError
        An entry is not finite, or as `task.log_qz` does.
    """
    (S, D), n = z.shape, len(mu)
    mu, log_var = np.ascontiguousarray(mu), np.ascontiguousarray(log_var)  # whose sums have one order
    checks.matrices(f"decomposition_exact: components {start} ... {start + n - 1}", mu=mu, log_var=log_var)
    joint, marginals = np.empty(S), np.empty((S, D))
    for first in range(0, S, task.samples):
        block = slice(first, min(first + task.samples, S))
        joint[block], marginals[block] = task.log_qz(z[block], mu, log_var, n)
        if progress is not None:
            progress(block.stop, S)
    return Aggregate(
        LogSum.of_log_mean(joint, n),
        LogSum.of_log_mean(marginals, n),
        float(np.sum(kl_to_standard_normal(mu, log_var), dtype=np.float64)),  # over inputs n
        n,
        digest(mu, log_var) if task.digested else b"",
    )


def digest(*arrays: Array) -> bytes:
    """SHA-256 of the numbers in some arrays, their shapes and dtypes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str} {array.shape} ".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.digest()
