"""Representations of any model: posteriors, or codes alone, and the factors behind the inputs, out of an npz.

    mu, log_var    (N, D) of every input's posterior; or instead of the two
    codes          (N, D), where there are no posteriors
    factors        (N, K), whole numbers: the class of each factor
    factor_names   (K,), optional
    weights        (N,), optional: p(n) up to a constant

Integers or floats of any width; no pickle is read. Other arrays are left alone.
"""

import dataclasses
import difflib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.files import NpzReader
from tcvae_ref.types import Array

ARRAYS = ("mu", "log_var", "codes", "factors", "factor_names", "weights")


@dataclasses.dataclass(frozen=True)
class Representation:
    """What a model makes of its inputs, and what the inputs are."""

    name: str
    mu: NDArray[np.float64]
    """(N, D): posterior means, or the codes there are."""
    log_var: NDArray[np.float64] | None
    """(N, D), or None where there are codes alone."""
    classes: NDArray[np.int64]
    """(N, K)."""
    factors: tuple[str, ...]
    """Names of the K factors."""
    weights: NDArray[np.float64] | None = None
    """(N,): p(n) up to a constant; None: uniform."""

    def __len__(self) -> int:
        """Give the number of inputs N."""
        return len(self.mu)

    def varying(self) -> list[str]:
        """Name the factors that take two values or more among the inputs with weight."""
        seen = self.classes if self.weights is None else self.classes[self.weights > 0]
        return [name for name, column in zip(self.factors, seen.T, strict=True) if np.any(column != column[0])]

    def columns(self, wanted: Sequence[str]) -> list[int]:
        """Positions of some factors.

        Raises
        ------
        InputError
            One is unknown, has a single value, or is named twice; or none is named.
        """
        varying = self.varying()
        if not wanted:
            raise InputError(
                f"factors: of {', '.join(self.factors)}, {', '.join(varying) or 'none'} varies in {self.name}; "
                "name those to score with --factors"
            )
        for name in wanted:
            checks.option("factors", "factor", name, varying)
        if len(set(wanted)) < len(wanted):
            raise InputError(f"factors: {', '.join(wanted)}; each factor once")
        return [self.factors.index(name) for name in wanted]

    def of(self, columns: Sequence[int]) -> "Representation":
        """The same with some of the factors alone."""
        return dataclasses.replace(
            self, classes=self.classes[:, columns], factors=tuple(self.factors[k] for k in columns)
        )


def of_data(data: FactorDataset, mu: Array, log_var: Array) -> Representation:
    """Posteriors of a data set at hand, with its probabilities: mu, log_var : (N, D)."""
    names = tuple(factor.name for factor in data.factors)
    return Representation(data.name, mu, log_var, data.classes.astype(np.int64), names, data.weights)


def read(path: Path) -> Representation:
    """Read a representation from an npz.

    Raises
    ------
    InputError
        An array is missing, has the wrong shape or kind, or holds what it must not; the file is damaged, or no npz.
    """
    with NpzReader(path) as archive:
        held = [name for name in ARRAYS if name in archive]
        _check_names(path, held)
        codes = _numbers(path, archive, "mu" if "mu" in held else "codes")
        if codes.ndim != 2 or 0 in codes.shape:
            raise InputError(f"{path}: {held[0]} has shape {codes.shape}; (N, D) is needed, one row for each input")
        N = len(codes)
        log_var = _numbers(path, archive, "log_var") if "log_var" in held else None
        if log_var is not None and log_var.shape != codes.shape:
            raise InputError(f"{path}: mu has shape {codes.shape} and log_var {log_var.shape}; both must be (N, D)")
        classes = _classes(path, archive.array("factors"), N)
        names = _names(path, archive, classes.shape[1]) if "factor_names" in held else None
        weights = _weights(path, archive, N) if "weights" in held else None
    names = names or tuple(f"factor_{k}" for k in range(classes.shape[1]))
    return Representation(path.name, codes, log_var, classes, names, weights)


