"""When reception of a Study ends, and what the routing verdict does with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config.errors import LifecycleError
from config.routing import CompletenessRule, RoutingVerdict, Rules, SeriesFacts, StudyFacts
from db.audit import AuditTag
from db.expectation_models import Expectation
from db.image_set import image_set_sha256
from db.lifecycle.critical import keep_urgent
from db.lifecycle.expectations import announcement
from db.lifecycle.moves import locked, move_reading
from db.lifecycle.orders import attach
from db.lifecycle.priors import search_pending
from db.lifecycle.queueing import next_reminder
from db.lifecycle.timers import PATIENCE, SOURCES, Announcement, Situation, Timer
from db.lifecycle.values import IDENTITY_REASON
from db.models import Instance, Reading, Series, Study
from db.types import Priority, ReadingState, Use, utcnow
from db.uow import UnitOfWork

PRIOR_REASON = "fetched for comparison"


@dataclass(frozen=True)
class Receiving:
    """One Study that is being received, as cheaply as it can be known."""

    reading_id: UUID
    study_id: UUID
    called_ae: str
    last_received_at: datetime
    quiet_s: float
    instance_count: int
    expected: int  # Instances, as summed up when somebody last said so; 0 when nobody gave a number
    complete_now: bool
    is_prior: bool
    announced_at: datetime | None  # when somebody last said what it should hold; None when nobody did


def receiving(session: Session, study_ids: Iterable[UUID] | None = None) -> list[Receiving]:
    """Return the Studies that are being received, longest silent first; only of ``study_ids`` when given."""
    said = select(func.max(Expectation.updated_at)).where(Expectation.study_instance_uid == Study.study_instance_uid)
    query = (
        select(
            Reading.id.label("reading_id"),
            Study.id.label("study_id"),
            Study.called_ae,
            Study.last_received_at,
            Study.quiet_s,
            Study.instance_count,
            func.coalesce(Study.expected_instances, 0).label("expected"),
            Study.complete_now,
            Study.is_prior,
            said.correlate(Study).scalar_subquery().label("announced_at"),
        )
        .join(Study, Study.id == Reading.study_id)
        .where(Reading.state == ReadingState.RECEIVING)
        .order_by(Study.last_received_at)
    )
    if study_ids is not None:
        query = query.where(Study.id.in_(list(study_ids)))
    return [Receiving(**row._mapping) for row in session.execute(query)]


def situation(session: Session, one: Receiving, rules: Rules, *, now: datetime, priors_wait_s: float) -> Situation:
    """Return all that decides when reception of a Study ends; a prior waits for nothing but silence."""
    if one.is_prior:
        return Situation(one.last_received_at, one.quiet_s, complete_now=one.complete_now)
    rule, lacking = _completeness(session, one.study_id, rules)
    return Situation(
        last_received_at=one.last_received_at,
        quiet_s=one.quiet_s,
        announcement=announcement(session, one.study_id) if one.announced_at else Announcement(),
        lacking=lacking,
        rule=rule.name if rule else "",
        wait_s=rule.wait_s if rule else None,
        holds=rule is not None and rule.then == "hold",
        complete_now=one.complete_now,
        priors_pending=search_pending(session, one.study_id, now),
        priors_wait_s=priors_wait_s,
    )


def _completeness(session: Session, study_id: UUID, rules: Rules) -> tuple[CompletenessRule | None, tuple[str, ...]]:
    rule = rules.completeness_of(study_facts(session, study_id)) if rules.completeness else None
    if rule is None or not rule.required:
        return rule, ()
    counted = (
        select(Series.modality, Series.series_description, func.count(Instance.id))
        .join(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study_id)
        .group_by(Series.id, Series.modality, Series.series_description)
    )
    return rule, rule.lacking(SeriesFacts(*row) for row in session.execute(counted))


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


def complete_now(uow: UnitOfWork, study_id: UUID) -> None:
    """End reception of a Study at the next sweep, whatever is missing, at a person's wish.

    Raises:
        LifecycleError: it is not being received.
    """
    study = locked(uow, Study, study_id)
    if not receiving(uow.session, [study_id]):
        raise LifecycleError(f"study {study_id} is not being received: there is nothing to wait for")
    study.complete_now = True
    uow.audit(AuditTag.STUDY_COMPLETE_NOW, study_id=study_id, detail={"instances": study.instance_count})


def complete(
    uow: UnitOfWork, reading_id: UUID, verdict: RoutingVerdict, ended: tuple[Situation, Timer] | None = None
) -> ReadingState:
    """Close reception of a Reading's revision and do what the routing verdict says; return the new state.

    A Study whose images name several patients is HELD whatever the verdict; one that lacks a required series is when
    its rule says so, unless a person would not wait; a prior is IGNORED.

    Args:
        uow: of the sweeper.
        reading_id: of the Reading.
        verdict: of the routing rules.
        ended: how it was found that reception is over; goes into the event and the trace.

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
        **(_ending(*ended) if ended else {}),
    }
    move_reading(uow, reading, ReadingState.COMPLETE, detail=detail)
    study.complete_now = False
    if ended and ended[0].announcement.expected:
        study.expected_instances, study.expected_by = ended[0].announcement.expected, ended[0].announcement.by
    reading.completed_at = utcnow()
    reading.rule = verdict.rule
    reading.rule_trace = [*verdict.trace, *([_verdict(study, *ended)] if ended else [])]
    reading.profile = verdict.profile
    reading.priority = Priority(verdict.priority)
    reading.use = Use(verdict.use)
    attach(uow, study)  # after routing has given it a priority, before it is queued by it
    keep_urgent(uow, reading)
    _route(uow, study, reading, verdict, held=_held(*ended) if ended else "")
    return reading.state


