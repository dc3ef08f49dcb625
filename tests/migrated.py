"""A migrated SQLite database, migrated once in a test process and copied for whoever needs one."""

import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from db.engine import migrate


def migrated(url: str) -> None:
    """Make the database at ``url`` current; only a SQLite one that is not there yet is a copy."""
    path = Path(str(sa.make_url(url).database))
    if not url.startswith("sqlite") or path.exists():
        migrate(url)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_content())


@cache
def _content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "firstread.db"
        migrate(f"sqlite:///{path}")
        engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
        with closing(engine.connect()) as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()
