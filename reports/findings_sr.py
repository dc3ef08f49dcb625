"""What the Experts found, coded: a Comprehensive 3D SR after TID 1500 (PS3.16 Annex A, PS3.3 A.35.13)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from highdicom import sr
from pydicom.dataset import Dataset

from config.errors import RefusedInputError
from reports.codes import LabelCodes, Laterality, code_table
from reports.equipment import (
    algorithm_identification,
    building,
    contributing_equipment,
    device_observer,
    distinct,
    draft_description,
    draft_notice,
    equipment_arguments,
    local_time,
    stamp,
)
from reports.segmentation import effective_side
from reports.source import study_header
from reports.sr_common import Evidence, comment, write_author, write_request
from reports.text import one_line
from reports.values import (
    SERIES_NUMBERS,
    DraftIdentity,
    Equipment,
    FindingValue,
    InstanceReference,
    MeasurementValue,
)

UNCALIBRATED = (
    "Certainty of Finding is the uncalibrated model score (0-100) for presence of the finding; it is not a probability."
)
HEAT_MAP = "The referenced segmentation frame is a heat map of what the model relied on, not an outline of the finding."
_PROCEDURES = {"CT": "procedure_ct", "MR": "procedure_mr"}


@dataclass(frozen=True)
class _Segment:
    """One segment of a finished SEG; ``source`` is set for one image without Frame of Reference: a planar region."""

    seg: Dataset
    number: int
    side: str | None
    source: Dataset | None = None
    frame_number: int = 0

    @property
    def is_heat_map(self) -> bool:
        return str(self.seg.SegmentationType) == "FRACTIONAL"


def build_findings_sr(
    findings: Sequence[FindingValue],
    evidence: Evidence,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    not_assessed: Sequence[str] = (),
    not_coded: Sequence[str] = (),
) -> Dataset:
    """Return the findings as a draft SR: UNVERIFIED, PRELIMINARY, and PARTIAL when something is not in it.

    One TID 1411 group for each finding with a segment (volume, diameter, referenced segment), one TID 1410 group
    for each finding that a segment locates on a single image (a heat map of a radiograph), one TID 1501 group for
    every other (presence, score, image). A normal study is a document whose groups all say Absent
    (docs/adr/0004-normal-study-sr.md); what nobody assessed has no group at all.

    Args:
        findings: at least one.
        evidence: the images and Segmentations behind them.
        identity: fixes UIDs and times.
        equipment: our product.
        not_assessed: words for what failed or did not run, shown in Completion Flag Description.
        not_coded: labels that were assessed and have no reviewed code, shown there too: without their groups the
            document is not the whole result.

    Returns:
        A Comprehensive 3D SR Storage Instance with file meta information, ready to write.

    Raises:
        RefusedInputError: no finding, a side that nothing localises, a segment that does not exist or is on
            another side, an image outside the evidence, a score outside 0…1, an unknown unit, or no valid object.
    """
    if not findings:
        raise RefusedInputError("no finding was assessed; an SR without findings would read as a normal study")
    header = study_header(evidence.source)
    segments = _segments_by_tracking_uid(evidence.segmentations)
    images = {reference.sop_instance_uid: reference for reference in evidence.references}
    algorithms = distinct([finding.algorithm for finding in findings])
    with building("findings SR"):
        groups = [_group(finding, segments, images) for finding in findings]
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=device_observer(equipment)),
            procedure_reported=code_table().concept(_PROCEDURES.get(str(header.get("Modality")), "procedure_xr")),
            imaging_measurements=groups,
            title=code_table().concept("measurement_report"),
        )
        document = sr.Comprehensive3DSR(
            evidence=evidence.datasets(header),
            content=content,
            series_instance_uid=identity.series_instance_uid("findings_sr"),
            series_number=SERIES_NUMBERS["findings_sr"],
            sop_instance_uid=identity.sop_instance_uid("findings_sr"),
            instance_number=1,
            is_complete=not (not_assessed or not_coded),
            is_final=False,
            is_verified=False,
            series_description=draft_description(algorithms),
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            **equipment_arguments(equipment),
        )
    if missing := _missing(not_assessed, not_coded):
        document.CompletionFlagDescription = one_line(missing, 64)
    write_author(document, equipment)
    write_request(document, header)
    stamp(document, header, identity=identity, equipment=equipment, algorithms=algorithms)
    return document


def _missing(not_assessed: Sequence[str], not_coded: Sequence[str]) -> str:
    said = {"Not assessed": not_assessed, "No code for": not_coded}
    return "; ".join(f"{what}: {', '.join(labels)}" for what, labels in said.items() if labels)


class _Group(Protocol):
    """What the three kinds of group have in common."""

    def __getitem__(self, position: int, /) -> Any: ...


def _group(finding: FindingValue, segments: Mapping[str, _Segment], images: Mapping[str, InstanceReference]) -> _Group:
    """Return one measurement group: TID 1411 or 1410 when a segment has the finding's Tracking UID, else TID 1501."""
    codes = code_table().label(finding.code_key)
    segment = _segment_of(finding, segments)
    side = _side_of(finding, codes, segment)
    common = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=finding.tracking_uid, identifier=one_line(finding.tracking_id)
        ),
        "finding_type": codes.concept.coded(),
        "finding_category": None if codes.category == "finding" else code_table().concept(codes.category),
        "finding_sites": _sites(codes, side),
        "algorithm_id": algorithm_identification(finding.algorithm),
        "measurements": _measurements(finding),
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(code_table().concept("presence"), code_table().concept(finding.presence))
        ],
    }
    group: _Group
    if segment is None:
        group = sr.MeasurementsAndQualitativeEvaluations(source_images=_source_images(finding, images), **common)
    elif segment.source is not None:
        group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=_segment_frame(segment, segment.source), **common
        )
    else:
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=str(segment.seg.SOPClassUID),
                sop_instance_uid=str(segment.seg.SOPInstanceUID),
                segment_number=segment.number,
                source_series=sr.SourceSeriesForSegmentation(
                    str(segment.seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
                ),
            ),
            **common,
        )
    group[0].ContentSequence.extend(comment(remark) for remark in _remarks(finding, segment))
    return group


