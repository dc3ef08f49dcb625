"""One use case, one transaction: the unit of work."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from config.errors import AppError, LifecycleError, OutOfSpaceError, TransientError
from db.audit import AuditTag
from db.audit_record import sheet
from db.engine import WRITING
from db.models import OutboxMessage
from db.origin import mark
from db.recording import record, write_recorded
from db.types import utcnow


@dataclass(frozen=True)
class Actor:
    """Who acts: a person by login, a process by name, a peer by AE title."""

    name: str
    kind: Literal["person", "process", "peer"]
    user_id: UUID | None = None
    role: str = ""  # of a person, when the act was done
    address: str = ""  # where the request came from


@dataclass(frozen=True)
class UnitOfWork:
    """An open transaction and the Actor whose act it is."""

    session: Session
    actor: Actor

    def audit(
        self,
        tag: AuditTag,
        *,
        outcome: str = "success",
        study_id: UUID | None = None,
        reading_id: UUID | None = None,
        report_id: UUID | None = None,
        object_type: str = "",
        object_id: str = "",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Record one act; it is kept if, and only if, this unit of work commits.

        Raises:
            ConfigurationError: this process has no key to mark events with; then the act must not be done either.
        """
        about = {
            "actor": self.actor.name[:64],
            "kind": self.actor.kind,
            "user": self.actor.user_id,
            "role": self.actor.role,
            "address": self.actor.address,
            "tag": tag,
            "outcome": outcome,
            "study_id": study_id,
            "reading_id": reading_id,
            "report_id": report_id,
            "object_type": object_type[:32],
            "object_id": object_id[:64],
        }
        made = sheet(about, detail or {}, occurred_at=utcnow())
        record(self.session, made, mark(made.body), study_id)

    def enqueue(self, task: str, **ids: str) -> None:
        """Send ``task`` once this unit of work has committed; arguments are ids only."""
        self.session.add(OutboxMessage(task=str(task), arguments=dict(ids)))


@contextmanager
def unit_of_work(sessions: sessionmaker[Session], actor: Actor) -> Iterator[UnitOfWork]:
    """Commit on a clean exit, roll back on any error. Never keep it open across inference or the network.

    Raises:
        LifecycleError: somebody else changed, or added, the same row first.
        TransientError: the database is busy or cannot be reached.
        OutOfSpaceError: its disk is full.
    """
    with sessions() as session:
        try:
            session.connection(execution_options=WRITING)
            yield UnitOfWork(session, actor)
            session.flush()
            write_recorded(session)
            session.commit()
        except (DBAPIError, StaleDataError, PoolTimeoutError) as exc:
            session.rollback()
            named = _named(exc)
            if named is None:
                raise
            raise named from exc


@contextmanager
def driver_transaction(engine: Engine) -> Iterator[Any]:
    """Give the driver's own cursor, in a transaction for writing: commit on a clean exit, roll back on any error.

    For the few statements that cannot wait for SQLAlchemy. The driver's parameter style holds.

    Raises:
        LifecycleError, TransientError, OutOfSpaceError: as :func:`unit_of_work`.
    """
    try:
        with _driver_errors(engine):
            connection = engine.raw_connection()
        try:
            with _driver_errors(engine):
                cursor = connection.cursor()
                if engine.dialect.name == "sqlite":  # others begin by themselves
                    cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                connection.commit()
        finally:
            connection.close()  # back into the pool, which rolls back what is open
    except (DBAPIError, PoolTimeoutError) as exc:
        named = _named(exc)
        if named is None:
            raise
        raise named from exc


@contextmanager
def _driver_errors(engine: Engine) -> Iterator[None]:
    base = engine.dialect.loaded_dbapi.Error
    try:
        yield
    except base as exc:
        raise DBAPIError.instance(None, None, exc, base, dialect=engine.dialect) from exc


_PASSING = {"08", "40", "53", "55", "57"}  # SQLSTATE classes: connection, rollback, resources, state, operator


def _named(exc: Exception) -> AppError | None:
    """Return our error for the library's; None when it is a defect of ours."""
    if isinstance(exc, StaleDataError):
        return LifecycleError("somebody else changed this first")
    if isinstance(exc, PoolTimeoutError):
        return TransientError("no database connection was free")
    assert isinstance(exc, DBAPIError)
    original = exc.orig
    if isinstance(original, sqlite3.Error):
        return _named_sqlite(exc, original)
    state = str(getattr(original, "sqlstate", None) or "")
    if state == "53100":
        return OutOfSpaceError("the database's disk is full")
    if state == "23505":
        return LifecycleError("somebody else added this first")
    if state[:2] in _PASSING or (not state and isinstance(exc, OperationalError | InterfaceError)):
        return TransientError("the database cannot be reached, or is busy")
    return None


def _named_sqlite(exc: DBAPIError, original: sqlite3.Error) -> AppError | None:
    code = getattr(original, "sqlite_errorcode", 0)
    if code in {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}:
        return LifecycleError("somebody else added this first")
    if code == sqlite3.SQLITE_FULL:
        return OutOfSpaceError("the database's disk is full")
    # SQLITE_ERROR is a mistake in our SQL: waiting does not cure it
    if isinstance(exc, OperationalError) and not isinstance(exc, IntegrityError) and code != sqlite3.SQLITE_ERROR:
        return TransientError("the database is busy, or its file cannot be used")
    return None
