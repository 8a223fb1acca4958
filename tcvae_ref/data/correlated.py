"""Factors that are not drawn uniformly and independently, as the paper tries it: every pair stays possible."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError, option
from tcvae_ref.data.factors import FactorDataset

RATIO = 4.0
"""Probability of the likeliest pair of values over that of the unlikeliest, as in the paper."""

KINDS = ("uniform", "skewed", "diagonal", "ridges")
"""How a pair of factors may be distributed (`pair_probabilities`)."""


def pair_probabilities(rows: int, columns: int, kind: str) -> NDArray[np.float64]:
    """Probability of each pair of classes of two factors : (rows, columns).

    With s and t in [0, 1] the places of the classes between the first and the last, p is proportional to 4^e, where

    - uniform: e = 0, independent and uniform, what the other three are compared with;
    - skewed: e = (s + t) / 2, independent, neither of them uniform;
    - diagonal: e = 1 - |s - t|, correlated;
    - ridges: e = 1 - | |2 s - 1| - |2 t - 1| |, dependent and uncorrelated;

    and e is stretched to reach from 0 to 1, so that the likeliest pair is 4 times as probable as the unlikeliest.

    Parameters
    ----------
    rows, columns : int
        Numbers of values of the two factors.
    kind : str
        One of `KINDS`.

    Returns
    -------
    probability : (rows, columns)
        All positive; they sum to 1.

    Raises
    ------
    InputError
        The kind is unknown, or a factor has too few values to be distributed like that: 2 are needed, 3 by ridges.
    """
    option("correlated", "kind", kind, KINDS)
    least = 3 if kind == "ridges" else 2
    if min(rows, columns) < least:
        raise InputError(
            f"correlated: the factors have {rows} and {columns} values; {kind} needs at least {least} of each: "
            "choose other factors or a finer grid"
        )
    s, t = np.linspace(0.0, 1.0, rows)[:, None], np.linspace(0.0, 1.0, columns)[None, :]
    exponent = {
        "uniform": 0.0 * (s + t),
        "skewed": (s + t) / 2.0,
        "diagonal": 1.0 - np.abs(s - t),
        "ridges": 1.0 - np.abs(np.abs(2.0 * s - 1.0) - np.abs(2.0 * t - 1.0)),
    }[kind]
    exponent -= exponent.min()
    probability = RATIO ** (exponent / (exponent.max() or 1.0))
    return probability / probability.sum()


def correlated(data: FactorDataset, names: tuple[str, str], kind: str) -> FactorDataset:
    """Give the images of a data set probabilities under which two of its factors are distributed as wanted.

    p(n) = p(a, b) / (number of images of this pair), so every pair of values that has images has the probability of
    `pair_probabilities` (up to one constant, where some pair has none), and the other factors stay as they are.

    Parameters
    ----------
    data : FactorDataset
        Without weights.
    names : (str, str)
        Two of its factors.
    kind : str
        One of `KINDS`.

    Returns
    -------
    FactorDataset
        The same images, with weights : (N,).

    Raises
    ------
    InputError
        A name or the kind is unknown, the names are the same, a factor has too few values, or the data have weights
        or no factors.
    """
    known = [factor.name for factor in data.factors]
    if data.weights is not None:
        raise InputError(f"correlated: {data.name} has probabilities already; give the data set without them")
    if not known:
        raise InputError(f"correlated: {data.name} has no factors; give a data set of two or more, or do without")
    if len(names) != 2 or names[0] == names[1]:
        raise InputError(f"correlated: factors are {', '.join(names)}; two different ones are needed")
    a, b = (known.index(option("correlated", "factor", name, known)) for name in names)
    shape = (data.sizes[a], data.sizes[b])
    probability = pair_probabilities(*shape, kind).ravel()
    pair = np.ravel_multi_index((data.classes[:, a], data.classes[:, b]), shape)
    weights = (probability / np.maximum(np.bincount(pair, minlength=len(probability)), 1))[pair]
    name = f"{data.name}, {names[0]} and {names[1]} {kind}"
    return dataclasses.replace(data, name=name, weights=weights / weights.sum())
