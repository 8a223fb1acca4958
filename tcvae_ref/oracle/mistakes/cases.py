"""The cases on which mistakes are told apart."""

import numpy as np

from tcvae_ref.oracle.estimators import find
from tcvae_ref.oracle.types import Case

_SHAPES = {
    (5, 3, 40): (1.0, 6.0, 1.0),
    (4, 2, 7): (0.5, 4.0, 2.0),
    (7, 4, 1000): (1.0, 2.5, 1.0),
    (6, 5, 200): (2.0, 3.0, 0.75),
}
"""(M, D, N) -> alpha, beta, gamma."""


def telling_cases(estimator: str, dataset_size: int | None, *, few: bool) -> dict[str, Case]:
    """Ordinary cases, no two sizes of which are alike, and such as show what ordinary ones do not.

    Where the target has its `dataset_size` inside, that is their N.
    """
    taken = find(estimator)
    rng = np.random.default_rng(20180214)

    def size(M: int, N: int) -> int:
        return taken.dataset_size(M, dataset_size or N)

    def batch(
        shape: tuple[int, int, int],
        mu: float = 1.0,
        log_var: tuple[float, float] = (-1.0, 1.0),
        sigmas: float = 1.0,
        center: float = 0.0,
    ) -> Case:
        M, D, N = shape
        means, widths = center + mu * rng.standard_normal((M, D)), rng.uniform(*log_var, (M, D))
        z = means + sigmas * np.exp(0.5 * widths) * rng.standard_normal((M, D))
        return Case(z, means, widths, size(M, N), *_SHAPES[shape])

    first, *others = list(_SHAPES)[: 3 if few else 4]
    result = {f"M = {M}, D = {D}, N = {size(M, N)}": batch((M, D, N)) for M, D, N in (first, *others)}
    result["once more"] = batch(first)
    result["tiny variances"] = batch(first, 1e-3, (-14.0, -11.0))
    result["wide range of variances"] = batch(first, 3.0, (-8.0, 8.0))
    result["12 sigma out"] = _out(batch(first, 0.1), 12.0)
    result["30 sigma out"] = _out(batch(first, 0.1), 30.0)
    result["far from zero"] = batch(first, center=1e4)
    result["negative TC"] = _crossed(batch((4, 2, 7), 0.1, (-0.6, -0.4)))
    return result


def _out(case: Case, sigmas: float) -> Case:
    return case._replace(z=case.mu + sigmas * np.exp(0.5 * case.spread))


def _crossed(case: Case) -> Case:
    """Each coordinate of three samples near some posterior, none of these samples near any; one at its own."""
    mu = case.mu + np.array([[-3.0, 3.0], [3.0, -3.0], [-3.0, 3.0], [3.0, -3.0]])
    z = case.z + np.array([[3.0, 3.0], [-3.0, -3.0], [3.0, 3.0], [3.0, -3.0]])
    return case._replace(z=z, mu=mu)
