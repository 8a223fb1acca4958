"""Names for the shapes that travel between modules."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A float64 or float32 array, or autograd's box round one."""

Layers: TypeAlias = list[tuple[Array, Array]]
"""A fully connected network: (W, b) for each layer, W : (inputs, outputs), b : (outputs,)."""

Layer: TypeAlias = Callable[[Array, Array, Array], Array]
"""`layer(h, W, b)`: a layer with its activation."""

ProgressHook: TypeAlias = Callable[[int, int], None]
"""Called as hook(done, total) during a long call."""

Scalar: TypeAlias = Any
"""A 0-dimensional result: a NumPy float, or autograd's box round one."""


class LogQz(NamedTuple):
    """Log-density of the aggregate posterior, at each sample."""

    joint: Array
    """log q(z_i) : (M,), nats."""
    marginals: Array
    """log q(z_id) : (M, D), nats."""


class ExpectedLogQz(NamedTuple):
    """Batch means of a LogQz: what the TC-decomposition needs."""

    joint: Scalar
    """mean_i log q(z_i), nats."""
    marginals: Scalar
    """mean_i sum_d log q(z_id), nats."""


LogQzEstimator: TypeAlias = Callable[[Array, Array, Array, int], LogQz]
"""`log_qz(z, mu, log_var, dataset_size)`: a function of `tcvae_ref.estimators`, or another of its signature."""

ExpectedLogQzEstimator: TypeAlias = Callable[[Array, Array, Array, int], ExpectedLogQz]
"""`expected_log_qz(z, mu, log_var, dataset_size)`: one of `tcvae_ref.estimators`, or another of its signature."""

LogPrior: TypeAlias = Callable[[Array], Array]
"""`log_prior(z)`: log p(z_i) of samples (M, D) -> (M,), nats; `tcvae_ref.gaussian.log_standard_normal` or another."""
