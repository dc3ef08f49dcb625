"""From a draft's content to DICOM objects on disk and rows for the database."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset

from config.durable import write_durably
from config.results import ResultKind
from db.lifecycle import NewEvidence, NewFinding, NewObject
from db.types import Presence
from publishing.draft import DraftParts, Place, attempt, publish_draft
from publishing.facts import measured
from reports.codes import code_table
from reports.document import Code, ReportedFinding, SeriesFacts
from reports.findings_sr import build_findings_sr
from reports.sr_common import Evidence
from reports.values import DraftIdentity, FindingValue, InstanceReference, MeasurementValue
from worker.checks import Mark
from worker.drafting import DraftContent, DraftFinding, measured_sentence
from worker.experts.base import Classification, SegmentationResult
from worker.intake import Intake
from worker.key_pictures import key_pictures
from worker.measuring import LesionMeasure, label_counts
from worker.provenance import result_sha256
from worker.segments import algorithm, build_heat_maps, build_segmentations, side_of
from worker.vlm.backends import VlmCard


@dataclass(frozen=True)
class Made:
    """Everything written for one draft: rows that wait for their transaction, and marks about what is missing."""

    findings: list[NewFinding]
    evidence: list[NewEvidence]
    objects: list[NewObject]
    marks: list[Mark] = field(default_factory=list)


def result_digest(content: DraftContent) -> str:
    """Return one SHA-256 over what a draft says; equal for a retry that found the same."""
    said = {
        "sections": content.sections,
        "findings": [[f.label, f.is_present, f.expert_positive] for f in content.findings],
        "labels": {"/".join(key): result_sha256(r) for key, r in sorted(content.results.items())},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def write_outputs(content: DraftContent, intake: Intake, vlm: VlmCard, place: Place) -> Made:
    """Build and write everything that leaves with a draft, and its label maps, flushed to disk before this returns.

    SEG, findings SR and narrative SR always; further forms as destinations ask for them (`publishing.draft`). Findings
    without a reviewed code are in no findings SR, and when that is all of them there is none: the draft stands, and a
    mark says so.

    Raises:
        RefusedInputError: the source images do not allow a valid object.
        OutOfSpaceError: the result store is full.
    """
    tracking = {f.label: place.identity.other_uid("tracking", f.label) for f in content.findings}
    what = (content, intake, tracking)
    segmented = partial(build_segmentations, *what, identity=place.identity, equipment=place.equipment)
    heated = partial(build_heat_maps, *what, identity=place.identity, equipment=place.equipment)
    evidence, index_of = _evidence(content, place)
    rows = [_finding_row(f, content, tracking, index_of) for f in content.findings]
    notes: list[str] = []
    segmentations = segmented()
    heat_maps = attempt(notes, ResultKind.HEAT_MAP, heated)
    located = [*segmentations, *(heat_maps or ())]
    values = [v for f in content.findings if (v := _finding_value(f, content, tracking, located))]
    uncoded = [f.label for f in content.findings if _code_key(f, content) is None]
    series = _series(intake)
    images = [image for one in series for image in one.instances]
    not_assessed = [item["what"] for item in content.not_assessed]
    parts = DraftParts(
        source=intake.first,
        series=series,
        sections=content.sections,
        findings=[_reported(f, row, content, images) for f, row in zip(content.findings, rows, strict=True)],
        algorithms=[algorithm(vlm), *{r.card.name: algorithm(r.card) for r in content.results.values()}.values()],
        not_assessed=not_assessed,
        segmentations=segmentations,
        heat_maps=heat_maps or (),
        findings_sr=build_findings_sr(
            values,
            Evidence(intake.first, images, located),
            identity=place.identity,
            equipment=place.equipment,
            not_assessed=not_assessed,
            not_coded=uncoded,
        )
        if values
        else None,
        coded=[value.tracking_uid for value in values],
        label_maps=partial(segmented, form="labelmap"),
        pictures=key_pictures(content, intake, tracking),
    )
    made = publish_draft(parts, place)
    marks = [Mark("result", "", note) for note in [*notes, *made.notes]]
    return Made(rows, evidence, made.objects, [*_without_code(uncoded), *marks])


def _without_code(labels: Sequence[str]) -> list[Mark]:
    text = "It has no reviewed code, so the findings that are sent coded do not contain it."
    return [Mark("result", label, f"{label}: {text}") for label in labels]


def _series(intake: Intake) -> list[SeriesFacts]:
    return [_series_facts(uid, headers) for uid, headers in intake.headers.items()]


def _series_facts(uid: str, headers: Sequence[Dataset]) -> SeriesFacts:
    first, number = headers[0], str(headers[0].get("SeriesNumber", ""))
    return SeriesFacts(
        series_instance_uid=uid,
        modality=str(first.get("Modality", "")),
        number=int(number) if number.lstrip("-").isdigit() else None,
        description=str(first.get("SeriesDescription", "")),
        body_part=str(first.get("BodyPartExamined", "")),
        instances=tuple(InstanceReference.of(ds) for ds in headers),
    )


# --- evidence ----------------------------------------------------------------------------------------------


def _evidence(content: DraftContent, place: Place) -> tuple[list[NewEvidence], dict[tuple[str, str], int]]:
    rows: list[NewEvidence] = []
    index_of: dict[tuple[str, str], int] = {}
    for key, result in content.results.items():
        index_of[key] = len(rows)
        common: dict[str, Any] = {
            "expert": result.card.name,
            "argument": result.argument,
            "version": result.card.version,
            "weights_sha256": dict(result.card.weights_sha256),
            "seconds": round(result.seconds, 3),
        }
        if isinstance(result, Classification):
            output = {"probabilities": dict(result.probabilities), "threshold": result.threshold}
            rows.append(NewEvidence(**common, output=output))
            continue
        path = f"{place.folder}/labels_{len(rows)}.npz"
        write_durably(place.results_dir / path, label_map_bytes(result))
        rows.append(
            NewEvidence(
                **common,
                output={"volumes_ml": volumes_ml(result)},
                series_instance_uid=result.volume.series_instance_uid,
                label_map_path=path,
            )
        )
    return rows, index_of


def volumes_ml(result: SegmentationResult) -> dict[str, float]:
    """Return structure name → volume in ml, for every structure with at least one voxel."""
    counts = label_counts(result.labels)
    unit = result.volume.voxel_volume_ml
    return {name: round(float(counts[value]) * unit, 2) for value, name in result.names.items() if counts[value]}


def label_map_bytes(result: SegmentationResult) -> bytes:
    """Return the label map as a compressed npz that needs no pickle to read."""
    buffer = BytesIO()
    np.savez_compressed(
        buffer,
        labels=result.labels,
        sop_instance_uids=np.array(result.volume.sop_instance_uids),
        frame_numbers=np.array(result.volume.frame_numbers),
        affine=result.volume.affine,
        label_values=np.array(list(result.names), dtype=np.int64),
        label_names=np.array(list(result.names.values())),
    )
    return buffer.getvalue()


# --- findings ----------------------------------------------------------------------------------------------


def _code_key(finding: DraftFinding, content: DraftContent) -> str | None:
    family = content.results[finding.result_key].card.code_family
    if family == "brats":
        return "mr.whole_tumor"
    return code_table().key_for_label(family, finding.label)


def _finding_value(
    finding: DraftFinding, content: DraftContent, tracking: Mapping[str, str], segmentations: Sequence[Dataset]
) -> FindingValue | None:
    """Return the Expert's own statement for the findings SR; an unreviewed label is never coded."""
    code_key = _code_key(finding, content)
    if code_key is None:
        return None
    result = content.results[finding.result_key]
    lesion = finding.measured
    has_segment = any(
        item.get("TrackingUID") == tracking[finding.label] for ds in segmentations for item in ds.SegmentSequence
    )
    calibrated, parameters = None, []
    if isinstance(result, Classification):
        calibrated = result.calibrated.get(finding.label) if result.calibration else None
        parameters = [f"threshold={result.threshold}"]
        parameters += [f"calibration={result.calibration}"] if calibrated is not None else []
    return FindingValue(
        label=finding.label,
        code_key=code_key,
        presence="present" if finding.expert_positive else "absent",
        score=finding.score,
        laterality=side_of(finding, code_key) if lesion and has_segment else None,
        algorithm=algorithm(result.card, *parameters),
        tracking_uid=tracking[finding.label],
        tracking_id=f"firstread:{code_key}",
        measurements=_measurements(lesion) if lesion and has_segment else (),
        source_sop_instance_uids=() if has_segment else _source_uids(result),
        calibrated=calibrated,
        calibration=result.calibration if isinstance(result, Classification) and calibrated is not None else "",
    )


