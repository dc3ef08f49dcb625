"""Engines, sessions and migrations for both databases: SQLite (embedded) and PostgreSQL (hospital)."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from config.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
BUSY_S = 30.0
WRITING = {"firstread_writing": True}  # execution option of a connection that will write


def make_engine(url: str) -> Engine:
    """Return an engine for ``url`` that has not connected yet.

    SQLite: write-ahead log, every commit flushed to the disk, foreign keys enforced, 30 s patience, and
    ``BEGIN IMMEDIATE`` for connections with the ``WRITING`` option, so that a writer waits at its start
    and never finds midway that somebody else wrote. PostgreSQL: psycopg 3, connections tested on checkout.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        options = {}
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            options["pool_use_lifo"] = True  # the connection used last remembers the pages nobody else changed
        engine = create_engine(parsed, connect_args={"timeout": BUSY_S}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=30)


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions; rows stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


def migrate(url: str, *, revision: str = "head") -> None:
    """Bring the database at ``url`` to ``revision`` (Alembic upgrade); does nothing when it is there."""
    from alembic import command

    command.upgrade(alembic_config(url), revision)


def is_current(engine: Engine) -> bool:
    """Return whether the schema is this release's; False for an empty database."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config(engine.url.render_as_string(hide_password=False)))
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == scripts.get_current_head()


def alembic_config(url: str) -> Any:
    """Return Alembic's configuration for ``url``; nothing is opened."""
    from alembic.config import Config

    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = url
    return config


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # the driver must not begin transactions by itself: _begin_sqlite does
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("firstread_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def current_sessions(url: str) -> sessionmaker[Session]:
    """Return sessions on a database that has this release's schema: what a verb of the command line begins with.

    Raises:
        ConfigurationError: it has another schema, or none yet.
    """
    engine = make_engine(url)
    if not is_current(engine):
        raise ConfigurationError("the database is not this release's: run firstread migrate")
    return make_sessions(engine)
