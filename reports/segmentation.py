"""Masks as DICOM Segmentations: BINARY, the one kind every viewer reads (PS3.3 A.51), or LABELMAP for those who ask."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.errors import GeometryError, RefusedInputError
from reports.codes import LabelCodes, Laterality, code_table
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
from reports.geometry import frame_count, require_one_grid, require_one_series, share_frame_geometry, take_frames
from reports.masks import Mask, compact, disjoint, most_frames
from reports.source import study_header
from reports.text import one_line
from reports.values import SERIES_NUMBERS, DraftIdentity, Equipment, ObjectKind, SegmentSpec

Form = Literal["binary", "labelmap"]
_KINDS: dict[Form, ObjectKind] = {"binary": "seg", "labelmap": "seg_labelmap"}


def build_segmentation(
    source: Sequence[Dataset],
    labels: NDArray[np.uint8],
    *,
    segments: Sequence[SegmentSpec],
    identity: DraftIdentity,
    equipment: Equipment,
    instance_number: int = 1,
    frame_numbers: Sequence[int] | None = None,
    form: Form = "binary",
) -> Dataset:
    """Return a finished Segmentation of ``source``, holding the segments that have at least one voxel.

    A LABELMAP holds the same segments under the same numbers and Tracking UIDs, in a Series of its own.

    Args:
        source: one Series of single-frame images, or one multi-frame image; pixels are not needed.
        labels: ``(slices, rows, columns)`` uint8 label map in the order of ``source``, or
            ``(slices, rows, columns, segments)`` 0/1 masks where segments overlap; ``(rows, columns)`` is not taken,
            use ``(1, rows, columns)`` for a radiograph.
        segments: one per label value, or per channel; empty ones are dropped and the rest numbered 1…n in order.
        identity: fixes UIDs and times.
        equipment: our product.
        instance_number: 1, 2, … for several Segmentations of one run, which share a Series.
        frame_numbers: 1-based frame of each slice of ``labels`` within its Instance, as `worker.volume.Volume` has
            them; needed for a multi-frame ``source``, 1 throughout (or None) for a classic Series.
        form: ``"binary"``, one frame per segment and slice, or ``"labelmap"`` (PS3.3 C.8.20.2.3), one frame per slice;
            masks that overlap have no label map.

    Returns:
        A Segmentation Storage or Label Map Segmentation Storage Instance with file meta information, ready to write.

    Raises:
        GeometryError: the array does not lie on the grid of ``source``, or ``source`` is no regular grid.
        RefusedInputError: nothing to write, a label value nobody described, overlap in a label map, more frames than
            one object should have (`reports.masks.split` parts them before), or no valid object results.
    """
    require_one_series(source)
    numbers = _frames_used(source, frame_numbers)
    _require_shape((len(numbers), int(source[0].Rows), int(source[0].Columns)), labels)
    require_one_grid(source)
    header = study_header(source[0])
    if "PerFrameFunctionalGroupsSequence" in header:
        take_frames(header, numbers)
        share_frame_geometry(header)
    mask = _mask(labels, segments, form)
    kind = _KINDS[form]
    algorithms = distinct([spec.algorithm for spec in mask.segments])
    description = draft_description(algorithms)
    with building("Segmentation"):
        seg = hd.seg.Segmentation(
            source_images=[header, *source[1:]],
            pixel_array=mask.array,
            segmentation_type=form.upper(),
            segment_descriptions=[describe_segment(number, spec) for number, spec in enumerate(mask.segments, 1)],
            series_instance_uid=identity.series_instance_uid(kind),
            series_number=SERIES_NUMBERS[kind],
            sop_instance_uid=identity.sop_instance_uid(kind, instance_number),
            instance_number=instance_number,
            content_label="AI_SEG",
            content_description=description,
            series_description=description,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=True,
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            **equipment_arguments(equipment),
        )
    seg.setdefault("ContentCreatorName", None)  # type 2; no person made it
    _name_frames(seg, numbers)
    fix_dimension_uid(seg, identity.other_uid("dimension", kind, str(instance_number)))
    copy_image_context(seg, header)
    stamp(seg, header, identity=identity, equipment=equipment, algorithms=algorithms)
    return seg


def tumour_regions(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the nested BraTS regions of a label map (0, 1, 2, 4) as stacked masks: whole tumour, core, enhancing.

    Args:
        labels: ``(slices, rows, columns)``: 1 non-enhancing core, 2 oedema, 4 enhancing tumour.

    Returns:
        ``(slices, rows, columns, 3)`` 0/1 masks for segments 1 ``mr.whole_tumor``, 2 ``mr.tumor_core``,
        3 ``mr.enhancing_tumor``.
    """
    regions = (labels > 0, (labels == 1) | (labels == 4), labels == 4)
    return np.stack(regions, axis=-1).astype(np.uint8)


