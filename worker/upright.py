"""Tilted gantries: the sheared Volume an Expert must not see, straightened, and its label map brought back.

A tilted gantry makes slices that step along the table, not along their own normal. `Volume.affine` says so
exactly, but networks and their preprocessing read a grid with perpendicular axes. The published preprocessing
(MONAI Spacing without ``diagonal``) keeps the slice planes and drops the shear; so does this: every slice stays
in its plane and moves within it by whole pixels. No value is interpolated, and each voxel of the label map
goes back to the source voxel it came from; what an Expert sees is off by at most half a pixel.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.experts.base import Expert, ExpertInput, ExpertResult, SegmentationResult
from worker.volume import Volume

SMALLEST_TILT_DEGREES = 0.6  # below, a sideways shift of 1 % of the step is rounding of positions
LARGEST_TILT_DEGREES = 30.0  # gantries tilt no further


def tilt_degrees(affine: NDArray[np.float64]) -> float:
    """Return the angle between the step from slice to slice and the slice normal.

    Args:
        affine: ``(4, 4)`` from (slice, row, column) to LPS mm.
    """
    step, normal = affine[:3, 0], np.cross(affine[:3, 1], affine[:3, 2])
    across = float(np.linalg.norm(np.cross(step, normal)))
    return float(np.degrees(np.arctan2(across, abs(float(step @ normal)))))


@dataclass(frozen=True)
class Upright:
    """A straightened Volume and the way back.

    Attributes:
        volume: perpendicular axes; its slices are those of the source, within a larger matrix.
        corners: ``(slices, 2)`` row and column in ``volume`` where each source slice begins.
        shape: of the source array.
    """

    volume: Volume
    corners: NDArray[np.intp]
    shape: tuple[int, int, int]

    def back(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a label map of ``volume`` on the source grid."""
        _, rows, columns = self.shape
        planes = zip(labels, self.corners, strict=True)
        return np.stack([plane[r : r + rows, c : c + columns] for plane, (r, c) in planes])


def upright(volume: Volume) -> Upright:
    """Straighten a sheared Volume; space outside the source slices is filled with the lowest value.

    Args:
        volume: its affine may have a step that is not along the slice normal.
    """
    column, row = volume.affine[:3, 1], volume.affine[:3, 2]
    step = volume.affine[:3, 0]
    per_slice = np.array([step @ column / (column @ column), step @ row / (row @ row)])  # in pixels
    slices, rows, columns = volume.array.shape
    shifts = np.rint(np.arange(slices)[:, None] * per_slice).astype(np.intp)
    low, high = shifts.min(axis=0), shifts.max(axis=0)
    corners = shifts - low
    matrix = (rows + int(high[0] - low[0]), columns + int(high[1] - low[1]))
    array = np.full((slices, *matrix), volume.array.min(), dtype=np.float32)
    for plane, source, (r, c) in zip(array, volume.array, corners, strict=True):
        plane[r : r + rows, c : c + columns] = source
    affine = volume.affine.copy()
    affine[:3, 0] = step - per_slice[0] * column - per_slice[1] * row
    affine[:3, 3] += low[0] * column + low[1] * row
    return Upright(replace(volume, array=array, affine=affine), corners, (slices, rows, columns))


def run_upright(expert: Expert, study: ExpertInput, argument: str) -> ExpertResult:
    """Run an Expert; a CT Volume of a tilted gantry is straightened for it, and its label map brought back.

    Raises:
        ExpertError: see :meth:`worker.experts.base.Expert.run`.
    """
    tilt = tilt_degrees(study.volume.affine) if study.volume is not None else 0.0
    if study.volume is None or tilt <= SMALLEST_TILT_DEGREES:
        return expert.run(study, argument)
    straight = upright(study.volume)
    result = expert.run(replace(study, volume=straight.volume), argument)
    if not isinstance(result, SegmentationResult):
        return result
    note = f"a gantry tilt of {tilt:.1f} degrees was corrected"
    return replace(result, labels=straight.back(result.labels), volume=study.volume, notes=(*result.notes, note))
