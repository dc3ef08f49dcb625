"""Pictures of findings: one image, what is outlined on it, and how bright it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Outline:
    """One structure on one image: ``mask`` is ``(rows, columns)`` on the grid of the image."""

    label: str
    mask: NDArray[np.bool_]
    tracking_uid: str = ""


@dataclass(frozen=True)
class KeyPicture:
    """One image that findings rest on.

    Attributes:
        source: its header; pixels are not needed.
        frame_number: 1-based; None for a single-frame Instance.
        grey: ``(rows, columns)`` uint8 as shown to a reader: windowed, MONOCHROME2; None for mere references.
        window: centre and width that made ``grey``, in the units of the Modality LUT; None when unknown.
        outlines: what is drawn on it.
        caption: the findings in words, one line.
    """

    source: Dataset
    frame_number: int | None
    grey: NDArray[np.uint8] | None = None
    window: tuple[float, float] | None = None
    outlines: Sequence[Outline] = ()
    caption: str = ""
