"""The statements of C-STORE's hot path: built once, columns instead of objects, one round for a whole group."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import and_, bindparam, case, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.models import Instance, Reading, Series, Study
from db.types import ReadingState, UtcDateTime

INSERTS: dict[str, Callable[[Any], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
STUDIES = (
    select(
        Study.id,
        Study.study_instance_uid,
        Study.revision,
        Study.patient_id,
        Study.identity_conflict,
        Study.is_prior,
    )
    .where(Study.study_instance_uid.in_(bindparam("uids", expanding=True)))
    .order_by(Study.study_instance_uid)  # everybody locks in one order, so nobody waits in a circle
    .with_for_update(key_share=True)
)
HELD = select(Instance.id, Instance.study_id, Instance.sop_instance_uid, Instance.sha256, Instance.deleted_at).where(
    Instance.sop_instance_uid.in_(bindparam("uids", expanding=True))
)
# asked after the lock: a Reading or Series that another unit of work added meanwhile has to be seen
PLACES = (
    select(
        Study.id.label("study_id"),
        exists(
            select(Reading.id).where(
                Reading.study_id == Study.id,
                Reading.state == ReadingState.RECEIVING,
                Reading.superseded.is_(False),
            )
        ).label("receiving"),
        Series.id.label("series_id"),
        Series.series_instance_uid,
    )
    .outerjoin(
        Series,
        and_(Series.study_id == Study.id, Series.series_instance_uid.in_(bindparam("series", expanding=True))),
    )
    .where(Study.id.in_(bindparam("studies", expanding=True)))
)
COUNT = (
    update(Study)
    .where(Study.id == bindparam("study"))
    .values(
        instance_count=Study.instance_count + bindparam("added"),
        last_received_at=bindparam("now", type_=UtcDateTime),
        # the longest of its sources and modalities: a report that comes after the images hurries nothing
        quiet_s=case((Study.quiet_s < bindparam("quiet"), bindparam("quiet")), else_=Study.quiet_s),
        pixels_deleted_at=None,  # there are files again
    )
)
INSERT_INSTANCES = {name: insert(Instance.__table__).on_conflict_do_nothing() for name, insert in INSERTS.items()}
