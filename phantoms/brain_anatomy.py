"""The head as tissue classes: an implicit-surface model of scalp, skull, brain and its folds.

Everything is a function of anatomical millimetres, never of voxels, so one patient looks the same at every
resolution. Frame: origin between the thalami, LPS (+x left, +y posterior, +z superior).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Point = tuple[float, float, float]

_NOISE_HALF_MM = 160.0  # noise lattices cover a cube of twice this edge around the origin
_BSPLINE_STD = 0.4794**1.5  # of a cubic B-spline of unit white noise, in three dimensions


class Tissue(IntEnum):
    """Tissue classes of the head, the rows of the signal table."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    MARROW = 5
    CSF = 6
    GREY = 7
    WHITE = 8
    STRIATUM = 9
    THALAMUS = 10
    PALLIDUS = 11
    DURA = 12
    EYE = 13
    LENS = 14
    VESSEL = 15
    CHOROID = 16
    MUCOSA = 17
    HYPERINTENSITY = 18  # small-vessel disease of ageing white matter, no tumour
    NECROSIS = 19
    OEDEMA = 20
    ENHANCING = 21


@dataclass(frozen=True)
class Build:
    """What differs between two healthy heads.

    Attributes:
        scale: ``(x, y, z)`` size relative to the average head.
        rotation_rad: pitch, yaw and roll of the head in the coil.
        shift_mm: ``(x, y, z)`` of the head in the field of view.
        ventricles: width of the ventricles relative to the average adult.
        sulcus_mm: half width of a sulcus; grows with age.
        scalp_mm: thickness of skin and subcutaneous fat.
        skull_mm: thickness of the calvaria.
        lesion_load: fraction 0..1 of small-vessel hyperintensities.
    """

    scale: Point
    rotation_rad: Point
    shift_mm: Point
    ventricles: float
    sulcus_mm: float
    scalp_mm: float
    skull_mm: float
    lesion_load: float


@dataclass(frozen=True)
class Push:
    """Mass effect: tissue around ``centre`` (anatomical mm) is pushed away within about ``reach_mm``."""

    centre: Point
    strength: float
    reach_mm: float


