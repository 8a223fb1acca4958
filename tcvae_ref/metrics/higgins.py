"""The metric of the beta-VAE paper (Higgins et al., 2017, section 3): the factor that pairs of inputs share."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.metrics.draws import Inputs, Shelves, draw, draw_with_value, generator, inputs, not_installed, shelves
from tcvae_ref.types import Array, ProgressHook

_BLOCK = 2**18  # codes held at a time


class HigginsScore(NamedTuple):
    """An accuracy, and what the classifier said."""

    score: float
    """Share of the test points whose shared factor the linear classifier names."""
    standard_error: float
    """sqrt( score (1 - score) / test_points ): the spread over test points, the classifier held fixed."""
    train_score: float
    """The same of the points it was fitted to."""
    confusion: NDArray[np.int64]
    """(K, K): test points by shared factor (rows) and factor named (columns)."""
    coefficients: NDArray[np.float64]
    """(K, D): the classifier's; K = 2 gives one row."""
    iterations: int
    """Of the classifier's solver; max_iter means that it had not converged."""


def higgins_metric(
    codes: Array,
    classes: NDArray[np.integer],
    rng: np.random.Generator | int,
    *,
    weights: Array | None = None,
    batch: int = 64,
    train_points: int = 10_000,
    test_points: int = 5_000,
    inverse_regularisation: float = 1.0,
    max_iter: int = 1_000,
    progress: ProgressHook | None = None,
) -> HigginsScore:
    """Accuracy of a linear classifier that names the factor shared by pairs of inputs.

    point:  k ~ uniform;  batch pairs  a ~ p(n),  b ~ p(n | v_k = v_k(a));   x_d = mean over pairs of | z_ad - z_bd |

    The shared value differs from pair to pair. Higgins et al. (2017), section 3. The classifier is scikit-learn's
    multinomial logistic regression (L2 penalty, L-BFGS), as in later work; the paper's is a softmax layer trained by
    Adagrad. Inputs are drawn among those given, with replacement (`tcvae_ref.metrics.draws`), since new images cannot
    be made of codes; a pair can be an input with itself, which matters where few share a value.

    The points are not standardised: the penalty weighs more on codes of small scale. Batch, numbers of points, penalty
    and scale are hyper-parameters of the metric and move the score.

    Parameters
    ----------
    codes : (N, D)
        The representation, posterior means or samples.
    classes : (N, K) of int
        Each input's class of each factor, K >= 2; every factor takes at least two values.
    rng : numpy.random.Generator or int
        Of all draws; the classifier has none.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.
    batch : int
        Pairs of a point.
    train_points, test_points : int
    inverse_regularisation : float
        scikit-learn's C, above 0.
    max_iter : int
        Of the classifier's solver; scikit-learn warns when it is reached.
    progress : function, optional
        Called as progress(done, total), in points.

    Returns
    -------
    HigginsScore

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, K < 2, a factor has a single value, a count is too small, or so few
        points are trained on that a factor is missing.
    NotInstalled
        scikit-learn is missing; an ImportError too.
    """
    where = "higgins_metric"
    given, rng = inputs(where, codes, classes, weights), generator(where, rng)
    for name, count in (("batch", batch), ("train_points", train_points), ("test_points", test_points)):
        checks.whole_number(where, name, count, 1)
    checks.real_number(where, "inverse_regularisation", inverse_regularisation, 0.0, above=True)
    classifier = _logistic_regression(
        where, inverse_regularisation, checks.whole_number(where, "max_iter", max_iter, 1)
    )
    by_factor = [shelves(column, given.p) for column in given.labels.T]
    K, total = len(by_factor), train_points + test_points
    shared = rng.integers(K, size=total)
    if len(np.unique(shared[:train_points])) < K:
        raise checks.InputError(
            f"{where}: {train_points} train_points do not show all of the K={K} factors; give more, 10,000 is usual"
        )
    points = _points(given, by_factor, shared, batch, rng, progress)
    classifier.fit(points[:train_points], shared[:train_points])
    named = classifier.predict(points)
    confusion = np.bincount(K * shared[train_points:] + named[train_points:], minlength=K * K).reshape(K, K)
    score = float(np.trace(confusion) / test_points)
    return HigginsScore(
        score=score,
        standard_error=math.sqrt(score * (1.0 - score) / test_points),
        train_score=float(np.mean(named[:train_points] == shared[:train_points])),
        confusion=confusion,
        coefficients=np.asarray(classifier.coef_),
        iterations=int(np.max(classifier.n_iter_)),
    )


def _points(
    given: Inputs,
    by_factor: list[Shelves],
    shared: NDArray[np.int64],
    batch: int,
    rng: np.random.Generator,
    progress: ProgressHook | None,
) -> NDArray[np.float64]:
    """Mean absolute difference of the codes of pairs that share one factor: (points, D)."""
    D = given.codes.shape[1]
    points, done = np.empty((len(shared), D)), 0
    for k, of in enumerate(by_factor):
        rows = np.flatnonzero(shared == k)
        for part in np.array_split(rows, 1 + len(rows) * batch * D // _BLOCK):
            a = draw(given.p, (len(part), batch), rng)
            b = draw_with_value(of, given.labels[a, k], rng)
            difference = given.codes[a].astype(np.float64) - given.codes[b]
            points[part] = np.mean(np.abs(difference), axis=1)  # over pairs
            done += len(part)
            if progress is not None:
                progress(done, len(shared))
    return points


def _logistic_regression(where: str, inverse_regularisation: float, max_iter: int) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise not_installed(where) from None
    return LogisticRegression(C=inverse_regularisation, max_iter=max_iter)
