"""How far the self-test study has come, step by step, from the same rows that every study leaves."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.lifecycle.destination_tests import StepSeen
from db.lifecycle.node_tasks import SELF_TEST
from db.models import Delivery, Reading, ResultObject, Study
from db.running_models import NodeTask
from db.types import ReadingState

_R = ReadingState
_ON_THE_WAY = frozenset({_R.RECEIVING, _R.COMPLETE, _R.QUEUED, _R.RUNNING, _R.RETRYING})
_NAMES = ("received", "complete and routed", "drafted", "results", "kept from destinations")


@dataclass(frozen=True)
class Progress:
    """The steps that are done; ``waits_for`` is the next one, empty when it is over."""

    steps: tuple[StepSeen, ...]
    waits_for: str
    waits_because: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return not self.waits_for


def self_tests(session: Session, *, limit: int = 20) -> list[NodeTask]:
    """Return the self-tests, newest first."""
    query = select(NodeTask).where(NodeTask.kind == SELF_TEST).order_by(NodeTask.asked_at.desc(), NodeTask.id)
    return list(session.scalars(query.limit(limit)))


def progress(
    session: Session, task: NodeTask, results: Path, now: datetime, *, longest: timedelta = timedelta(minutes=20)
) -> Progress:
    """Return how far a self-test came; beyond ``longest`` the step it hangs at has failed.

    Args:
        session: any.
        task: the self-test.
        results: the result store, where its objects have to be.
        now: the moment.
        longest: since it was asked for.
    """
    made = [StepSeen(**step) for step in task.steps]
    if task.finished_at is not None:
        return Progress(tuple(made), "")
    if not task.study_instance_uid or not any(step.name == "sent" for step in made):
        hangs = now - task.asked_at > longest
        return _ended(made, "sent", "the node did not send it") if hangs else Progress(tuple(made), "sent")
    steps, waits_for, because = _way(session, task, results)
    made += steps
    if waits_for and now - task.asked_at > longest:
        return _ended(made, waits_for, f"not within {longest.total_seconds() / 60:.0f} minutes: {because}")
    return Progress(tuple(made), waits_for, because)


def _ended(steps: list[StepSeen], name: str, why: str) -> Progress:
    return Progress((*steps, StepSeen(name, False, why)), "")


def _way(session: Session, task: NodeTask, results: Path) -> tuple[list[StepSeen], str, str]:
    """Return the steps done, the one it waits for, and what it waits for in words."""
    study = session.scalar(select(Study).where(Study.study_instance_uid == task.study_instance_uid))
    if study is None:
        return [], _NAMES[0], "the Study is not in the database"
    reading = session.scalars(select(Reading).where(Reading.study_id == study.id, Reading.superseded.is_(False))).one()
    took_ms = (study.last_received_at - task.asked_at).total_seconds() * 1000
    steps = [StepSeen(_NAMES[0], True, f"{study.instance_count} Instance from {study.calling_ae}", max(0.0, took_ms))]
    if reading.state is _R.RECEIVING or reading.completed_at is None:
        return steps, _NAMES[1], f"its quiet time of {study.quiet_s:g} s, and the sweeper"
    steps.append(_routed(study, reading))
    if not steps[-1].is_good:
        return steps, "", ""
    if reading.state in _ON_THE_WAY:
        return steps, _NAMES[2], _waiting(reading)
    steps.append(_drafted(reading))
    if steps[-1].is_good:
        steps += [_kept(session, study, results), _withheld(session, study)]
    return steps, "", ""


def _routed(study: Study, reading: Reading) -> StepSeen:
    assert reading.completed_at is not None
    took_ms = (reading.completed_at - study.last_received_at).total_seconds() * 1000
    drafts = reading.state not in {_R.IGNORED, _R.HELD}
    note = f"rule {reading.rule or 'none'}, profile {reading.profile or 'none'}"
    if not drafts:
        note += f": {reading.state.value}, {reading.reason}; a chest radiograph has to be drafted for this test"
    return StepSeen(_NAMES[1], drafts, note, took_ms)


def _waiting(reading: Reading) -> str:
    if reading.state is _R.RUNNING:
        return f"being read by {reading.lease_owner}"
    if reading.state is _R.RETRYING:
        return f"tried again: {reading.reason}"
    return "a worker; the queue page says why"


def _drafted(reading: Reading) -> StepSeen:
    took_ms = 0.0
    if reading.finished_at and reading.completed_at:
        took_ms = (reading.finished_at - reading.completed_at).total_seconds() * 1000
    is_good = reading.state is _R.DRAFTED
    note = f"attempt {reading.attempts}" if is_good else f"{reading.state.value}: {reading.reason}"
    return StepSeen(_NAMES[2], is_good, note, took_ms)


def _kept(session: Session, study: Study, results: Path) -> StepSeen:
    made = session.execute(select(ResultObject.kind, ResultObject.path).where(ResultObject.study_id == study.id)).all()
    missing = [kind for kind, path in made if not (results / path).is_file()]
    note = f"{len(made)} objects: {', '.join(sorted({kind for kind, _ in made}))}"
    if missing:
        note = f"{len(missing)} of {len(made)} objects are not in the result store: {', '.join(sorted(set(missing)))}"
    elif not made:
        note = "no result object was made"
    return StepSeen(_NAMES[3], bool(made) and not missing, note)


def _withheld(session: Session, study: Study) -> StepSeen:
    owed = session.scalar(
        select(func.count())
        .select_from(Delivery)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(ResultObject.study_id == study.id)
    )
    note = f"{owed} deliveries were owed" if owed else "nothing of it is owed to anybody"
    return StepSeen(_NAMES[4], not owed, note)
