"""What a unit of work has recorded until now, and how it is written: all events at once, as its transaction ends.

Many events cost one statement then, and no database tells rows back that nobody asked for. A query of events in the
same transaction writes first, so that it finds its own.
"""

import json
from uuid import UUID

from sqlalchemy import event, func, insert, select, text
from sqlalchemy.orm import ORMExecuteState, Session

from db.audit_models import AuditSeal
from db.audit_record import Sheet, instant
from db.models import AuditEvent, AuditPrivate

_WAITING = "audit_sheets"  # key in Session.info
# one statement, so that the trigger that fills audit_pending runs once; nextval runs once per row of "made"
_POSTGRESQL = text("""
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json))
            AS one (at timestamptz, body text, mark text, study uuid, key text, content text)
    ), made AS MATERIALIZED (
        SELECT nextval('audit_event_seq') AS seq, given.* FROM given
    ), aside AS (
        INSERT INTO audit_private (seq, study_id, key, content)
        SELECT seq, study, key, CAST(content AS json) FROM made WHERE key <> ''
    )
    INSERT INTO audit_event (seq, occurred_at, body, mark) SELECT seq, at, body, mark FROM made""")


def record(session: Session, sheet: Sheet, mark: str, study_id: UUID | None) -> None:
    """Note one event; it is written before the transaction commits."""
    session.info.setdefault(_WAITING, []).append((sheet, mark, study_id))


def write_recorded(session: Session) -> None:
    """Write what was noted, in its order; nothing when nothing was."""
    waiting = session.info.pop(_WAITING, [])
    if not waiting:
        return
    if session.get_bind().dialect.name == "postgresql":
        session.connection().execute(_POSTGRESQL, {"rows": json.dumps([_row(*one) for one in waiting])})
    else:
        _write_rows(session, waiting)


def forget_recorded(session: Session) -> None:
    """Drop what was noted: the transaction is rolled back."""
    session.info.pop(_WAITING, None)


def _row(one: Sheet, mark: str, study_id: UUID | None) -> dict[str, str | None]:
    apart = {"study": str(study_id) if study_id else None, "key": one.key, "content": one.content}
    return {"at": instant(one.occurred_at), "body": one.body.decode("utf-8"), "mark": mark, **apart}


def _write_rows(session: Session, waiting: list[tuple[Sheet, str, UUID | None]]) -> None:
    """Write row by row: SQLite has one writer, whose transaction holds the lock, so the next number is known."""
    connection = session.connection()
    # a number is never given twice, not even that of an event somebody took away: its seal is still there
    taken = (connection.execute(select(func.max(column))).scalar() or 0 for column in (AuditEvent.seq, AuditSeal.seq))
    first = 1 + max(taken)
    numbered = list(enumerate(waiting, start=first))
    connection.execute(
        insert(AuditEvent.__table__),  # type: ignore[arg-type]
        [
            {"seq": seq, "occurred_at": one.occurred_at, "body": one.body.decode("utf-8"), "mark": mark}
            for seq, (one, mark, _) in numbered
        ],
    )
    aside = [
        {"seq": seq, "study_id": study_id, "key": one.key, "content": one.private}
        for seq, (one, _, study_id) in numbered
        if one.private
    ]
    if aside:
        connection.execute(insert(AuditPrivate.__table__), aside)  # type: ignore[arg-type]


@event.listens_for(Session, "do_orm_execute")
def _write_before_reading(state: ORMExecuteState) -> None:
    if _WAITING not in state.session.info or not state.is_select:
        return
    if any(one.class_ in (AuditEvent, AuditPrivate) for one in state.all_mappers):
        write_recorded(state.session)


@event.listens_for(Session, "after_rollback")
def _forget(session: Session) -> None:
    forget_recorded(session)