def segment_numbers(segmentation: Dataset) -> dict[str, int]:
    """Return Tracking UID → Segment Number of a finished Segmentation."""
    return {
        str(item.TrackingUID): int(item.SegmentNumber)
        for item in segmentation.SegmentSequence
        if "TrackingUID" in item  # the background of a label map has none
    }


def effective_side(codes: LabelCodes, laterality: Laterality | None) -> Laterality | None:
    """Return the side of a label: the one its code row fixes, else the one given.

    Raises:
        RefusedInputError: both exist and differ.
    """
    if codes.side and laterality and codes.side != laterality:
        raise RefusedInputError(f"{codes.key} is on the {codes.side} by its code, {laterality} was given")
    return codes.side or laterality


def describe_segment(number: int, spec: SegmentSpec) -> hd.seg.SegmentDescription:
    """Return one item of the Segment Sequence (PS3.3 C.8.20.4) with codes, side, region and algorithm.

    Raises:
        RefusedInputError: the label has no reviewed code, or is no structure that can be segmented.
    """
    table = code_table()
    codes = table.label(spec.code_key)
    if codes.category == "finding":
        raise RefusedInputError(f"{codes.key} is a radiographic finding, not a structure with a segment category")
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=one_line(spec.label, 64) or codes.label,
        segmented_property_category=table.concept(codes.category),
        segmented_property_type=codes.concept.coded(),
        algorithm_type=spec.algorithm_type,
        algorithm_identification=segment_algorithm(spec.algorithm),
        tracking_uid=spec.tracking_uid,
        tracking_id=one_line(spec.tracking_id),
        anatomic_regions=[codes.site.coded()] if codes.site and codes.site != codes.concept else None,
    )
    if codes.description:
        description.SegmentDescription = codes.description
    side = effective_side(codes, spec.laterality)
    if side:
        _add_side(description, table.concept(side))
    return description


def _add_side(description: hd.seg.SegmentDescription, side: CodedConcept) -> None:
    # A structure has its side as modifier of the type; a lesion has it on the region it lies in.
    if "AnatomicRegionSequence" in description:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [side]
    else:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]


def _frames_used(source: Sequence[Dataset], frame_numbers: Sequence[int] | None) -> list[int]:
    """Return the frame behind each slice of the labels; slices of a multi-frame object are never guessed."""
    count = frame_count(source)
    if "PerFrameFunctionalGroupsSequence" not in source[0]:
        if any(number != 1 for number in frame_numbers or ()):
            raise GeometryError("a Series of classic Instances has no frame numbers")
        return list(range(1, count + 1))
    if not frame_numbers:
        raise GeometryError(f"the source is one object of {count} frames, and no frame numbers were given")
    return list(frame_numbers)


def _name_frames(seg: Dataset, numbers: Sequence[int]) -> None:
    """Write the source's own frame numbers, where highdicom counted the frames it was given."""
    for frame in seg.PerFrameFunctionalGroupsSequence:
        for derivation in frame.get("DerivationImageSequence", []):
            for image in derivation.SourceImageSequence:
                if "ReferencedFrameNumber" in image:
                    image.ReferencedFrameNumber = numbers[int(image.ReferencedFrameNumber) - 1]


def _require_shape(expected: tuple[int, int, int], labels: NDArray[np.uint8]) -> None:
    if labels.ndim not in (3, 4) or labels.shape[:3] != expected:
        raise GeometryError(f"mask is {labels.shape}, source is {expected} (slices, rows, columns)")
    if labels.dtype != np.uint8:
        raise RefusedInputError(f"mask is {labels.dtype}, expected uint8")


def _mask(labels: NDArray[np.uint8], segments: Sequence[SegmentSpec], form: Form) -> Mask:
    mask = compact(labels, segments)
    if form == "labelmap":
        return mask if labels.ndim == 3 else replace(mask, array=disjoint(mask.array))
    rows, columns = labels.shape[1:3]
    if mask.frames > (most := most_frames(rows, columns)):
        raise RefusedInputError(f"{mask.frames} frames of {rows} x {columns} in one object, at most {most} are written")
    return mask


def fix_dimension_uid(seg: Dataset, uid: str) -> None:
    """Replace the Dimension Organization UID that highdicom draws at random: a retry must give the same bytes."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
