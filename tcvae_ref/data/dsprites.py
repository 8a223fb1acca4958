"""dSprites, re-rendered: the 64 x 64 sprites of google-deepmind/dsprites-dataset from their closed form.

Pixel (row r, column c) has its centre at x = c + 1/2 (right), y = r + 1/2 (down). A sprite is a polygon: vertices
(u, v) in the sprite's own coordinates (v down), scaled by s, turned counter-clockwise by theta,

    (x, y) = (16 + 32 posX, 16 + 32 posY) + s (cos(theta) u + sin(theta) v, -sin(theta) u + cos(theta) v),

and rounded to 1/256 pixel. A pixel is on when its centre is inside (even-odd; left and top edges belong to the
polygon). `tcvae-ref data verify FILE` measures how many images of a real file this reproduces bit by bit.

Rasterising costs no loop over pixels. An edge that crosses row r at column c flips every pixel right of c, and a
row of 64 pixels is one 64-bit word: the row is the exclusive-or of the words `RIGHT_OF[c]` of its edges. The rows
an edge crosses depend on posY alone and the columns on posX, so a whole (posX, posY) plane is rendered at once,
in integers, with no rounding after the vertices'.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import InputError, option
from tcvae_ref.data.factors import Factor, FactorDataset, FactorGrid, PackedImages, checked_sizes
from tcvae_ref.types import ProgressHook

SIDE = 64
HALF = 9.6  # half the side of the square at scale 1, pixels
SUBPIXELS = 256  # vertices are rounded to 1/256 pixel

SHAPES = ("square", "ellipse", "heart")
FACTORS = (
    Factor("shape", np.array([1.0, 2.0, 3.0])),
    Factor("scale", np.linspace(0.5, 1.0, 6)),
    Factor("orientation", np.linspace(0.0, 2.0 * np.pi, 40)),  # 0 and 2 pi are the same picture
    Factor("posX", np.linspace(0.0, 1.0, 32)),
    Factor("posY", np.linspace(0.0, 1.0, 32)),
)
"""The five factors of dSprites; its sixth, colour, has one value."""

GRIDS: dict[str, tuple[int, ...]] = {
    "hearts": (1, 6, 1, 16, 16),
    "tiny": (1, 3, 4, 4, 4),
    "small": (3, 3, 10, 8, 8),
    "medium": (3, 6, 10, 16, 16),
    "full": (3, 6, 40, 32, 32),
}
"""Named grids: the sizes of shape, scale, orientation, posX, posY."""

RIGHT_OF = np.array([(2**SIDE - 1) >> c for c in range(SIDE + 1)], dtype=np.uint64)
"""RIGHT_OF[c]: a row with the pixels c, c+1, ... 63 on; pixel 0 is the highest bit."""


def outline(shape: int) -> NDArray[np.float64]:
    """Vertices (u, v) : (V, 2) of a sprite at scale 1, pixels, v down; shape 0 square, 1 ellipse, 2 heart."""
    if shape == 0:
        return HALF * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    if shape == 1:
        t = 2.0 * np.pi * np.arange(100) / 100
        return HALF * np.stack([1.33 * np.cos(t), np.sin(t) / 1.33], axis=1)
    t = 2.0 * np.pi * np.arange(150) / 150
    v = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 14.5 + 0.15
    return HALF * np.stack([np.sin(t) ** 3, -v], axis=1)


def render_plane(
    shape: int, scale: float, orientation: float, posX: NDArray[np.float64], posY: NDArray[np.float64]
) -> NDArray[np.uint64]:
    """Render one sprite at every pair of positions.

    Parameters
    ----------
    shape : int
        0 square, 1 ellipse, 2 heart.
    scale, orientation : float
        Size in (0, 1] and angle in radians, counter-clockwise; any real value.
    posX, posY : (X,), (Y,)
        Positions in [0, 1]; posY = 0 is the top.

    Returns
    -------
    rows : (X, Y, 64) uint64
        A word per row of pixels, pixel 0 in the highest bit.
    """
    u, v = outline(shape).T
    x = scale * (np.cos(orientation) * u + np.sin(orientation) * v)
    y = scale * (-np.sin(orientation) * u + np.cos(orientation) * v)
    # Vertices in 1/256 pixel: x1, x2 (X, V) and y1, y2 (Y, V) are the two ends of each edge.
    x1 = np.rint(SUBPIXELS * (16.0 + 32.0 * posX[:, None] + x)).astype(np.int64)
    y1 = np.rint(SUBPIXELS * (16.0 + 32.0 * posY[:, None] + y)).astype(np.int64)
    x2, y2 = np.roll(x1, -1, axis=1), np.roll(y1, -1, axis=1)

    # Crossings: every (posY, edge, row) whose row centre lies in [top, bottom) of the edge.
    half = SUBPIXELS // 2
    first_row = _ceil_div(np.minimum(y1, y2) - half, SUBPIXELS)
    rows_crossed = _ceil_div(np.maximum(y1, y2) - half, SUBPIXELS) - first_row
    at_y, edge = np.nonzero(rows_crossed)
    count = rows_crossed[at_y, edge]
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    row = np.repeat(first_row[at_y, edge], count) + nth
    at_y, edge = np.repeat(at_y, count), np.repeat(edge, count)
    order = np.lexsort((row, at_y))
    at_y, edge, row = at_y[order], edge[order], row[order]

    # Column of the crossing: the first pixel whose centre is not left of x1 + (row centre - y1) dx/dy.
    dy = y2[at_y, edge] - y1[at_y, edge]
    run = np.sign(dy) * (SUBPIXELS * row + half - y1[at_y, edge])
    dy = np.abs(dy)
    left, dx = x1[:, edge], (x2 - x1)[:, edge]
    column = _ceil_div((left - half) * dy + run * dx, SUBPIXELS * dy)  # (X, crossings)

    starts = np.flatnonzero(np.diff(at_y * SIDE + row, prepend=-1))
    words = np.bitwise_xor.reduceat(RIGHT_OF[column], starts, axis=1)
    plane = np.zeros((len(posX), len(posY), SIDE), dtype=np.uint64)
    plane[:, at_y[starts], row[starts]] = words
    return plane


def _ceil_div(a: Any, b: Any) -> Any:
    """Smallest integer not below a / b, for integers and b > 0."""
    return -(-a // b)


def grid(name_or_sizes: str | Sequence[int]) -> FactorGrid:
    """Choose the factor values of a grid.

    A size below the original's takes that many of its values, evenly strided from the first (16 of 32 positions:
    0, 2, ... 30); one above it spaces new values evenly over the same range. The shapes are the last `size` of
    square, ellipse, heart, because only the heart shows its orientation without ambiguity.

    Parameters
    ----------
    name_or_sizes : str or sequence of int
        A name in `GRIDS`, or the sizes of shape, scale, orientation, posX, posY.

    Returns
    -------
    FactorGrid

    Raises
    ------
    InputError, TypeError
        The name is unknown, or the sizes are not five positive whole numbers, at most 3 shapes.
    """
    names = [factor.name for factor in FACTORS]
    if isinstance(name_or_sizes, str):
        sizes = GRIDS[option("dSprites grid", "name", name_or_sizes, GRIDS)]
    else:
        sizes = checked_sizes("dSprites grid", name_or_sizes, names)
    if sizes[0] > len(SHAPES):
        raise InputError(f"dSprites grid: shape={sizes[0]} is too many; there are {', '.join(SHAPES)}")
    return FactorGrid(
        tuple(_resized(factor, size) for factor, size in zip(FACTORS, sizes, strict=True)),
    )


def _resized(factor: Factor, size: int) -> Factor:
    """`size` values of a factor (see `grid`)."""
    if factor.name == "shape":
        return Factor(factor.name, factor.values[-size:])
    if size <= factor.size:
        return Factor(factor.name, factor.values[np.arange(size) * factor.size // size])
    endpoint = factor.name != "orientation"  # a full turn repeats the first picture
    return Factor(factor.name, np.linspace(factor.values[0], factor.values[-1], size, endpoint=endpoint))


def render(
    factor_grid: FactorGrid,
    name: str = "dSprites, re-rendered",
    progress: ProgressHook | None = None,
) -> FactorDataset:
    """Render every image of a grid.

    Parameters
    ----------
    factor_grid : FactorGrid
        The factors shape (1 square, 2 ellipse, 3 heart), scale, orientation, posX, posY, in this order.
    name : str
        What the data set is called in reports.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    FactorDataset
        N images at 512 bytes each.

    Raises
    ------
    InputError
        The factors are not those five, or a value is not allowed (`check_sprite_values`).
    """
    check_sprite_values("render", factor_grid.factors)
    shape, scale, orientation, posX, posY = (factor.values for factor in factor_grid.factors)
    per_plane = len(posX) * len(posY)
    rows = np.empty((len(factor_grid), SIDE * SIDE // 8), dtype=np.uint8)
    done = 0
    for kind in shape:
        for s in scale:
            for theta in orientation:
                plane = render_plane(int(kind) - 1, float(s), float(theta), posX, posY)
                rows[done : done + per_plane] = packed(plane)
                done += per_plane
                if progress is not None:
                    progress(done, len(factor_grid))
    return FactorDataset(name, PackedImages(rows, (SIDE, SIDE)), factor_grid.factors, factor_grid.classes())


def check_sprite_values(where: str, factors: Sequence[Factor]) -> None:
    """Require values a sprite can be drawn at: shape 1, 2 or 3, scale in (0, 1], positions in [0, 1], all finite."""
    names = [factor.name for factor in factors]
    if names != [factor.name for factor in FACTORS]:
        raise InputError(f"{where}: factors are {', '.join(names)}; {', '.join(f.name for f in FACTORS)} are needed")
    for name, values in factors:
        low, high = {"shape": (1.0, 3.0), "orientation": (-np.inf, np.inf)}.get(name, (0.0, 1.0))
        allowed = np.isfinite(values) & (values >= low) & (values <= high)
        if name == "shape":
            allowed &= values == np.rint(values)
        if name == "scale":
            allowed &= values > 0
        if not allowed.all():
            raise InputError(
                f"{where}: {name} takes the value {values[~allowed][0]:g}; allowed are shape 1, 2 or 3, scale in "
                "(0, 1], positions in [0, 1] and any finite orientation"
            )


def packed(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Rows of pixels as 64-bit words (..., 64) to one byte string per image (images, 512)."""
    return words.astype(">u8").view(np.uint8).reshape(-1, SIDE * SIDE // 8)
