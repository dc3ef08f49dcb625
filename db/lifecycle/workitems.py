"""Workitems of clients (PS3.4 Annex CC): created, claimed, changed, ended; and what is asked of a Reading's.

Every rule that the standard leaves to the one who keeps the list is here: who may change what, and what is answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import aliased

from config.errors import LifecycleError, RefusedInputError
from config.routing import RoutingVerdict
from db.audit import AuditTag
from db.lifecycle.moves import locked, move_reading
from db.lifecycle.queueing import process_again
from db.lifecycle.workitem_events import audit, move_workitem, perform, set_readiness, tell, tell_of_request
from db.models import Reading, Study
from db.types import ReadingState, Use, utcnow
from db.uow import UnitOfWork
from db.workitem_models import EventType, Readiness, ReadingRun, StepPriority, StepState, Subscription, Workitem
from db.workitem_values import FINAL, GLOBAL_UID, Step, present_step, reading_of, state_report

KEPT = timedelta(days=90)  # a workitem of a client, after its end
PROCESS_AGAIN = frozenset({ReadingState.FAILED, ReadingState.NO_DRAFT, ReadingState.IGNORED})
_CANCELABLE = frozenset({ReadingState.QUEUED, ReadingState.RETRYING})  # nobody works at it
_FORGOTTEN_AT_ONCE = 20


class NoWorkitemError(RefusedInputError):
    """There is no workitem of that UID."""


class DeletedWorkitemError(RefusedInputError):
    """There was one; it was deleted some time after its end."""


class TransactionUidError(RefusedInputError):
    """The Transaction UID, the lock of a claimed workitem, is missing or another one (status C301)."""


class StepStateError(LifecycleError):
    """The workitem is in a state that does not allow it (statuses C300, C302, C303, C304, C310 to C313)."""


class NotClaimedError(StepStateError):
    """It is not IN PROGRESS (status C310)."""


class EndedError(StepStateError):
    """It has ended: it may no longer be updated (status C300)."""


class EndedRunError(EndedError):
    """It was a run of a Reading that ended canceled, and another followed."""


@dataclass(frozen=True)
class NewWorkitem:
    """What a client creates: its Data Set, and from it what is asked for."""

    uid: str
    attributes: Mapping[str, Any]
    priority: StepPriority
    readiness: Readiness
    label: str
    scheduled_at: datetime
    worklist_label: str = ""
    code: str = ""
    station: str = ""
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""
    is_ours: bool = False


@dataclass(frozen=True)
class Changes:
    """What an update sets: elements in the DICOM JSON Model, and the columns that follow from them."""

    elements: Mapping[str, Any]
    columns: Mapping[str, Any] = field(default_factory=dict)
    readiness: Readiness | None = None
    has_progress: bool = False
    has_assignment: bool = False


def find_workitem(uow: UnitOfWork, uid: str) -> Workitem | Reading:
    """Return a client's workitem, or the Reading behind a UID, locked.

    Raises:
        NoWorkitemError: neither.
        DeletedWorkitemError: it was deleted.
        EndedRunError: it was canceled, and its Reading is another workitem now.
    """
    found = uow.session.scalar(
        select(Workitem)
        .where(Workitem.uid == uid)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if found is not None:
        if found.deleted_at is not None:
            raise DeletedWorkitemError("this workitem was deleted some time after its end")
        return found
    run = uow.session.scalar(select(ReadingRun).where(ReadingRun.uid == uid))
    reading_id = run.reading_id if run else reading_of(uid)
    if reading_id is None or uow.session.get(Reading, reading_id) is None:
        raise NoWorkitemError("there is no workitem of this UID")
    if run is not None and run.ended_at is not None:
        raise EndedRunError("this workitem was canceled; the study was given another one")
    return locked(uow, Reading, reading_id)


def create(uow: UnitOfWork, new: NewWorkitem, verdict: RoutingVerdict | None = None) -> Workitem:
    """Keep a new workitem; one that is ours takes up its Study when that is here.

    Args:
        uow: of the client.
        new: the workitem.
        verdict: how a Study that was never routed is to be drafted; None when no rule drafts it.

    Raises:
        LifecycleError: there is one of this UID.
    """
    session = uow.session
    taken = session.scalar(select(exists().where(Workitem.uid == new.uid)))
    reading_id = reading_of(new.uid)
    if taken or (reading_id is not None and session.get(Reading, reading_id) is not None):
        raise LifecycleError("there is a workitem of this UID already")
    _forget(uow)
    reading = _reading_for(uow, new.study_instance_uid)
    workitem = Workitem(**{name: getattr(new, name) for name in _COLUMNS}, created_by=uow.actor.name[:64])
    workitem.attributes = dict(new.attributes)
    session.add(workitem)
    session.flush()
    audit(uow, AuditTag.WORKITEM_CREATED, workitem, label=new.label, is_ours=new.is_ours)
    step = Step(StepState.SCHEDULED, workitem.readiness)
    reports = [(EventType.STATE_REPORT, state_report(step))]
    tell(uow, workitem, [*reports, *_assignment(workitem)])
    if reading is not None:
        if present_step(reading).readiness is Readiness.READY:
            set_readiness(uow, workitem, Readiness.READY)
        if new.is_ours:
            _take_up(uow, workitem, reading, verdict)
    session.flush()
    return workitem


_COLUMNS = (
    "uid", "priority", "readiness", "label", "scheduled_at", "worklist_label", "code", "station", "patient_id",
    "patient_name", "accession_number", "study_instance_uid", "is_ours",
)  # fmt: skip


def _reading_for(uow: UnitOfWork, study_instance_uid: str) -> Reading | None:
    """Return the newest Reading of a Study, locked; None when the Study is not here."""
    if not study_instance_uid:
        return None
    found = uow.session.scalar(
        select(Reading.id)
        .join(Study, Study.id == Reading.study_id)
        .where(Study.study_instance_uid == study_instance_uid)
        .order_by(Reading.revision.desc(), Reading.created_at.desc())
        .limit(1)
    )
    return None if found is None else locked(uow, Reading, found)


def _take_up(uow: UnitOfWork, workitem: Workitem, reading: Reading, verdict: RoutingVerdict | None) -> None:
    """Follow a Reading that is under way or done; ask for another run of one that ended without a draft.

    What is HELD stays so: a person decides about it.
    """
    is_prior = uow.session.scalar(select(Study.is_prior).where(Study.id == reading.study_id))
    again = reading.state in PROCESS_AGAIN and not reading.superseded and not is_prior
    if again and reading.profile:
        process_again(uow, reading.id)
    elif again and verdict is not None and verdict.action == "draft":
        process_again(uow, reading.id, profile=verdict.profile, use=Use(verdict.use))
    else:
        perform(uow, workitem, reading)


def claim_workitem(uow: UnitOfWork, uid: str, transaction_uid: str) -> None:
    """Make a SCHEDULED workitem IN PROGRESS: who holds the Transaction UID is its performer.

    Raises:
        NoWorkitemError, DeletedWorkitemError: there is none.
        TransactionUidError: there is no Transaction UID.
        StepStateError: it is somebody's already, has ended, or is performed by us.
    """
    workitem = _of_client(uow, uid, claiming=True)
    if not transaction_uid:
        raise TransactionUidError("the Transaction UID is missing")
    if workitem.state is not StepState.SCHEDULED:
        raise StepStateError(f"the workitem is {workitem.state.value} already")
    if workitem.is_ours:
        raise StepStateError("the workitem is scheduled for this station, which performs it itself")
    workitem.transaction_uid = transaction_uid
    move_workitem(uow, workitem, StepState.IN_PROGRESS)


def end_workitem(
    uow: UnitOfWork, uid: str, transaction_uid: str, to: StepState, lacking: Sequence[str], *, reason: str = ""
) -> bool:
    """Complete or cancel a workitem for its performer; False when it has ended like that already.

    Raises:
        NoWorkitemError, DeletedWorkitemError: there is none.
        TransactionUidError: not its performer's.
        StepStateError: it is not IN PROGRESS, or ``lacking`` names attributes that its final state needs.
    """
    workitem = _of_client(uow, uid)
    if not transaction_uid:
        raise TransactionUidError("the Transaction UID is missing")
    if workitem.state is StepState.SCHEDULED:
        raise NotClaimedError("the workitem is not IN PROGRESS yet")
    if workitem.is_ours or transaction_uid != workitem.transaction_uid:
        raise TransactionUidError("the Transaction UID is incorrect")
    if workitem.state is to:
        return False
    if workitem.state in FINAL:
        raise StepStateError(f"the workitem is {workitem.state.value}")
    if lacking:
        raise StepStateError(f"{to.value} needs {', '.join(lacking)}")
    move_workitem(uow, workitem, to, reason=reason)
    return True


def update_workitem(uow: UnitOfWork, uid: str, transaction_uid: str, changes: Changes) -> None:
    """Set attributes of a workitem: anybody's while it is SCHEDULED, its performer's while it is IN PROGRESS.

    Raises:
        NoWorkitemError, DeletedWorkitemError: there is none.
        TransactionUidError: not its performer's.
        StepStateError: it has ended, is performed by us, or a Transaction UID was given and nobody claimed it.
    """
    workitem = _of_client(uow, uid)
    if workitem.state in FINAL:
        raise EndedError(f"the workitem is {workitem.state.value}: it may no longer be updated")
    if workitem.state is StepState.SCHEDULED and transaction_uid:
        raise NotClaimedError("the workitem is not IN PROGRESS yet")
    if workitem.state is StepState.IN_PROGRESS and (workitem.is_ours or transaction_uid != workitem.transaction_uid):
        raise TransactionUidError("the Transaction UID is missing" if not transaction_uid else "it is incorrect")
    workitem.attributes = {**workitem.attributes, **changes.elements}
    for name, value in changes.columns.items():
        setattr(workitem, name, value)
    workitem.modified_at = utcnow()
    audit(uow, AuditTag.WORKITEM_UPDATED, workitem, attributes=sorted(changes.elements))
    if changes.readiness is not None:
        set_readiness(uow, workitem, changes.readiness)
    reports = []
    if changes.has_progress:
        reports.append((EventType.PROGRESS_REPORT, {"00741002": workitem.attributes["00741002"]}))
    tell(uow, workitem, [*reports, *(_assignment(workitem) if changes.has_assignment else [])])
    uow.session.flush()


def _of_client(uow: UnitOfWork, uid: str, *, claiming: bool = False) -> Workitem:
    found = find_workitem(uow, uid)
    if isinstance(found, Workitem):
        return found
    state = present_step(found).state
    if claiming or state is StepState.SCHEDULED:
        raise StepStateError("this workitem is performed by us")
    if state in FINAL:
        raise EndedError(f"this workitem was performed by us, and is {state.value}")
    raise TransactionUidError("the Transaction UID is incorrect: this workitem is performed by us")


def request_cancel(uow: UnitOfWork, uid: str, ae_title: str, told: Mapping[str, Any], *, reason: str) -> bool:
    """Note that somebody who does not perform a workitem wants it canceled; False when it is canceled already.

    Who subscribed is told, its performer among them. What may be canceled at once, :func:`cancel_unclaimed` cancels.

    Raises:
        NoWorkitemError, DeletedWorkitemError: there is none.
        StepStateError: it is COMPLETED.
    """
    try:
        found = find_workitem(uow, uid)
    except EndedRunError:
        return False
    step = Step(found.state, found.readiness) if isinstance(found, Workitem) else present_step(found)
    if step.state is StepState.CANCELED:
        return False
    if step.state is StepState.COMPLETED:
        raise StepStateError("the workitem is COMPLETED")
    words = {"reason": reason} if reason else {}
    if isinstance(found, Workitem):
        audit(uow, AuditTag.WORKITEM_CANCEL_REQUESTED, found, **words)
    else:
        uow.audit(
            AuditTag.WORKITEM_CANCEL_REQUESTED,
            study_id=found.study_id,
            reading_id=found.id,
            object_type="workitem",
            object_id=uid,
            detail={"workitem_uid": uid, **words},
        )
    tell_of_request(uow, found, uid, {"00741236": {"vr": "AE", "Value": [ae_title]}, **told})
    return True


def cancel_unclaimed(uow: UnitOfWork, uid: str, *, reason: str) -> bool:
    """Cancel what a request to cancel may cancel at once; False when its performer goes on, or decides.

    To be called after :func:`request_cancel`, in a unit of work of its own: the request stays on record.
    """
    found = find_workitem(uow, uid)
    why = f"canceled at the request of {uow.actor.name}" + (f": {reason}" if reason else "")
    if isinstance(found, Reading):
        if found.state not in _CANCELABLE or found.superseded:
            return False
        found.lease_owner, found.lease_until, found.finished_at = "", None, utcnow()
        move_reading(uow, found, ReadingState.NO_DRAFT, reason=why)
        return True
    if found.state is StepState.SCHEDULED:
        found.transaction_uid = ""
        move_workitem(uow, found, StepState.IN_PROGRESS)
        move_workitem(uow, found, StepState.CANCELED, reason=why)
        return True
    return not found.is_ours and found.state is StepState.IN_PROGRESS


def _assignment(workitem: Workitem) -> list[tuple[EventType, dict[str, Any]]]:
    """Return the UPS Assigned event of a workitem that names a station or a person."""
    named = {tag: workitem.attributes[tag] for tag in ("00404025",) if workitem.attributes.get(tag, {}).get("Value")}
    for person in workitem.attributes.get("00404034", {}).get("Value", [])[:1]:
        named |= {tag: person[tag] for tag in ("00404009", "00404036") if tag in person}
    return [(EventType.ASSIGNED, named)] if named else []


def _forget(uow: UnitOfWork) -> None:
    """Empty workitems that ended long ago, unless a subscriber holds a deletion lock; their UIDs stay taken."""
    own, everything = aliased(Subscription), aliased(Subscription)
    held = exists().where(own.uid == Workitem.uid, own.deletion_lock.is_(True), own.is_subscribed.is_(True))
    released = exists().where(own.uid == Workitem.uid, own.ae_title == everything.ae_title)
    held_with_all = exists().where(
        everything.uid == GLOBAL_UID,
        everything.deletion_lock.is_(True),
        or_(everything.suspended_at.is_(None), everything.suspended_at >= Workitem.created_at),
        ~released,
    )
    rows = uow.session.scalars(
        select(Workitem)
        .where(Workitem.finished_at < utcnow() - KEPT, Workitem.deleted_at.is_(None), ~held, ~held_with_all)
        .limit(_FORGOTTEN_AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
    )
    for workitem in rows:
        workitem.attributes = {}
        workitem.patient_id = workitem.patient_name = workitem.accession_number = workitem.study_instance_uid = ""
        workitem.deleted_at = utcnow()
