"""The functions a training step is made of, so that the same loop runs on NumPy or on compiled kernels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
from autograd import grad

from tcvae_ref import estimators, extensions
from tcvae_ref.checks import InputError
from tcvae_ref.likelihood import bernoulli_log_likelihood
from tcvae_ref.networks import linear_layer, relu_layer, tanh_layer
from tcvae_ref.training.adam import AdamUpdate, adam_update
from tcvae_ref.training.row_blocks import in_row_blocks
from tcvae_ref.training.settings import STUDY_ESTIMATORS
from tcvae_ref.types import Array, ExpectedLogQzEstimator, Layer


class Operations(NamedTuple):
    """Functions with the names, arguments and results of the reference's."""

    estimators: dict[str, ExpectedLogQzEstimator]
    """Those that work on a batch, by their names on the command line."""
    bernoulli_log_likelihood: Callable[[Array, Array], Array]
    relu_layer: Layer
    tanh_layer: Layer
    linear_layer: Layer
    adam_update: AdamUpdate

    def having(self, estimator: str) -> "Operations":
        """These operations, with an estimator that another package adds if they have not got it.

        Raises
        ------
        InputError
            It is one of those for studies alone, no package adds it, or what is added is no such estimator.
        """
        if estimator in self.estimators:
            return self
        if estimator in STUDY_ESTIMATORS:
            raise InputError(
                f"train: the estimator {estimator} is for studies alone; continue this run with tcvae-ref sweep"
            )
        return self._replace(estimators={**self.estimators, estimator: _added(estimator)})


def _added(name: str) -> ExpectedLogQzEstimator:
    """An estimator of another package, once it has given two numbers and their gradients for a batch."""
    function: ExpectedLogQzEstimator = extensions.load("estimator", name, ("__call__",))
    z = numpy.array([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1], [0.0, 0.9]])

    def both(z: Array, mu: Array, log_var: Array) -> Any:
        joint, marginals = function(z, mu, log_var, 20)
        return joint - 2.0 * marginals

    try:
        slopes = grad(both, (0, 1, 2))(z, 0.5 * z, 0.1 * z)
    except Exception as error:
        raise InputError(
            f"estimator {name!r}: of a batch of four it gave no two numbers that autograd differentiates: "
            f"{type(error).__name__}: {error}; tcvae_ref/EXTENDING.md has an example"
        ) from error
    if not all(numpy.isfinite(slope).all() for slope in slopes):
        raise InputError(f"estimator {name!r}: its gradient for a batch of four is not finite")
    return function


NUMPY = Operations(
    {
        "mws": in_row_blocks(estimators.expected_log_qz_mws, estimators.log_weights_mws),
        "mss": in_row_blocks(estimators.expected_log_qz_mss, estimators.log_weights_mss),
        "symmetric-mss": in_row_blocks(estimators.expected_log_qz_symmetric_mss, estimators.log_weights_symmetric_mss),
        "minibatch": in_row_blocks(
            estimators.expected_log_qz_minibatch,
            lambda M, N: estimators.log_weights_mws(M, 1),  # 1/M = 1/(1 M)
        ),
    },
    bernoulli_log_likelihood,
    relu_layer,
    tanh_layer,
    linear_layer,
    adam_update,
)
"""The reference itself, in blocks of samples where a batch is large."""
