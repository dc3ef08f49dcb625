"""A Volume: the sorted, rescaled array of one Series with its geometry, in the patient's LPS frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Volume:
    """One Series as an array, slices sorted along the slice normal.

    Attributes:
        array: ``(slices, rows, columns)`` float32; Hounsfield units for CT, raw signal for MR.
        affine: ``(4, 4)`` maps homogeneous ``(slice, row, column)`` indices to mm in DICOM's patient
            frame (LPS: +x left, +y posterior, +z superior; PS3.3 C.7.6.2.1.1). Exact in any orientation; of a tilted
            CT gantry it is sheared: slices step along the table, not along their normal (`worker.upright`).
        sop_instance_uids: one per slice, in array order (the same UID repeats for a multi-frame object).
        frame_numbers: one per slice, 1-based frame within its Instance (always 1 for single-frame).
        series_instance_uid: the source Series.
        frame_of_reference_uid: the coordinate frame ``affine`` maps into; ``""`` when the Series has none.
        modality: Modality (0008,0060), for example ``"CT"``.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    series_instance_uid: str
    frame_of_reference_uid: str
    modality: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (slices, rows, columns), mm."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(steps[0]), float(steps[1]), float(steps[2])

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0
