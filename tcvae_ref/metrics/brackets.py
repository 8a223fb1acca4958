"""Integrals of - q log q of one-dimensional Gaussian mixtures whose widths differ without limit.

With q_e the density of all components of octave e (`tcvae_ref.metrics.octaves`) and wider, and phi(q) = - q log q,

    integral phi(q) = sum_e integral [ phi(q_e) - phi(q_{e+1}) ]

and the bracket of octave e vanishes outside the windows of its own components: smooth, with Gaussian tails, so the
trapezoid rule on the grid of that octave, on these windows alone, converges faster than any power of the step. Beyond
the widest octave the density is 0, and so is phi. The wider density q_{e+1} is also needed halfway between the points
of its own grid: there it is interpolated by the polynomial through the 40 nearest points.
"""

import math
from typing import NamedTuple

import numpy as np

from tcvae_ref.metrics.octaves import (
    CELL,
    SIDE,
    Components,
    Floats,
    GroupDensities,
    Integers,
    Octave,
    group,
    octaves,
)

LARGEST_TILE = 2**21
"""Densities held at once, over all groups."""
LARGEST_SHARED = 2**28
"""Densities of all octaves and groups; above, each group has grids of its own, for its own components alone."""
PIECE = 96
"""Cells halved at a time: matrix products so small that BLAS leaves them on one thread."""
NOTHING = 1e-280
"""Densities below this, and the negative ones that rounding leaves, are 0; products with subnormals would be slow."""