def _measurements(lesion: LesionMeasure) -> tuple[MeasurementValue, ...]:
    return (
        MeasurementValue("volume", round(lesion.volume_ml, 3), "cm3"),
        MeasurementValue("long_axis", round(lesion.diameter_mm, 1), "mm"),
    )


def _source_uids(result: Classification | SegmentationResult) -> tuple[str, ...]:
    if isinstance(result, Classification):
        return (result.sop_instance_uid,)
    # a negative statement rests on the whole Volume; the middle slice stands for it
    uids = result.volume.sop_instance_uids
    return (uids[len(uids) // 2],)


def _finding_row(
    finding: DraftFinding,
    content: DraftContent,
    tracking: Mapping[str, str],
    index_of: Mapping[tuple[str, str], int],
) -> NewFinding:
    code_key = _code_key(finding, content)
    concept = code_table().label(code_key).concept if code_key else None
    result = content.results[finding.result_key]
    lesion = finding.measured
    measurements = []
    if lesion:
        measurements = [
            {"name": "volume", "value": round(lesion.volume_ml, 2), "unit": "ml"},
            {"name": "longest axial diameter", "value": round(lesion.diameter_mm, 1), "unit": "mm"},
            {"name": "extent along the slice normal", "value": round(lesion.extent_mm, 1), "unit": "mm"},
            {"name": "separate parts", "value": lesion.count, "unit": ""},
        ]
    return NewFinding(
        label=finding.label,
        presence=Presence.PRESENT if finding.is_present else Presence.ABSENT,
        source=f"VLM after {result.card.name}",
        code_value=concept.value if concept else "",
        code_scheme=concept.scheme if concept else "",
        code_meaning=concept.meaning if concept else "",
        laterality=lesion.laterality if lesion else "",
        score=finding.score,
        sentence=measured_sentence(finding),
        evidence_index=index_of[finding.result_key],
        segment_label=min(finding.segments) if finding.segments else None,
        measurements=measurements,
        key_slice=_key_slice(finding, result),
        tracking_uid=tracking[finding.label],
    )


def _reported(
    finding: DraftFinding, row: NewFinding, content: DraftContent, images: Sequence[InstanceReference]
) -> ReportedFinding:
    """Return a finding as PDF and messages tell it: the draft's own statement, which nobody has judged."""
    uid = row.key_slice.get("sop_instance_uid")
    return ReportedFinding(
        label=row.label,
        concept=Code(row.code_value, row.code_scheme, row.code_meaning) if row.code_value else None,
        presence=row.presence.value,
        laterality=row.laterality,
        score=row.score,
        sentence=row.sentence,
        measurements=measured(row.measurements),
        tracking_uid=row.tracking_uid,
        algorithm=algorithm(content.results[finding.result_key].card),
        source=next((image for image in images if image.sop_instance_uid == uid), None),
    )


def _key_slice(finding: DraftFinding, result: Classification | SegmentationResult) -> dict[str, Any]:
    if isinstance(result, Classification):
        return {"sop_instance_uid": result.sop_instance_uid, "frame_number": 1, "index": 0}
    if finding.measured is None:
        return {}
    index = finding.measured.slice_index
    return {
        "series_instance_uid": result.volume.series_instance_uid,
        "sop_instance_uid": result.volume.sop_instance_uids[index],
        "frame_number": result.volume.frame_numbers[index],
        "index": index,
        "slice_range": list(finding.measured.slice_range),
        "normal_mm": list(finding.measured.normal_mm),
    }


def identity(study_uid: str, reading_id: str, content: DraftContent, created_at: datetime) -> DraftIdentity:
    """Return what fixes the UIDs of a draft's objects: a retry with the same result writes the same bytes."""
    return DraftIdentity(study_uid, reading_id, result_digest(content), created_at)
