"""Test vectors: cases with their certified numbers, in files that any language reads.

`test_vectors/` holds a JSON file for each estimator, and in its README.md the format. A number in them that changes
is a breaking change of this package.

    from tcvae_ref.oracle import vectors
    for vector in vectors.load("mws"):
        got = my_tc(*vector.case.arrays.values(), vector.case.dataset_size)
        assert vector.values["tc"].admits(got), vector.name
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tcvae_ref import checks
from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, check_folder, read_json
from tcvae_ref.oracle import adapters, balls, encoding, vector_cases, vector_content
from tcvae_ref.oracle.reference import reference
from tcvae_ref.oracle.types import ESTIMATORS, QUANTITIES, Case, CheckProgress, TargetFault
from tcvae_ref.types import Array

FOLDER = Path(__file__).parent / "test_vectors"
"""Where the package keeps its own."""


class Mismatch(InputError):
    """A stored number is not the certified one, or the reference is outside it."""


class Bounds(NamedTuple):
    """Certified numbers, and how far a right implementation in float64 may be off."""

    lower: Array
    """Floats that the numbers are not below."""
    upper: Array
    """Floats that the numbers are not above."""
    allowed: Array

    def distance(self, got: Array | float) -> Array:
        """How far values are off at least; nan for nan."""
        return np.maximum(np.maximum(self.lower - got, got - self.upper), 0.0)

    def admits(self, got: Array | float) -> bool:
        """Whether values have the right shape and all lie within the allowance."""
        values = np.asarray(got, dtype=np.float64)
        return values.shape == self.lower.shape and bool(np.all(self.distance(values) <= self.allowed))


class Vector(NamedTuple):
    """One case and what a right implementation returns for it."""

    name: str
    case: Case
    values: dict[str, Bounds]
    """Quantity -> (M,) log_qz, (M, D) log_qz_marginals, () for the others."""
    gradients: dict[str, dict[str, Bounds]]
    """Quantity -> argument -> (M, D). Of log_qz the batch mean is differentiated, of log_qz_marginals the batch
    mean of the sum over d."""


class Counted(NamedTuple):
    """What was verified."""

    cases: int
    numbers: int


def path_of(estimator: str, folder: Path | None = None) -> Path:
    """The file of one estimator; `folder` is the package's own unless it is given."""
    return (FOLDER if folder is None else folder) / f"{estimator}.json"


# --- write -------------------------------------------------------------------------------------------------


def _silent(done: int, total: int, text: str) -> None:
    """No progress."""


def write(folder: Path, progress: CheckProgress = _silent) -> list[Path]:
    """Compute every vector and write a file for each estimator, the same bytes wherever and whenever.

    Parameters
    ----------
    folder : Path
        Made if it is not there; files of the same names are replaced.
    progress : callable
        Called as progress(cases done, of how many, estimator).

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        `folder` is not a folder, or what `tcvae-ref[oracle]` brings is not installed.
    OSError
        It cannot be written.
    """
    check_folder(folder)
    texts = dict(_all_texts(progress))
    folder.mkdir(parents=True, exist_ok=True)
    for estimator, text in texts.items():
        with atomic_write(path_of(estimator, folder)) as file:
            file.write(text.encode())
    return [path_of(estimator, folder) for estimator in texts]


def _all_texts(progress: CheckProgress) -> Iterator[tuple[str, str]]:
    done, total = 0, sum(len(vector_cases.names(estimator)) for estimator in ESTIMATORS)
    for estimator in ESTIMATORS:
        cases = []
        for name, case in vector_cases.inputs(estimator).items():
            cases.append(vector_content.certified(name, case, estimator))
            done += 1
            progress(done, total, estimator)
        yield estimator, vector_content.text({**vector_content.header(estimator), "cases": cases}) + "\n"


# --- read --------------------------------------------------------------------------------------------------


def load(estimator: str, folder: Path | None = None) -> list[Vector]:
    """The vectors of one estimator, as they are stored.

    Parameters
    ----------
    estimator : str
        One of `ESTIMATORS`.
    folder : Path, optional
        Another than the package's own.

    Returns
    -------
    list of Vector

    Raises
    ------
    InputError
        The estimator is unknown, or the file is missing or damaged.
    """
    path = path_of(checks.option("vectors", "estimator", estimator, ESTIMATORS), folder)
    return [_decoded(path, entry) for entry in _read(path)["cases"]]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: is missing; `tcvae-ref vectors write --out FOLDER` writes it anew")
    content = read_json(path)
    if content.get("format") != vector_content.FORMAT:
        raise InputError(
            f"{path}: is of format {content.get('format')!r}; this version reads format {vector_content.FORMAT}"
        )
    entries = content.get("cases")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: cases is not a list of objects; {_ANEW}")
    return content


_ANEW = "restore the file, or write it anew"


def _decoded(path: Path, entry: Mapping[str, Any]) -> Vector:
    name = entry.get("name")
    try:
        case = encoding.case_from_json(entry)
        encoding.require_usable(case)
        if case.parameterisation in ("std", "var") and not (case.spread > 0).all():
            raise ValueError(f"{case.parameterisation} is not positive")
        values = {q: _bounds_from_json(b) for q, b in entry["values"].items()}
        gradients = {q: {a: _bounds_from_json(b) for a, b in one.items()} for q, one in entry["gradients"].items()}
        return Vector(encoding.text(name), case, values, gradients)
    except encoding.DAMAGE as error:
        raise InputError(f"{path}: case {name!r} is damaged ({error}); {_ANEW}") from None


