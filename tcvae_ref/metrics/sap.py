"""Separated attribute predictability (Kumar et al., 2018, section 3): gaps between the two codes that predict best."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.draws import generator, inputs, not_installed, split
from tcvae_ref.metrics.entropy import probabilities
from tcvae_ref.types import Array, ProgressHook


class SAP(NamedTuple):
    """Gaps of predictability, and what they were computed from."""

    score: float
    """Mean of the gaps."""
    gaps: NDArray[np.float64]
    """(K,): S_top1,k - S_top2,k."""
    predictability: NDArray[np.float64]
    """(D, K): S_dk, how well code d alone predicts factor k."""
    recipe: str
    """Which S: "linear SVM" or "R^2"; their scores are not comparable."""


def sap(
    codes: Array,
    classes: NDArray[np.integer],
    rng: np.random.Generator | int,
    *,
    train: int = 10_000,
    test: int = 5_000,
    inverse_regularisation: float = 0.01,
    max_iter: int = 1_000,
    progress: ProgressHook | None = None,
) -> SAP:
    """Separated attribute predictability by linear classifiers: factors as unordered classes.

    S_dk = accuracy on test inputs of a linear SVM that predicts v_k from z_d alone;   SAP = mean_k ( S_top1 - S_top2 )

    Kumar et al. (2018), section 3, with the classifier and settings of disentanglement_lib, from which published
    numbers come: scikit-learn's LinearSVC, one against the rest, squared hinge loss, C = 0.01, classes weighted
    to balance. One against the rest by a single number separates the classes at the two ends well and those between
    hardly, so S of a factor of many values is low even for a code that tells it perfectly, and so is the score. The
    codes' scale matters, as the penalty does. Every input counts once; p(n) does not enter.

    Parameters
    ----------
    codes : (N, D)
        The representation, usually posterior means, D >= 2.
    classes : (N, K) of int
        Each input's class of each factor; every factor takes at least two values.
    rng : numpy.random.Generator or int
        Of the choice of inputs; the classifier is solved in its primal form, without randomness.
    train, test : int
        Different inputs, drawn without replacement.
    inverse_regularisation : float
        scikit-learn's C, above 0.
    max_iter : int
        Of the classifier's solver; scikit-learn warns when it is reached.
    progress : function, optional
        Called as progress(done, total), in classifiers.

    Returns
    -------
    SAP

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a factor has a single value, there are fewer than train + test
        inputs, or the training inputs show one value of a factor.
    NotInstalled
        scikit-learn is missing; an ImportError too.
    """
    where = "sap"
    given, rng = inputs(where, codes, classes, factors=1), generator(where, rng)
    _two_codes(where, codes)
    checks.real_number(where, "inverse_regularisation", inverse_regularisation, 0.0, above=True)
    checks.whole_number(where, "max_iter", max_iter, 1)
    fitting, testing = split(where, len(codes), train, test, rng)
    D, K = codes.shape[1], classes.shape[1]
    x, predictability = given.codes.astype(np.float64), np.empty((D, K))
    for k in range(K):
        y = given.labels[:, k]
        if len(np.unique(y[fitting])) < 2:
            raise InputError(f"{where}: the {train} training inputs show one value of factor {k}; give more")
        for d in range(D):
            classifier = _linear_svm(where, inverse_regularisation, max_iter).fit(x[fitting, d : d + 1], y[fitting])
            predictability[d, k] = classifier.score(x[testing, d : d + 1], y[testing])
            if progress is not None:
                progress(k * D + d + 1, K * D)
    return _gaps(predictability, "linear SVM")


def sap_r_squared(codes: Array, classes: NDArray[np.integer], *, weights: Array | None = None) -> SAP:
    """Separated attribute predictability by linear regression: factors as numbers.

    S_dk = cov(z_d, v_k)^2 / ( var(z_d) var(v_k) ), 0 for a constant code;   SAP = mean_k ( S_top1 - S_top2 )

    Kumar et al. (2018), section 3, for ordered factors. All inputs at once, so nothing is random. Only a straight line
    counts: a code that tells an angle by going round, or a shape whose numbers are names, scores low here.

    Parameters
    ----------
    codes : (N, D)
        The representation, usually posterior means, D >= 2.
    classes : (N, K) of int
        Each input's value of each factor, as the numbers they are.
    weights : (N,), optional
        p(n) up to a constant; by default all inputs are equally probable.

    Returns
    -------
    SAP

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, a factor has a single value, or a weight is negative.
    """
    where = "sap_r_squared"
    given = inputs(where, codes, classes, weights, factors=1)
    _two_codes(where, codes)
    numbers = classes[probabilities(where, len(codes), weights) > 0]
    unsigned = np.dtype(f"u{numbers.dtype.itemsize}")  # modulo 2^bits, which no difference leaves
    numbers = numbers.astype(unsigned) - numbers.min(axis=0).astype(unsigned)  # whole numbers that floats may confuse
    z = _unit(given.codes.astype(np.float64), given.p)
    v = _unit(numbers.astype(np.float64), given.p)
    return _gaps((z.T @ v) ** 2, "R^2")


def _unit(values: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns as vectors whose products are correlations; zeros if constant."""
    constant = np.ptp(values, axis=0) == 0
    centred = np.where(constant, 0.0, values - p @ values) * np.sqrt(p)[:, None]
    length = np.linalg.norm(centred, axis=0)
    return np.asarray(centred / np.where(constant, 1.0, length))


def _gaps(predictability: NDArray[np.float64], recipe: str) -> SAP:
    top2, top1 = np.sort(predictability, axis=0)[-2:]
    return SAP(float(np.mean(top1 - top2)), top1 - top2, predictability, recipe)


def _two_codes(where: str, codes: Array) -> None:
    if codes.shape[1] < 2:
        raise InputError(f"{where}: {codes.shape[1]} code is too few; a gap needs two")


def _linear_svm(where: str, inverse_regularisation: float, max_iter: int) -> Any:
    try:
        from sklearn.svm import LinearSVC
    except ImportError:
        raise not_installed(where) from None
    return LinearSVC(C=inverse_regularisation, class_weight="balanced", dual=False, max_iter=max_iter)