def _segment_frame(segment: _Segment, source: Dataset) -> sr.ReferencedSegmentationFrame:
    frames = source.get("ReferencedFrameNumber")
    reference = sr.ReferencedSegmentationFrame(
        sop_class_uid=str(segment.seg.SOPClassUID),
        sop_instance_uid=str(segment.seg.SOPInstanceUID),
        frame_number=segment.frame_number,
        segment_number=segment.number,
        source_image=sr.SourceImageForSegmentation(
            str(source.ReferencedSOPClassUID), str(source.ReferencedSOPInstanceUID), [int(frames)] if frames else None
        ),
    )
    # frame and segment numbers exclude each other (PS3.3 10.3); a frame is of one segment anyway
    del reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return reference


def _remarks(finding: FindingValue, segment: _Segment | None) -> list[str]:
    words = [f"{draft_notice([finding.algorithm])}.", f"Model label: {one_line(finding.label)}."]
    if finding.score is not None:
        words.append(_certainty_remark(finding, finding.score))
    return [*words, HEAT_MAP] if segment and segment.is_heat_map else words


def _certainty_remark(finding: FindingValue, score: float) -> str:
    if finding.calibrated is None:
        return UNCALIBRATED
    return (
        f"Certainty of Finding is the calibrated probability (0-100) of presence, by calibration "
        f"{one_line(finding.calibration)}; the model's own score is {score * 100:.1f}."
    )


def _measurements(finding: FindingValue) -> list[sr.Measurement]:
    items = [_measurement(value) for value in finding.measurements]
    if finding.score is not None:
        certainty = finding.score if finding.calibrated is None else finding.calibrated
        if not (0.0 <= finding.score <= 1.0 and 0.0 <= certainty <= 1.0):
            raise RefusedInputError(f"score of {finding.code_key} is {finding.score} ({certainty}), expected 0…1")
        if finding.calibrated is not None and not finding.calibration.strip():
            raise RefusedInputError(f"{finding.code_key} is said to be calibrated, but by no calibration")
        percent = MeasurementValue("certainty", round(certainty * 100, 1), "%")
        items.append(_measurement(percent))
    return items


def _measurement(value: MeasurementValue) -> sr.Measurement:
    if not math.isfinite(value.value):
        raise RefusedInputError(f"{value.key} is {value.value}, expected a finite number")
    concepts = code_table().concepts
    unit = next((row for row in concepts.values() if row.scheme == "UCUM" and row.value == value.unit_ucum), None)
    if unit is None:
        raise RefusedInputError(f"unit {value.unit_ucum!r} of {value.key} is not in config/codes.yaml")
    return sr.Measurement(code_table().concept(value.key), float(f"{value.value:.6g}"), unit.coded())