@dataclass(frozen=True)
class Grid:
    """Voxel centres along each axis, mm, LPS."""

    z: Field
    y: Field
    x: Field

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(slices, rows, columns)``."""
        return len(self.z), len(self.y), len(self.x)


def _basis(axis_mm: Field, spacing_mm: float) -> Field:
    """Return the cubic B-spline weights ``(positions, knots)`` of a lattice with ``spacing_mm``."""
    knots = np.arange(int(2 * _NOISE_HALF_MM / spacing_mm) + 1, dtype=np.float32)
    t = np.abs((axis_mm[:, None] + np.float32(_NOISE_HALF_MM)) / np.float32(spacing_mm) - knots)
    near = 2 / 3 - t**2 + t**3 / 2
    far = (2 - t) ** 3 / 6
    return np.where(t < 1, near, np.where(t < 2, far, 0)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, grid: Grid, spacing_mm: float) -> Field:
    """Return noise of zero mean and unit variance, smooth over about two ``spacing_mm``, on ``grid``."""
    bz, by, bx = (_basis(axis, spacing_mm) for axis in (grid.z, grid.y, grid.x))
    knots = bz.shape[1]
    lattice = rng.standard_normal((knots, knots, knots), dtype=np.float32)
    field = np.tensordot(bz, lattice, axes=(1, 0))  # (slices, knots, knots)
    field = by @ field  # (slices, rows, knots)
    return np.asarray((field @ bx.T) / np.float32(_BSPLINE_STD), dtype=np.float32)


@dataclass(frozen=True)
class Space:
    """Anatomical coordinates of each voxel, mm: rigid inside the skull (x, y, z), and after mass effect (u, v, w)."""

    x: Field
    y: Field
    z: Field
    u: Field
    v: Field
    w: Field


def _rotation(angles: Point) -> NDArray[np.float64]:
    (cp, cy, cr), (sp, sy, sr) = np.cos(angles), np.sin(angles)
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    roll = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return np.asarray(roll @ yaw @ pitch, dtype=np.float64)


def anatomical_space(rng: np.random.Generator, grid: Grid, build: Build, push: Push | None) -> Space:
    """Return where each voxel of ``grid`` lies in the average head, for a patient with this ``build``."""
    turn = _rotation(build.rotation_rad).astype(np.float32)
    z, y, x = grid.z[:, None, None], grid.y[None, :, None], grid.x[None, None, :]
    sx, sy, sz = build.shift_mm
    axes = []
    for row, scale in zip(turn, build.scale, strict=True):
        linear = (row[0] * (x - sx) + row[1] * (y - sy) + row[2] * (z - sz)) / np.float32(scale)
        axes.append(linear + np.float32(1.8) * smooth_noise(rng, grid, 28.0))
    if push is None:
        return Space(*axes, *axes)
    away = [axis - np.float32(c) for axis, c in zip(axes, push.centre, strict=True)]
    r2 = away[0] ** 2 + away[1] ** 2 + away[2] ** 2
    shrink = np.float32(push.strength) * np.exp(r2 * np.float32(-1 / push.reach_mm**2))
    return Space(*axes, *(axis - d * shrink for axis, d in zip(axes, away, strict=True)))


def ellipsoid(x: Field, y: Field, z: Field, centre: Point, axes: Point) -> Field:
    """Return about the depth in mm below the surface of an ellipsoid (negative outside)."""
    cx, cy, cz = (np.float32(c) for c in centre)
    ax, ay, az = (np.float32(1 / a) for a in axes)
    radius = np.sqrt(((x - cx) * ax) ** 2 + ((y - cy) * ay) ** 2 + ((z - cz) * az) ** 2)
    return np.asarray((1 - radius) * np.float32(min(axes)), dtype=np.float32)


def tube(x: Field, y: Field, z: Field, path: Sequence[tuple[float, float, float, float]]) -> Field:
    """Return the depth in mm below the surface of a tube through ``(x, y, z, radius)`` points."""
    depth = np.full(x.shape, -np.inf, np.float32)
    for (x0, y0, z0, r0), (x1, y1, z1, r1) in pairwise(path):
        reach = max(r0, r1) + 3  # farther away only the sign matters
        box = _near(y, min(y0, y1) - reach, max(y0, y1) + reach)
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        px, py, pz = x[:, box] - np.float32(x0), y[:, box] - np.float32(y0), z[:, box] - np.float32(z0)
        length2 = dx * dx + dy * dy + dz * dz
        t = (px * np.float32(dx) + py * np.float32(dy) + pz * np.float32(dz)) * np.float32(1 / length2)
        np.clip(t, 0, 1, out=t)
        px -= t * np.float32(dx)
        py -= t * np.float32(dy)
        pz -= t * np.float32(dz)
        part = np.float32(r0) + t * np.float32(r1 - r0) - np.sqrt(px * px + py * py + pz * pz)
        np.maximum(depth[:, box], part, out=depth[:, box])
    return depth


def _near(y: Field, low: float, high: float) -> slice:
    """Return the rows in which any voxel has ``low < y < high``; the rest need no arithmetic."""
    rows = np.flatnonzero((y.max(axis=(0, 2)) > low) & (y.min(axis=(0, 2)) < high))
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


@dataclass(frozen=True)
class Hulls:
    """Depths in mm (positive inside) of the head's nested surfaces."""

    cerebrum: Field
    intracranial: Field
    head: Field


def hulls(space: Space) -> Hulls:
    """Return the smooth surfaces under which the tissues lie."""
    x, y, z = space.x, space.y, space.z
    ax = np.abs(x)
    egg = x / (1 + np.float32(0.0011) * np.clip(y, -80, 60))  # the parietal lobes are the widest
    vault = ellipsoid(egg, y, z, (0, 0, 6), (67, 85, 63))
    tentorium = tentorium_z(ax, y)
    orbital_roof = np.float32(-15) + 0 * ax
    mix = np.clip((y + 20) / 45, 0, 1)
    floor = z - ((1 - mix) * orbital_roof + mix * tentorium)
    temporal = np.maximum(
        ellipsoid(ax, y, z, (43, -6, -22), (22, 42, 20)), ellipsoid(ax, y, z, (43, 26, -11), (22, 38, 17))
    )
    temporal = np.minimum(temporal, vault + 6)
    cerebrum = np.maximum(np.minimum(vault, floor), temporal)
    fossa = ellipsoid(x, y, z, (0, 44, -32), (55, 34, 28))
    cistern = ellipsoid(x, y, z, (0, 6, -24), (23, 18, 28))
    canal = tube(x, y, z, [(0, 20, -48, 13), (0, 26, -96, 11)])
    intracranial = np.maximum.reduce(
        [np.minimum(vault + 3, floor + 4), temporal + np.float32(2.5), fossa, cistern, canal]
    )
    face = ellipsoid(x, y, z, (0, -36, -44), (66, 64, 92))
    neck = np.minimum(60 - np.hypot(x, y - 26), 10 - z)
    return Hulls(cerebrum, intracranial, np.maximum.reduce([vault + 15, face, neck]))


