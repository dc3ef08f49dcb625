"""Runs migrations on SQLite and PostgreSQL: one at a time, inside a transaction, never waiting long for a lock.

A migration that rebuilds a guarded table on SQLite (batch mode) must create its triggers again; a test counts them.
"""

from socket import gethostname
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.orm import sessionmaker

from config.build import build
from config.settings import settings
from db import (  # noqa: F401 all fill the metadata
    annotation_models,
    asking_models,
    audit_anchor_models,
    audit_archive_models,
    audit_draft_models,
    audit_erasure_models,
    audit_forwarding_models,
    audit_models,
    audit_tally_models,
    commitment_models,
    critical_models,
    delivery_models,
    expectation_models,
    identity_models,
    message_models,
    models,
    package_models,
    peer_models,
    prior_models,
    quality_models,
    report_models,
    running_models,
    signing_models,
    token_models,
    wording_models,
    workitem_models,
    worklist_models,
)
from db.audit import AuditTag
from db.engine import WRITING, make_engine
from db.origin import keys_are_in
from db.types import UtcDateTime
from db.uow import Actor, unit_of_work

_NOT_OF_MODELS = frozenset({"ix_study_search"})  # made where PostgreSQL's own extension can be had (0025)
_LOCK = 7_310_552_041  # any number; the same for every process that migrates


def _render(kind: str, item: Any, _autogen: AutogenContext) -> str | Literal[False]:
    """Write plain SQLAlchemy types into migrations, so that old ones outlive changes of ours."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def _include(_item: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
    return name not in _NOT_OF_MODELS and not (
        kind == "table" and str(name).startswith("audit_event_")
    )  # partitions come with the months


def _prepare(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # rather fail and be run again than queue every reader behind us
        connection.exec_driver_sql("SET lock_timeout = '5s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=models.Base.metadata,
        render_item=_render,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        compare_type=True,
        include_object=_include,
    )
    before = context.get_context().get_current_revision()
    with context.begin_transaction():
        context.run_migrations()
    _record(connection, before, context.get_context().get_current_revision())


def _record(connection: sa.Connection, before: str | None, after: str | None) -> None:
    """Write that the schema changed, in the transaction that changed it; a database that was empty has no story yet."""
    if before in {None, after} or after is None or not _has_chain(connection):
        return
    if "url" not in context.config.attributes:  # Alembic by hand; else the process that migrates has said it
        keys_are_in(settings().key_dir, create=settings().audit.key_dir is None)
    with unit_of_work(sessionmaker(connection), Actor("migrate", "process", address=gethostname()[:64])) as uow:
        detail = {"from": before, "to": after, **build()}
        uow.audit(AuditTag.SCHEMA_MIGRATED, object_type="schema", object_id=after, detail=detail)


def _has_chain(connection: sa.Connection) -> bool:
    """Return whether the record is the chained one (0026); what was recorded before it is carried over there."""
    looks = sa.inspect(connection)
    return looks.has_table("audit_event") and "mark" in {column["name"] for column in looks.get_columns("audit_event")}


def main() -> None:
    """Upgrade, downgrade or compare the database Alembic was called for."""
    if context.is_offline_mode():
        raise SystemExit("offline mode is not supported: migrations look at the database")
    engine = make_engine(context.config.attributes.get("url") or settings().database)
    try:
        with engine.connect() as plain, plain.execution_options(**WRITING) as connection:
            if connection.dialect.name == "sqlite":
                # outside a transaction, else it has no effect: rebuilding a table must not cascade
                raw: Any = connection.connection.dbapi_connection
                raw.execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                _prepare(connection)
                _run(connection)
    finally:
        engine.dispose()


main()
