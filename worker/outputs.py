"""From a draft's content to DICOM objects on disk and rows for the database."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from config.destination import Destination
from config.durable import write_durably
from config.results import ResultKind
from db.lifecycle import NewEvidence, NewFinding, NewObject
from db.types import Presence
from publishing.store import keep_object
from reports.codes import code_table
from reports.findings_sr import build_findings_sr
from reports.narrative_sr import build_narrative_sr
from reports.sr_common import Evidence
from reports.values import (
    DraftIdentity,
    Equipment,
    FindingValue,
    InstanceReference,
    MeasurementValue,
    Section,
)
from worker.drafting import DraftContent, DraftFinding, measured_sentence
from worker.experts.base import Classification, SegmentationResult
from worker.intake import Intake
from worker.measuring import LesionMeasure, label_counts
from worker.provenance import result_sha256
from worker.segments import algorithm, build_segmentations
from worker.vlm.backends import VlmCard


@dataclass(frozen=True)
class Made:
    """Everything written for one draft: rows that wait for their transaction."""

    findings: list[NewFinding]
    evidence: list[NewEvidence]
    objects: list[NewObject]


@dataclass(frozen=True)
class Place:
    """Where a draft's files go and what fixes their identity.

    Attributes:
        results_dir: the result store.
        folder: folder of this Reading, relative to it.
        identity: of the DICOM objects.
        equipment: our product.
        destinations: who may get results; those that want drafts get them now.
    """

    results_dir: Path
    folder: str
    identity: DraftIdentity
    equipment: Equipment
    destinations: Sequence[Destination] = ()


def result_digest(content: DraftContent) -> str:
    """Return one SHA-256 over what a draft says; equal for a retry that found the same."""
    said = {
        "sections": content.sections,
        "findings": [[f.label, f.is_present, f.expert_positive] for f in content.findings],
        "labels": {"/".join(key): result_sha256(r) for key, r in sorted(content.results.items())},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def write_outputs(content: DraftContent, intake: Intake, vlm: VlmCard, place: Place) -> Made:
    """Build and write SEG, findings SR, draft SR and label maps, each flushed to disk before this returns.

    Raises:
        RefusedInputError: the source images do not allow a valid object.
        OutOfSpaceError: the result store is full.
    """
    tracking = {f.label: place.identity.other_uid("tracking", f.label) for f in content.findings}
    evidence, index_of = _evidence(content, place)
    segmentations = build_segmentations(content, intake, tracking, identity=place.identity, equipment=place.equipment)
    references = [InstanceReference.of(ds) for headers in intake.headers.values() for ds in headers]
    behind = Evidence(source=intake.first, references=references, segmentations=segmentations)
    not_assessed = [item["what"] for item in content.not_assessed]
    findings_sr = build_findings_sr(
        [v for f in content.findings if (v := _finding_value(f, content, tracking, segmentations))],
        behind,
        identity=place.identity,
        equipment=place.equipment,
        not_assessed=not_assessed,
    )
    algorithms = [algorithm(vlm), *{r.card.name: algorithm(r.card) for r in content.results.values()}.values()]
    draft_sr = build_narrative_sr(
        [Section(key=key, text=text) for key, text in content.sections.items()],  # type: ignore[arg-type]
        Evidence(intake.first, [*references, *(InstanceReference.of(o) for o in (*segmentations, findings_sr))]),
        identity=place.identity,
        equipment=place.equipment,
        algorithms=algorithms,
        not_assessed=not_assessed,
    )
    made = [(f"seg_{n}", ResultKind.SEG, ds) for n, ds in enumerate(segmentations, 1)]
    made += [("findings_sr", ResultKind.FINDINGS_SR, findings_sr), ("draft_sr", ResultKind.DRAFT_SR, draft_sr)]
    return Made(
        findings=[_finding_row(f, content, tracking, index_of) for f in content.findings],
        evidence=evidence,
        objects=[_keep(ds, kind, name, place) for name, kind, ds in made],
    )


def _keep(ds: Dataset, kind: ResultKind, name: str, place: Place) -> NewObject:
    shown = {str(item.TrackingUID) for item in ds.get("SegmentSequence", []) if "TrackingUID" in item}
    return keep_object(
        ds,
        kind,
        f"{place.folder}/{name}.dcm",
        results_dir=place.results_dir,
        destinations=place.destinations,
        tracking_uids=sorted(shown),
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
    measured = finding.measured
    has_segment = any(
        item.get("TrackingUID") == tracking[finding.label] for ds in segmentations for item in ds.SegmentSequence
    )
    return FindingValue(
        label=finding.label,
        code_key=code_key,
        presence="present" if finding.expert_positive else "absent",
        score=finding.score,
        laterality=None,
        algorithm=algorithm(
            result.card, *([f"threshold={result.threshold}"] if isinstance(result, Classification) else [])
        ),
        tracking_uid=tracking[finding.label],
        tracking_id=f"firstread:{code_key}",
        measurements=_measurements(measured) if measured and has_segment else (),
        source_sop_instance_uids=() if has_segment else _source_uids(result),
    )


def _measurements(measured: LesionMeasure) -> tuple[MeasurementValue, ...]:
    return (
        MeasurementValue("volume", round(measured.volume_ml, 3), "cm3"),
        MeasurementValue("long_axis", round(measured.diameter_mm, 1), "mm"),
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
    measured = finding.measured
    measurements = []
    if measured:
        measurements = [
            {"name": "volume", "value": round(measured.volume_ml, 2), "unit": "ml"},
            {"name": "longest axial diameter", "value": round(measured.diameter_mm, 1), "unit": "mm"},
            {"name": "extent along the slice normal", "value": round(measured.extent_mm, 1), "unit": "mm"},
            {"name": "separate parts", "value": measured.count, "unit": ""},
        ]
    return NewFinding(
        label=finding.label,
        presence=Presence.PRESENT if finding.is_present else Presence.ABSENT,
        source=f"VLM after {result.card.name}",
        code_value=concept.value if concept else "",
        code_scheme=concept.scheme if concept else "",
        code_meaning=concept.meaning if concept else "",
        laterality=measured.laterality if measured else "",
        score=finding.score,
        sentence=measured_sentence(finding),
        evidence_index=index_of[finding.result_key],
        segment_label=min(finding.segments) if finding.segments else None,
        measurements=measurements,
        key_slice=_key_slice(finding, result),
        tracking_uid=tracking[finding.label],
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