def paint_head(tissue: NDArray[np.uint8], space: Space, hull: Hulls, build: Build, lumps: Field) -> None:
    """Paint scalp, skull, face, orbits and airways; ``lumps`` is unit noise that varies the muscles."""
    x, y, z, ax = space.x, space.y, space.z, np.abs(space.x)
    depth, inner = hull.head, hull.intracranial
    soft = np.where(lumps > 0.8, Tissue.FAT, Tissue.MUSCLE)
    tissue[...] = np.where(depth < build.scalp_mm, Tissue.FAT, soft)
    tissue[depth < 1.8] = Tissue.SKIN
    tissue[depth < 0] = Tissue.AIR
    skull = (inner > -build.skull_mm) & (depth > 3)
    tissue[skull] = Tissue.BONE
    marrow = skull & (inner < -0.3 * build.skull_mm) & (inner > -0.7 * build.skull_mm) & (z > -25)
    tissue[marrow] = Tissue.MARROW
    orbit = ellipsoid(ax, y, z, (32, -66, -36), (18, 27, 16))
    tissue[(orbit > -2.5) & (depth > 3)] = Tissue.BONE
    tissue[(orbit > 0) & (depth > 2)] = Tissue.FAT
    tissue[tube(ax, y, z, [(32, -66, -36, 2.3), (11, -30, -24, 2.0)]) > 0] = Tissue.WHITE
    tissue[tube(ax, y, z, [(43, -76, -36, 2.2), (18, -38, -32, 2.0)]) > 0] = Tissue.MUSCLE
    tissue[tube(ax, y, z, [(22, -74, -36, 2.2), (16, -38, -32, 2.0)]) > 0] = Tissue.MUSCLE
    tissue[ellipsoid(ax, y, z, (32, -76, -36), (12.5, 12.5, 12.5)) > 0] = Tissue.EYE
    tissue[ellipsoid(ax, y, z, (32, -84.5, -36), (4.5, 2.5, 4.5)) > 0] = Tissue.LENS
    for centre, axes in (
        ((0, -62, -48), (13, 26, 22)),
        ((27, -58, -62), (14, 16, 14)),
        ((0, -30, -40), (11, 10, 9)),
        ((54, 24, -40), (8, 11, 12)),
        ((0, -10, -80), (12, 9, 26)),
    ):
        cavity = ellipsoid(ax, y, z, centre, axes)
        tissue[(cavity > -1.5) & (depth > 4)] = Tissue.MUCOSA
        tissue[(cavity > 1.2 + 1.2 * (lumps > 0.9)) & (depth > 4)] = Tissue.AIR
    tissue[(np.abs(x) < 1.4) & (y < -38) & (z < -30) & (tissue == Tissue.AIR) & (depth > 4)] = Tissue.MUCOSA


def tentorium_z(ax: Field, y: Field) -> Field:
    """Return the height of the tentorium above the origin, mm, at ``ax`` from the midline and ``y``."""
    return np.asarray(np.float32(5) - np.float32(0.36) * ax - np.float32(0.2) * (y - 35), dtype=np.float32)


def sulcal_sheets(rng: np.random.Generator, space: Space, near: NDArray[np.bool_]) -> Field:
    """Return each voxel's distance in mm to the nearest sulcal sheet, where ``near`` (elsewhere a large value).

    The sheets are the zero level of band-limited noise sampled on a sphere around the core of each hemisphere,
    straight outwards from the voxel, so that they run inwards from the surface as sulci do.
    """
    step, sphere_mm = 3.0, 45.0
    axis = np.arange(-96, 97, step, dtype=np.float32)
    lattice = Grid(axis, axis, axis)
    noise = smooth_noise(rng, lattice, 6.5) - np.float32(0.2) * smooth_noise(rng, lattice, 30.0)
    slope = np.sqrt(sum(g**2 for g in np.gradient(noise, step)))
    signed = np.copysign(np.abs(noise) / np.maximum(slope, 0.08), noise)
    u, v, w = space.u[near], space.v[near], space.w[near]
    core = (np.copysign(np.float32(20), u), np.clip(0.7 * v, -38, 38), np.float32(14))
    away = [p - c for p, c in zip((u, v, w), core, strict=True)]
    radius = np.maximum(np.sqrt(sum(a * a for a in away)), 29)
    pull = np.float32(0.85 * sphere_mm) / radius + np.float32(0.15)
    places = [(c + a * pull + 96) / step for c, a in zip(core, away, strict=True)]
    sampled = np.abs(ndimage.map_coordinates(signed, places[::-1], order=1, mode="nearest"))
    sheets = np.full(space.u.shape, 99.0, np.float32)
    sheets[near] = sampled * np.clip(radius / sphere_mm, 0.5, 1.2)
    return sheets
