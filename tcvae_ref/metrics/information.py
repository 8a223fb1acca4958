"""Scores read off an information matrix I(z_d; v_k), of whichever recipe: other summaries than the gap.

The gap of MIG asks whether a factor has one code. The transposed question, whether a code has one factor, is asked by
modularity and MIG-sup; DCIMIG and JEMMIG ask both. What the matrix's recipe says of the numbers holds here too: scores
of matrices of two recipes are not comparable.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.metrics.mig import MIG

ROUNDING = 1e-12
"""Information up to this, in nats, is none, whatever the recipe's error."""


class CodeScore(NamedTuple):
    """A score over codes."""

    score: float
    """Mean over the codes, those without information counting 0."""
    codes: NDArray[np.float64]
    """(D,): 0 for a code that is not informative."""
    informative: NDArray[np.bool_]
    """(D,): codes with more information on some factor than the error of the matrix."""


class FactorScore(NamedTuple):
    """A score over factors."""

    score: float
    factors: NDArray[np.float64]
    """(K,)."""


class JEMMIG(NamedTuple):
    """Joint entropy minus mutual information gap."""

    score: float
    """Mean over factors, nats; the lower the better, 0 at best."""
    factors: NDArray[np.float64]
    """(K,), nats."""
    normalised: float
    """Mean of 1 - JEMMIG_k / ( H(v_k) + log bins ), from 0 to 1, the higher the better."""
    normalised_factors: NDArray[np.float64]
    """(K,)."""


def modularity(mig: MIG) -> CodeScore:
    """Whether each code tells of one factor only.

    m_d = 1 - sum_{k != k*} I(z_d; v_k)^2 / ( (K - 1) I(z_d; v_k*)^2 ),    k* the factor that z_d tells most of

    Ridgeway and Mozer (2018), section 3, whose information is that of binned codes. A code without any information has
    no ratio: it counts 0, as in disentanglement_lib, so the score falls with every collapsed code; the mean over
    the others is `codes[informative].mean()`. A ratio of estimates that are all near their bias or error is noise.

    Parameters
    ----------
    mig : MIG
        Of any recipe, K >= 2.

    Returns
    -------
    CodeScore

    Raises
    ------
    InputError
        K < 2.
    """
    _factors("modularity", mig)
    informative = _informative(mig)
    squares = mig.information**2
    top = np.where(informative, squares.max(axis=1), 1.0)  # over factors k
    others = squares.sum(axis=1) - squares.max(axis=1)
    codes = np.where(informative, 1.0 - others / (top * (squares.shape[1] - 1)), 0.0)
    return CodeScore(float(codes.mean()), codes, informative)


def mig_sup(mig: MIG) -> CodeScore:
    """MIG's supplement: the gap between the two factors that a code tells most of.

    s_d = U_d,top1 - U_d,top2,    U_dk = I(z_d; v_k) / H(v_k)

    Li et al. (2020), section 4 and its appendix. Mean over all D codes: it falls with every collapsed code.

    Parameters
    ----------
    mig : MIG
        Of any recipe, K >= 2.

    Returns
    -------
    CodeScore

    Raises
    ------
    InputError
        K < 2.
    """
    _factors("mig_sup", mig)
    informative = _informative(mig)
    top2, top1 = np.sort(mig.information / mig.factor_entropies, axis=1)[:, -2:].T
    codes = np.where(informative, top1 - top2, 0.0)
    return CodeScore(float(codes.mean()), codes, informative)


def rmig(mig: MIG) -> FactorScore:
    """Information gaps in nats: MIG without the division by H(v_k).

    g_k = I_top1,k - I_top2,k

    Do and Tran (2020), section 4, with which they weigh factors by their entropy. Their robust estimate of the
    information, a quantised q(z | n), is neither of the recipes here.

    Parameters
    ----------
    mig : MIG
        Of any recipe.

    Returns
    -------
    FactorScore
        Nats.
    """
    by_factor = mig.gaps * mig.factor_entropies
    return FactorScore(float(by_factor.mean()), by_factor)


def dcimig(mig: MIG) -> FactorScore:
    """Share of the factors' entropy that codes of their own tell.

    r_d = I_d,top1 - I_d,top2 over factors,  k_d its factor;   S_k = max of r_d over codes with k_d = k, or 0;
    score = sum_k S_k / sum_k H(v_k)

    Sepliarskaia et al. (2019). Collapsed codes cost nothing, and neither do duplicates of a code.

    Parameters
    ----------
    mig : MIG
        Of any recipe, K >= 2.

    Returns
    -------
    FactorScore
        Its factors are S_k / H(v_k); the score is their mean weighted by H(v_k).

    Raises
    ------
    InputError
        K < 2.
    """
    _factors("dcimig", mig)
    top2, top1 = np.sort(mig.information, axis=1)[:, -2:].T
    best = np.zeros(len(mig.factor_entropies))
    np.maximum.at(best, np.argmax(mig.information, axis=1), top1 - top2)
    return FactorScore(float(best.sum() / mig.factor_entropies.sum()), best / mig.factor_entropies)


def jemmig(mig: MIG, bins: int = 20) -> JEMMIG:
    """Joint entropy minus mutual information gap: the gap, less what the best code tells beyond the factor.

    J_k = H(z_d*, v_k) - I(z_d*; v_k) + I(z_d°; v_k) = H(z_d*) + H(v_k) - 2 I(z_d*; v_k) + I(z_d°; v_k)

    d*, d° the codes that tell most and second most of v_k; the lowest of equals. Do and Tran (2020), section 4. Needs
    entropies of discrete codes: a differential entropy has no zero, changes with the scale of the code and may be
    negative, so only the binned recipe is taken. The paper quantises q(z | n), here the means are binned.

    Parameters
    ----------
    mig : MIG
        Of `mig_binned`.
    bins : int
        Those that it was computed with; log(bins) is the largest H(z_d).

    Returns
    -------
    JEMMIG

    Raises
    ------
    InputError
        Another recipe, or codes with more entropy than log(bins).
    """
    where = "jemmig"
    if mig.recipe != "binned":
        raise InputError(
            f"{where}: recipe={mig.recipe!r}; J_k adds entropies of code and factor, which differential entropies "
            "are not fit for: give the result of mig_binned"
        )
    most = float(np.log(checks.whole_number(where, "bins", bins, 2)))
    if mig.entropies.max() > most + ROUNDING:
        raise InputError(
            f"{where}: bins={bins}, but a code has {mig.entropies.max():.4g} nats and log({bins}) is {most:.4g}; "
            "give the bins that mig_binned was called with"
        )
    best = np.argmax(mig.information, axis=0)  # over codes d
    second, first = np.sort(mig.information, axis=0)[-2:]
    by_factor = mig.entropies[best] + mig.factor_entropies - 2.0 * first + second
    normalised = 1.0 - by_factor / (mig.factor_entropies + most)
    return JEMMIG(float(by_factor.mean()), by_factor, float(normalised.mean()), normalised)


def _factors(where: str, mig: MIG) -> None:
    if mig.information.shape[1] < 2:
        raise InputError(f"{where}: K=1 factor; whether a code tells of one only can be asked from two on")


def _informative(mig: MIG) -> NDArray[np.bool_]:
    """Codes with more information on some factor than its error: (D,)."""
    return np.asarray((mig.information > np.maximum(mig.error.information, ROUNDING)).any(axis=1))
