"""What others said a Study should hold: kept, summed up on the Study, and compared with what is here."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import and_, case, delete, distinct, func, insert, select
from sqlalchemy.orm import Session

from config.errors import LifecycleError
from db.audit import AuditTag
from db.expectation_models import Expectation, ExpectedInstance
from db.lifecycle.moves import locked, move_step
from db.lifecycle.timers import Announcement
from db.models import Instance, Reading, Study
from db.types import ExpectationSource, ExpectationState, ReadingState, utcnow
from db.uow import UnitOfWork

_AT_ONCE = 500  # UIDs in one statement


@dataclass(frozen=True)
class Countable:
    """A Study whose count an archive may be asked for."""

    study_instance_uid: str
    last_received_at: datetime
    quiet_s: float
    instance_count: int
    instances: int | None  # as it said last
    attempts: int
    asked_at: datetime | None


def announce(
    uow: UnitOfWork,
    *,
    source: ExpectationSource,
    object_uid: str,
    study_uids: Collection[str],
    state: ExpectationState,
    instances: Collection[str] | None = None,
    gone: Collection[str] = (),
) -> None:
    """Keep a new procedure step or notification, for every Study it speaks of.

    Args:
        uow: whose actor said it.
        source: MPPS or IAN.
        object_uid: its SOP Instance UID.
        study_uids: of the Studies.
        state: of the procedure step; COMPLETED for a notification.
        instances: SOP Instance UIDs it names; None when it does not say.
        gone: SOP Instance UIDs that earlier notifications named, and that are to be had no more.

    Raises:
        LifecycleError: there is one with this SOP Instance UID.
    """
    known = select(Expectation.id).where(Expectation.source == source, Expectation.object_uid == object_uid)
    if uow.session.scalar(known.limit(1)) is not None:
        raise LifecycleError(f"{source.value} {object_uid} is known")
    for study_uid in sorted(set(study_uids)):
        row = Expectation(
            id=uuid4(),
            study_instance_uid=study_uid,
            source=source,
            object_uid=object_uid,
            said_by=uow.actor.name[:32],
            state=state,
        )
        uow.session.add(row)
        uow.session.flush()
        _name(uow, row, instances)
        _forget(uow, study_uid, gone)
        _said(uow, row)


def step(uow: UnitOfWork, object_uid: str) -> list[Expectation]:
    """Return a procedure step's rows, one a Study, locked; empty when there is no such step."""
    query = (
        select(Expectation)
        .where(Expectation.source == ExpectationSource.STEP, Expectation.object_uid == object_uid)
        .order_by(Expectation.study_instance_uid)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(uow.session.scalars(query))


def advance(
    uow: UnitOfWork, rows: Iterable[Expectation], *, state: ExpectationState, instances: Collection[str] | None
) -> None:
    """Give a procedure step its new state and, unless ``instances`` is None, the SOP Instances it names now.

    Raises:
        LifecycleError: it has ended (PS3.4 F.7.2.2.3).
    """
    for row in rows:
        move_step(row, state)
        _name(uow, row, instances)
        _said(uow, row)


def countable(session: Session) -> list[Countable]:
    """Return the Studies that are being received, with what the archive answered so far; longest silent first."""
    query = (
        select(
            Study.study_instance_uid,
            Study.last_received_at,
            Study.quiet_s,
            Study.instance_count,
            Expectation.instances,
            func.coalesce(Expectation.attempts, 0),
            Expectation.asked_at,
        )
        .join(Reading, and_(Reading.study_id == Study.id, Reading.state == ReadingState.RECEIVING))
        .outerjoin(
            Expectation,
            and_(
                Expectation.study_instance_uid == Study.study_instance_uid,
                Expectation.source == ExpectationSource.ARCHIVE,
            ),
        )
        .where(Study.is_prior.is_(False))
        .order_by(Study.last_received_at)
    )
    return [Countable(*row) for row in session.execute(query)]


def asked(
    uow: UnitOfWork, study_uid: str, *, archive: str, instances: int | None, attempts: int, now: datetime
) -> None:
    """Keep what an archive answered to C-FIND; ``instances`` is None when it did not, and then only that it was asked.

    Raises:
        LifecycleError: somebody else kept an answer at the same moment.
    """
    query = select(Expectation).where(
        Expectation.source == ExpectationSource.ARCHIVE, Expectation.study_instance_uid == study_uid
    )
    row = uow.session.scalar(query)
    if row is None:
        row = Expectation(
            study_instance_uid=study_uid,
            source=ExpectationSource.ARCHIVE,
            object_uid=study_uid,
            state=ExpectationState.ASKED,
        )
        uow.session.add(row)
    row.said_by, row.asked_at, row.attempts = archive[:32], now, attempts
    if instances is None or row.instances == instances:
        return
    row.instances, row.state, row.updated_at = instances, ExpectationState.COMPLETED, utcnow()
    uow.session.flush()
    _said(uow, row)


def adopt(uow: UnitOfWork, study_uid: str) -> None:
    """Tell a Study that has just got its first Instance what was said of it before."""
    query = select(Expectation).where(Expectation.study_instance_uid == study_uid).order_by(Expectation.created_at)
    for row in uow.session.scalars(query).all():
        _said(uow, row)


def forget(uow: UnitOfWork, before: datetime) -> int:
    """Remove what was said before then: archives announce Studies that nobody sends us; return how many statements.

    The Study keeps the sum, and the audit log the story.
    """
    old = uow.session.execute(
        delete(Expectation).where(Expectation.updated_at < before).execution_options(synchronize_session=False)
    )
    return int(old.rowcount)  # type: ignore[attr-defined]


def announcement(session: Session, study_id: UUID) -> Announcement:
    """Sum up what was said of a Study and compare it with the Instances that are here."""
    study = session.execute(select(Study.study_instance_uid, Study.instance_count).where(Study.id == study_id)).one()
    said = session.execute(
        select(Expectation.source, Expectation.state, Expectation.instances).where(
            Expectation.study_instance_uid == study.study_instance_uid
        )
    ).all()
    if not said:
        return Announcement()
    listed, here, here_too = _named(session, study_id, study.study_instance_uid)
    counted = max((number or 0 for source, _, number in said if source is ExpectationSource.ARCHIVE), default=0)
    states = {state for source, state, _ in said if source is ExpectationSource.STEP}
    in_progress = ExpectationState.IN_PROGRESS in states
    return Announcement(
        expected=max(listed, counted),
        by=_loudest(said, listed=listed, counted=counted),
        missing=max(listed - here, counted - study.instance_count, 0),
        unannounced=study.instance_count - here_too,
        is_final=listed > 0 and not in_progress,
        in_progress=in_progress,
        discontinued=ExpectationState.DISCONTINUED in states,
    )


def _named(session: Session, study_id: UUID, study_uid: str) -> tuple[int, int, int]:
    """Return how many SOP Instances are named; of these, how many are here, and how many in this Study.

    What a discontinued step names is waited for by nobody.
    """
    held = Instance.sop_instance_uid
    row = session.execute(
        select(
            func.count(distinct(ExpectedInstance.sop_instance_uid)),
            func.count(distinct(held)),
            func.count(distinct(case((Instance.study_id == study_id, held)))),
        )
        .join(Expectation, Expectation.id == ExpectedInstance.expectation_id)
        .outerjoin(Instance, held == ExpectedInstance.sop_instance_uid)
        .where(Expectation.study_instance_uid == study_uid, Expectation.state != ExpectationState.DISCONTINUED)
    ).one()
    return row[0], row[1], row[2]


def _loudest(said: Sequence[Any], *, listed: int, counted: int) -> str:
    """Return who said the number that is expected."""
    if counted > listed:
        return ExpectationSource.ARCHIVE.value
    named = {
        # what a discontinued step named is not expected
        kind: sum(n or 0 for source, state, n in said if source is kind and state is not ExpectationState.DISCONTINUED)
        for kind in (ExpectationSource.STEP, ExpectationSource.NOTICE)
    }
    best = max(named, key=named.__getitem__)
    return best.value if named[best] else ""


def _name(uow: UnitOfWork, row: Expectation, instances: Collection[str] | None) -> None:
    """Replace what ``row`` names: an N-SET carries the whole Performed Series Sequence."""
    row.updated_at = utcnow()
    if instances is None:
        return
    row.instances = len(set(instances))
    uow.session.execute(delete(ExpectedInstance).where(ExpectedInstance.expectation_id == row.id))
    if instances:
        values = [{"expectation_id": row.id, "sop_instance_uid": uid} for uid in sorted(set(instances))]
        uow.session.execute(insert(ExpectedInstance), values)


def _forget(uow: UnitOfWork, study_uid: str, gone: Collection[str]) -> None:
    notices = select(Expectation.id).where(
        Expectation.study_instance_uid == study_uid, Expectation.source == ExpectationSource.NOTICE
    )
    uids = sorted(set(gone))
    for first in range(0, len(uids), _AT_ONCE):
        these = ExpectedInstance.sop_instance_uid.in_(uids[first : first + _AT_ONCE])
        uow.session.execute(delete(ExpectedInstance).where(ExpectedInstance.expectation_id.in_(notices), these))


def _said(uow: UnitOfWork, row: Expectation) -> None:
    """Record a statement, and sum up on the Study what is expected now, if there is a Study yet."""
    uow.session.flush()
    study_id = uow.session.scalar(select(Study.id).where(Study.study_instance_uid == row.study_instance_uid))
    if study_id is not None:
        now = announcement(uow.session, study_id)
        study = locked(uow, Study, study_id)
        study.expected_instances, study.expected_by = now.expected or None, now.by
    uow.audit(
        AuditTag.STUDY_EXPECTED,
        study_id=study_id,
        object_type="expectation",
        object_id=row.object_uid,
        detail={"instances": row.instances, "by": row.source.value, "state": row.state.value, "said_by": row.said_by},
    )
