"""The branching vessels of the lungs, as point clouds that serve CT voxels and radiograph pixels alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy import Canvas
from phantoms.fields import splat

Points = NDArray[np.float64]


@dataclass(frozen=True)
class VesselTree:
    """Points along lung vessels.

    Attributes:
        points: ``(n, 3)`` standard-patient mm (x, y, z).
        radius_mm: ``(n,)``.
        step_mm: length of vessel each point stands for.
    """

    points: Points
    radius_mm: NDArray[np.float64]
    step_mm: float

    @property
    def volume_mm3(self) -> NDArray[np.float64]:
        """``(n,)`` volume of vessel each point stands for."""
        return np.pi * self.radius_mm**2 * self.step_mm


def grow_vessels(canvas: Canvas, *, generations: int = 6, step_mm: float = 2.0) -> VesselTree:
    """Return the vessels of both lungs; they leave the hila and halve their flow at each branching."""
    rng = canvas.rng("lung-vessels")
    clouds: list[Points] = []
    radii: list[NDArray[np.float64]] = []
    for side in (-1.0, 1.0):
        count = 13
        azimuth = np.linspace(0.05, 0.95, count) * 2 * np.pi + rng.normal(0, 0.15, count)
        tilt = rng.uniform(-0.75, 0.75, count)
        heading = np.stack([side * (0.75 + 0.3 * rng.random(count)), tilt, 1.05 * np.cos(azimuth) - 0.12], axis=1)
        tip = np.array([side * 40.0, 6.0, 342.0 if side > 0 else 336.0]) + rng.normal(0, 7, (count, 3))
        radius, length = rng.uniform(3.2, 4.6, count), rng.uniform(20, 32, count)
        for _ in range(generations):
            heading /= np.linalg.norm(heading, axis=1, keepdims=True)
            steps = np.arange(0, 36, step_mm)
            walk = tip[:, None] + heading[:, None] * steps[None, :, None]
            kept = steps[None, :] < length[:, None]
            taper = radius[:, None] * (1 - 0.18 * steps[None, :] / length[:, None])
            clouds.append(walk[kept])
            radii.append(taper[kept])
            tip = np.repeat(tip + heading * length[:, None], 2, axis=0)
            heading = np.repeat(heading, 2, axis=0) + rng.normal(0, 0.42, (len(tip), 3))
            radius = np.repeat(radius * 0.76, 2) * rng.uniform(0.85, 1.1, len(tip))
            length = np.repeat(length * 0.9, 2) * rng.uniform(0.75, 1.15, len(tip))
    return VesselTree(np.concatenate(clouds), np.concatenate(radii), step_mm)


def inside_lungs(canvas: Canvas, index: Points) -> NDArray[np.bool_]:
    """Say which fractional (slice, row, column) positions lie in aerated lung."""
    cells = np.rint(index).astype(np.int64)
    shape = np.array(canvas.frame.grid.shape)
    valid = np.all((cells >= 0) & (cells < shape), axis=1)
    cells = np.clip(cells, 0, shape - 1)
    found: NDArray[np.bool_] = valid & canvas.lungs[tuple(cells.T)]
    return found


def paint_vessels(canvas: Canvas, tree: VesselTree) -> None:
    """Add the vessels to the lungs of a CT as partial volumes."""
    index = canvas.frame.to_index(tree.points)
    kept = inside_lungs(canvas, index)
    voxel_mm3 = canvas.frame.grid.voxel_ml * 1000.0
    part = splat(index[kept], tree.volume_mm3[kept] / voxel_mm3, canvas.frame.grid.shape)
    part = np.where(canvas.lungs, np.minimum(part, 1.0), 0.0)
    canvas.hu += part * (110.0 - canvas.hu)
