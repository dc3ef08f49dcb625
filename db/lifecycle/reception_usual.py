"""The usual case of C-STORE: one more Instance of a Series that is being received, past the library's statements.

Every C-STORE waits for this, and SQLAlchemy's part of it cost several times the database's. So these statements go to
the driver as they are, in a transaction of their own. What is not plain is left to
:func:`db.lifecycle.reception.receive_instances`, which does this and everything else.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Dialect, Engine, Uuid
from sqlalchemy.orm import Session, sessionmaker

from db.lifecycle.quarantine import fit
from db.lifecycle.values import NewInstance, Received
from db.models import Instance, Study
from db.origin import require_keys
from db.types import UtcDateTime, utcnow
from db.uow import driver_transaction

# everybody locks in one order, so nobody waits in a circle
_STUDIES = """SELECT study_instance_uid, id, revision, patient_id FROM study
    WHERE study_instance_uid IN ({}) AND NOT is_prior ORDER BY study_instance_uid"""
# asked after the lock: what another unit of work did to these Studies meanwhile has to be seen
_PLACES = """SELECT study_id, series_instance_uid, id FROM series
    WHERE study_id IN ({}) AND series_instance_uid IN ({}) AND EXISTS (
        SELECT 1 FROM reading WHERE reading.study_id = series.study_id
        AND reading.state = 'RECEIVING' AND NOT reading.superseded)"""
_INSERT = """INSERT INTO instance (id, study_id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid,
    instance_number, sha256, size_bytes, path, revision, calling_ae, association_id, received_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
# the longest quiet time of its sources and modalities; there are files again
_COUNT = """UPDATE study SET instance_count = instance_count + ?, last_received_at = ?,
    quiet_s = CASE WHEN quiet_s < ? THEN ? ELSE quiet_s END, pixels_deleted_at = NULL WHERE id = ?"""


def receive_more(
    sessions: sessionmaker[Session], news: Sequence[NewInstance], *, provided: Callable[[], bool] = lambda: True
) -> list[Received] | None:
    """Index a group and commit it; None when not each of it is the usual case, and then nothing is changed.

    ``provided`` is asked under the lock of the Studies; if it says no, the case is not usual.

    Raises:
        LifecycleError, TransientError, OutOfSpaceError: see :func:`db.uow.unit_of_work`.
        ConfigurationError: the end of the association, which tells of these Instances, could not be recorded.
    """
    require_keys()
    engine: Engine = sessions.kw["bind"]
    try:
        with driver_transaction(engine) as cursor:
            return _Usual(cursor, engine.dialect, news).receive(provided)
    except _UnusualError:
        return None


class _UnusualError(Exception):
    """Something of the group has to be prepared first, or is held already."""


class _Usual:
    """One group on its way; ids of rows are as the driver has them."""

    def __init__(self, cursor: Any, dialect: Dialect, news: Sequence[NewInstance]) -> None:
        self._cursor = cursor
        self._dialect = dialect
        self._to_id, self._to_instant = _processors(dialect)
        self._news = news

    def receive(self, provided: Callable[[], bool]) -> list[Received]:
        studies = {row[0]: row for row in self._ask(_STUDIES, {new.header.study_instance_uid for new in self._news})}
        series = {new.header.series_instance_uid for new in self._news}
        places = {row[:2]: row[2] for row in self._ask(_PLACES, [row[1] for row in studies.values()], series)}
        if not provided():
            _unusual()
        now = self._to_instant(utcnow())
        received, rows, counts = [], [], dict.fromkeys(studies, (0, 0.0))
        for new in self._news:
            header = new.header
            _, study, revision, patient_id = studies.get(header.study_instance_uid) or _unusual()
            place = places.get((study, header.series_instance_uid)) or _unusual()
            if fit(Study, "patient_id", header.patient_id) != patient_id:
                _unusual()
            key = uuid4()
            received.append(Received(_uuid(study), key, is_new=True, revision=revision))
            rows.append(self._row(new, self._to_id(key), study, place, revision, now))
            number, quiet_s = counts[header.study_instance_uid]
            counts[header.study_instance_uid] = number + 1, max(quiet_s, new.quiet_s)
        rows.sort(key=_uid)
        self._run(_INSERT, rows)
        if self._cursor.rowcount != len(rows):
            _unusual()  # some are held, unasked until now
        self._run(_COUNT, [(n, now, quiet, quiet, studies[uid][1]) for uid, (n, quiet) in counts.items()])
        return received

    def _row(self, new: NewInstance, key: Any, study: Any, place: Any, revision: int, now: Any) -> tuple[Any, ...]:
        header = new.header
        return (
            key,
            study,
            place,
            header.sop_instance_uid,
            header.sop_class_uid,
            header.transfer_syntax_uid,
            header.instance_number,
            new.sha256,
            new.size_bytes,
            new.path,
            revision,
            fit(Instance, "calling_ae", new.calling_ae),
            self._to_id(new.association_id) if new.association_id else None,
            now,
        )

    def _ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        if not all(values):
            return []
        text = _text(self._dialect.name, statement, tuple(map(len, values)))
        self._cursor.execute(text, [one for some in values for one in some])
        found: list[tuple[Any, ...]] = self._cursor.fetchall()
        return found

    def _run(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._cursor.executemany(_text(self._dialect.name, statement, ()), rows)


def _unusual() -> Any:
    raise _UnusualError


def _uid(row: tuple[Any, ...]) -> str:
    uid: str = row[3]
    return uid


def _uuid(key: Any) -> UUID:
    return key if isinstance(key, UUID) else UUID(key)


@cache
def _text(dialect: str, statement: str, lengths: tuple[int, ...]) -> str:
    """Return a statement with room for lists of these lengths, in the words of a database."""
    text = statement.format(*(", ".join("?" * length) for length in lengths))
    if dialect == "sqlite":  # it locks the database, not rows
        return text
    lock = " FOR NO KEY UPDATE" if statement is _STUDIES else ""
    return text.replace("?", "%s") + lock


@cache
def _processors(dialect: Dialect) -> tuple[Any, Any]:
    """Return what makes an id, and an instant, ready for the driver."""
    kinds = (Uuid(), UtcDateTime())
    return tuple(kind.dialect_impl(dialect).bind_processor(dialect) or _as_it_is for kind in kinds)  # type: ignore[return-value]


def _as_it_is(value: Any) -> Any:
    return value
