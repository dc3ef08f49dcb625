"""What people ask the node to do: look at a peer or an archive, send the self-test study."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import delete, or_, select

from config.errors import LifecycleError
from db.audit import AuditTag
from db.lifecycle.destination_tests import StepSeen
from db.lifecycle.moves import locked
from db.running_models import NodeTask
from db.types import utcnow
from db.uow import UnitOfWork

PEER, SOURCE, SELF_TEST = "peer", "source", "self_test"


@dataclass(frozen=True)
class AskedTask:
    """A task to be done now."""

    task_id: UUID
    kind: str
    target: str
    asked_by: str


def ask_task(uow: UnitOfWork, kind: str, target: str = "") -> UUID:
    """Ask the node for something; what is waited for already is not asked for twice."""
    same = (NodeTask.kind == kind, NodeTask.target == target, NodeTask.finished_at.is_(None))
    waiting = uow.session.scalar(select(NodeTask.id).where(*same).limit(1))
    if waiting is not None:
        return waiting
    row = NodeTask(id=uuid4(), kind=kind, target=target, asked_by=uow.actor.name[:64], asked_at=utcnow(), steps=[])
    uow.session.add(row)
    uow.session.flush()
    return row.id


def claim_task(uow: UnitOfWork, now: datetime, kinds: Collection[str], *, lease_s: float) -> AskedTask | None:
    """Take the task that waits longest, or whose node stopped in the middle; None when there is none."""
    row = uow.session.scalar(
        select(NodeTask)
        .where(
            NodeTask.kind.in_(kinds),
            NodeTask.finished_at.is_(None),
            NodeTask.study_instance_uid == "",  # a self-test that was sent is watched, not sent again
            or_(NodeTask.lease_until.is_(None), NodeTask.lease_until < now),
        )
        .order_by(NodeTask.asked_at, NodeTask.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    if row is None:
        return None
    row.lease_until = now + timedelta(seconds=lease_s)
    return AskedTask(row.id, row.kind, row.target, row.asked_by)


def finish_look(uow: UnitOfWork, task_id: UUID, steps: Sequence[StepSeen]) -> None:
    """Keep what was seen of a peer or archive, record it, and forget earlier looks at it.

    Raises:
        LifecycleError: somebody else finished it.
    """
    row = _unfinished(uow, task_id)
    _finish(row, steps)
    uow.session.execute(
        delete(NodeTask).where(
            NodeTask.kind == row.kind,
            NodeTask.target == row.target,
            NodeTask.id != row.id,
            NodeTask.finished_at.is_not(None),
        )
    )
    _audit(uow, AuditTag.PEER_TESTED, row, object_type=row.kind, object_id=row.target)


def start_self_test(uow: UnitOfWork, task_id: UUID, study_instance_uid: str) -> None:
    """Name the synthetic Study before its first Instance is sent, so that nothing of it is owed to anybody.

    Raises:
        LifecycleError: somebody else finished it.
    """
    row = _unfinished(uow, task_id)
    row.study_instance_uid = study_instance_uid
    detail = {"asked_by": row.asked_by, "study_instance_uid": study_instance_uid}
    uow.audit(AuditTag.SELF_TEST_STARTED, object_type="self_test", object_id=str(row.id), detail=detail)


def note_steps(uow: UnitOfWork, task_id: UUID, steps: Sequence[StepSeen]) -> None:
    """Keep what has been seen so far, for the page.

    Raises:
        LifecycleError: somebody else finished it.
    """
    _unfinished(uow, task_id).steps = [asdict(step) for step in steps]


def finish_self_test(uow: UnitOfWork, task_id: UUID, steps: Sequence[StepSeen]) -> None:
    """Keep and record the verdict; self-tests stay listed, for they say how the system did at that time.

    Raises:
        LifecycleError: somebody else finished it.
    """
    row = _unfinished(uow, task_id)
    _finish(row, steps)
    _audit(uow, AuditTag.SELF_TEST_FINISHED, row, object_type="self_test", object_id=str(row.id))


def _unfinished(uow: UnitOfWork, task_id: UUID) -> NodeTask:
    row = locked(uow, NodeTask, task_id)
    if row.finished_at is not None:
        raise LifecycleError("this was done already")
    return row


def _finish(row: NodeTask, steps: Sequence[StepSeen]) -> None:
    row.finished_at = utcnow()
    row.is_good = bool(steps) and all(step.is_good for step in steps)
    row.steps = [asdict(step) for step in steps]


def _audit(uow: UnitOfWork, tag: AuditTag, row: NodeTask, *, object_type: str, object_id: str) -> None:
    bad = next((step for step in row.steps if not step["is_good"]), None)
    uow.audit(
        tag,
        outcome="success" if row.is_good else "failure",
        object_type=object_type,
        object_id=object_id[:64],
        detail={
            "asked_by": row.asked_by,
            "kind": row.kind,
            "steps": [step["name"] for step in row.steps],
            **({"failed": bad["name"], "reason": bad["note"][:200]} if bad else {}),
        },
    )
