"""Image planes of a Series: classic Instances and frames of enhanced multi-frame objects alike (PS3.3 C.7.6.16)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from config.errors import GeometryError
from reports.geometry import functional_group

SLICE_CLASSES: Mapping[str, frozenset[str]] = {
    "CT": frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}),
    "MR": frozenset({MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage}),
}
"""Modality → SOP Classes whose frames are slices of a Volume."""

# What may tell apart images at one position, in the order it is tried: name, functional group, keyword in the
# group, keyword of a classic Instance.
_TRAITS = (
    ("acquisition", "FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("time point", "FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("trigger time", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("echo", "MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("diffusion weighting", "MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("image type", "", "FrameType", "ImageType"),
    ("reconstruction kernel", "CTReconstructionSequence", "ConvolutionKernel", "ConvolutionKernel"),
)
_NOT_MAGNITUDE = {"P": "PHASE", "PHASE": "PHASE", "PHASE MAP": "PHASE", "R": "REAL", "REAL": "REAL",
                  "I": "IMAGINARY", "IMAGINARY": "IMAGINARY"}  # fmt: skip

_UNREADABLE = (ArithmeticError, AttributeError, BytesLengthException, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Frame:
    """One image plane with what places it.

    Attributes:
        header: its Instance, without pixels; carries the file name.
        number: 1-based frame within the Instance.
        position: ``(3,)`` Image Position (Patient), mm, LPS.
        row, column: ``(3,)`` direction cosines of a row and of a column.
        matrix: rows, columns.
        pixel_mm: distance between rows, between columns.
        transform: holds Rescale Slope and Intercept, or the Modality LUT.
        stack_id: Stack ID (0020,9056), ``""`` for a classic Instance.
        component: ``"MAGNITUDE"``, ``"PHASE"``, ``"REAL"`` or ``"IMAGINARY"``.
        traits: what may tell it apart from another image at the same position; ``""`` where unknown.
    """

    header: Dataset
    number: int
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    matrix: tuple[int, int]
    pixel_mm: tuple[float, float]
    transform: Dataset
    stack_id: str
    component: str
    traits: Mapping[str, str]

    @property
    def is_original(self) -> bool:
        """Whether the scanner made it, instead of a later calculation."""
        return not self.traits["image type"].startswith("DERIVED")

    @property
    def name(self) -> str:
        """What a person calls it: its frame or Instance Number."""
        if is_multi_frame(self.header):
            return str(self.number)
        return str(self.header.get("InstanceNumber") or "without number")


def is_multi_frame(header: Dataset) -> bool:
    """Tell whether an Instance keeps its geometry in functional groups."""
    return "PerFrameFunctionalGroupsSequence" in header or int(header.get("NumberOfFrames") or 1) > 1


def frames_of(headers: Sequence[Dataset]) -> list[Frame]:
    """Return every image plane of the Instances.

    Raises:
        GeometryError: an Instance lacks the geometry that places its planes.
    """
    try:
        return [_frame(ds, index) for ds in headers for index in range(_count(ds))]
    except _UNREADABLE as exc:  # pydicom converts a value when it is asked for
        raise GeometryError(f"a header of the series holds a value that cannot be read ({type(exc).__name__})") from exc


def _count(ds: Dataset) -> int:
    count = int(ds.get("NumberOfFrames") or 1)
    groups = ds.get("PerFrameFunctionalGroupsSequence")
    if groups is None and count > 1:
        raise GeometryError(f"an image has {count} frames but no functional groups to place them")
    if groups is not None and len(groups) != count:
        raise GeometryError(f"an image has {count} frames but {len(groups)} functional groups")
    return count


def _frame(ds: Dataset, index: int) -> Frame:
    orientation = _numbers(ds, index, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = _numbers(ds, index, "PixelMeasuresSequence", "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise GeometryError("Pixel Spacing of a slice is not greater than 0")
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(float(row @ column)) > 2e-3 or max(abs(float(length) - 1) for length in lengths) > 2e-3:
        raise GeometryError("Image Orientation (Patient) is not a pair of perpendicular unit vectors")
    content = functional_group(ds, index, "FrameContentSequence")
    traits = {name: _trait(ds, index, *where) for name, *where in _TRAITS}
    return Frame(
        header=ds,
        number=index + 1,
        position=_numbers(ds, index, "PlanePositionSequence", "ImagePositionPatient", 3),
        row=row / lengths[0],
        column=column / lengths[1],
        matrix=(int(ds.Rows), int(ds.Columns)),
        pixel_mm=(float(spacing[0]), float(spacing[1])),
        transform=functional_group(ds, index, "PixelValueTransformationSequence"),
        stack_id=str(content.get("StackID") or "") if content is not ds else "",
        component=_component(ds, index, traits["image type"]),
        traits=traits,
    )


def _numbers(ds: Dataset, index: int, group: str, keyword: str, count: int) -> NDArray[np.float64]:
    value = functional_group(ds, index, group).get(keyword)
    if value is None or isinstance(value, str) or len(value) != count:
        raise GeometryError(f"a slice of the series has no {keyword}")
    numbers = np.array([float(v) for v in value], dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise GeometryError(f"{keyword} of a slice is not finite")
    return numbers


def _trait(ds: Dataset, index: int, group: str, in_group: str, classic: str) -> str:
    group = group or _type_group(ds)
    holder = functional_group(ds, index, group)
    value = holder.get(classic if holder is ds else in_group)
    if isinstance(value, MultiValue):
        return "\\".join(str(part) for part in value)
    return "" if value is None else str(value)


def _type_group(ds: Dataset) -> str:
    return "CTImageFrameTypeSequence" if str(ds.get("Modality")) == "CT" else "MRImageFrameTypeSequence"


def _component(ds: Dataset, index: int, image_type: str) -> str:
    """Return the complex image component; a classic Instance says it in Image Type (C.8.3.1.1.1)."""
    if str(ds.get("Modality")) != "MR":
        return "MAGNITUDE"
    stated = str(functional_group(ds, index, "MRImageFrameTypeSequence").get("ComplexImageComponent") or "")
    if stated:
        return stated
    words = image_type.upper().split("\\")[2:]
    return next((_NOT_MAGNITUDE[word] for word in words if word in _NOT_MAGNITUDE), "MAGNITUDE")
