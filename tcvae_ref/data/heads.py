"""Synthetic heads: 64 x 64 grey renders with four factors, a stand-in for the 3D Faces of the paper.

A head is a union of ellipsoids, seen from the front by parallel rays. An ellipsoid of centre c and matrix
S = R diag(radii^2) R^T (R turns the head) is, along the ray through the pixel (x, y), what a Gaussian of covariance S
is to its conditional: it is hit where f >= 0, and first at the depth z,

    f = 1 - d^T S_xy^-1 d,   z = c_z + S_zxy S_xy^-1 d + sqrt(f (S_zz - S_zxy S_xy^-1 S_xyz)),   d = (x, y) - c_xy.

The depths z_e of all ellipsoids e are joined by the soft maximum log(sum_e exp(k z_e)) / k, whose weights also mix
their albedos. Normals are central differences of the joint depth, and the light is Lambert's:
pixel = albedo (ambient + (1 - ambient) max(0, normal . light)). Geometry does not depend on the light, so one pass
serves every lighting. Numbers on these images are not comparable with those on the Basel faces.

Identities are the points n = 0, 1, 2 ... of a Kronecker sequence, trait t of identity n at frac(1/2 + n sqrt(p_t)) of
its range with p_t the t-th prime: identity 0 is the average head, and any number of them is spread evenly.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref.checks import option
from tcvae_ref.data.factors import ByteImages, Factor, FactorDataset, FactorGrid, checked_sizes
from tcvae_ref.types import ProgressHook

Floats = NDArray[np.float32]

SIDE = 64
PIXEL = 2.0 / SIDE  # the picture is the square [-1, 1]^2, y up
SHARPNESS = 36.0
"""k of the soft maximum: edges are rounded over about 1/k; exp(k z) stays within float32 for |z| < 2.4."""
FAR = -1.5  # the depth of nothing
AMBIENT = 0.12
LIGHT_ELEVATION = np.radians(25.0)

RANGES = {
    "azimuth": (np.radians(-75.0), np.radians(75.0)),
    "elevation": (np.radians(-35.0), np.radians(35.0)),
    "lighting": (np.radians(-80.0), np.radians(80.0)),
}
"""Angles in radians: the head's turn to the picture's right, its nod upwards, and the light's place to the right."""

GRIDS: dict[str, tuple[int, ...]] = {
    "tiny": (4, 5, 3, 3),
    "small": (10, 11, 5, 5),
    "medium": (20, 15, 7, 7),
    "full": (50, 21, 11, 11),
}
"""Named grids: the sizes of identity, azimuth, elevation, lighting; `full` has those of the Basel faces."""

TRAITS = {
    "width": (0.80, 1.16),
    "height": (0.90, 1.08),
    "jaw": (0.70, 1.20),
    "chin": (0.70, 1.35),
    "cheeks": (0.75, 1.25),
    "nose length": (0.65, 1.60),
    "nose width": (0.75, 1.50),
    "brow": (0.80, 1.25),
    "eye distance": (0.88, 1.16),
    "eye size": (0.80, 1.25),
    "mouth": (0.75, 1.35),
    "ears": (0.70, 1.40),
    "hair volume": (0.92, 1.12),
    "hair line": (0.00, 1.00),
    "hair shade": (0.08, 0.75),
    "skin shade": (0.60, 1.00),
}
"""The range of each trait: factors of the average, but the hair line (0 low, 1 high) and shades, which are albedos."""
_PRIMES = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53])


class Ellipsoids(NamedTuple):
    """A head that faces the viewer: x to the right, y up, z towards the viewer."""

    centres: NDArray[np.float64]
    """(E, 3)."""
    radii: NDArray[np.float64]
    """(E, 3)."""
    albedos: NDArray[np.float64]
    """(E,), in [0, 1]."""


def traits(identity: int) -> dict[str, float]:
    """Traits of an identity 0, 1, 2 ..."""
    place = np.modf(0.5 + identity * np.sqrt(_PRIMES))[0]
    return {name: low + (high - low) * float(u) for (name, (low, high)), u in zip(TRAITS.items(), place, strict=True)}


