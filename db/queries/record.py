"""Questions to the record: audit events, and everything that went wrong and waits for a person."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.commitment_models import CommitmentRequest
from db.lifecycle.self_tests import self_tested
from db.models import AuditEvent, Delivery, Quarantined, Reading, ResultObject, Study
from db.queries.commitments import commitment_alarms, untold_commitments
from db.queries.details import DeliveryRow
from db.types import DeliveryState, ReadingState


@dataclass(frozen=True)
class ReadingProblem:
    """A Reading that ended without a draft for a reason a person should look at."""

    reading: Reading
    study: Study


@dataclass(frozen=True)
class Problems:
    """What waits for a person; each list newest first."""

    failed: list[ReadingProblem]
    held: list[ReadingProblem]
    quarantined: list[Quarantined]
    deliveries: list[DeliveryRow]
    uncommitted: list[DeliveryRow]  # delivered, but the destination would not promise to keep it
    untold: list[CommitmentRequest]  # a peer asked us to commit, and never took our answer


def audit_events(  # noqa: PLR0913 keyword-only filters
    session: Session,
    *,
    study_id: UUID | None = None,
    accession: str | None = None,
    study_instance_uid: str | None = None,
    tag: AuditTag | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after_seq: int = 0,
    limit: int = 500,
) -> list[AuditEvent]:
    """Return audit events in the order they were committed to the table, ``seq`` above ``after_seq``.

    ``accession`` and ``study_instance_uid`` select every Study that carries them.

    Raises:
        RefusedInputError: an empty accession number or Study Instance UID, which would select strangers.
    """
    chosen: list[ColumnElement[bool]] = [AuditEvent.seq > after_seq]
    for value, column in ((accession, Study.accession_number), (study_instance_uid, Study.study_instance_uid)):
        if value is not None:
            chosen.append(_of_studies(column, value.strip()))
    exact = ((study_id, AuditEvent.study_id), (tag, AuditEvent.tag), (actor, AuditEvent.actor))
    chosen += [column == value for value, column in exact if value is not None]
    if since is not None:
        chosen.append(AuditEvent.occurred_at >= since)
    if until is not None:
        chosen.append(AuditEvent.occurred_at < until)
    return list(session.scalars(select(AuditEvent).where(*chosen).order_by(AuditEvent.seq).limit(limit)))


def _of_studies(column: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    if not value:
        raise RefusedInputError("an audit query by accession number or Study Instance UID needs one")
    return AuditEvent.study_id.in_(select(Study.id).where(column == value))


def find_studies(session: Session, *, accession: str = "", study_instance_uid: str = "") -> list[Study]:
    """Return the Studies with this Accession Number or Study Instance UID; none when both are empty."""
    query = select(Study).order_by(Study.first_received_at)
    if study_instance_uid:
        return list(session.scalars(query.where(Study.study_instance_uid == study_instance_uid)))
    if accession:
        return list(session.scalars(query.where(Study.accession_number == accession)))
    return []


def problems(session: Session, *, limit: int = 200) -> Problems:
    """Return what failed, is held, was quarantined, could not be delivered or was not committed."""
    owed = (
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(Delivery.state == DeliveryState.FAILED)
        .order_by(Delivery.created_at.desc())
        .limit(limit)
    )
    doubted = select(Quarantined).order_by(Quarantined.received_at.desc()).limit(limit)
    return Problems(
        failed=_readings(session, ReadingState.FAILED, limit),
        held=_readings(session, ReadingState.HELD, limit),
        quarantined=list(session.scalars(doubted)),
        deliveries=[DeliveryRow(delivery, made) for delivery, made in session.execute(owed)],
        uncommitted=commitment_alarms(session, limit=limit),
        untold=untold_commitments(session, limit=limit),
    )


def _readings(session: Session, state: ReadingState, limit: int) -> list[ReadingProblem]:
    query = (
        select(Reading, Study)
        .join(Study, Study.id == Reading.study_id)
        .where(Reading.state == state, Reading.superseded.is_(False), ~self_tested())
        .order_by(Reading.finished_at.desc())
        .limit(limit)
    )
    return [ReadingProblem(reading, study) for reading, study in session.execute(query)]
