"""The estimators that the oracle knows: each is its weights, and the rest follows from them.

An estimate of the aggregate posterior from a batch is a mixture of the batch's posteriors,

    log q(z_i) = log sum_j w_ij q(z_i|n_j),    log q(z_id) = log sum_j w_ij q(z_id|n_j),

so that weights say what a right implementation returns, which properties it has and which mistakes it may hold.
Another package adds its own with an entry point of the group `tcvae_ref.weights` (`EXTENDING.md`).
"""

import functools
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import Any, NamedTuple

from tcvae_ref import checks, extensions
from tcvae_ref.checks import InputError

UNIFORM, UNEVEN, OF_N = "uniform weights", "uneven weights", "weights of N"
"""Kinds of estimators by their weights, which mistakes are confined to."""

_M, _N = 4, 9
"""Sizes at which it is seen what holds for the weights."""


class Estimator(NamedTuple):
    """All that the oracle needs to know of an estimator."""

    weight: Callable[[int, int, Any, Any], Any]
    """`weight(i, j, M, N)`: w_ij > 0, of sample i and posterior j. Made of + - * / and %, it is exact for fractions."""
    formula: str
    """The weights in a line."""
    without_replacement: bool = False
    """Whether it is defined for 2 <= M <= N alone."""
    whole_data_set: bool = False
    """Whether the batch must be all of the data, M = N."""

    @property
    def least_batch(self) -> int:
        """The smallest M."""
        return 2 if self.without_replacement else 1

    def dataset_size(self, M: int, N: int) -> int:
        """N as wanted, or M where the batch is all of the data."""
        return M if self.whole_data_set else N

    def require(self, where: str, M: int, N: int) -> None:
        """Refuse sizes for which it is not defined."""
        if self.without_replacement:
            checks.batch_without_replacement(where, M, N)
        if self.whole_data_set:
            checks.whole_data_set(where, M, N)

    def weights(self, M: int, N: int) -> tuple[tuple[Fraction, ...], ...]:
        """Every w_ij, exactly: row i for sample i."""
        return _exactly(self.weight, M, N)

    # --- what holds for the weights ------------------------------------------------------------------------------

    @property
    def uniform(self) -> bool:
        """Whether all weights of a batch are alike."""
        return len({w for row in self.weights(_M, _N) for w in row}) == 1

    @property
    def uses_dataset_size(self) -> bool:
        """Whether they change with N."""
        return self.weights(_M, _N) != self.weights(_M, _N + 1)

    @property
    def gradients_use_dataset_size(self) -> bool:
        """Whether more than a constant changes with N."""
        return self.uses_dataset_size and not self.uniform

    @property
    def rolls(self) -> bool:
        """Whether a batch that is rolled has its weights rolled."""
        w = self.weights(_M, _N)
        return all(w[i][j] == w[i - 1][j - 1] for i in range(_M) for j in range(_M))

    @property
    def any_order(self) -> bool:
        """Whether they tell no posterior from another but a sample's own."""
        w = self.weights(_M, _N)
        return self.rolls and len(set(w[0][1:])) == 1

    @property
    def unbiased(self) -> bool:
        """Whether the estimate's mean, over batches drawn without replacement, is q(z).

        A sample's own posterior is always in the batch, each of the N - 1 others as often as another.
        """
        w = self.weights(_M, _N)
        return not self.whole_data_set and all(sum(w[i]) == 1 and w[i][i] == Fraction(1, _N) for i in range(_M))


def _mws(i: int, j: int, M: Any, N: Any) -> Any:
    return 1 / (N * M)


def _mss(i: int, j: int, M: Any, N: Any) -> Any:
    m = M - 1
    if i == j:
        return 1 / N
    return (N - m) / (N * m) if j == (i + 1) % M else 1 / m


def _symmetric_mss(i: int, j: int, M: Any, N: Any) -> Any:
    return 1 / N if i == j else (N - 1) / (N * (M - 1))


def _minibatch(i: int, j: int, M: Any, N: Any) -> Any:
    return 1 / M


OWN = {
    "mws": Estimator(_mws, "w_ij = 1 / (N M)"),
    "mss": Estimator(
        _mss,
        "w_ii = 1 / N; w_ij = (N - m) / (N m) for j = (i + 1) mod M; w_ij = 1 / m for the rest; m = M - 1",
        without_replacement=True,
    ),
    "symmetric-mss": Estimator(
        _symmetric_mss, "w_ii = 1 / N; w_ij = (N - 1) / (N (M - 1)) for the rest", without_replacement=True
    ),
    "minibatch": Estimator(_minibatch, "w_ij = 1 / M"),
    "exact": Estimator(_minibatch, "w_ij = 1 / M, and M = N", whole_data_set=True),
}
"""This package's own, by their names on the command line: the table in `tcvae_ref.estimators`."""


def names() -> tuple[str, ...]:
    """Of all that are known; nothing is imported."""
    return (*OWN, *extensions.names("weights", OWN))


def find(name: str, where: str = "oracle") -> Estimator:
    """An estimator by its name; error messages begin with `where`.

    Raises
    ------
    InputError
        It is unknown, or what another package adds cannot be loaded.
    """
    return OWN[name] if name in OWN else _added(name, where)


@functools.cache
def _added(name: str, where: str) -> Estimator:
    found = extensions.load("weights", checks.option(where, "estimator", name, names()), Estimator._fields)
    return Estimator(*(getattr(found, field) for field in Estimator._fields))


def candidates() -> tuple[str, ...]:
    """What a target that claims nothing may be: one of the whole data set needs N = M, and may be claimed alone."""
    known = OWN | extensions.usable(extensions.names("weights", OWN), find)
    return tuple(name for name, estimator in known.items() if not estimator.whole_data_set)


def may_hold(claims: Collection[str], name: str) -> bool:
    """Whether a mistake that is confined to some estimators and kinds of them, or to none, is possible in this one."""
    one = find(name)
    kinds = {name, UNIFORM if one.uniform else UNEVEN, *([OF_N] if one.uses_dataset_size else [])}
    return not claims or not kinds.isdisjoint(claims)


def _called(weight: Callable[[int, int, Any, Any], Any]) -> str:
    return f"{getattr(weight, '__module__', '')}:{getattr(weight, '__qualname__', type(weight).__name__)}"


@functools.lru_cache(maxsize=256)
def _exactly(weight: Callable[[int, int, Any, Any], Any], M: int, N: int) -> tuple[tuple[Fraction, ...], ...]:
    try:
        rows = tuple(tuple(weight(i, j, Fraction(M), Fraction(N)) for j in range(M)) for i in range(M))
    except Exception as error:
        raise InputError(
            f"{_called(weight)}(i, j, M, N) raised {type(error).__name__}: {error}; it is called with numbers of a "
            "sample and a posterior and the fractions M and N"
        ) from error
    for i, j in ((i, j) for i in range(M) for j in range(M)):
        if not (isinstance(rows[i][j], Fraction) and rows[i][j] > 0):
            raise InputError(
                f"{_called(weight)}({i}, {j}, M={M}, N={N}) is {rows[i][j]!r}; a positive Fraction is needed, "
                "which + - * / give for the fractions M and N"
            )
    return rows
