"""Components of a one-dimensional Gaussian mixture by the octave of their width, each octave on a grid of its own.

2^e <= sigma < 2^(e+1), and the step of octave e is proportional to 2^e, so that every component touches about as many
points. A grid is kept as cells of `CELL` points, those that a window of this octave touches or that the finer octaves
ask for (`tcvae_ref.metrics.brackets`), one after the other in one array.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

REACH = 9.0
"""Components are evaluated within this many sigma: the mass left out is 2e-19."""
CELL = 64
"""Points of a cell; a multiple of four, so that every second and fourth point of the grid are so in every cell."""
SIDE = 20
"""Points on each side of the one halfway: a component with sigma = 4 steps is off by 1.5e-15 of its height."""
_BLOCK = 2**21  # densities evaluated at a time

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = NDArray[np.int32]


class Components(NamedTuple):
    """Weighted components, and where each one is counted."""

    mu: Floats
    """(n,)."""
    rest: Floats
    """(n,): the centre is mu + rest, to twice the precision."""
    sigma: Floats
    """(n,)."""
    p: Floats
    """(n,): weights."""
    rows: Rows
    """(K, n): the component's group in each of K labellings, as a row of the densities."""

    def of(self, members: Integers | slice) -> "Components":
        """These alone."""
        of_each = self.mu[members], self.rest[members], self.sigma[members], self.p[members]
        return Components(*of_each, self.rows[:, members])


class Windows(NamedTuple):
    """Points of a grid that components reach: length_n from the first, there t = (z - mu) / sigma = t_n + i dt_n."""

    first: Integers
    length: Integers
    t: Floats
    dt: Floats


def group_densities(
    first: Integers, length: Integers, t: Floats, dt: Floats, height: Floats, rows: Rows, shape: tuple[int, int]
) -> Floats:
    """Sums of Gaussians over each of several groups : (rows, points), a row for each group.

    sums[rows[k, n], first_n + i] += height_n exp( - (t_n + i dt_n)^2 / 2 ),   0 <= i < length_n

    A block of components from left to right touches a short stretch of the points: the cost is the sum of the windows.

    Parameters
    ----------
    first, length : (N,) of int64
        The window of each component, within the points; from left to right: first does not decrease.
    t, dt, height : (N,) of float64
        The standardised place of its first point, the standardised step, and the height.
    rows : (K, N) of int32
        The rows each component is added to.
    shape : (int, int)
        How many rows and points there are.
    """
    sums = np.zeros(shape)
    width = int(length.max(initial=1))
    size = max(1, _BLOCK // width)
    for begin in range(0, len(first), size):
        block = slice(begin, begin + size)
        i = np.arange(width)
        density = height[block, None] * np.exp(-0.5 * (t[block, None] + i * dt[block, None]) ** 2)
        density[i >= length[block, None]] = 0.0
        left, right = int(first[begin]), int(np.max(first[block] + length[block]))
        index = np.minimum(first[block, None] + i, right - 1) - left
        stretch = right - left
        for row in rows:
            groups, which = np.unique(row[block], return_inverse=True)
            cell = which[:, None] * stretch + index
            added = np.bincount(cell.ravel(), density.ravel(), minlength=len(groups) * stretch)
            sums[groups, left:right] += added.reshape(len(groups), stretch)
    return sums


GroupDensities: TypeAlias = Callable[[Integers, Integers, Floats, Floats, Floats, Rows, tuple[int, int]], Floats]
"""`group_densities`, or another function of its signature."""


class Octave(NamedTuple):
    """An octave's grid, step * (..., -1, 0, 1, ...), and its components from left to right."""

    step: float
    components: Components
    windows: Windows
    own: Integers
    """Cells that the windows touch, in order."""
    cells: Integers
    """These and those that the finer octaves ask for."""


def sorted_by_octave(components: Components) -> dict[int, Components]:
    """Components of each octave e, 2^e <= sigma < 2^(e+1), their windows from left to right."""
    exponent = np.frexp(components.sigma)[1] - 1
    least, left = int(exponent.min()), components.mu - REACH * components.sigma
    counts = np.bincount(exponent - least)
    order = np.argsort((exponent - least).astype(np.uint16), kind="stable")  # a radix sort
    ends = np.cumsum([0, *counts])
    for begin, end in itertools.pairwise(ends):
        part = order[begin:end]
        order[begin:end] = part[np.argsort(left[part])]
    components = components.of(order)
    return {least + e: components.of(slice(*part)) for e, part in enumerate(itertools.pairwise(ends))}


def group(components: Components, members: range) -> Components:
    """The components that any of these rows counts, as a single row."""
    counted = np.any((components.rows >= members.start) & (components.rows < members.stop), axis=0)
    part = components.of(np.flatnonzero(counted))
    return part._replace(rows=np.zeros((1, len(part.mu)), dtype=np.int32))


def octaves(by_octave: dict[int, Components], fraction: float) -> list[Octave]:
    """Grids with steps of this fraction of the octave's smallest sigma, from the widest octave to the narrowest."""
    result: list[Octave] = []
    asked = np.empty(0, dtype=np.int64)
    for e in sorted(by_octave):  # the narrowest first: what they ask for
        step = math.ldexp(fraction, e)
        reached = windows(by_octave[e], step)
        own = cells_of(reached)
        cells = distinct([own, asked])
        result.append(Octave(step, by_octave[e], reached, own, cells))
        asked = distinct([(cells * CELL // 2 - SIDE) // CELL, ((cells + 1) * CELL // 2 + SIDE) // CELL])
    return result[::-1]


def windows(components: Components, step: float) -> Windows:
    """What the components reach of the grid step * (..., -1, 0, 1, ...)."""
    mu, rest, sigma, *_ = components
    first = np.ceil((mu - REACH * sigma) / step)
    length = np.floor((mu + REACH * sigma) / step) - first + 1.0
    t = ((first * step - mu) - rest) / sigma  # grid points are exact, step being a power of two
    return Windows(first.astype(np.int64), length.astype(np.int64), t, step / sigma)


def cells_of(reached: Windows) -> Integers:
    """Numbers of the cells that windows touch, in order."""
    left, right = reached.first // CELL, (reached.first + reached.length - 1) // CELL
    most = int(np.max(right - left, initial=0))
    return distinct([np.minimum(left + i, right) for i in range(most + 1)])


def distinct(numbers: list[Integers]) -> Integers:
    """All of these numbers, in order, each once."""
    numbers = [part for part in numbers if len(part)]
    if not numbers:
        return np.empty(0, dtype=np.int64)
    low, high = min(int(part.min()) for part in numbers), max(int(part.max()) for part in numbers)
    if high - low > 4 * sum(len(part) for part in numbers) + 1000:
        return np.unique(np.concatenate(numbers))
    there = np.zeros(high - low + 1, dtype=bool)
    for part in numbers:
        there[part - low] = True
    return np.flatnonzero(there) + low