def ellipsoids(trait: dict[str, float]) -> Ellipsoids:
    """Shape a head after its traits, as `traits` gives them."""
    w, h = trait["width"], trait["height"]
    nose, nostrils, mouth, eye = trait["nose length"], trait["nose width"], trait["mouth"], trait["eye size"]
    jaw, chin, cheek, brow, ear = trait["jaw"], trait["chin"], trait["cheeks"], trait["brow"], trait["ears"]
    apart, hair, bare = trait["eye distance"], trait["hair volume"], trait["hair line"]
    skin, shade = trait["skin shade"], trait["hair shade"]
    lips, iris, white = 0.55 * skin, 0.04, 0.5 + 0.5 * skin
    in_the_middle = [
        ((0.0, 0.20 * h, -0.04), (0.50 * w, 0.50 * h, 0.56), skin),  # skull
        ((0.0, -0.12 * h, 0.10), (0.42 * w, 0.50 * h, 0.42), skin),  # face
        ((0.0, -0.40 * h, 0.10), (0.34 * w * jaw, 0.24 * h, 0.34), skin),  # jaw
        ((0.0, -0.54 * h, 0.25), (0.17 * chin, 0.13 * chin, 0.17 * chin), skin),
        ((0.0, -0.34 * h, 0.31), (0.22 * w, 0.20 * h, 0.20), skin),  # round the mouth
        ((0.0, 0.17 * h, 0.43), (0.30 * w, 0.065 * brow, 0.10 * brow), skin),  # brow
        ((0.0, -0.02 * h, 0.50), (0.062, 0.19 * h, 0.095 * nose), skin),  # bridge
        ((0.0, -0.13 * h, 0.49 + 0.07 * nose), (0.072 * nostrils, 0.070, 0.085 * nose), skin),  # tip
        ((0.0, -0.325 * h, 0.485), (0.15 * mouth, 0.030, 0.055), lips),
        ((0.0, -0.385 * h, 0.480), (0.13 * mouth, 0.036, 0.060), lips),
        ((0.0, -0.95 * h, -0.10), (0.26 * w, 0.68, 0.27), 0.9 * skin),  # neck
        ((0.0, 0.27 * h + 0.04 * bare, -0.16), (0.545 * w * hair, 0.48 * h * hair, 0.57 * hair), shade),
        ((0.0, (0.50 + 0.08 * bare) * h, 0.12), (0.40 * w * hair, 0.19 * h * hair, 0.40), shade),  # fringe
    ]
    on_both_sides = [
        ((0.23 * w, -0.17 * h, 0.29), (0.18 * cheek, 0.17 * cheek, 0.17 * cheek), skin),
        ((0.19 * apart, 0.06 * h, 0.435), (0.085 * eye, 0.052 * eye, 0.055), white),
        ((0.19 * apart, 0.06 * h, 0.475), (0.044 * eye, 0.048 * eye, 0.040), iris),
        ((0.19 * apart, 0.19 * h, 0.50), (0.125, 0.028 * brow, 0.055 * brow), 0.6 * shade),  # eyebrow
        ((0.075 * nostrils, -0.155 * h, 0.52), (0.048 * nostrils, 0.042, 0.055), 0.9 * skin),  # wing of the nose
        ((0.49 * w, 0.02 * h, -0.06), (0.065 * ear, 0.155 * ear, 0.10 * ear), 0.92 * skin),
    ]
    mirrored = [((-x, y, z), radii, albedo) for (x, y, z), radii, albedo in on_both_sides]
    centres, radii, albedos = zip(*in_the_middle, *on_both_sides, *mirrored, strict=True)
    return Ellipsoids(np.array(centres), np.array(radii), np.array(albedos))


