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

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]
WARP_MARGIN_MM = 14.0


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream ``name`` of patient ``seed``; streams do not disturb one another."""
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

    def _basis(self, positions: Floats, axis: int) -> Floats:
        where = (positions - self._low[axis]) / self._scale
        knots = np.arange(self._coefficients.shape[axis])
        t = np.abs(where[:, None] - knots[None, :])
        near = 2.0 / 3.0 - t**2 + t**3 / 2.0
        far = np.clip(2.0 - t, 0.0, None) ** 3 / 6.0
        return np.where(t < 1, near, far).astype(np.float32)

    def on_grid(self, grid: Grid, box: Box | None = None) -> Floats:
        """Return the field at the voxel centres of ``grid`` (or of its sub-``box``)."""
        box = box or (slice(None), slice(None), slice(None))
        bz = self._basis(grid.zs[box[0]], 0)
        by = self._basis(grid.ys[box[1]], 1)
        bx = self._basis(grid.xs[box[2]], 2)
        field = np.tensordot(bz, self._coefficients, axes=(1, 0))
        field = np.tensordot(field, by, axes=(1, 1)).swapaxes(1, 2)
        result: Floats = np.ascontiguousarray(field @ bx.T)
        return result

    def at(self, points_zyx: NDArray[np.float64]) -> Floats:
        """Return the field at ``(n, 3)`` points, mm, (z, y, x) order."""
        where = (points_zyx - self._low) / self._scale
        values: Floats = ndimage.map_coordinates(self._coefficients, where.T, order=3, prefilter=False, mode="nearest")
        return values


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

    def __init__(self, grid: Grid, physique: Physique, seed: int) -> None:
        self.grid = grid
        self._scale = np.array(physique.scale)
        self._warp_mm = physique.warp_mm
        self._noise = [SmoothNoise(stream(seed, f"warp-{axis}"), 75.0) for axis in "zyx"]
        axes = [
            axis.reshape([-1 if i == k else 1 for k in range(3)]) / np.float32(s)
            for i, (axis, s) in enumerate(zip((grid.zs, grid.ys, grid.xs), self._scale, strict=True))
        ]
        warp = np.float32(self._warp_mm)
        self.z, self.y, self.x = (
            axis + warp * noise.on_grid(grid) for axis, noise in zip(axes, self._noise, strict=True)
        )

    def to_world(self, points_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map ``(n, 3)`` standard-patient points (x, y, z) to the patient's mm, same order."""
        wanted = points_xyz[:, ::-1]
        found = wanted * self._scale
        for _ in range(3):  # the warp is a contraction: three rounds leave well under 0.5 mm
            shift = np.stack([n.at(found) for n in self._noise], axis=1) * self._warp_mm
            found = (wanted - shift) * self._scale
        return found[:, ::-1]

    def to_index(self, points_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map ``(n, 3)`` standard-patient points (x, y, z) to fractional (slice, row, column)."""
        world = self.to_world(points_xyz)[:, ::-1]
        index: NDArray[np.float64] = (world - self.grid.origin_mm) / self.grid.voxel_mm
        return index

    def box(self, low_xyz: tuple[float, float, float], high_xyz: tuple[float, float, float]) -> Box:
        """Return array slices that surely contain the given standard-patient box."""
        found = []
        for axis, k in ((self.grid.zs, 2), (self.grid.ys, 1), (self.grid.xs, 0)):
            scale = self._scale[2 - k]
            start = np.searchsorted(axis, (low_xyz[k] - WARP_MARGIN_MM) * scale)
            stop = np.searchsorted(axis, (high_xyz[k] + WARP_MARGIN_MM) * scale)
            found.append(slice(int(start), int(max(stop, start))))
        return found[0], found[1], found[2]


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
