"""What rows say, as the values that documents are made of: patient, study, findings, models, objects."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.results import EVIDENCE, MESSAGES, ResultKind
from db.models import ResultObject, Study
from db.queries import InstancePath, ReportDetail, study_detail
from db.report_models import Evidence, Finding
from db.types import Decision
from reports.document import Code, PatientFacts, ReportedFinding, SeriesFacts, StudyFacts
from reports.source import timezone_of
from reports.values import AlgorithmIdentity, InstanceReference, MeasurementValue, Signer, weights_digest

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, InvalidDicomError)
# what a draft measured (worker.outputs) → concept of the code table and UCUM unit; the rest has no reviewed code
_MEASURED = {("volume", "ml"): ("volume", "mL"), ("longest axial diameter", "mm"): ("long_axis", "mm")}


def algorithms_of(models: Sequence[Mapping[str, Any]]) -> list[AlgorithmIdentity]:
    """Return the models of a draft's provenance record as they are named in DICOM."""
    return [
        AlgorithmIdentity(
            name=str(one.get("name", "")),
            version=str(one.get("version", "")),
            manufacturer="Firstread" if one.get("demonstration") else "see model licence",
            weights_sha256=weights_digest(one.get("weights_sha256") or {}),
            demonstration=bool(one.get("demonstration")),
            research_only=bool(one.get("research_only")),
        )
        for one in models
    ]


def signer(printed_name: str, login: str, organization: str, signed_at: datetime) -> Signer:
    """Return an account as it signs documents; the last word of the printed name is the family name."""
    given, _, family = printed_name.rpartition(" ")
    return Signer(printed_name, family, given, login, organization, signed_at)


def standing(made: ResultObject, findings: Iterable[Finding]) -> bool:
    """Return whether an object of a draft shows no finding that its reader rejected."""
    rejected = {one.tracking_uid for one in findings if one.decision is Decision.REJECTED and one.tracking_uid}
    return rejected.isdisjoint(made.tracking_uids)


def first_readable(paths: Iterable[Path]) -> Dataset:
    """Return the header of the first file that can be read.

    Raises:
        RefusedInputError: none can.
    """
    for path in paths:
        try:
            return dcmread(path, stop_before_pixels=True, force=True)
        except UNREADABLE:
            continue
    raise RefusedInputError("no image of this study can be read, so no report can name it")


def patient_facts(study: Study) -> PatientFacts:
    """Return whom a Study is about, as its rows say."""
    return PatientFacts(
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        name=study.patient_name,
        birth_date=study.patient_birth_date,
        sex=study.patient_sex,
    )


def study_facts(
    session: Session, detail: ReportDetail, held: Sequence[InstancePath], instances_dir: Path
) -> StudyFacts:
    """Return the Study and its Series as received; the time zone is that of its images, if they say one."""
    study = detail.study
    found = study_detail(session, study.id)
    rows = [one.series for one in found.series] if found else []
    series = [
        SeriesFacts(
            series_instance_uid=one.series_instance_uid,
            modality=one.modality,
            number=one.series_number,
            description=one.series_description,
            body_part=one.body_part,
            instances=tuple(
                reference(study, image) for image in held if image.series_instance_uid == one.series_instance_uid
            ),
        )
        for one in rows
    ]
    try:
        zone = timezone_of(first_readable(instances_dir / one.path for one in held)) or ""
    except RefusedInputError:
        zone = ""  # retention took the images; the report still stands
    return StudyFacts(
        study_instance_uid=study.study_instance_uid,
        date=study.study_date,
        time=study.study_time,
        timezone=zone,
        description=study.study_description,
        referring_physician=study.referring_physician,
        series=tuple(series),
    )


def reference(study: Study, image: InstancePath) -> InstanceReference:
    """Return one stored image as evidence."""
    return InstanceReference(
        study.study_instance_uid, image.series_instance_uid, image.sop_class_uid, image.sop_instance_uid
    )


def reported_findings(
    detail: ReportDetail, held: Sequence[InstancePath], algorithms: Sequence[AlgorithmIdentity]
) -> Iterable[ReportedFinding]:
    """Yield the Findings of the report's draft in order, with what the reader made of each."""
    experts = {one.id: one for one in detail.evidence}
    images = {one.sop_instance_uid: reference(detail.study, one) for one in held}
    for row in detail.findings:
        expert = experts.get(row.evidence_id) if row.evidence_id else None
        yield ReportedFinding(
            label=row.label,
            concept=Code(row.code_value, row.code_scheme, row.code_meaning) if row.code_value else None,
            presence=row.presence.value,
            laterality=row.laterality,
            score=row.score,
            sentence=row.sentence,
            measurements=measured(row.measurements),
            decision=row.decision.value,
            reason=row.decision_reason,
            tracking_uid=row.tracking_uid,
            algorithm=_algorithm(expert, algorithms) if expert else None,
            source=images.get(str(row.key_slice.get("sop_instance_uid", ""))),
        )


def measured(rows: Sequence[Mapping[str, Any]]) -> tuple[MeasurementValue, ...]:
    """Return the measurements of a Finding's row that have a reviewed code."""
    coded = ((_MEASURED.get((str(one.get("name")), str(one.get("unit")))), one.get("value")) for one in rows)
    return tuple(MeasurementValue(key[0], float(value), key[1]) for key, value in coded if key and value is not None)


def _algorithm(expert: Evidence, algorithms: Sequence[AlgorithmIdentity]) -> AlgorithmIdentity:
    known = (one for one in algorithms if (one.name, one.version) == (expert.expert, expert.version))
    unknown = AlgorithmIdentity(
        expert.expert, expert.version, "see model licence", weights_digest(expert.weights_sha256)
    )
    return next(known, unknown)


def own_objects(detail: ReportDetail, results_dir: Path, *, refused: bool) -> tuple[InstanceReference, ...]:
    """Return our objects that belong to the report as it stands: of an unsigned one, everything of its draft."""
    chosen = [one for one in detail.objects if _belongs(one, detail, refused=refused)]
    references = (_reference_of(results_dir / one.path) for one in chosen)
    return tuple(one for one in references if one is not None)


def _belongs(made: ResultObject, detail: ReportDetail, *, refused: bool) -> bool:
    kind = ResultKind(made.kind)
    if kind in MESSAGES or kind is ResultKind.REJECTION_NOTE:
        return False
    of_draft = made.draft_id is not None and made.draft_id == detail.report.draft_id and not refused
    if not detail.signatures:
        return of_draft
    last: UUID = detail.signatures[-1].id
    if made.signature_id is not None:
        return made.signature_id == last or kind in {ResultKind.SIGNED_FINDINGS_SR, ResultKind.KEY_IMAGES}
    return of_draft and kind in EVIDENCE and standing(made, detail.findings)


def _reference_of(path: Path) -> InstanceReference | None:
    try:
        return InstanceReference.of(dcmread(path, stop_before_pixels=True))
    except UNREADABLE:
        return None  # retention took it
