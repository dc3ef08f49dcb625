"""The worklist as others ask for it: Readings and the workitems of clients on one list."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, cast, func, null, select, union_all
from sqlalchemy.orm import Session

from db.lifecycle.self_tests import self_tested
from db.models import AuditEvent, ImagingOrder, Instance, Reading, ResultObject, Series, Study
from db.report_models import Draft
from db.workitem_matching import Wanted, reading_conditions, workitem_conditions
from db.workitem_models import ReadingRun, Subscription, Workitem, WorkitemEvent
from db.workitem_values import reading_of, run_uid

MOST_COUNTED = 10_000


@dataclass(frozen=True)
class ReadingItem:
    """What a Reading's workitem is made of; ``run`` is there when the Reading was processed more than once."""

    uid: str
    reading: Reading
    study: Study
    order: ImagingOrder | None
    modified_at: datetime
    run: ReadingRun | None = None

    @property
    def is_ended_run(self) -> bool:
        """Whether another run followed this one: it stays canceled, whatever the Reading does."""
        return self.run is not None and self.run.ended_at is not None


@dataclass(frozen=True)
class Input:
    """One Series of a Reading's Study, with its Instances as (SOP Class, SOP Instance)."""

    series_instance_uid: str
    instances: list[tuple[str, str]]


@dataclass(frozen=True)
class Output:
    """What a Reading made: its result objects, and the models that made them, as its provenance names them."""

    objects: list[ResultObject]
    models: list[dict[str, object]]


def search(
    session: Session, wanted: Sequence[Wanted], *, limit: int, offset: int
) -> tuple[list[ReadingItem | Workitem], int]:
    """Return one page of matches, newest scheduled first, and how many more there are behind it."""
    nobody = cast(null(), Uuid)
    readings = (
        select(Reading.id.label("reading_id"), nobody.label("workitem_id"), Reading.created_at.label("at"))
        .join(Study, Study.id == Reading.study_id)
        .where(reading_conditions(session, wanted), ~self_tested())
    )
    others = select(nobody.label("reading_id"), Workitem.id.label("workitem_id"), Workitem.scheduled_at.label("at"))
    found = union_all(readings, others.where(workitem_conditions(session, wanted))).subquery()
    ordered = select(found.c.reading_id, found.c.workitem_id).order_by(
        found.c.at.desc(), found.c.reading_id, found.c.workitem_id
    )
    keys = [tuple(row) for row in session.execute(ordered.limit(limit + 1).offset(offset))]
    remaining = 0
    if len(keys) > limit:  # a count of everything would cost more than the page
        counted = select(found.c.at).limit(offset + limit + MOST_COUNTED + 1).subquery()
        total = session.scalar(select(func.count()).select_from(counted)) or 0
        remaining = max(total - offset - limit, 1)
    return _loaded(session, keys[:limit]), remaining


def _loaded(session: Session, keys: Sequence[tuple[UUID | None, UUID | None]]) -> list[ReadingItem | Workitem]:
    items = _reading_items(session, [reading_id for reading_id, _ in keys if reading_id is not None])
    ids = [workitem_id for _, workitem_id in keys if workitem_id is not None]
    others = {one.id: one for one in session.scalars(select(Workitem).where(Workitem.id.in_(ids)))} if ids else {}
    return [items[reading_id] if reading_id else others[workitem_id] for reading_id, workitem_id in keys]  # type: ignore[index]


def _reading_items(session: Session, ids: Sequence[UUID]) -> dict[UUID, ReadingItem]:
    if not ids:
        return {}
    runs = {
        run.reading_id: run
        for run in session.scalars(
            select(ReadingRun).where(ReadingRun.reading_id.in_(ids), ReadingRun.ended_at.is_(None))
        )
    }
    last = select(AuditEvent.reading_id, func.max(AuditEvent.occurred_at)).where(AuditEvent.reading_id.in_(ids))
    told = {row[0]: row[1] for row in session.execute(last.group_by(AuditEvent.reading_id))}
    rows = session.execute(
        select(Reading, Study, ImagingOrder)
        .join(Study, Study.id == Reading.study_id)
        .outerjoin(ImagingOrder, ImagingOrder.id == Study.order_id)
        .where(Reading.id.in_(ids))
    )
    items = {}
    for reading, study, order in rows:
        run = runs.get(reading.id)
        uid = run.uid if run else run_uid(reading.id)
        modified = max(told.get(reading.id) or reading.created_at, reading.created_at)
        items[reading.id] = ReadingItem(uid, reading, study, order, modified, run)
    return items


def find(session: Session, uid: str) -> ReadingItem | Workitem | None:
    """Return a workitem by its UID, also a run of a Reading that another followed; None when there is none.

    A deleted workitem is returned: its ``deleted_at`` says so.
    """
    other = session.scalar(select(Workitem).where(Workitem.uid == uid))
    if other is not None:
        return other
    run = session.scalar(select(ReadingRun).where(ReadingRun.uid == uid))
    reading_id = run.reading_id if run else reading_of(uid)
    item = _reading_items(session, [reading_id]).get(reading_id) if reading_id else None
    if item is None or run is None:
        return item if item is None or item.uid == uid else None
    modified = run.ended_at or item.modified_at
    return ReadingItem(uid, item.reading, item.study, item.order, modified, run)


def inputs(session: Session, study_id: UUID, revision: int) -> list[Input]:
    """Return the Instances of a Study's revision by Series: what a Reading reads."""
    rows = session.execute(
        select(Series.series_instance_uid, Instance.sop_class_uid, Instance.sop_instance_uid)
        .join(Instance, Instance.series_id == Series.id)
        .where(Instance.study_id == study_id, Instance.revision <= revision)
        .order_by(Series.series_number, Series.series_instance_uid, Instance.instance_number, Instance.sop_instance_uid)
    )
    series: dict[str, Input] = {}
    for series_uid, class_uid, instance_uid in rows:
        series.setdefault(series_uid, Input(series_uid, [])).instances.append((class_uid, instance_uid))
    return list(series.values())


def output(session: Session, reading_id: UUID) -> Output | None:
    """Return what a Reading made; None when there is no draft. Messages are no output: nobody can retrieve them."""
    draft = session.scalar(select(Draft).where(Draft.reading_id == reading_id))
    if draft is None:
        return None
    made = session.scalars(
        select(ResultObject)
        .where(ResultObject.draft_id == draft.id, ResultObject.sop_class_uid != "")
        .order_by(ResultObject.created_at, ResultObject.id)
    )
    return Output(list(made), list(draft.provenance.get("models", [])))


def waiting_events(session: Session, ae_title: str, *, after: int = 0, limit: int = 100) -> list[WorkitemEvent]:
    """Return the event reports that a subscriber has not confirmed, oldest first."""
    query = select(WorkitemEvent).where(WorkitemEvent.ae_title == ae_title, WorkitemEvent.id > after)
    return list(session.scalars(query.order_by(WorkitemEvent.id).limit(limit)))


def is_subscriber(session: Session, ae_title: str) -> bool:
    """Return whether somebody of this AE title subscribed to anything, or has event reports waiting."""
    subscribed = select(Subscription.id).where(Subscription.ae_title == ae_title, Subscription.is_subscribed)
    return session.scalar(subscribed.limit(1)) is not None or bool(waiting_events(session, ae_title, limit=1))
