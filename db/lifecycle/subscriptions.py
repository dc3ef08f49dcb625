"""Who subscribes to the events of workitems, and what they have confirmed (PS3.4 CC.2.3)."""

from collections.abc import Sequence

from sqlalchemy import delete, select

from db.audit import AuditTag
from db.lifecycle.workitem_events import tell_one
from db.lifecycle.workitems import EndedRunError, NoWorkitemError, find_workitem
from db.models import Reading
from db.queries.workitems import find, search
from db.types import utcnow
from db.uow import UnitOfWork
from db.workitem_matching import Wanted
from db.workitem_models import EventType, Subscription, Workitem, WorkitemEvent
from db.workitem_values import FILTERED_UID, GLOBAL_UID, Step, present_step, state_report

EVERYTHING = frozenset({GLOBAL_UID, FILTERED_UID})
_AT_ONCE = 500


def subscribe(uow: UnitOfWork, ae_title: str, uid: str, *, deletion_lock: bool, wanted: Sequence[Wanted] = ()) -> None:
    """Subscribe an AE to one workitem, to all of them, or to those that match; a second time changes the first.

    Initial State Reports are sent as PS3.4 table CC.2.3-2 says: for one workitem always, for all of them with a
    deletion lock.

    Raises:
        NoWorkitemError, DeletedWorkitemError: there is no such workitem.
    """
    session = uow.session
    if uid not in EVERYTHING:
        _require(uow, uid)
    row = session.scalar(select(Subscription).where(Subscription.ae_title == ae_title, Subscription.uid == uid))
    if row is None:
        row = Subscription(ae_title=ae_title, uid=uid)
        session.add(row)
    row.is_subscribed, row.deletion_lock, row.suspended_at = True, deletion_lock, None
    row.filter = [one.kept() for one in wanted]
    session.flush()
    if uid not in EVERYTHING:
        _send_initial(uow, ae_title, uid)
    elif uid == FILTERED_UID or deletion_lock:
        _join(uow, ae_title, wanted, deletion_lock=deletion_lock, each=uid == FILTERED_UID)
    detail = {"subscriber": ae_title, "workitem_uid": uid, "filter": [one.key.value for one in wanted]}
    uow.audit(AuditTag.WORKITEM_SUBSCRIBED, object_type="workitem", object_id=uid, detail=detail)


def _require(uow: UnitOfWork, uid: str) -> None:
    try:
        find_workitem(uow, uid)  # locked: what moves it now is told to the new subscriber too
    except EndedRunError:
        return  # it can be watched, though nothing will happen


def _join(uow: UnitOfWork, ae_title: str, wanted: Sequence[Wanted], *, deletion_lock: bool, each: bool) -> None:
    """Subscribe to what is there and matches, when it is to be known one by one, and send its state."""
    offset, remaining = 0, 1
    while remaining:
        page, remaining = search(uow.session, wanted, limit=_AT_ONCE, offset=offset)
        offset += _AT_ONCE
        uids = [one.uid for one in page]
        known = select(Subscription.uid).where(Subscription.ae_title == ae_title, Subscription.uid.in_(uids))
        own = set(uow.session.scalars(known))
        for item in page:
            if item.uid in own:
                continue
            if each:
                uow.session.add(Subscription(ae_title=ae_title, uid=item.uid, deletion_lock=deletion_lock))
            if deletion_lock:
                _report(uow, ae_title, item.uid, item if isinstance(item, Workitem) else item.reading)


def _send_initial(uow: UnitOfWork, ae_title: str, uid: str) -> None:
    item = find(uow.session, uid)
    if item is not None:
        _report(uow, ae_title, uid, item if isinstance(item, Workitem) else item.reading)


def _report(uow: UnitOfWork, ae_title: str, uid: str, one: Workitem | Reading) -> None:
    step = Step(one.state, one.readiness) if isinstance(one, Workitem) else present_step(one)
    tell_one(uow.session, ae_title, uid, [(EventType.STATE_REPORT, state_report(step, one.reason))])


def unsubscribe(uow: UnitOfWork, ae_title: str, uid: str) -> None:
    """End a subscription and forget the events that wait for it; of everything when ``uid`` is a well-known one.

    Raises:
        NoWorkitemError: there is no such subscription.
    """
    session = uow.session
    theirs = session.scalars(select(Subscription).where(Subscription.ae_title == ae_title)).all()
    own = next((row for row in theirs if row.uid == uid and row.is_subscribed), None)
    covered = any(row.uid in EVERYTHING for row in theirs)
    waiting = delete(WorkitemEvent).where(WorkitemEvent.ae_title == ae_title)
    if uid in EVERYTHING:
        if own is None:
            raise NoWorkitemError("there is no such subscription")
        session.execute(delete(Subscription).where(Subscription.ae_title == ae_title))
    else:
        if own is None and not covered:
            raise NoWorkitemError("there is no such subscription")
        if own is None:
            _require(uow, uid)
            own = Subscription(ae_title=ae_title, uid=uid)
            session.add(own)
        own.is_subscribed, own.deletion_lock = False, False
        if not covered:
            session.delete(own)
        waiting = waiting.where(WorkitemEvent.uid == uid)
    session.execute(waiting)
    detail = {"subscriber": ae_title, "workitem_uid": uid}
    uow.audit(AuditTag.WORKITEM_UNSUBSCRIBED, object_type="workitem", object_id=uid, detail=detail)


def suspend(uow: UnitOfWork, ae_title: str, uid: str) -> None:
    """Subscribe an AE to nothing new; what it is subscribed to goes on.

    Raises:
        NoWorkitemError: it has no such global subscription.
    """
    row = uow.session.scalar(select(Subscription).where(Subscription.ae_title == ae_title, Subscription.uid == uid))
    if row is None or uid not in EVERYTHING:
        raise NoWorkitemError("there is no such subscription")
    row.suspended_at = row.suspended_at or utcnow()
    detail = {"subscriber": ae_title, "workitem_uid": uid, "suspended": True}
    uow.audit(AuditTag.WORKITEM_UNSUBSCRIBED, object_type="workitem", object_id=uid, detail=detail)


def confirm(uow: UnitOfWork, ids: Sequence[int]) -> None:
    """Forget event reports that a subscriber has."""
    uow.session.execute(delete(WorkitemEvent).where(WorkitemEvent.id.in_(ids)))