def _sites(codes: LabelCodes, side: Laterality | None) -> list[sr.FindingSite] | None:
    if codes.site is None:
        return None
    laterality = code_table().concept(side) if side else None
    return [sr.FindingSite(codes.site.coded(), laterality=laterality)]


def _side_of(finding: FindingValue, codes: LabelCodes, segment: _Segment | None) -> Laterality | None:
    """Return the side to write; a side needs a mask, or a label that fixes it (never a classifier's guess)."""
    side = effective_side(codes, finding.laterality)
    if side and not codes.side and segment is None:
        raise RefusedInputError(f"{finding.code_key} is said to be {side}, but no segment localises it")
    if segment and segment.side and side and segment.side != side:
        raise RefusedInputError(f"{finding.code_key} is said to be {side}, its segment is {segment.side}")
    if side and codes.site is None:
        raise RefusedInputError(f"{finding.code_key} has no site that could carry the side {side}")
    return side


def _segment_of(finding: FindingValue, segments: Mapping[str, _Segment]) -> _Segment | None:
    segment = segments.get(finding.tracking_uid)
    if segment and segment.is_heat_map and finding.presence != "present":
        segment = None  # where a model looked before it said no locates nothing
    if segment is None and finding.segment_number is not None:
        raise RefusedInputError(f"{finding.code_key}: no segment has the finding's Tracking UID")
    if segment and finding.segment_number not in (None, segment.number):
        raise RefusedInputError(f"{finding.code_key} is segment {segment.number}, {finding.segment_number} was given")
    if segment is None and finding.measurements:
        raise RefusedInputError(f"{finding.code_key} has measurements, but no segment they were made on")
    if segment and finding.presence == "absent":
        raise RefusedInputError(f"{finding.code_key} is absent, but a segment shows it")
    return segment


def _source_images(
    finding: FindingValue, images: Mapping[str, InstanceReference]
) -> list[sr.SourceImageForMeasurementGroup] | None:
    unknown = [uid for uid in finding.source_sop_instance_uids if uid not in images]
    if unknown:
        raise RefusedInputError(f"{finding.code_key} rests on {len(unknown)} images that are not in the evidence")
    items = [
        sr.SourceImageForMeasurementGroup(images[uid].sop_class_uid, uid) for uid in finding.source_sop_instance_uids
    ]
    return items or None


def _segments_by_tracking_uid(segmentations: Sequence[Dataset]) -> dict[str, _Segment]:
    return {str(item.TrackingUID): _segment(seg, item) for seg in segmentations for item in seg.SegmentSequence}


def _segment(seg: Dataset, item: Dataset) -> _Segment:
    table = code_table()
    sides = {table.concepts[side].value: side for side in ("left", "right", "bilateral")}
    number = int(item.SegmentNumber)
    side = next((sides[value] for value in _modifiers(item) if value in sides), None)
    if "FrameOfReferenceUID" in seg:
        return _Segment(seg, number, side)
    for position, frame in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        groups = [frame, *seg.get("SharedFunctionalGroupsSequence", [])]
        if _segment_of_frame(groups) == number:
            return _Segment(seg, number, side, _source_of(seg, groups), position)
    raise RefusedInputError(f"segment {number} has no frame")


def _segment_of_frame(groups: Sequence[Dataset]) -> int:
    """Return the segment that a frame shows; what all frames share may stand in the shared functional groups."""
    return next(
        int(one.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for one in groups
        if "SegmentIdentificationSequence" in one
    )


def _source_of(seg: Dataset, groups: Sequence[Dataset]) -> Dataset:
    """Return the reference to the image that a frame of a Segmentation was made from."""
    derivations = [one for group in groups for one in group.get("DerivationImageSequence", [])]
    images = [image for one in derivations for image in one.SourceImageSequence]
    return cast("Dataset", images[0] if images else seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0])


def _modifiers(segment: Dataset) -> list[str]:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    codes = list(kind.get("SegmentedPropertyTypeModifierCodeSequence", []))
    for region in segment.get("AnatomicRegionSequence", []):
        codes += region.get("AnatomicRegionModifierSequence", [])
    return [str(code.CodeValue) for code in codes]
