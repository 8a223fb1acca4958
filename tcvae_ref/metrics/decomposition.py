"""The exact TC-decomposition of a trained model: samples against the posteriors of the whole data set."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.estimators import log_qz_exact
from tcvae_ref.files import check_writable
from tcvae_ref.gaussian import log_density, log_standard_normal, reparameterise
from tcvae_ref.metrics.checkpoint import Checkpoint
from tcvae_ref.metrics.draws import check_widths
from tcvae_ref.metrics.partial import Aggregate, Task, digest
from tcvae_ref.metrics.posteriors import InArrays, Posteriors, chunks
from tcvae_ref.types import Array, LogPrior, LogQzEstimator, ProgressHook

CHUNK_NUMBERS = 2**15
"""Numbers in mu that a chunk of components holds unless its size is given."""
SAVE_SECONDS = 10.0
"""Between two writings of a checkpoint, at least."""
WHERE = "decomposition_exact"


class Estimate(NamedTuple):
    """A Monte-Carlo mean and its standard error, nats."""

    value: float
    standard_error: float


class ExactDecomposition(NamedTuple):
    """The KL term of the ELBO and its parts (paper, eq. 2), log q(z) taken over all N components."""

    mutual_information: Estimate
    total_correlation: Estimate
    dimension_wise_kl: Estimate
    kl_monte_carlo: Estimate
    """mean of log q(z|n) - log p(z) over the same samples: the sum of the three."""
    kl_analytic: float | None
    """mean over all inputs of the closed form; no sampling error. None where the prior is not the standard normal."""
    samples: int
    components: int


def decomposition_exact(
    mu: Array,
    log_var: Array,
    index: NDArray[np.integer],
    eps: Array,
    log_qz: LogQzEstimator = log_qz_exact,
    block_bytes: int = 2**26,
    progress: ProgressHook | None = None,
    *,
    chunk_size: int | None = None,
    checkpoint: str | Path | None = None,
    log_prior: LogPrior = log_standard_normal,
) -> ExactDecomposition:
    """Decompose the KL term with the exact aggregate posterior (paper, eq. 2).

    z_s = mu_n + sigma_n eps_s with n = index_s; log q(z_s) and log q(z_sd) against all N posteriors, z_s's own among
    them; MI, TC and DWKL are means over the same samples.

    The components are read in chunks, whose sums merge in order: mu and log_var are never copied whole, and the result
    depends in its last bits on `chunk_size` and on nothing else: not on `block_bytes`, on threads, on the workers of
    a cluster, or on having been stopped. Besides a block and a chunk it takes some 100 bytes for each of S (D + 1)
    sums.

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of the whole data set: NumPy arrays, also memory-mapped ones (`numpy.load(..., mmap_mode="r")`)
        larger than memory, or Dask arrays, which are worked on by Dask's scheduler (extra `cluster`).
    index : (S,) of int
        The inputs to sample from; drawn uniformly with replacement, the standard errors are those of S draws.
    eps : (S, D)
        Standard normal noise.
    log_qz : function
        `log_qz_exact`, or another function of its signature; called as log_qz(z, mu, log_var, n) with some samples and
        a chunk of n components.
    block_bytes : int
        Samples are given to `log_qz` in blocks whose pairwise log-densities, if they are made, fill about this much
        memory, though no less than one sample against one chunk. Kernels make none: 2**36 gives them all samples.
    progress : function, optional
        Called as progress(done, total), in components.
    chunk_size : int, optional
        Components of a chunk; by default as many as hold `CHUNK_NUMBERS` numbers.
    checkpoint : path, optional
        A file the sums are kept in, written now and then and at the end. Where it exists the work goes on from it,
        once the components in its sums are read and found unchanged.
    log_prior : function
        log p(z), a product over dimensions: the standard normal, or one of `tcvae_ref.priors`.

    Returns
    -------
    ExactDecomposition

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, an entry is not finite, an index is not one of 0 ... N - 1, or S < 2; log p(z) is
        not finite; the checkpoint is damaged, or was made with other inputs or settings.
    OSError
        The checkpoint cannot be written.
    """
    N, D = _check_posteriors(WHERE, mu, log_var)
    S = _check_samples(index, eps, N, D)
    block_bytes = checks.whole_number(WHERE, "block_bytes", block_bytes, 1)
    size = max(1, CHUNK_NUMBERS // D) if chunk_size is None else checks.whole_number(WHERE, "chunk_size", chunk_size, 1)
    posteriors = _posteriors(mu, log_var)
    mu_n, log_var_n = posteriors.rows(index)
    check_widths(WHERE, mu_n, log_var_n)
    z = reparameterise(mu_n, log_var_n, eps)
    log_pz = log_prior(z)
    _check_prior(log_pz, z, index)
    kept = None if checkpoint is None else _checkpoint(checkpoint, z, N, size, log_qz)
    block = max(1, block_bytes // (min(size, N) * D * z.itemsize))
    total = _aggregate(posteriors, z, N, size, Task(log_qz, block, kept is not None), kept, progress)

    joint, product_of_marginals = total.joint.log_mean(N), np.sum(total.marginals.log_mean(N), axis=1)  # over d
    mutual_information = np.sum(log_density(z, mu_n, log_var_n), axis=1) - joint
    total_correlation = joint - product_of_marginals
    dimension_wise_kl = product_of_marginals - log_pz
    return ExactDecomposition(
        mutual_information=estimate(mutual_information),
        total_correlation=estimate(total_correlation),
        dimension_wise_kl=estimate(dimension_wise_kl),
        kl_monte_carlo=estimate(mutual_information + total_correlation + dimension_wise_kl),
        kl_analytic=total.kl / N if log_prior is log_standard_normal else None,
        samples=S,
        components=N,
    )


def _aggregate(
    posteriors: Posteriors,
    z: Array,
    N: int,
    size: int,
    task: Task,
    kept: Checkpoint | None,
    progress: ProgressHook | None,
) -> Aggregate:
    """Sums over all N components; from a checkpoint, if there is one, and into it."""
    all_chunks, state = chunks(0, N, size), Aggregate.of_nothing(*z.shape)
    if kept is not None:
        state = kept.load(state, all_chunks, posteriors.digests)
    saved, last_saved = state.components, time.monotonic()
    left = all_chunks[-(-state.components // size) :]
    for first in range(0, len(left), posteriors.together):
        state = posteriors.add(state, z, left[first : first + posteriors.together], task, progress)
        if kept is not None and time.monotonic() - last_saved >= SAVE_SECONDS:
            kept.save(state)
            saved, last_saved = state.components, time.monotonic()
    if kept is not None and saved < N:
        kept.save(state)
    return state


def _posteriors(mu: Any, log_var: Any) -> Posteriors:
    if any(type(array).__module__.split(".")[0] == "dask" for array in (mu, log_var)):
        from tcvae_ref.metrics.cluster import InDask

        return InDask(mu, log_var)
    return InArrays(mu, log_var)


def _checkpoint(path: str | Path, z: Array, N: int, size: int, log_qz: LogQzEstimator) -> Checkpoint:
    check_writable(Path(path))
    name = getattr(log_qz, "__qualname__", type(log_qz).__qualname__)
    made_with = {
        "samples (index, eps, their posteriors)": digest(z).hex()[:16],
        "components": str(N),
        "chunk_size": str(size),
        "log_qz": f"{log_qz.__module__}.{name}",
    }
    return Checkpoint(Path(path), made_with)


def _check_posteriors(where: str, mu: Array, log_var: Array) -> tuple[int, int]:
    """Require dtypes and one shape (N, D); the entries are looked at when they are read."""
    named: dict[str, Any] = {"mu": mu, "log_var": log_var}
    checks.arrays(where, **{name: np.empty(0, a.dtype) if hasattr(a, "shape") else a for name, a in named.items()})
    N, D = (*mu.shape, 0, 0)[:2]
    if mu.shape != log_var.shape or len(mu.shape) != 2 or not (N >= 1 and D >= 1):  # nan: a Dask array's unknown length
        raise InputError(
            f"{where}: shapes are mu {mu.shape}, log_var {log_var.shape}; both must be one (N, D), each at least 1 "
            "and known (a Dask array's: compute_chunk_sizes)"
        )
    return N, D


def _described(array: Any) -> str:
    """An array by dtype and shape, anything else by its kind."""
    return f"{array.dtype} {array.shape}" if hasattr(array, "dtype") else f"a {type(array).__name__}"


def _check_samples(index: NDArray[np.integer], eps: Array, N: int, D: int) -> int:
    if getattr(index, "ndim", 0) != 1:
        raise InputError(f"{WHERE}: index is {_described(index)}; integers (S,) are needed: numpy.asarray(index)")
    if not hasattr(eps, "shape"):
        raise InputError(f"{WHERE}: eps is {_described(eps)}; an array (S, {D}) is needed: numpy.asarray(eps)")
    S = len(index)
    if S < 2 or eps.shape != (S, D):
        raise InputError(f"{WHERE}: {S} indices and eps {eps.shape}; (S,) and (S, {D}) with S >= 2 are needed")
    if not np.issubdtype(index.dtype, np.integer) or index.min() < 0 or index.max() >= N:
        raise InputError(
            f"{WHERE}: indices {index.dtype} {index.shape} lie in [{index.min()}, {index.max()}]; "
            f"integers ({S},) from 0 to {N - 1} are needed: there are N={N} posteriors"
        )
    return S


def _check_prior(log_pz: Array, z: Array, index: NDArray[np.integer]) -> None:
    """Require finite log-densities of the prior."""
    beyond = np.flatnonzero(~np.isfinite(log_pz))
    if beyond.size:
        s = beyond[0]
        furthest = z[s][np.argmax(np.abs(z[s]))]
        raise InputError(
            f"{WHERE}: log p(z) is {log_pz[s]} where z, drawn from posterior {index[s]}, is {furthest:.3g} in "
            f"{z.dtype}; a finite number is needed: look where mu, log_var and eps were computed, and at the prior"
        )


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean of independent draws and its standard error.

    Parameters
    ----------
    values : (S,)
        S >= 2 draws.

    Returns
    -------
    Estimate
        mean_i v_i and sqrt( sum_i (v_i - mean)^2 / (S - 1) / S ), in the unit of the values.

    Raises
    ------
    InputError, TypeError
        Not one finite number for each of at least two draws.
    """
    checks.vectors("estimate", values=values)
    if len(values) < 2:
        raise InputError("estimate: one value has no standard error; give at least two")
    exponent = np.frexp(np.abs(values).max())[1]
    values = np.ldexp(values, -exponent)  # exact but for what is nothing beside the largest; no square overflows
    mean, deviation = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    return Estimate(float(np.ldexp(mean, exponent)), float(np.ldexp(deviation, exponent)))


