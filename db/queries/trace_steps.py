"""The steps of one Study's journey, each in one or two statements whatever the Study's size."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.expectation_models import Expectation
from db.models import AuditEvent, Delivery, Instance, PeerAssociation, Quarantined, Reading, ResultObject, Series, Study
from db.prior_models import Prior, PriorSearch
from db.queries.trace_values import (
    AssociationTrace,
    DeliveryTrace,
    EventTrace,
    ExpectationTrace,
    ExpertTrace,
    PriorSearchTrace,
    PriorTrace,
    QuarantineTrace,
    QueueTrace,
    ReadingTrace,
    ReceptionTrace,
    ReportTrace,
    SeriesTrace,
)
from db.report_models import Draft, Evidence, Report, Signature, UserAccount
from db.types import Priority, ReadingState

NEARBY = timedelta(hours=1)  # what the same peer met so long before or after belongs to the story
MANY = 200  # rows of one kind; nobody reads more
_LAST_DRAFTS = 20
URGENCY: ColumnElement[int] = case({Priority.STAT: 0, Priority.URGENT: 1}, value=Reading.priority, else_=2)


def associations(session: Session, study_id: UUID) -> tuple[AssociationTrace, ...]:
    """Return the associations that brought Instances of the Study."""
    brought = (
        select(Instance.association_id, func.count().label("brought"))
        .where(Instance.study_id == study_id, Instance.association_id.is_not(None))
        .group_by(Instance.association_id)
        .subquery()
    )
    query = (
        select(PeerAssociation, brought.c.brought)
        .join(brought, brought.c.association_id == PeerAssociation.id)
        .order_by(PeerAssociation.opened_at)
        .limit(MANY)
    )
    return tuple(_association(row, count) for row, count in session.execute(query))


def refused_associations(
    session: Session, since: datetime, until: datetime, *, peers: Sequence[str] = (), addresses: Sequence[str] = ()
) -> tuple[AssociationTrace, ...]:
    """Return the associations that were refused in that time, newest first; of these peers only when some are given."""
    query = (
        select(PeerAssociation)
        .where(PeerAssociation.opened_at.between(since, until), PeerAssociation.rejected != "")
        .order_by(PeerAssociation.opened_at.desc())
        .limit(MANY)
    )
    if peers or addresses:
        query = query.where(or_(PeerAssociation.calling_ae.in_(peers), PeerAssociation.address.in_(addresses)))
    return tuple(_association(row, 0) for row in session.scalars(query))


def _association(row: PeerAssociation, brought: int) -> AssociationTrace:
    names = AssociationTrace.__dataclass_fields__.keys() - {"instances_of_study"}
    return AssociationTrace(**{name: getattr(row, name) for name in names}, instances_of_study=brought)


def receptions(session: Session, study_id: UUID) -> tuple[ReceptionTrace, ...]:
    """Return who sent how much of the Study, for which revision."""
    query = (
        select(
            Instance.revision,
            Instance.calling_ae,
            func.count(),
            func.sum(Instance.size_bytes),
            func.min(Instance.received_at),
            func.max(Instance.received_at),
        )
        .where(Instance.study_id == study_id)
        .group_by(Instance.revision, Instance.calling_ae)
        .order_by(Instance.revision, Instance.calling_ae)
    )
    return tuple(
        ReceptionTrace(revision, source, number, int(size), first, last)
        for revision, source, number, size, first, last in session.execute(query)
    )


def series(session: Session, study_id: UUID) -> tuple[SeriesTrace, ...]:
    """Return the Series of the Study."""
    query = (
        select(
            Series.series_instance_uid,
            Series.modality,
            Series.series_number,
            func.count().label("instances"),
            func.count(Instance.deleted_at).label("deleted"),
            func.sum(Instance.size_bytes).label("size_bytes"),
            func.min(Instance.received_at).label("first_received_at"),
            func.max(Instance.received_at).label("last_received_at"),
        )
        .join(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study_id)
        .group_by(Series.id, Series.series_instance_uid, Series.modality, Series.series_number)
        .order_by(Series.series_number, Series.series_instance_uid)
    )
    rows = [dict(row._mapping) for row in session.execute(query)]
    return tuple(SeriesTrace(**row | {"size_bytes": int(row["size_bytes"])}) for row in rows)


def quarantined_of(session: Session, study: Study) -> tuple[QuarantineTrace, ...]:
    """Return what was refused or doubted: of the Study, under a UID of it, or from its sender at that time."""
    uids = select(Instance.sop_instance_uid).where(Instance.study_id == study.id)
    found = {
        "of this study": Quarantined.study_id == study.id,
        "under a SOP Instance UID of this study": Quarantined.sop_instance_uid.in_(uids),
        "from the same sender at that time": and_(
            Quarantined.received_at.between(study.first_received_at - NEARBY, study.last_received_at + NEARBY),
            Quarantined.calling_ae == study.calling_ae,
        ),
    }
    rows: dict[UUID, QuarantineTrace] = {}
    for relation, condition in found.items():
        for one in session.scalars(_quarantined(condition)):
            rows.setdefault(one.id, _quarantine(one, relation))
    return tuple(sorted(rows.values(), key=lambda one: one.received_at))


def quarantined_under(session: Session, uid: str) -> tuple[QuarantineTrace, ...]:
    """Return what was refused or doubted under this SOP Instance UID."""
    rows = session.scalars(_quarantined(Quarantined.sop_instance_uid == uid))
    return tuple(_quarantine(one, "under this UID") for one in rows)


def _quarantined(condition: ColumnElement[bool]) -> Select[Quarantined]:
    return select(Quarantined).where(condition).order_by(Quarantined.received_at).limit(MANY)


def _quarantine(row: Quarantined, relation: str) -> QuarantineTrace:
    return QuarantineTrace(
        received_at=row.received_at,
        reason=row.reason,
        error=row.error,
        status=f"{row.status:04X}",
        sop_instance_uid=row.sop_instance_uid,
        calling_ae=row.calling_ae,
        kept=bool(row.path),
        relation=relation,
    )


def expectations(session: Session, study_instance_uid: str) -> tuple[ExpectationTrace, ...]:
    """Return what others said the Study should hold."""
    query = (
        select(Expectation)
        .where(Expectation.study_instance_uid == study_instance_uid)
        .order_by(Expectation.created_at)
        .limit(MANY)
    )
    return tuple(
        ExpectationTrace(row.source.value, row.said_by, row.state.value, row.instances, row.object_uid, row.updated_at)
        for row in session.scalars(query)
    )


def duplicates(session: Session, study_id: UUID) -> int:
    """Return how often an Instance of the Study came again with the same bytes."""
    query = select(func.count()).where(AuditEvent.study_id == study_id, AuditEvent.tag == AuditTag.INSTANCE_DUPLICATE)
    return session.scalar(query) or 0


def readings(session: Session, study_id: UUID) -> tuple[ReadingTrace, ...]:
    """Return every run of the pipeline over the Study, oldest revision first."""
    drafts = {
        row.reading_id: row
        for row in session.execute(
            select(Draft.id, Draft.reading_id, Draft.provenance).where(Draft.study_id == study_id)
        )
    }
    experts: dict[UUID, list[ExpertTrace]] = {}
    ran = select(Evidence).join(Draft, Draft.id == Evidence.draft_id).where(Draft.study_id == study_id)
    for one in session.scalars(ran.order_by(Evidence.created_at, Evidence.id)):
        experts.setdefault(one.draft_id, []).append(
            ExpertTrace(one.expert, one.argument, one.version, one.weights_sha256, one.seconds)
        )
    query = select(Reading).where(Reading.study_id == study_id).order_by(Reading.revision, Reading.created_at)
    return tuple(
        _reading(session, row, drafts.get(row.id), experts) for row in session.scalars(query.limit(MANY)).all()
    )


def _reading(session: Session, row: Reading, draft: Any, experts: dict[UUID, list[ExpertTrace]]) -> ReadingTrace:
    record: dict[str, Any] = draft.provenance if draft else {}
    own = {
        "id", "revision", "reason", "superseded", "profile", "rule", "rule_trace", "attempts", "lease_owner",
        "lease_until", "next_attempt_at", "created_at", "completed_at", "started_at", "finished_at", "pipeline_version",
    }  # fmt: skip
    return ReadingTrace(
        **{name: getattr(row, name) for name in own},
        state=row.state.value,
        priority=row.priority.value,
        use=row.use.value,
        queue=queue(session, row) if row.state is ReadingState.QUEUED and not row.superseded else None,
        draft_id=draft.id if draft else None,
        models=list(record.get("models", [])),
        experts=tuple(experts.get(draft.id, ())) if draft else (),
        seconds=dict(record.get("job", {}).get("seconds", {})),
    )


def queue(session: Session, reading: Reading) -> QueueTrace:
    """Return how many Readings are taken before this one, and about how long that lasts."""
    mine = {Priority.STAT: 0, Priority.URGENT: 1}.get(reading.priority, 2)
    earlier = or_(
        mine > URGENCY,
        and_(
            URGENCY.in_((mine,)),
            or_(
                Reading.completed_at < reading.completed_at,
                and_(Reading.completed_at == reading.completed_at, Reading.id < reading.id),
            ),
        ),
    )
    ahead = session.scalar(
        select(func.count()).where(Reading.state == ReadingState.QUEUED, Reading.superseded.is_(False), earlier)
    )
    busy = session.scalar(select(func.count()).where(Reading.state == ReadingState.RUNNING)) or 0
    usual = _usual_seconds(session)
    turns = ((ahead or 0) + busy) // max(busy, 1)  # those that run end about half way, so no turn is added for them
    return QueueTrace(ahead or 0, busy, usual, None if usual is None else round(turns * usual + usual, 1))


def _usual_seconds(session: Session) -> float | None:
    """Return the median time of the last drafts, from their events: those are found without a scan."""
    last = (
        select(AuditEvent.reading_id)
        .where(AuditEvent.tag == AuditTag.READING_DRAFTED)
        .order_by(AuditEvent.seq.desc())
        .limit(_LAST_DRAFTS)
        .subquery()
    )
    rows = session.execute(
        select(Reading.started_at, Reading.finished_at).where(Reading.id.in_(select(last.c.reading_id)))
    )
    seconds = [(end - start).total_seconds() for start, end in rows if start and end]
    return round(median(seconds), 1) if seconds else None


def prior_search(session: Session, study_id: UUID) -> PriorSearchTrace | None:
    """Return what was searched and fetched for comparison; None when nobody was asked."""
    search = session.scalar(select(PriorSearch).where(PriorSearch.study_id == study_id))
    if search is None:
        return None
    rows = session.scalars(select(Prior).where(Prior.study_id == study_id).order_by(Prior.position))
    priors = tuple(
        PriorTrace(
            row.study_instance_uid, row.source, row.method, row.state.value, row.reason, row.attempts, row.finished_at
        )
        for row in rows
    )
    return PriorSearchTrace(search.state.value, search.reason, search.candidates, search.finished_at, priors)


def report(session: Session, study_id: UUID) -> ReportTrace:
    """Return where the report of the Study stands."""
    row, login = session.execute(
        select(Report, UserAccount.login)
        .outerjoin(UserAccount, UserAccount.id == Report.locked_by)
        .where(Report.study_id == study_id)
    ).one()
    signed = session.execute(
        select(Signature, UserAccount.login)
        .join(UserAccount, UserAccount.id == Signature.user_id)
        .where(Signature.report_id == row.id)
        .order_by(Signature.signed_at)
    )
    return ReportTrace(
        row.id,
        row.state.value,
        login or "",
        row.late_images,
        row.updated_at,
        tuple({"login": who, "state": one.state.value, "signed_at": one.signed_at} for one, who in signed),
    )


def deliveries(session: Session, study_id: UUID) -> tuple[DeliveryTrace, ...]:
    """Return what is owed and was delivered of the Study."""
    query = (
        select(Delivery, ResultObject.kind, ResultObject.sop_instance_uid)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(ResultObject.study_id == study_id)
        .order_by(Delivery.created_at, Delivery.destination, Delivery.id)
        .limit(MANY)
    )
    own = {
        "destination", "attempts", "next_attempt_at", "delivered_at", "last_error", "commitment_attempts",
        "committed_at",
    }  # fmt: skip
    return tuple(
        DeliveryTrace(
            **{name: getattr(row, name) for name in own},
            kind=kind,
            sop_instance_uid=uid,
            state=row.state.value,
            commitment=row.commitment.value,
        )
        for row, kind, uid in session.execute(query)
    )


def timeline(session: Session, study_id: UUID, most: int) -> tuple[tuple[EventTrace, ...], int]:
    """Return the last ``most`` events of the Study in their order, and how many older ones there are."""
    of_study = AuditEvent.study_id == study_id
    number = session.scalar(select(func.count()).where(of_study)) or 0
    rows = session.scalars(select(AuditEvent).where(of_study).order_by(AuditEvent.seq.desc()).limit(most)).all()
    events = tuple(EventTrace(row.occurred_at, row.actor, row.tag, row.outcome, row.detail) for row in reversed(rows))
    return events, number - len(events)
