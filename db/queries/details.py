"""One Study, one Reading or one Report with everything that belongs to it; rows are for reading only."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from db.models import Delivery, Instance, Quarantined, Reading, ResultObject, Series, Study
from db.report_models import Draft, Evidence, Finding, Report, ReportRevision, Signature, UserAccount
from db.types import Priority, ReadingState

T = TypeVar("T")


@dataclass(frozen=True)
class InstancePath:
    """One stored Instance: where its bytes are, and what orders and identifies it."""

    path: str  # relative to the instance store
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    series_instance_uid: str
    series_number: int | None
    series_description: str
    modality: str
    instance_number: int | None
    sha256: str
    size_bytes: int
    revision: int
    deleted_at: datetime | None = None  # retention took the file


@dataclass(frozen=True)
class SeriesRow:
    """One Series and how many Instances of it are held."""

    series: Series
    instances: int


@dataclass(frozen=True)
class DeliveryRow:
    """One Delivery and the object it carries."""

    delivery: Delivery
    object: ResultObject


@dataclass(frozen=True)
class StudyDetail:
    """A Study and all that came of it; Readings newest first."""

    study: Study
    report: Report
    series: list[SeriesRow]
    readings: list[Reading]
    drafts: list[Draft]
    objects: list[ResultObject]
    deliveries: list[DeliveryRow]
    signatures: list[Signature]
    quarantined: list[Quarantined]


@dataclass(frozen=True)
class ReadingDetail:
    """A Reading with what it produced, and the Report that shows it."""

    reading: Reading
    study: Study
    report: Report
    draft: Draft | None
    findings: list[Finding]
    evidence: list[Evidence]
    objects: list[ResultObject]


@dataclass(frozen=True)
class ReportDetail:
    """A Report as the reading page shows it; ``draft``, ``findings`` and ``evidence`` are of the draft it is made from.

    ``reading`` is the newest revision's, so it can be ahead of the draft when images arrived late.
    """

    report: Report
    study: Study
    reading: Reading
    draft: Draft | None
    findings: list[Finding]
    evidence: list[Evidence]
    objects: list[ResultObject]
    revisions: list[ReportRevision]
    signatures: list[Signature]
    locked_by: UserAccount | None


def waiting_readings(session: Session, limit: int) -> list[UUID]:
    """Return the Readings a worker could take now, most urgent and oldest first."""
    urgency = case({Priority.STAT: 0, Priority.URGENT: 1}, value=Reading.priority, else_=2)
    query = (
        select(Reading.id)
        .where(Reading.state == ReadingState.QUEUED, Reading.superseded.is_(False))
        .order_by(urgency, Reading.completed_at, Reading.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def instance_paths(session: Session, study_id: UUID, revision: int | None = None) -> list[InstancePath]:
    """Return the Instances of a Study up to ``revision``, by Series and Instance Number."""
    query = (
        select(
            Instance.path,
            Instance.sop_instance_uid,
            Instance.sop_class_uid,
            Instance.transfer_syntax_uid,
            Series.series_instance_uid,
            Series.series_number,
            Series.series_description,
            Series.modality,
            Instance.instance_number,
            Instance.sha256,
            Instance.size_bytes,
            Instance.revision,
            Instance.deleted_at,
        )
        .join(Series, Series.id == Instance.series_id)
        .where(Instance.study_id == study_id)
        .order_by(Series.series_number, Series.series_instance_uid, Instance.instance_number, Instance.sop_instance_uid)
    )
    if revision is not None:
        query = query.where(Instance.revision <= revision)
    return [InstancePath(**row._mapping) for row in session.execute(query)]


def study_detail(session: Session, study_id: UUID) -> StudyDetail | None:
    """Return a Study with all that came of it; None when there is none."""
    study = session.get(Study, study_id)
    if study is None:
        return None
    report = session.scalars(select(Report).where(Report.study_id == study_id)).one()
    counted = (
        select(Series, func.count(Instance.id))
        .outerjoin(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study_id)
        .group_by(Series.id)
        .order_by(Series.series_number, Series.series_instance_uid)
    )
    return StudyDetail(
        study=study,
        report=report,
        series=[SeriesRow(series, number) for series, number in session.execute(counted)],
        readings=_all(session, select(Reading).where(Reading.study_id == study_id).order_by(Reading.revision.desc())),
        drafts=_all(session, select(Draft).where(Draft.study_id == study_id).order_by(Draft.created_at)),
        objects=_objects(session, study_id),
        deliveries=deliveries(session, study_id),
        signatures=_signatures(session, report.id),
        quarantined=_all(
            session, select(Quarantined).where(Quarantined.study_id == study_id).order_by(Quarantined.received_at)
        ),
    )


def reading_detail(session: Session, reading_id: UUID) -> ReadingDetail | None:
    """Return a Reading with its draft; None when there is none."""
    reading = session.get(Reading, reading_id)
    if reading is None:
        return None
    draft = session.scalar(select(Draft).where(Draft.reading_id == reading_id))
    key = draft.id if draft else None
    return ReadingDetail(
        reading=reading,
        study=session.get_one(Study, reading.study_id),
        report=session.scalars(select(Report).where(Report.study_id == reading.study_id)).one(),
        draft=draft,
        findings=_findings(session, key),
        evidence=_evidence(session, key),
        objects=[made for made in _objects(session, reading.study_id) if key is not None and made.draft_id == key],
    )


def report_detail(session: Session, report_id: UUID) -> ReportDetail | None:
    """Return a Report as the reading page shows it; None when there is none."""
    report = session.get(Report, report_id)
    if report is None:
        return None
    newest = select(Reading).where(Reading.study_id == report.study_id, Reading.superseded.is_(False))
    return ReportDetail(
        report=report,
        study=session.get_one(Study, report.study_id),
        reading=session.scalars(newest).one(),
        draft=session.get(Draft, report.draft_id) if report.draft_id else None,
        findings=_findings(session, report.draft_id),
        evidence=_evidence(session, report.draft_id),
        objects=_objects(session, report.study_id),
        revisions=_revisions(session, report.id),
        signatures=_signatures(session, report.id),
        locked_by=session.get(UserAccount, report.locked_by) if report.locked_by else None,
    )


def deliveries(session: Session, study_id: UUID) -> list[DeliveryRow]:
    """Return what is owed and was delivered of a Study, oldest first."""
    query = (
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(ResultObject.study_id == study_id)
        .order_by(Delivery.created_at, Delivery.destination, Delivery.id)
    )
    return [DeliveryRow(delivery, made) for delivery, made in session.execute(query)]


def _all(session: Session, query: Select[T]) -> list[T]:
    return list(session.scalars(query))


def _findings(session: Session, draft_id: UUID | None) -> list[Finding]:
    return _all(session, select(Finding).where(Finding.draft_id == draft_id).order_by(Finding.position))


def _evidence(session: Session, draft_id: UUID | None) -> list[Evidence]:
    return _all(session, select(Evidence).where(Evidence.draft_id == draft_id).order_by(Evidence.expert, Evidence.id))


def _objects(session: Session, study_id: UUID) -> list[ResultObject]:
    query = select(ResultObject).where(ResultObject.study_id == study_id)
    return _all(session, query.order_by(ResultObject.created_at, ResultObject.id))


def _revisions(session: Session, report_id: UUID) -> list[ReportRevision]:
    query = select(ReportRevision).where(ReportRevision.report_id == report_id)
    return _all(session, query.order_by(ReportRevision.number))


def _signatures(session: Session, report_id: UUID) -> list[Signature]:
    return _all(session, select(Signature).where(Signature.report_id == report_id).order_by(Signature.signed_at))
