"""Cases for the estimators: drawn by NumPy where thousands are compared, by hypothesis where one is to be shrunk."""

import numpy as np
from hypothesis import strategies as st

from tcvae_ref import estimators

BATCH = ("mws", "mss", "symmetric_mss", "minibatch")
ALL = ("exact", *BATCH)


def log_qz(name):
    return getattr(estimators, f"log_qz_{name}")


def expected_log_qz(name):
    return getattr(estimators, f"expected_log_qz_{name}")


def case(rng, estimator, dtype="float64", largest=(8, 4)):
    """(z, mu, log_var, N): moderate scales mostly, one in four with extreme variances and far-apart posteriors."""
    M = int(rng.integers(2, largest[0] + 1))
    D = int(rng.integers(1, largest[1] + 1))
    N = M if estimator == "exact" else int(M + rng.integers(0, 10 ** int(rng.integers(1, 7))))
    spread, widths = (1.0, 1.5) if rng.random() < 0.75 else (20.0, 8.0)
    mu = spread * rng.standard_normal((M, D))
    log_var = widths * rng.uniform(-1.0, 1.0, (M, D))
    z = mu + np.exp(0.5 * log_var) * rng.standard_normal((M, D))
    if rng.random() < 0.1:  # duplicates
        mu[-1], log_var[-1] = mu[0], log_var[0]
    return (*(a.astype(dtype) for a in (z, mu, log_var)), N)


@st.composite
def batches(draw, least=2, largest=12, widest=6):
    """(z, mu, log_var, N) with M <= N, from one seed and a few integers, so that they shrink to small batches."""
    M = draw(st.integers(least, largest))
    D = draw(st.integers(1, widest))
    N = draw(st.integers(M, 10_000))
    scale = draw(st.sampled_from([1.0, 0.1, 5.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mu = scale * rng.standard_normal((M, D))
    log_var = scale * rng.uniform(-1.0, 1.0, (M, D))
    return mu + np.exp(0.5 * log_var) * rng.standard_normal((M, D)), mu, log_var, N
