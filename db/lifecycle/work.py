"""A worker's right to one Reading, and what it made of it."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select, update

from config.errors import LifecycleError
from db.image_set import image_set_sha256
from db.lifecycle.critical import open_suspected
from db.lifecycle.deliveries import owe
from db.lifecycle.draft_index import index_draft
from db.lifecycle.moves import locked, move_reading
from db.lifecycle.priority import raise_priority
from db.lifecycle.queue_control import queue_state
from db.lifecycle.values import Claim, NewDraft
from db.lifecycle.without_ai import came, fill
from db.lifecycle.worked import draft_work
from db.models import Reading
from db.report_models import Draft, Evidence, Finding, Report
from db.types import ReadingState, ReportState, utcnow
from db.uow import UnitOfWork


def claim(uow: UnitOfWork, reading_id: UUID, *, owner: str, lease_s: float) -> Claim | None:
    """Take a QUEUED Reading, or a RETRYING one that is due, until the lease ends.

    Returns:
        The claim, or None when somebody else holds it, it is finished, not due, superseded or unknown, or the queue
        is paused:
        a task that gets None has nothing to do.
    """
    now = utcnow()
    reading = uow.session.get(Reading, reading_id, with_for_update={"key_share": True}, populate_existing=True)
    if reading is None or reading.superseded:
        return None
    due = reading.next_attempt_at is None or reading.next_attempt_at <= now
    ready = reading.state is ReadingState.QUEUED or (reading.state is ReadingState.RETRYING and due)
    if not ready or not queue_state(uow.session).takes(reading.completed_at):
        return None
    reading.attempts += 1
    reading.fencing_token += 1
    reading.lease_owner = owner[:64]
    reading.lease_until = now + timedelta(seconds=lease_s)
    reading.next_attempt_at = None
    reading.started_at = now
    move_reading(uow, reading, ReadingState.RUNNING, detail={"attempt": reading.attempts, "owner": reading.lease_owner})
    return Claim(
        reading_id=reading.id,
        study_id=reading.study_id,
        revision=reading.revision,
        profile=reading.profile,
        fencing_token=reading.fencing_token,
        attempts=reading.attempts,
        owner=reading.lease_owner,
        priority=reading.priority,
        image_set_sha256=image_set_sha256(uow.session, reading.study_id, reading.revision),
        use=reading.use,
    )


def heartbeat(uow: UnitOfWork, held: Claim, *, lease_s: float) -> None:
    """Prolong the lease.

    Does not raise the row's version, so that a heartbeat never makes the worker's own result stale.

    Raises:
        LifecycleError: somebody else has it, or it is superseded; stop working.
    """
    result = uow.session.connection().execute(
        update(Reading)
        .where(
            Reading.id == held.reading_id,
            Reading.state == ReadingState.RUNNING,
            Reading.fencing_token == held.fencing_token,
        )
        .values(lease_until=utcnow() + timedelta(seconds=lease_s))
    )
    if result.rowcount != 1:
        raise LifecycleError(f"reading {held.reading_id} is no longer this worker's")


def drafted(uow: UnitOfWork, held: Claim, draft: NewDraft) -> UUID:
    """Keep a draft with its findings, evidence and objects; owe the objects to who wants drafts; return its id.

    The Report becomes DRAFTED when it is UNREAD; beside one that is written without AI the draft waits, and a signed
    one is left alone.

    Raises:
        LifecycleError: the claim is void, or the draft speaks of other images than the claim.
    """
    reading = _claimed(uow, held)
    if draft.image_set_sha256 != image_set_sha256(uow.session, reading.study_id, reading.revision):
        raise LifecycleError(f"the draft of reading {reading.id} was made from other images than its revision holds")
    draft_id = keep_draft(uow, reading, draft)
    for made in draft.objects:
        owe(uow, made, reading.study_id, draft_id=draft_id)
    reading.pipeline_version = draft.pipeline_version
    detail = {
        "draft_id": str(draft_id),
        "image_set_sha256": draft.image_set_sha256,
        "pipeline_version": draft.pipeline_version,
        "objects": {o.sop_instance_uid: o.sha256 for o in draft.objects},
        **draft_work(draft.provenance),
    }
    _finish(uow, reading, ReadingState.DRAFTED, detail=detail)
    raise_priority(uow, reading, draft.priority)
    _fill_report(uow, reading, draft_id)
    open_suspected(uow, reading, draft_id, draft.critical)
    return draft_id


def no_draft(uow: UnitOfWork, held: Claim, reason: str) -> None:
    """End a Reading without a draft, for a reason a person will read.

    Raises:
        LifecycleError: the claim is void.
    """
    _finish(uow, _claimed(uow, held), ReadingState.NO_DRAFT, reason=reason)


def fail(uow: UnitOfWork, held: Claim, reason: str) -> None:
    """End a Reading that cannot be cured by waiting.

    Raises:
        LifecycleError: the claim is void.
    """
    _finish(uow, _claimed(uow, held), ReadingState.FAILED, reason=reason)


def retry(uow: UnitOfWork, held: Claim, reason: str, *, base_s: float, max_attempts: int) -> ReadingState:
    """Try again after ``base_s`` doubled per attempt, or FAIL when the attempts are used up; return the state.

    Raises:
        LifecycleError: the claim is void.
    """
    reading = _claimed(uow, held)
    if reading.attempts >= max_attempts:
        _finish(uow, reading, ReadingState.FAILED, reason=f"{reason} ({reading.attempts} attempts)")
        return ReadingState.FAILED
    delay_s = base_s * 2 ** (reading.attempts - 1)
    _let_go(reading)
    reading.next_attempt_at = utcnow() + timedelta(seconds=delay_s)
    move_reading(uow, reading, ReadingState.RETRYING, reason=reason, detail={"delay_s": delay_s})
    return ReadingState.RETRYING


def _claimed(uow: UnitOfWork, held: Claim) -> Reading:
    """Return the Reading, locked, if the claim is still good: the fence every result passes."""
    reading = locked(uow, Reading, held.reading_id)
    if reading.state is not ReadingState.RUNNING or reading.fencing_token != held.fencing_token:
        raise LifecycleError(f"reading {held.reading_id} is no longer this worker's: it is {reading.state.value}")
    return reading


def _let_go(reading: Reading) -> None:
    reading.lease_owner = ""
    reading.lease_until = None


def _finish(
    uow: UnitOfWork, reading: Reading, to: ReadingState, *, reason: str = "", detail: dict[str, Any] | None = None
) -> None:
    _let_go(reading)
    reading.finished_at = utcnow()
    move_reading(uow, reading, to, reason=reason, detail=detail)


def keep_draft(uow: UnitOfWork, reading: Reading, new: NewDraft) -> UUID:
    """Keep a draft with its findings and evidence; return its id."""
    draft = Draft(
        id=uuid4(),
        reading_id=reading.id,
        study_id=reading.study_id,
        sections=dict(new.sections),
        not_assessed=[dict(n) for n in new.not_assessed],
        marks=[dict(m) for m in new.marks],
        demonstration=new.demonstration,
        image_set_sha256=new.image_set_sha256,
        provenance=dict(new.provenance),
    )
    session = uow.session
    session.add(draft)
    session.flush()
    ids = [uuid4() for _ in new.evidence]
    for key, run in zip(ids, new.evidence, strict=True):
        values = vars(run) | {"weights_sha256": dict(run.weights_sha256), "output": dict(run.output)}
        session.add(Evidence(id=key, draft_id=draft.id, **values))
    session.flush()
    for position, seen in enumerate(new.findings):
        values = vars(seen) | {
            "measurements": [dict(m) for m in seen.measurements],
            "key_slice": dict(seen.key_slice),
            "evidence_id": None if seen.evidence_index is None else ids[seen.evidence_index],
        }
        del values["evidence_index"]
        session.add(Finding(draft_id=draft.id, position=position, **values))
    index_draft(session, draft, new.evidence)
    session.flush()
    return draft.id


def _fill_report(uow: UnitOfWork, reading: Reading, draft_id: UUID) -> None:
    session = uow.session
    report_id = session.scalars(select(Report.id).where(Report.study_id == reading.study_id)).one()
    report = locked(uow, Report, report_id)
    draft = session.get_one(Draft, draft_id)
    if report.state is ReportState.UNREAD:
        fill(uow, report, draft)
    else:
        came(uow, report, draft)
