"""Smooth random fields and the coordinate frame in which anatomy is drawn.

Anatomy is described once, in millimetres of a *standard patient* (LPS axes: +x left, +y posterior,
+z superior; z = 0 just below L5). A :class:`Frame` says where each voxel of one patient's grid lies in that
standard patient: scaling by stature and girth plus a smooth random warp, so neighbouring organs deform together.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from config.errors import RefusedInputError

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]
WARP_MARGIN_MM = 14.0


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream ``name`` of patient ``seed``; streams do not disturb one another.

    Raises:
        RefusedInputError: a negative seed.
    """
    if seed < 0:
        raise RefusedInputError(f"seed {seed} must not be negative")
    return np.random.default_rng([seed, crc32(name.encode())])


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a regular grid, mm, LPS.

    Attributes:
        zs: ``(slices,)`` increasing, towards the head.
        ys: ``(rows,)`` increasing, towards the back.
        xs: ``(columns,)`` increasing, towards the patient's left.
    """

    zs: Floats
    ys: Floats
    xs: Floats

    @classmethod
    def spanning(
        cls,
        low_mm: tuple[float, float, float],
        size_mm: tuple[float, float, float],
        voxel_mm: tuple[float, float, float],
    ) -> "Grid":
        """Return the grid that fills ``size_mm`` from corner ``low_mm``, all in (z, y, x) order."""
        axes = [
            (low + (np.arange(max(1, round(size / step))) + 0.5) * step).astype(np.float32)
            for low, size, step in zip(low_mm, size_mm, voxel_mm, strict=True)
        ]
        return cls(*axes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.zs), len(self.ys), len(self.xs)

    @property
    def voxel_mm(self) -> NDArray[np.float64]:
        """``(3,)`` voxel size along z, y, x in mm."""
        return np.array([float(a[1] - a[0]) for a in (self.zs, self.ys, self.xs)])

    @property
    def origin_mm(self) -> NDArray[np.float64]:
        """``(3,)`` centre of the first voxel, (z, y, x) mm."""
        return np.array([self.zs[0], self.ys[0], self.xs[0]], dtype=np.float64)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.voxel_mm)) / 1000.0

    def index_of(self, points_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map ``(n, 3)`` LPS mm (x, y, z) to fractional (slice, row, column)."""
        index: NDArray[np.float64] = (points_xyz[:, ::-1] - self.origin_mm) / self.voxel_mm
        return index

    def affine(self) -> NDArray[np.float64]:
        """Return ``(4, 4)``: homogeneous (slice, row, column) to LPS mm (x, y, z)."""
        steps, origin = self.voxel_mm, self.origin_mm
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = steps
        affine[:3, 3] = origin[::-1]
        affine[3, 3] = 1.0
        return affine


class SmoothNoise:
    """A random field made of cubic B-splines: about zero mean, unit variance, no detail below ``scale_mm``."""

    def __init__(self, rng: np.random.Generator, scale_mm: float) -> None:
        self._scale = scale_mm
        self._low = np.array([-120.0, -260.0, -320.0]) - 2 * scale_mm
        counts = np.ceil(np.array([780.0, 520.0, 640.0]) / scale_mm).astype(int) + 6
        self._coefficients = (rng.standard_normal(counts) * 2.4).astype(np.float32)

    def _basis(self, positions: Floats, axis: int) -> tuple[Floats, slice]:
        """Return the spline weights ``(positions, knots)`` and which knots they are for."""
        where = (positions - self._low[axis]) / self._scale
        if where.size == 0:
            return np.zeros((0, 1), np.float32), slice(0, 1)
        near_knots = slice(max(0, int(where.min()) - 1), int(where.max()) + 3)
        knots = np.arange(self._coefficients.shape[axis])[near_knots]
        t = np.abs(where[:, None] - knots[None, :])
        near = 2.0 / 3.0 - t**2 + t**3 / 2.0
        far = np.clip(2.0 - t, 0.0, None) ** 3 / 6.0
        return np.where(t < 1, near, far).astype(np.float32), near_knots

    def on_grid(self, grid: Grid, box: Box | None = None) -> Floats:
        """Return the field at the voxel centres of ``grid`` (or of its sub-``box``)."""
        box = box or (slice(None), slice(None), slice(None))
        (bz, zs), (by, ys), (bx, xs) = (
            self._basis(axis[part], k)
            for k, (axis, part) in enumerate(zip((grid.zs, grid.ys, grid.xs), box, strict=True))
        )
        field = by @ (self._coefficients[zs, ys, xs] @ bx.T)
        flat = bz @ field.reshape(field.shape[0], -1)
        result: Floats = flat.reshape(len(bz), *field.shape[1:])
        return result


@dataclass(frozen=True)
class Physique:
    """How one patient differs from the standard patient in size.

    Attributes:
        sex: ``"M"`` or ``"F"``.
        scale: size relative to the standard patient along z, y, x.
        fat_mm: thickness of subcutaneous fat.
        warp_mm: amplitude of the smooth deformation.
    """

    sex: str
    scale: tuple[float, float, float]
    fat_mm: float
    warp_mm: float

    @classmethod
    def draw(cls, seed: int) -> "Physique":
        """Return the physique of patient ``seed``."""
        rng = stream(seed, "physique")
        sex = "F" if rng.random() < 0.5 else "M"
        stature = rng.normal(0.955 if sex == "F" else 1.0, 0.025)
        girth = rng.normal(0.0, 0.04)
        across = stature * np.clip(1.0 + girth + rng.normal(0, 0.02), 0.92, 1.1)
        deep = stature * np.clip(1.0 + 1.2 * girth + rng.normal(0, 0.03), 0.9, 1.14)
        fat = float(np.clip(rng.gamma(4.0, 4.0) + 150 * girth, 5.0, 38.0))
        return cls(sex, (float(np.clip(stature, 0.9, 1.05)), float(deep), float(across)), fat, 4.0)