def _route(uow: UnitOfWork, study: Study, reading: Reading, verdict: RoutingVerdict, *, held: str) -> None:
    if study.identity_conflict:
        move_reading(uow, reading, ReadingState.HELD, reason=IDENTITY_REASON)
    elif study.is_prior:
        move_reading(uow, reading, ReadingState.IGNORED, reason=PRIOR_REASON)
    elif verdict.action == "draft" and held:
        move_reading(uow, reading, ReadingState.HELD, reason=held)
    elif verdict.action == "draft":
        move_reading(uow, reading, ReadingState.QUEUED, detail={"profile": verdict.profile, "use": verdict.use})
        reading.next_attempt_at = next_reminder(reading, utcnow())
    elif verdict.action == "hold":
        move_reading(uow, reading, ReadingState.HELD, reason=verdict.reason)
    else:
        move_reading(uow, reading, ReadingState.IGNORED, reason=verdict.reason)
    if reading.state is not ReadingState.QUEUED:
        reading.finished_at = utcnow()


def _held(situation: Situation, timer: Timer) -> str:
    """Return why a completeness rule holds the Study; empty when it goes on."""
    if not situation.holds or not situation.lacking or timer.cause == "person":
        return ""
    return f"the study lacks a required {'; '.join(situation.lacking)}"


def _ending(situation: Situation, timer: Timer) -> dict[str, Any]:
    """Return how reception ended, for the event and the trace."""
    said = situation.announcement
    detail: dict[str, Any] = {"cause": timer.cause}
    if said.expected:
        detail |= {"expected": said.expected, "expected_by": said.by, "missing": said.missing}
    if timer.short_of:
        detail["short_of"] = list(timer.short_of)
    return detail


def _verdict(study: Study, situation: Situation, timer: Timer) -> dict[str, Any]:
    """Return how reception ended as a line of the trace, with the values it was decided by."""
    said = situation.announcement
    wait_s = situation.quiet_s * PATIENCE if situation.wait_s is None else situation.wait_s
    words = {
        "quiet": f"no new Instance for {situation.quiet_s:g} s",
        "announced": f"all {said.expected} Instances announced by {SOURCES.get(said.by, said.by)} are here",
        "patience": f"waited {max(situation.quiet_s, wait_s):g} s after the last Instance",
        "person": "a person would not wait longer",
    }
    lacks = f"; without {', '.join(timer.short_of)}" if timer.short_of else ""
    return {
        "step": "completeness",
        "rule": situation.rule or "quiet-time",
        "matched": not timer.short_of,
        "why": words[timer.cause] + lacks,
        "received": study.instance_count,
        "quiet_s": situation.quiet_s,
        "wait_s": wait_s,
        **_ending(situation, timer),
    }
