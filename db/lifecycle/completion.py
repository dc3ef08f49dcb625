"""When reception of a Study ends, and what the routing verdict does with it."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.routing import RoutingVerdict, StudyFacts
from db.image_set import image_set_sha256
from db.lifecycle.moves import locked, move_reading
from db.lifecycle.queueing import next_reminder
from db.lifecycle.values import IDENTITY_REASON
from db.models import Instance, Reading, Series, Study
from db.types import Priority, ReadingState, Use, utcnow
from db.uow import UnitOfWork


def quiet_studies(session: Session, now: datetime) -> list[UUID]:
    """Return the Readings in RECEIVING whose Study had no new Instance for its quiet time."""
    rows = session.execute(
        select(Reading.id, Study.last_received_at, Study.quiet_s)
        .join(Study, Study.id == Reading.study_id)
        .where(Reading.state == ReadingState.RECEIVING)
        .order_by(Study.last_received_at)
    )
    return [reading_id for reading_id, last, quiet_s in rows if last + timedelta(seconds=quiet_s) <= now]


def study_facts(session: Session, study_id: UUID) -> StudyFacts:
    """Return what routing rules may look at, from every Instance of the Study."""
    study = session.get_one(Study, study_id)
    series = session.execute(select(Series.modality, Series.body_part).where(Series.study_id == study_id)).all()
    classes = session.scalars(select(Instance.sop_class_uid).where(Instance.study_id == study_id).distinct())
    return StudyFacts(
        modalities=frozenset(modality for modality, _ in series if modality),
        body_parts=frozenset(body_part for _, body_part in series if body_part),
        sop_classes=frozenset(classes),
        calling_ae=study.calling_ae,
        called_ae=study.called_ae,
        procedure=study.study_description,
    )


def complete(uow: UnitOfWork, reading_id: UUID, verdict: RoutingVerdict) -> ReadingState:
    """Close reception of a Reading's revision and do what the routing verdict says; return the new state.

    A Study whose images name several patients is HELD whatever the verdict.

    Raises:
        LifecycleError: it is no longer RECEIVING.
    """
    study_id = uow.session.scalar(select(Reading.study_id).where(Reading.id == reading_id))
    study = locked(uow, Study, study_id) if study_id else None
    reading = locked(uow, Reading, reading_id)
    assert study is not None
    detail = {
        "instances": study.instance_count,
        "image_set_sha256": image_set_sha256(uow.session, study.id, reading.revision),
        "rule": verdict.rule,
    }
    move_reading(uow, reading, ReadingState.COMPLETE, detail=detail)
    reading.completed_at = utcnow()
    reading.rule = verdict.rule
    reading.rule_trace = list(verdict.trace)
    reading.profile = verdict.profile
    reading.priority = Priority(verdict.priority)
    reading.use = Use(verdict.use)
    if study.identity_conflict:
        move_reading(uow, reading, ReadingState.HELD, reason=IDENTITY_REASON)
    elif verdict.action == "draft":
        move_reading(uow, reading, ReadingState.QUEUED, detail={"profile": verdict.profile, "use": verdict.use})
        reading.next_attempt_at = next_reminder(reading, utcnow())
    elif verdict.action == "hold":
        move_reading(uow, reading, ReadingState.HELD, reason=verdict.reason)
    else:
        move_reading(uow, reading, ReadingState.IGNORED, reason=verdict.reason)
    if reading.state is not ReadingState.QUEUED:
        reading.finished_at = utcnow()
    return reading.state
