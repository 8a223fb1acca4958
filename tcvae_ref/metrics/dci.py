"""Disentanglement, completeness and informativeness (Eastwood & Williams, 2018), from predictors of each factor."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tcvae_ref.checks import InputError
from tcvae_ref.metrics.draws import generator, inputs, not_installed, split
from tcvae_ref.types import Array, ProgressHook


class DCI(NamedTuple):
    """The three scores, and what they were computed from."""

    disentanglement: float
    """Mean of `code_scores`, weighted by the codes' shares of the importance."""
    completeness: float
    """Mean of `factor_scores`, weighted by the factors' shares of the importance."""
    informativeness: float
    """Mean over factors of `accuracies`."""
    code_scores: NDArray[np.float64]
    """(D,): 1 - entropy of a code's importance over factors, in units of log K; 0 for a code of no importance."""
    factor_scores: NDArray[np.float64]
    """(K,): 1 - entropy of a factor's importance over codes, in units of log D; 0 for a factor that none predicts."""
    accuracies: NDArray[np.float64]
    """(K,): of the predictors on the test inputs: share of hits of a classifier, R^2 of a regressor."""
    train_accuracies: NDArray[np.float64]
    """(K,): the same on the inputs they were fitted to."""
    importance: NDArray[np.float64]
    """(D, K)."""
    recipe: str
    """The predictor, as scikit-learn prints it, without the seed drawn for it: another one is another score."""


def dci(
    codes: Array,
    classes: NDArray[np.integer],
    rng: np.random.Generator | int,
    *,
    predictor: Any = None,
    train: int = 10_000,
    test: int = 5_000,
    progress: ProgressHook | None = None,
) -> DCI:
    """Disentanglement, completeness and informativeness.

    R_dk  importance of code d to the predictor of factor k
    P_dk = R_dk / sum_k R_dk,     D_d = 1 + sum_k P_dk log_K P_dk,    disentanglement = sum_d rho_d D_d
    Q_dk = R_dk / sum_d R_dk,     C_k = 1 + sum_d Q_dk log_D Q_dk,    completeness    = sum_k kappa_k C_k

    rho_d and kappa_k: shares of code d and of factor k in all importance. Eastwood and Williams (2018), section 2.
    The predictor decides the numbers more than anything else and is part of the result. By default a forest of ten
    trees, as in the paper, of depth 8 where the paper searches for one, each split chosen among all codes.
    `GradientBoostingClassifier()` is what disentanglement_lib uses, some hundred times slower on factors of many
    values; `Lasso(alpha=...)` is the paper's other choice.

    Codes are standardised by the training inputs' mean and standard deviation, without which the coefficients of a
    linear predictor would depend on units; trees are indifferent. A regressor predicts the class numbers,
    standardised too. Every input counts once; p(n) does not enter.

    Parameters
    ----------
    codes : (N, D)
        The representation, usually posterior means, D >= 2.
    classes : (N, K) of int
        Each input's class of each factor, K >= 2; every factor takes at least two values.
    rng : numpy.random.Generator or int
        Of the choice of inputs and of the predictor's random_state, if it has one.
    predictor : scikit-learn classifier or regressor, optional
        Not fitted; a copy is, for each factor. Its feature_importances_, or else the mean over classes of |coef_|, are
        the importance.
    train, test : int
        Different inputs, drawn without replacement.
    progress : function, optional
        Called as progress(done, total), in factors.

    Returns
    -------
    DCI

    Raises
    ------
    InputError, TypeError
        Shapes do not fit, entries are not finite, D < 2, K < 2, a factor has a single value, there are fewer than
        train + test inputs, the training inputs show one value of a factor, or the predictor tells no importance.
    NotInstalled
        scikit-learn is missing; an ImportError too.
    """
    where = "dci"
    given, rng = inputs(where, codes, classes), generator(where, rng)
    if codes.shape[1] < 2:
        raise InputError(f"{where}: {codes.shape[1]} code is too few; completeness compares at least two")
    fitting, testing = split(where, len(codes), train, test, rng)
    template, recipe, clone, regresses = _predictor(where, predictor, rng)
    x = _standardised(given.codes.astype(np.float64), fitting)
    D, K = codes.shape[1], classes.shape[1]
    importance, accuracies, train_accuracies = np.empty((D, K)), np.empty(K), np.empty(K)
    for k in range(K):
        labels = given.labels[:, k]
        if len(np.unique(labels[fitting])) < 2:
            raise InputError(f"{where}: the {train} training inputs show one value of factor {k}; give more")
        y = _standardised(labels.astype(np.float64), fitting) if regresses else labels
        fitted = clone(template).fit(x[fitting], y[fitting])
        importance[:, k] = _importance(where, fitted)
        accuracies[k], train_accuracies[k] = (fitted.score(x[part], y[part]) for part in (testing, fitting))
        if progress is not None:
            progress(k + 1, K)
    code_scores, factor_scores = _concentration(importance), _concentration(importance.T)
    return DCI(
        disentanglement=_weighted(code_scores, importance.sum(axis=1)),
        completeness=_weighted(factor_scores, importance.sum(axis=0)),
        informativeness=float(accuracies.mean()),
        code_scores=code_scores,
        factor_scores=factor_scores,
        accuracies=accuracies,
        train_accuracies=train_accuracies,
        importance=importance,
        recipe=recipe,
    )


def _concentration(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - entropy of each row over its largest possible value; 0 for a row of zeros."""
    total = importance.sum(axis=1, keepdims=True)
    share = importance / np.where(total > 0, total, 1.0)
    scores = 1.0 + xlogy(share, share).sum(axis=1) / np.log(importance.shape[1])
    return np.where(total[:, 0] > 0, scores, 0.0)


def _weighted(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(scores @ weights / weights.sum()) if weights.sum() > 0 else 0.0


def _standardised(values: NDArray[np.float64], fitting: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean 0 and standard deviation 1 over the training inputs; what is constant there becomes 0."""
    centred = values - values[fitting].mean(axis=0)
    spread = values[fitting].std(axis=0)
    constant = np.ptp(values[fitting], axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


def _importance(where: str, fitted: Any) -> NDArray[np.float64]:
    """Of each code to a fitted predictor: (D,), at least 0."""
    if hasattr(fitted, "feature_importances_"):
        return np.asarray(fitted.feature_importances_, dtype=np.float64)
    if hasattr(fitted, "coef_"):
        return np.abs(np.atleast_2d(fitted.coef_)).mean(axis=0)  # over classes
    raise InputError(
        f"{where}: a {type(fitted).__name__} has neither feature_importances_ nor coef_ once fitted; "
        "give trees or a linear predictor"
    )


def _predictor(where: str, predictor: Any, rng: np.random.Generator) -> tuple[Any, str, Any, bool]:
    """The predictor to copy, its description, scikit-learn's way to copy it, and whether it is a regressor."""
    try:
        from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise not_installed(where) from None
    if predictor is None:
        predictor = RandomForestClassifier(n_estimators=10, max_depth=8, max_features=None)
    if not isinstance(predictor, BaseEstimator) or not (is_classifier(predictor) or is_regressor(predictor)):
        raise InputError(
            f"{where}: predictor={predictor!r}; an unfitted scikit-learn classifier or regressor is needed, "
            "GradientBoostingClassifier(), say"
        )
    recipe, predictor = " ".join(repr(predictor).split()), clone(predictor)
    if predictor.get_params().get("random_state", 0) is None:
        predictor.set_params(random_state=int(rng.integers(2**31)))
    return predictor, recipe, clone, is_regressor(predictor)