class Frame:
    """Standard-patient coordinates of every voxel, and the way back.

    Attributes:
        grid: the patient's voxel grid.
        x, y, z: ``(slices, rows, columns)`` float32, mm in the standard patient.
    """

    def __init__(self, grid: Grid, physique: Physique, seed: int, *, dither: bool = False) -> None:
        """Set up the frame.

        Args:
            grid: the voxels.
            physique: size and deformation of the patient.
            seed: decides the deformation.
            dither: shift every column of voxels along y by its own fraction of a voxel, so that a sum along y
                has no steps where surfaces cross thick voxels.
        """
        self.grid = grid
        self._scale = np.array(physique.scale)
        noises = [SmoothNoise(stream(seed, f"warp-{axis}"), 75.0) for axis in "zyx"]
        axes = [
            axis.reshape([-1 if i == k else 1 for k in range(3)]) / np.float32(s)
            for i, (axis, s) in enumerate(zip((grid.zs, grid.ys, grid.xs), self._scale, strict=True))
        ]
        warp = np.float32(physique.warp_mm)
        self.z, self.y, self.x = (axis + warp * noise.on_grid(grid) for axis, noise in zip(axes, noises, strict=True))
        # the same warp on a coarse grid, to look up single points quickly
        self._nodes = Grid.spanning((-60.0, -220.0, -280.0), (660.0, 450.0, 560.0), (15.0, 15.0, 15.0))
        self._node_warp = [warp * noise.on_grid(self._nodes) for noise in noises]
        if dither:
            order = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32)
            tile = np.tile(order / 16.0 - 0.47, (len(grid.zs) // 4 + 1, len(grid.xs) // 4 + 1))
            shift = tile[: len(grid.zs), : len(grid.xs)] * np.float32(grid.voxel_mm[1] / self._scale[1])
            self.y += shift[:, None, :]

    def to_world(self, points_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map ``(n, 3)`` standard-patient points (x, y, z) to the patient's mm, same order."""
        wanted = points_xyz[:, ::-1]
        found = wanted * self._scale
        for _ in range(2):  # the warp is a contraction: two rounds leave about 0.1 mm
            where = ((found - self._nodes.origin_mm) / self._nodes.voxel_mm).T
            shift = [ndimage.map_coordinates(warp, where, order=1, mode="nearest") for warp in self._node_warp]
            found = (wanted - np.stack(shift, axis=1)) * self._scale
        world: NDArray[np.float64] = found[:, ::-1]
        return world

    def to_index(self, points_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map ``(n, 3)`` standard-patient points (x, y, z) to fractional (slice, row, column)."""
        return self.grid.index_of(self.to_world(points_xyz))

    def box(self, low_xyz: tuple[float, float, float], high_xyz: tuple[float, float, float]) -> Box:
        """Return array slices that surely contain the given standard-patient box."""
        found = []
        for axis, k in ((self.grid.zs, 2), (self.grid.ys, 1), (self.grid.xs, 0)):
            scale = self._scale[2 - k]
            start = np.searchsorted(axis, (low_xyz[k] - WARP_MARGIN_MM) * scale)
            stop = np.searchsorted(axis, (high_xyz[k] + WARP_MARGIN_MM) * scale)
            found.append(slice(int(start), int(max(stop, start))))
        return found[0], found[1], found[2]


def profile(z: Floats, nodes: NDArray[np.float64], values: NDArray[np.float64]) -> Floats:
    """Return a piecewise linear function of height, to the nearest 0.25 mm (a fast ``np.interp``)."""
    table = np.interp(np.arange(-200.0, 800.0, 0.5), nodes, values).astype(np.float32)
    found: Floats = table[np.clip((z * 2.0 + 400.5).astype(np.int32), 0, len(table) - 1)]
    return found


def splat(points: NDArray[np.float64], weights: NDArray[np.float64], shape: tuple[int, ...]) -> Floats:
    """Spread weighted points linearly over the cells of an array.

    Args:
        points: ``(n, d)`` fractional indices.
        weights: ``(n,)``.
        shape: ``d`` sizes; what falls outside is dropped.

    Returns:
        Array of ``shape``, float32, that sums to the weights inside.
    """
    base = np.floor(points).astype(np.int64)
    part = points - base
    total = np.zeros(int(np.prod(shape)))
    limit = np.array(shape)
    for corner in np.ndindex(*(2,) * len(shape)):
        cell = base + corner
        share = np.prod(np.where(np.array(corner) == 1, part, 1.0 - part), axis=1) * weights
        inside = np.all((cell >= 0) & (cell < limit), axis=1)
        flat = np.ravel_multi_index(tuple(cell[inside].T), shape)
        total += np.bincount(flat, share[inside], minlength=total.size)
    return total.reshape(shape).astype(np.float32)
