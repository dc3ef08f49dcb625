"""What became of a Study, by its Accession Number or any UID of it: every step from association to commitment."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.routing import RuleBook
from db.lifecycle.retention import Terms, kept_because
from db.models import Instance, Study
from db.queries import trace_steps as steps
from db.queries.trace_values import RetentionTrace, StudyTrace, TimerTrace, Trace
from db.queries.waiting import completion_timers

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_LATELY = timedelta(days=1)
_STUDIES = 10  # of one Accession Number
_EVENTS = 500


@dataclass(frozen=True)
class Ways:
    """How this site works, as far as a trace has to know: what keeps pixel data, and what a Study waits for."""

    terms: Terms
    rules: RuleBook
    priors_wait_s: float = 0.0


def trace(session: Session, key: str, now: datetime, ways: Ways) -> Trace:
    """Return what became of every Study that ``key`` names.

    Args:
        session: any; nothing is changed.
        key: Accession Number, Study or SOP Instance UID, or a study's id.
        now: when it is asked.
        ways: the site's.

    Returns:
        At most ten Studies. When there is none: what was refused under that UID, what others announced of it,
        and who was refused during the last day.

    Raises:
        RefusedInputError: no key, or a Patient ID: it names a person, not a Study.
    """
    key = key.strip()
    if not key:
        raise RefusedInputError("name an accession number, a UID or a study's id")
    found = next((rows for condition in _conditions(key) if (rows := _studies(session, condition))), [])
    if not found:
        return _unknown(session, key, now)
    studies = tuple(_study(session, study, now, ways) for study in found[:_STUDIES])
    return Trace(key, now, studies, len(found) - len(studies))


def _conditions(key: str) -> Iterator[ColumnElement[bool]]:
    """Yield what ``key`` may be, one after the other: each has its index, and all together would have none."""
    with contextlib.suppress(ValueError):
        yield Study.id == UUID(key)
    if _UID.fullmatch(key):
        yield Study.study_instance_uid == key
        yield Study.id == select(Instance.study_id).where(Instance.sop_instance_uid == key).scalar_subquery()
    yield Study.accession_number == key


def _studies(session: Session, condition: ColumnElement[bool]) -> Sequence[Study]:
    query = select(Study).where(condition).order_by(Study.first_received_at.desc(), Study.id)
    return session.scalars(query.limit(steps.MANY)).all()


def _unknown(session: Session, key: str, now: datetime) -> Trace:
    if session.scalar(select(Study.id).where(Study.patient_id == key).limit(1)):
        raise RefusedInputError("this is a Patient ID: trace a study by its accession number or UID")
    return Trace(
        key,
        now,
        (),
        0,
        quarantined=steps.quarantined_under(session, key),
        expectations=steps.expectations(session, key),
        refused_associations=steps.refused_associations(session, now - _LATELY, now),
    )


def _study(session: Session, study: Study, now: datetime, ways: Ways) -> StudyTrace:
    came_on = steps.associations(session, study.id)
    events, left_out = steps.timeline(session, study.id, _EVENTS)
    own = {
        "id", "study_instance_uid", "accession_number", "modalities", "body_part", "calling_ae", "called_ae",
        "revision", "is_prior", "first_received_at", "last_received_at", "instance_count", "identity_conflict",
        "expected_instances", "expected_by",
    }  # fmt: skip
    return StudyTrace(
        **{name: getattr(study, name) for name in own},
        duplicates=steps.duplicates(session, study.id),
        associations=came_on,
        refused_associations=steps.refused_associations(
            session,
            study.first_received_at - steps.NEARBY,
            study.last_received_at + steps.NEARBY,
            peers=sorted({study.calling_ae, *(one.calling_ae for one in came_on)} - {""}),
            addresses=sorted({one.address for one in came_on} - {""}),
        ),
        receptions=steps.receptions(session, study.id),
        series=steps.series(session, study.id),
        quarantined=steps.quarantined_of(session, study),
        expectations=steps.expectations(session, study.study_instance_uid),
        timer=_timer(session, study, now, ways),
        readings=steps.readings(session, study.id),
        prior_search=steps.prior_search(session, study.id),
        report=steps.report(session, study.id),
        deliveries=steps.deliveries(session, study.id),
        retention=RetentionTrace(
            study.legal_hold, study.pixels_deleted_at, tuple(kept_because(session, study.id, ways.terms))
        ),
        timeline=events,
        timeline_left_out=left_out,
    )


def _timer(session: Session, study: Study, now: datetime, ways: Ways) -> TimerTrace:
    running = completion_timers(session, ways.rules, priors_wait_s=ways.priors_wait_s, now=now, study_ids=[study.id])
    if not running:
        return TimerTrace("ended", study.last_received_at, study.quiet_s)
    timer = running[0].timer
    return TimerTrace(
        state="due" if timer.is_due else "running",
        last_received_at=study.last_received_at,
        quiet_s=study.quiet_s,
        quiet_until=timer.quiet_until,
        due_at=timer.due_at,
        latest_at=timer.latest_at,
        seconds_left=running[0].seconds_left,
        waits_for=timer.waits_for,
        short_of=timer.short_of,
    )