def _check_names(path: Path, held: list[str]) -> None:
    """Require mu and log_var, or codes, and factors; the error names what the file has that sounds alike."""
    with zipfile.ZipFile(path) as archive:
        everything = sorted(member.removesuffix(".npy") for member in archive.namelist())
    others = [name for name in everything if name not in ARRAYS]

    def alike(name: str) -> str:
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
        return f"; is it {near[0]!r}? rename it" if near else ""

    listed = f"{path}: holds {', '.join(everything[:8]) or 'nothing'}"
    if "codes" in held and ("mu" in held or "log_var" in held):
        raise InputError(f"{listed}; leave out codes, or mu and log_var: one representation at a time")
    if "codes" not in held and not {"mu", "log_var"} <= set(held):
        missing = [name for name in ("mu", "log_var") if name not in held]
        hint = alike(missing[0]) or ("; or save mu as codes" if missing == ["log_var"] else "")
        raise InputError(f"{listed}; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing{hint}")
    if "factors" not in held:
        raise InputError(
            f"{listed}; factors (N, K), the class of each factor of each input, is missing{alike('factors')}"
        )


def _numbers(path: Path, archive: NpzReader, name: str) -> NDArray[np.float64]:
    """Read finite real numbers, in float64."""
    array = archive.array(name)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} is {array.dtype}; real numbers are needed")
    with np.errstate(over="ignore"):  # a long double may be beyond: infinite, and refused
        array = array.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise InputError(
            f"{path}: {name} has {len(wrong)} nan or infinite of {array.size} entries, the first at "
            f"{tuple(wrong[0].tolist())}; finite values are needed: look where it was computed"
        )
    return array


def _classes(path: Path, factors: NDArray[Any], N: int) -> NDArray[np.int64]:
    """Require whole numbers (N, K), as they are."""
    if factors.ndim != 2 or len(factors) != N or factors.shape[1] == 0:
        remedy = ": factors[:, None]" if factors.shape == (N,) else ""
        raise InputError(
            f"{path}: factors has shape {factors.shape}; (N, K) with N={N}, as the codes, is needed{remedy}"
        )
    if factors.dtype.kind not in "biuf":
        raise InputError(f"{path}: factors is {factors.dtype}; whole numbers are needed, the class of each factor")
    with np.errstate(invalid="ignore"):
        classes = factors.astype(np.int64)
    wrong = np.argwhere(classes != factors)
    if len(wrong):
        n, k = wrong[0].tolist()
        raise InputError(
            f"{path}: factors holds {factors[n, k]:g} in row {n}, column {k}; whole numbers are needed, the class of "
            f"each factor: numpy.unique(factors[:, {k}], return_inverse=True)[1]"
        )
    return classes


def _names(path: Path, archive: NpzReader, K: int) -> tuple[str, ...]:
    array = archive.array("factor_names")
    if array.dtype.kind not in "US" or array.shape != (K,):
        raise InputError(
            f"{path}: factor_names is {array.dtype} {array.shape}; K={K} strings are needed, as factors has"
        )
    try:
        names = tuple(bytes(name).decode(errors="replace") if array.dtype.kind == "S" else str(name) for name in array)
    except (ValueError, SystemError) as error:  # numbers that are no characters
        raise InputError(f"{path}: factor_names is damaged ({error}); copy or download the file again") from None
    if len(set(names)) < K or not all(name.strip() and name.isprintable() and "," not in name for name in names):
        raise InputError(
            f"{path}: factor_names are {', '.join(map(repr, names))}; each must differ, of printable characters, "
            "without commas, none empty"
        )
    return names


def _weights(path: Path, archive: NpzReader, N: int) -> NDArray[np.float64]:
    weights = _numbers(path, archive, "weights")
    if weights.shape != (N,):
        raise InputError(f"{path}: weights has shape {weights.shape}; ({N},) is needed, one number for each input")
    if weights.min() < 0 or weights.max() == 0:
        raise InputError(
            f"{path}: weights lies in [{weights.min():g}, {weights.max():g}]; each must be at least 0 and one above: "
            "give each input its probability, or leave weights out"
        )
    return weights