def _bounds_from_json(content: Mapping[str, Any]) -> Bounds:
    bounds = Bounds(*(np.array(content[end], dtype=np.float64) for end in Bounds._fields))
    if len({part.shape for part in bounds}) > 1:
        raise ValueError(f"lower, upper and allowed have shapes {', '.join(str(part.shape) for part in bounds)}")
    return bounds


# --- verify ------------------------------------------------------------------------------------------------


def verify(folder: Path | None = None, progress: CheckProgress = _silent) -> Counted:
    """Compute every number again from the stored inputs, and hold the reference to it.

    Every end of every enclosure must be the stored one to the last bit, whether Arb or mpmath computes it; allowances
    may differ by a hundredth, names and texts not at all. `tcvae_ref` itself, with gradients by autograd, must lie
    within the allowances.

    Parameters
    ----------
    folder : Path, optional
        Another than the package's own.
    progress : callable
        Called as progress(cases done, of how many, estimator).

    Returns
    -------
    Counted
        Cases, and numbers that are enclosed.

    Raises
    ------
    Mismatch
        The first number or text that is not as certified: file, case, place, what was found and what was expected.
    InputError
        A file is missing or damaged, or neither python-flint nor mpmath is installed.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; name the one that `tcvae-ref vectors write` wrote to")
    with balls.arithmetic(64):  # a library that is missing is no mismatch
        pass
    contents = {estimator: _read(path_of(estimator, folder)) for estimator in ESTIMATORS}
    done, numbers, total = 0, 0, sum(len(content["cases"]) for content in contents.values())
    for estimator, content in contents.items():
        path = path_of(estimator, folder)
        _verify_header(path, estimator, content)
        for entry in content["cases"]:
            numbers += _verify_case(path, estimator, entry)
            done += 1
            progress(done, total, estimator)
    return Counted(done, numbers)


def _verify_header(path: Path, estimator: str, content: dict[str, Any]) -> None:
    found = {**content, "cases": [entry.get("name") for entry in content["cases"]]}
    expected = {**vector_content.header(estimator), "cases": list(vector_cases.names(estimator))}
    _require_same(f"{path}:", found, expected)


def _verify_case(path: Path, estimator: str, entry: dict[str, Any]) -> int:
    """Hold one case to its certified numbers, and the reference to the case; how many numbers it has."""
    vector = _decoded(path, entry)
    where = f"{path}: case {vector.name!r}:"
    try:
        certified = vector_content.certified(vector.name, vector.case, estimator)
    except InputError as error:
        raise Mismatch(f"{where} its inputs are not what they were ({error}); {_ANEW}") from None
    _require_same(where, entry, certified)
    _require_reference(where, estimator, vector)
    return sum(np.size(b["lower"]) for group in ("stages", "values") for b in certified[group].values()) + sum(
        b.lower.size for one in vector.gradients.values() for b in one.values()
    )


def _require_same(where: str, found: Any, expected: Any) -> None:
    for place, one, other in _differences("", found, expected):
        raise Mismatch(f"{where} {place} is {_shown(one)}; {_shown(other)} was expected; {_ANEW}")


_MISSING = "missing"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value!r} ({value.hex()})"
    text = value if value is _MISSING else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _differences(place: str, found: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    """Places where two contents differ, with both."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in (*expected, *(key for key in found if key not in expected)):
            inner = f"{place}.{key}" if place else key
            yield from _differences(inner, found.get(key, _MISSING), expected.get(key, _MISSING))
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from _differences(f"{place}[{i}]", one, other)
    elif not _same(place, found, expected):
        yield place, found, expected


def _same(place: str, found: Any, expected: Any) -> bool:
    numbers = (int, float)
    if not isinstance(expected, numbers):
        return type(found) is type(expected) and found == expected
    if isinstance(found, bool) or not isinstance(found, numbers):
        return False
    if ".allowed" in place:
        return abs(found - expected) <= 0.01 * expected
    return bool(found == expected) and math.copysign(1.0, found) == math.copysign(1.0, expected)


def _require_reference(where: str, estimator: str, vector: Vector) -> None:
    case, gradients = vector.case, tuple(vector.gradients)
    function = reference(estimator, case.parameterisation, QUANTITIES)
    adapter = adapters.by_name("autograd")
    try:
        observed = adapter.observe(function, case.arrays, case.constants, "float64", adapter.variants[0], gradients)
    except TargetFault as fault:
        raise Mismatch(f"{where} tcvae_ref itself fails on it: {fault}") from None
    for quantity, bounds in vector.values.items():
        _require_within(f"{where} values.{quantity}:", observed.values[quantity], bounds)
    for quantity, slopes in vector.gradients.items():
        for argument, bounds in slopes.items():
            _require_within(f"{where} gradients.{quantity}.{argument}:", observed.gradients[quantity][argument], bounds)


def _require_within(where: str, got: Array, bounds: Bounds) -> None:
    """Require that what the reference returned lies within its allowance."""
    distance = bounds.distance(got)
    if not bounds.admits(got):
        i = np.unravel_index(int(np.argmax(distance - bounds.allowed)), distance.shape)
        raise Mismatch(
            f"{where} tcvae_ref returns {_shown(float(got[i]))} at {tuple(map(int, i))}; between "
            f"{bounds.lower[i]!r} and {bounds.upper[i]!r} was expected, off by at most {bounds.allowed[i]:.2e}"
        )