def dimension_wise_kl_exact(mu: Array, log_var: Array, entropies: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(q(z_d) || p(z_d)) of each dimension without Monte Carlo.

    - H(z_d) - E[log p(z_d)] = - H(z_d) + 1/2 [ log 2 pi + mean_n( mu_nd^2 + exp(log_var_nd) ) ]

    Parameters
    ----------
    mu, log_var : (N, D)
        The posteriors of the whole data set; read in chunks, as `decomposition_exact` does.
    entropies : (D,)
        H(z_d), nats (`MIG.entropies`).

    Returns
    -------
    kl : (D,), nats; infinite where a square or a variance overflows

    Raises
    ------
    InputError, TypeError
        Shapes or dtypes do not fit, or an entry is not finite.
    """
    N, D = _check_posteriors("dimension_wise_kl_exact", mu, log_var)
    if np.shape(entropies) != (D,):
        raise InputError(
            f"dimension_wise_kl_exact: entropies {np.shape(entropies)}; ({D},) is needed, as mu {mu.shape}"
        )
    checks.arrays("dimension_wise_kl_exact", entropies=entropies)
    second_moment = np.zeros(D)
    for start, stop in chunks(0, N, max(1, CHUNK_NUMBERS // D)):
        mu_n, log_var_n = InArrays(mu, log_var).chunk(start, stop)
        checks.matrices("dimension_wise_kl_exact", mu=mu_n, log_var=log_var_n)
        with np.errstate(over="ignore"):
            squares = np.square(mu_n, dtype=np.float64) + np.exp(log_var_n, dtype=np.float64)
        second_moment += np.sum(squares, axis=0) / N  # over inputs n
    return 0.5 * (math.log(2.0 * math.pi) + second_moment) - entropies
