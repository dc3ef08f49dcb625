"""Instances that arrive: their Study, their row, what is doubted."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, bindparam, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from config.errors import ConflictingInstanceError
from db.audit import AuditTag
from db.lifecycle.late import reopen
from db.lifecycle.moves import locked
from db.lifecycle.values import IDENTITY_REASON, InstanceHeader, Received
from db.models import Base, Instance, Quarantined, Reading, Series, Study
from db.report_models import Report
from db.types import ReadingState, UtcDateTime, utcnow
from db.uow import UnitOfWork

_STUDY_FIELDS = (
    "study_instance_uid",
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
    "study_time",
    "study_description",
    "referring_physician",
)
_SERIES_FIELDS = ("series_instance_uid", "modality", "series_number", "series_description", "body_part")
_COUNTED = {"preserve_rowcount": True}
_INSERTS: dict[str, Callable[[Any], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

# C-STORE's hot path: built once, columns instead of objects
_STUDY = (
    select(Study.id, Study.revision, Study.patient_id, Study.identity_conflict)
    .where(Study.study_instance_uid == bindparam("uid"))
    .with_for_update(key_share=True)
)
_INSTANCE = select(Instance.id, Instance.study_id, Instance.sha256).where(Instance.sop_instance_uid == bindparam("uid"))
_PLACE = select(
    select(Series.id)
    .where(Series.study_id == bindparam("study"), Series.series_instance_uid == bindparam("uid"))
    .scalar_subquery()
    .label("series_id"),
    exists(
        select(Reading.id).where(
            Reading.study_id == bindparam("study"),
            Reading.state == ReadingState.RECEIVING,
            Reading.superseded.is_(False),
        )
    ).label("receiving"),
)
_COUNT = (
    update(Study)
    .where(Study.id == bindparam("study"))
    .values(
        instance_count=Study.instance_count + 1,
        last_received_at=bindparam("now", type_=UtcDateTime),
        quiet_s=bindparam("quiet"),
    )
)


def receive_instance(
    uow: UnitOfWork,
    header: InstanceHeader,
    *,
    path: str,
    sha256: str,
    size_bytes: int,
    calling_ae: str,
    called_ae: str,
    quiet_s: float,
) -> Received:
    """Index one Instance whose bytes are safe on the disk already.

    A new Instance of a Study that was complete starts a new revision: a new Reading, and whatever the old
    images led to is superseded if nobody signed it, or flagged if somebody did. The same Instance again
    changes nothing.

    Raises:
        ConflictingInstanceError: its UID is held with other bytes.
    """
    connection = uow.session.connection()
    study = _study_row(uow, header, calling_ae=calling_ae, called_ae=called_ae, quiet_s=quiet_s)
    revision: int = study.revision
    held = _held_instance(connection, header.sop_instance_uid, sha256)
    if held is not None:
        return _duplicate(uow, held, header.sop_instance_uid, revision)
    place = connection.execute(_PLACE, {"study": study.id, "uid": header.series_instance_uid}).one()
    if not place.receiving:
        revision = reopen(uow, study.id)
    if not study.identity_conflict and _fit(Study, "patient_id", header.patient_id) != study.patient_id:
        _notice_identity(uow, study.id, header)
    now = utcnow()
    values = {
        "id": uuid4(),
        "study_id": study.id,
        "series_id": place.series_id or _add_series(uow, study.id, header),
        "sop_instance_uid": header.sop_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "instance_number": header.instance_number,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "path": path,
        "revision": revision,
        "calling_ae": _fit(Instance, "calling_ae", calling_ae),
        "received_at": now,
    }
    if not _insert_if_absent(connection, Instance, values):
        # the same UID came in under another Study at the same moment
        held = _held_instance(connection, header.sop_instance_uid, sha256)
        assert held is not None
        return _duplicate(uow, held, header.sop_instance_uid, revision)
    connection.execute(_COUNT, {"study": study.id, "now": now, "quiet": quiet_s})
    return Received(study.id, values["id"], is_new=True, revision=revision)


def quarantine(
    uow: UnitOfWork,
    *,
    reason: str,
    error: str,
    status: int,
    path: str = "",
    sop_instance_uid: str = "",
    calling_ae: str = "",
    study_id: UUID | None = None,
) -> UUID:
    """Keep what was refused or doubted, with its reason, for a person to see; return its id."""
    row = Quarantined(
        id=uuid4(),
        reason=_fit(Quarantined, "reason", reason),
        error=_fit(Quarantined, "error", error),
        status=status,
        path=path,
        sop_instance_uid=_fit(Quarantined, "sop_instance_uid", sop_instance_uid),
        calling_ae=_fit(Quarantined, "calling_ae", calling_ae),
        study_id=study_id,
    )
    uow.session.add(row)
    uow.audit(
        AuditTag.INSTANCE_QUARANTINED,
        outcome="failure",
        study_id=study_id,
        object_type="quarantined",
        object_id=str(row.id),
        detail={"error": row.error, "reason": row.reason, "status": status, "sop_instance_uid": row.sop_instance_uid},
    )
    return row.id


def _study_row(
    uow: UnitOfWork, header: InstanceHeader, *, calling_ae: str, called_ae: str, quiet_s: float
) -> Row[UUID, int, str, bool]:
    """Return the Study, locked; add it, its Report and its first Reading when it is new."""
    connection = uow.session.connection()
    row = connection.execute(_STUDY, {"uid": header.study_instance_uid}).one_or_none()
    if row is not None:
        return row
    now = utcnow()
    values: dict[str, Any] = {name: _fit(Study, name, getattr(header, name)) for name in _STUDY_FIELDS}
    values |= {
        "id": uuid4(),
        "modalities": "",
        "body_part": "",
        "calling_ae": _fit(Study, "calling_ae", calling_ae),
        "called_ae": _fit(Study, "called_ae", called_ae),
        "revision": 1,
        "instance_count": 0,
        "identity_conflict": False,
        "first_received_at": now,
        "last_received_at": now,
        "quiet_s": quiet_s,
    }
    # two associations may bring the first two images at once: one of them adds the Study, both go on
    if _insert_if_absent(connection, Study, values):
        uow.session.add_all([Report(study_id=values["id"]), Reading(study_id=values["id"], revision=1)])
        uow.audit(AuditTag.STUDY_RECEIVED, study_id=values["id"], detail={"calling_ae": calling_ae})
        uow.session.flush()
    return connection.execute(_STUDY, {"uid": header.study_instance_uid}).one()


def _held_instance(connection: Connection, sop_instance_uid: str, sha256: str) -> Row[UUID, UUID, str] | None:
    held = connection.execute(_INSTANCE, {"uid": sop_instance_uid}).one_or_none()
    if held is not None and held.sha256 != sha256:
        raise ConflictingInstanceError("this SOP Instance UID is held with other bytes")
    return held


def _duplicate(uow: UnitOfWork, held: Row[UUID, UUID, str], uid: str, revision: int) -> Received:
    uow.audit(AuditTag.INSTANCE_DUPLICATE, study_id=held.study_id, object_type="instance", object_id=uid)
    return Received(held.study_id, held.id, is_new=False, revision=revision)


def _notice_identity(uow: UnitOfWork, study_id: UUID, header: InstanceHeader) -> None:
    locked(uow, Study, study_id).identity_conflict = True
    uow.audit(
        AuditTag.STUDY_IDENTITY_CONFLICT,
        outcome="failure",
        study_id=study_id,
        object_type="instance",
        object_id=header.sop_instance_uid,
        detail={"reason": IDENTITY_REASON},
    )


def _add_series(uow: UnitOfWork, study_id: UUID, header: InstanceHeader) -> UUID:
    """Add a Series and return its id; the Study row's lock keeps others away."""
    series = Series(id=uuid4(), study_id=study_id)
    for name in _SERIES_FIELDS:
        setattr(series, name, _fit(Series, name, getattr(header, name)))
    uow.session.add(series)
    study = locked(uow, Study, study_id)
    study.modalities = _merged("modalities", study.modalities, header.modality)
    study.body_part = _merged("body_part", study.body_part, header.body_part)
    uow.session.flush()
    return series.id


def _insert_if_absent(connection: Connection, kind: type[Base], values: dict[str, Any]) -> bool:
    """Insert one row unless a unique key exists; on PostgreSQL this waits for whoever inserts it now."""
    insert = _INSERTS[connection.dialect.name](kind.__table__)
    result = connection.execute(insert.on_conflict_do_nothing(), values, execution_options=_COUNTED)
    return result.rowcount == 1


def _fit(kind: type[Base], column: str, value: Any) -> Any:
    """Return text as its column can hold it: peers send values longer than their VR, and NULs."""
    if not isinstance(value, str):
        return value
    length = kind.__table__.c[column].type.length  # type: ignore[attr-defined]
    return value.replace("\x00", "")[:length]


def _merged(column: str, present: str, added: str) -> str:
    """Return a Study's comma separated words with one more, sorted."""
    words = {w for w in (*present.split(","), added) if w}
    fitted: str = _fit(Study, column, ",".join(sorted(words)))
    return fitted
