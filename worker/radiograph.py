"""A Radiograph: one projection image ready for an Expert, dark air and bright bone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Radiograph:
    """One CR or DX Instance after rescale, VOI LUT and MONOCHROME1 inversion.

    Attributes:
        pixels: ``(rows, columns)`` float32 in 0…255, display polarity: bone bright, air dark.
        sop_instance_uid: the source Instance.
        series_instance_uid: its Series.
        view_position: View Position (0018,5101), for example ``"PA"``; ``""`` when absent.
        modality: ``"CR"`` or ``"DX"``.
        pixel_spacing_mm: (row, column) spacing at the detector, or None when unknown.
    """

    pixels: NDArray[np.float32]
    sop_instance_uid: str
    series_instance_uid: str
    view_position: str
    modality: str
    pixel_spacing_mm: tuple[float, float] | None
