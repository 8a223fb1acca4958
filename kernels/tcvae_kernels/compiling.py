"""Compiling, or loading from disk, everything a command is about to use, so that the wait is seen for what it is."""

from collections.abc import Callable

import numpy as np

from tcvae_kernels import autograd_ops, elementwise, mixture, pairwise, threads
from tcvae_ref.types import ProgressHook

_UNIFORM = pairwise.Weights(0.0)


def _inputs(dtype: str) -> np.ndarray:
    return np.linspace(0.1, 0.9, 20).astype(dtype).reshape(5, 4)


def _value_and_gradient(dtype: str) -> None:
    a, share = _inputs(dtype), np.ones((5, 4))
    pairwise.log_sums_and_gradient(a, a, a, _UNIFORM, share[:, 0], share)


def _values(dtype: str) -> None:
    a = _inputs(dtype)
    autograd_ops.log_qz(a, a, a, _UNIFORM)


def _likelihood(dtype: str) -> None:
    a = _inputs(dtype)
    elementwise.bernoulli_log_likelihood(a, a)


def _layers(dtype: str) -> None:
    a = _inputs(dtype)
    for activate in (elementwise.activate_relu, elementwise.activate_tanh, elementwise.add_bias):
        activate(a.copy(), a[0])
    for slope in (elementwise.relu_slope, elementwise.tanh_slope):
        slope(a, a)


def _adam(dtype: str) -> None:
    elementwise.adam_update(*(_inputs(dtype)[0].copy() for _ in range(4)), (0.5, 0.5, 0.5, 0.5, 0.5, 0.5))


def _densities(dtype: str) -> None:
    two, ones = np.zeros(2, np.int64), np.ones(2)
    mixture.group_densities(two, two + 2, ones, ones, ones, np.zeros((1, 2), np.int32), (1, 4))


def _points(dtype: str) -> None:
    mixture.log_density(*_inputs(dtype)[:4])


TRAINING: tuple[Callable[[str], None], ...] = (_value_and_gradient, _likelihood, _layers, _adam)
"""What a training step calls."""
EVALUATION: tuple[Callable[[str], None], ...] = (_values, _densities, _points)
"""What an evaluation calls."""


def make_ready(steps: tuple[Callable[[str], None], ...], dtype: str, progress: ProgressHook | None = None) -> None:
    """Compile the kernels of some steps for one dtype, or load them from disk.

    Parameters
    ----------
    steps : tuple
        `TRAINING` or `EVALUATION`.
    dtype : str
        "float32" or "float64".
    progress : function, optional
        Called as progress(done, total), in steps.
    """
    with threads.single():  # nothing to share, and compiling holds the GIL
        for done, step in enumerate(steps, 1):
            step(dtype)
            if progress is not None:
                progress(done, len(steps))