def turn(azimuth: float, elevation: float) -> NDArray[np.float64]:
    """Rotation (3, 3) of a head: first by `azimuth` to the picture's right, then by `elevation` upwards, radians."""
    sin_a, cos_a, sin_e, cos_e = np.sin(azimuth), np.cos(azimuth), np.sin(elevation), np.cos(elevation)
    to_the_right = np.array([[cos_a, 0.0, sin_a], [0.0, 1.0, 0.0], [-sin_a, 0.0, cos_a]])
    upwards = np.array([[1.0, 0.0, 0.0], [0.0, cos_e, sin_e], [0.0, -sin_e, cos_e]])
    return upwards @ to_the_right


def light(lighting: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions (L, 3) towards lights that stand `lighting` to the right of the viewer, radians, and above."""
    across, up = np.cos(LIGHT_ELEVATION), np.full(len(lighting), np.sin(LIGHT_ELEVATION))
    return np.stack([across * np.sin(lighting), up, across * np.cos(lighting)], axis=1)


_X, _Y = np.meshgrid(PIXEL * (np.arange(SIDE) + 0.5) - 1.0, 1.0 - PIXEL * (np.arange(SIDE) + 0.5))
_MONOMIALS = np.stack([np.ones_like(_X), _X, _Y, _X * _X, _X * _Y, _Y * _Y]).reshape(6, -1).astype(np.float32)


class Surface(NamedTuple):
    """What is seen of a head, pixel by pixel in C order."""

    depth: Floats
    """(64, 64): z of the surface, towards the viewer."""
    albedo: Floats
    """(64, 64), in [0, 1]."""
    cover: Floats
    """(64, 64): the share of the pixel that the head covers."""


def surface(head: Ellipsoids, rotation: NDArray[np.float64]) -> Surface:
    """Find where every pixel's ray first meets a turned head.

    Parameters
    ----------
    head : Ellipsoids
    rotation : (3, 3)

    Returns
    -------
    Surface
    """
    c = head.centres @ rotation.T
    S = (rotation * head.radii[:, None, :] ** 2) @ rotation.T  # (E, 3, 3)
    xy_inverse = np.linalg.inv(S[:, :2, :2])
    slope = np.squeeze(S[:, 2:, :2] @ xy_inverse, axis=1)  # (E, 2): S_zxy S_xy^-1
    spread = np.sqrt(S[:, 2, 2] - np.sum(slope * S[:, 2, :2], axis=1))
    plane = np.column_stack([c[:, 2] - np.sum(slope * c[:, :2], axis=1), slope])
    f = _outlines(c[:, :2], xy_inverse) @ _MONOMIALS  # (E, pixels)
    z = plane.astype(np.float32) @ _MONOMIALS[:3]
    z += spread.astype(np.float32)[:, None] * np.sqrt(np.maximum(f, 0.0))
    reach = 0.5 * np.linalg.det(S[:, :2, :2]) ** 0.25 / PIXEL  # pixels to the outline, near it, per unit of f
    f *= reach.astype(np.float32)[:, None]
    z[f < -0.5] = FAR  # as far as the cover reaches
    z *= np.float32(SHARPNESS)
    np.exp(z, out=z)
    total, shade = np.stack([np.ones_like(head.albedos), head.albedos]).astype(np.float32) @ z
    depth = np.log(total) / np.float32(SHARPNESS)
    cover = np.clip(f.max(axis=0) + np.float32(0.5), 0.0, 1.0)
    return Surface(*(image.reshape(SIDE, SIDE) for image in (depth, shade / total, cover)))


def _outlines(centre: NDArray[np.float64], inverse: NDArray[Any]) -> Floats:
    """Coefficients (E, 6) of f = 1 - d^T S_xy^-1 d in the monomials 1, x, y, x^2, xy, y^2."""
    pull = np.squeeze(inverse @ centre[:, :, None], axis=2)
    constant = 1.0 - np.sum(centre * pull, axis=1)
    square = -np.stack([inverse[:, 0, 0], 2.0 * inverse[:, 0, 1], inverse[:, 1, 1]], axis=1)
    return np.column_stack([constant, 2.0 * pull, square]).astype(np.float32)


def shade(seen: Surface, lights: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Light a surface.

    Parameters
    ----------
    seen : Surface
    lights : (L, 3)
        Unit vectors towards the lights.

    Returns
    -------
    images : (L, 4096) uint8
    """
    on = seen.cover > 0
    right, up = _difference(seen.depth, on, axis=1), -_difference(seen.depth, on, axis=0)
    normal = np.stack([-right, -up, np.ones_like(right)]).reshape(3, -1)
    normal /= np.sqrt(np.sum(normal * normal, axis=0))
    lit = lights.astype(np.float32) @ normal
    np.maximum(lit, 0.0, out=lit)
    lit *= np.float32(1.0 - AMBIENT)
    lit += np.float32(AMBIENT)
    lit *= np.float32(255.0) * (seen.albedo * seen.cover).ravel()
    return np.rint(lit, out=lit).astype(np.uint8)


def _difference(depth: Floats, on: NDArray[np.bool_], axis: int) -> Floats:
    """Slope of the depth towards higher indices: central within the head, one-sided where it ends."""
    step = np.diff(depth, axis=axis)
    inside = np.logical_and(on[1:], on[:-1]) if axis == 0 else np.logical_and(on[:, 1:], on[:, :-1])
    step *= inside
    before, after = ((1, 0), (0, 0)), ((0, 1), (0, 0))
    if axis == 1:
        before, after = before[::-1], after[::-1]
    count = np.pad(inside, before).astype(np.float32) + np.pad(inside, after)
    return (np.pad(step, before) + np.pad(step, after)) / (np.maximum(count, 1) * np.float32(PIXEL))


def head_grid(name_or_sizes: str | Sequence[int]) -> FactorGrid:
    """Choose the factor values of a grid of heads.

    Identities are the first of their sequence. Angles are spaced evenly over their whole range; a single one is its
    middle.

    Parameters
    ----------
    name_or_sizes : str or sequence of int
        A name in `GRIDS`, or the sizes of identity, azimuth, elevation, lighting.

    Returns
    -------
    FactorGrid

    Raises
    ------
    InputError, TypeError
        The name is unknown, or the sizes are not four positive whole numbers.
    """
    where = "heads"
    if isinstance(name_or_sizes, str):
        sizes = GRIDS[option(where, "grid", name_or_sizes, GRIDS)]
    else:
        sizes = checked_sizes(where, name_or_sizes, ["identity", *RANGES])
    angles = (
        Factor(name, np.linspace(low, high, size) if size > 1 else np.array([(low + high) / 2]))
        for (name, (low, high)), size in zip(RANGES.items(), sizes[1:], strict=True)
    )
    return FactorGrid((Factor("identity", np.arange(float(sizes[0]))), *angles))


def heads(grid: str | Sequence[int], progress: ProgressHook | None = None) -> FactorDataset:
    """Render every image of a grid of heads.

    Parameters
    ----------
    grid : str or sequence of int
        As in `head_grid`.
    progress : function, optional
        Called as progress(done, total), in images.

    Returns
    -------
    FactorDataset
        N images at 4,096 bytes each, identity slowest and lighting fastest.

    Raises
    ------
    InputError, TypeError
        As in `head_grid`.
    MemoryError
        The images do not fit.
    """
    chosen = head_grid(grid)
    identity, azimuth, elevation, lighting = (factor.values for factor in chosen.factors)
    lights = light(lighting)
    rows = np.empty((len(chosen), SIDE * SIDE), dtype=np.uint8)
    done = 0
    for n in identity:
        head = ellipsoids(traits(int(n)))
        for a in azimuth:
            for e in elevation:
                rows[done : done + len(lights)] = shade(surface(head, turn(float(a), float(e))), lights)
                done += len(lights)
            if progress is not None:
                progress(done, len(chosen))
    return FactorDataset("synthetic heads", ByteImages(rows, (SIDE, SIDE)), chosen.factors, chosen.classes())
