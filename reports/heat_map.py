"""Heat maps of a radiograph as a FRACTIONAL Segmentation: the form that works without a Frame of Reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.errors import GeometryError, RefusedInputError
from reports.codes import code_table
from reports.equipment import (
    building,
    contributing_equipment,
    copy_image_context,
    distinct,
    draft_description,
    equipment_arguments,
    local_time,
    segment_algorithm,
    stamp,
)
from reports.geometry import frame_count
from reports.segmentation import fix_dimension_uid
from reports.source import study_header
from reports.text import one_line
from reports.values import SERIES_NUMBERS, AlgorithmIdentity, DraftIdentity, Equipment

FULL_SCALE = 255
"""Maximum Fractional Value: what 1.0 becomes."""
CAUTION = (
    "Uncalibrated attention map of the model (Grad-CAM), relative to its own maximum. It shows where the network looked"
    " for this finding: no probability of disease, no outline of a lesion, not a measurement."
)


@dataclass(frozen=True)
class HeatMap:
    """Where a model looked for one finding.

    Attributes:
        label: the model's own word.
        code_key: row of the code table, for example ``"cxr.pneumothorax"``.
        values: ``(rows, columns)`` float32 0…1 on the pixel grid of the source image.
        algorithm: which model looked.
        tracking_uid, tracking_id: the same pair as the finding's in the findings SR.
    """

    label: str
    code_key: str
    values: NDArray[np.float32]
    algorithm: AlgorithmIdentity
    tracking_uid: str
    tracking_id: str


def build_heat_map(
    source: Dataset,
    maps: Sequence[HeatMap],
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    instance_number: int = 1,
) -> Dataset:
    """Return the heat maps of one radiograph as a finished FRACTIONAL Segmentation, one segment and frame for each.

    The Standard knows two fractional types (PS3.3 C.8.20.2.3): the nearer one is PROBABILITY, and each Segment
    Description says what it is not. The finding's code is the type; the category says that no structure is meant.

    Args:
        source: one CR or DX Instance; pixels are not needed.
        maps: at least one with a value above 0; the others are left out.
        identity: fixes UIDs and times.
        equipment: our product.
        instance_number: 1, 2, … for several radiographs of one run, which share a Series.

    Raises:
        GeometryError: a map does not lie on the pixel grid of ``source``, or that is no single projection.
        RefusedInputError: nothing to write, values outside 0…1, or no valid object results.
    """
    kept = [one for one in maps if _checked(one, source).any()]
    if not kept:
        raise RefusedInputError(f"none of {len(maps)} heat maps shows anything; there is nothing to write")
    header = study_header(source)
    algorithms = distinct([one.algorithm for one in kept])
    shape = (1, int(source.Rows), int(source.Columns), len(kept))
    with building("heat map"):
        seg = hd.seg.Segmentation(
            source_images=[header],
            # the frames come below: highdicom sorts every value to find its range, seconds for a radiograph
            pixel_array=np.broadcast_to(np.zeros(1, np.bool_), shape),
            segmentation_type="FRACTIONAL",
            fractional_type="PROBABILITY",
            max_fractional_value=FULL_SCALE,
            segment_descriptions=[_described(number, one) for number, one in enumerate(kept, 1)],
            series_instance_uid=identity.series_instance_uid("heat_map"),
            series_number=SERIES_NUMBERS["heat_map"],
            sop_instance_uid=identity.sop_instance_uid("heat_map", instance_number),
            instance_number=instance_number,
            content_label="AI_HEAT_MAP",
            content_description="Attention of the model, uncalibrated; not a measurement",
            series_description=one_line(draft_description(algorithms).replace(": ", ": heat map, ", 1), 60),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=False,
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            **equipment_arguments(equipment),
        )
    seg.PixelData = _frames(kept)
    seg.SegmentsOverlap = "NO" if len(kept) == 1 else "UNDEFINED"
    seg.setdefault("ContentCreatorName", None)  # type 2; no person made it
    fix_dimension_uid(seg, identity.other_uid("dimension", "heat_map", str(instance_number)))
    copy_image_context(seg, header)
    stamp(seg, header, identity=identity, equipment=equipment, algorithms=algorithms)
    return seg


def _checked(one: HeatMap, source: Dataset) -> NDArray[np.float32]:
    expected = (int(source.Rows), int(source.Columns))
    if one.values.shape != expected or frame_count([source]) != 1 or "ImagePositionPatient" in source:
        raise GeometryError(f"a heat map of {one.values.shape} on a source of {expected}, which must be a projection")
    if one.values.dtype != np.float32:
        raise RefusedInputError(f"a heat map is {one.values.dtype}, expected float32")
    # written so that a value that is no number fails too
    if not (one.values.min() >= 0.0 and one.values.max() <= 1.0):
        raise RefusedInputError("values of a heat map must lie in 0…1")
    return one.values


def _frames(maps: Sequence[HeatMap]) -> bytes:
    frames = b"".join(np.rint(one.values * FULL_SCALE).astype(np.uint8).tobytes() for one in maps)
    return frames + b"\x00" * (len(frames) % 2)  # PS3.5 8.2


def _described(number: int, one: HeatMap) -> hd.seg.SegmentDescription:
    table = code_table()
    codes = table.label(one.code_key)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=one_line(f"{one.label} (attention map)", 64),
        segmented_property_category=table.concept("spatial_concept"),
        segmented_property_type=codes.concept.coded(),
        algorithm_type="AUTOMATIC",
        algorithm_identification=segment_algorithm(one.algorithm),
        tracking_uid=one.tracking_uid,
        tracking_id=one_line(one.tracking_id),
        anatomic_regions=[codes.site.coded()] if codes.site else None,
    )
    description.SegmentDescription = CAUTION
    return description