def _halfway() -> Floats:
    """Values between the points j and j + 1 of half a cell, from the points 1 - SIDE ... CELL / 2 + SIDE - 1.

    Lagrange's weights of the points t + 1/2 steps away, on either side, in column j.
    """
    weights = np.array([(-1) ** t * math.comb(2 * SIDE - 1, SIDE + t) / (2 * t + 1) for t in range(SIDE)])
    column = np.concatenate([weights[::-1], weights]) / (2.0 * weights.sum())
    matrix = np.zeros((CELL // 2 + 2 * SIDE - 1, CELL // 2))
    for j in range(CELL // 2):
        matrix[j : j + 2 * SIDE, j] = column
    return matrix


HALFWAY = _halfway()


def phi_integrals(
    by_octave: dict[int, Components], fraction: float, marginal: int, rows: int, group_densities: GroupDensities
) -> Floats:
    """Integrals of - q log q : (octaves, 3, rows + 1), each octave's bracket by its step, twice and four times it.

    The last row is the marginal, the sum of the first `marginal` rows. On one grid for all groups every exponential
    serves all labellings; where components are few and far between, most of such a grid would be empty.
    """
    shared = octaves(by_octave, fraction)
    if rows * CELL * sum(len(octave.cells) for octave in shared) <= LARGEST_SHARED:
        return integrals_over_tiles(shared, marginal, rows, group_densities)
    results = []
    for members in [*(range(v, v + 1) for v in range(rows)), range(marginal)]:
        alone = octaves({e: group(part, members) for e, part in by_octave.items()}, fraction)
        results.append(integrals_over_tiles(alone, 1, 1, group_densities)[..., 0])
    return np.stack(results, axis=-1)


class Tile(NamedTuple):
    """A stretch of the line: the cells first ... last - 1 of an octave, and the density on the next wider octave."""

    octave: int
    """As a place in the list of octaves."""
    first: int
    last: int
    cells: Integers
    """Of the next wider octave."""
    density: Floats
    """(rows, points of these cells)."""


def integrals_over_tiles(octaves: list[Octave], marginal: int, rows: int, group_densities: GroupDensities) -> Floats:
    """`phi_integrals` on shared grids.

    A tile too large to be held is cut in two. One cell beyond either end of a tile is computed with it: a cell there
    is all that the polynomials of finer octaves reach.
    """
    integrals = np.zeros((len(octaves), 3, rows + 1))
    widest = next((e for e, octave in enumerate(octaves) if len(octave.cells)), None)
    if widest is None:
        return integrals
    nothing, cells = np.empty(0, dtype=np.int64), octaves[widest].cells
    tiles = [Tile(widest, int(cells[0]), int(cells[-1]) + 1, nothing, np.empty((rows, 0)))]
    while tiles:
        tile = tiles.pop()
        octave = octaves[tile.octave]
        cells = _between(octave.cells, tile.first - 1, tile.last + 1)
        if tile.first >= tile.last or len(cells) == 0:
            continue
        if rows * CELL * len(cells) > LARGEST_TILE and tile.last - tile.first > 1:
            middle = min(max(int(cells[len(cells) // 2]), tile.first + 1), tile.last - 1)
            tiles += [tile._replace(last=middle), tile._replace(first=middle)]
            continue
        wider = halved(tile.cells, tile.density, cells)
        density = wider + _own_density(octave, cells, rows, group_densities)
        own = _between(octave.own, tile.first, tile.last)
        if len(own):
            integrals[tile.octave] += _bracket(octave.step, density, wider, places(cells, own), marginal)
        if tile.octave + 1 < len(octaves):
            first, last = _clipped(2 * tile.first, 2 * tile.last, octaves[tile.octave + 1].cells)
            tiles.append(Tile(tile.octave + 1, first, last, cells, density))
    return integrals


def _clipped(first: int, last: int, cells: Integers) -> tuple[int, int]:
    """As much of first ... last - 1 as reaches from the first of the cells to the last of them."""
    return (max(first, int(cells[0])), min(last, int(cells[-1]) + 1)) if len(cells) else (0, 0)


def _between(cells: Integers, first: int, last: int) -> Integers:
    """Those of the cells, which are in order, from first to last - 1."""
    begin, end = np.searchsorted(cells, [first, last])
    return cells[begin:end]


def places(cells: Integers, wanted: Integers) -> Integers:
    """Where the points of the wanted cells are in an array of the points of `cells`."""
    return (np.searchsorted(cells, wanted)[:, None] * CELL + np.arange(CELL)).ravel()


def _own_density(octave: Octave, cells: Integers, rows: int, group_densities: GroupDensities) -> Floats:
    """(rows, points): sums over the octave's own components on these cells, windows cut at the ends of the tile."""
    left, right = int(cells[0]) * CELL, (int(cells[-1]) + 1) * CELL
    first, length, t, dt = octave.windows
    here = slice(*np.searchsorted(first, [left - int(length.max(initial=0)), right]))
    first, length, t, dt = first[here], length[here], t[here], dt[here]
    cut = np.maximum(left - first, 0)
    first, length, t = first + cut, np.minimum(first + length, right) - (first + cut), t + cut * dt
    inside = np.flatnonzero(length > 0)
    if len(inside) == 0:
        return np.zeros((rows, len(cells) * CELL))
    if len(inside) < len(length):
        first, length, t, dt = first[inside], length[inside], t[inside], dt[inside]
        here = here.start + inside
    members = octave.components.of(here)
    first = np.searchsorted(cells, first // CELL) * CELL + first % CELL
    height = members.p / (math.sqrt(2.0 * math.pi) * members.sigma)
    return group_densities(first, length, t, dt, height, members.rows, (rows, len(cells) * CELL))


def halved(wider: Integers, density: Floats, cells: Integers) -> Floats:
    """Densities on the points of `cells` from those on the cells of a grid twice as coarse : (rows, points).

    Every second point is a point of the coarser grid, and the others lie halfway between two. Without a coarser grid
    all densities are 0.
    """
    result = np.zeros((len(density), len(cells), CELL))
    if len(wider) == 0:
        return result.reshape(len(density), -1)
    parents = np.searchsorted(wider, cells // 2) * CELL + cells % 2 * (CELL // 2)
    for begin in range(0, len(cells), PIECE):
        piece, parent = result[:, begin : begin + PIECE], parents[begin : begin + PIECE, None]
        piece[..., ::2] = density[:, parent + np.arange(CELL // 2)]
        halfway = density[:, parent + np.arange(1 - SIDE, CELL // 2 + SIDE)] @ HALFWAY
        halfway[halfway < NOTHING] = 0.0
        piece[..., 1::2] = halfway
    return result.reshape(len(density), -1)


def _bracket(step: float, density: Floats, wider: Floats, place: Integers, marginal: int) -> Floats:
    """Integrals of phi(q_e) - phi(q_e+1) : (3, rows + 1), by this step, twice and four times it."""
    density, wider = density[:, place], wider[:, place]
    change = phi(density) - phi(wider)
    of_all = phi(density[:marginal].sum(axis=0)) - phi(wider[:marginal].sum(axis=0))
    change = np.concatenate([change, of_all[None]])
    return np.stack([step * 2**power * change[:, :: 2**power].sum(axis=1) for power in range(3)])


def phi(q: Floats) -> Floats:
    """- q log q, 0 at 0."""
    return -q * np.log(np.maximum(q, np.finfo(np.float64).tiny))
