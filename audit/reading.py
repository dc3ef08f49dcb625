"""Reading the log to verify it: read-only connections of the drivers' own, which another account can open.

Kept apart from SQLAlchemy, so that the processes that hash start at once and lose no time on each row.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from config.errors import ConfigurationError

_EPOCH_S = 946_684_800  # 2000-01-01 in Unix time: where PostgreSQL counts microseconds from
Row = tuple[Any, ...]


class Source(NamedTuple):
    """Where a log is; plain text, so that it reaches other processes."""

    dialect: str
    address: str  # path of a SQLite file, or libpq connection URI


# an event as the database holds it: number, instant as it is hashed, body, mark
EventRow = tuple[int, bytes, bytes, str | None]


class Reader:
    """SQLite, opened read-only."""

    def __init__(self, source: Source) -> None:
        """Connect.

        Raises:
            ConfigurationError: there is no such database, or it cannot be opened.
        """
        try:
            uri = f"file:{quote(str(Path(source.address).resolve()))}?mode=ro"
            self._connection: Any = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
            self._connection.execute("SELECT 1 FROM audit_seal LIMIT 1")
        except sqlite3.Error as exc:
            raise ConfigurationError(f"the audit log in {source.address} cannot be read: {exc}") from exc
        self._connection.text_factory = lambda data: data.decode("utf-8", "replace")

    def ask(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a small question; ``?`` stands for a value."""
        return list(self._connection.execute(statement, tuple(values)).fetchall())

    def seals(self, low: int, high: int) -> list[Row]:
        """Return (position, seq, stored instant, leaf, chain) of positions ``low`` to before ``high``."""
        return self.ask(
            "SELECT position, CAST(seq AS INTEGER), CAST(occurred_at AS BLOB), CAST(leaf AS BLOB), CAST(chain AS BLOB) "
            "FROM audit_seal WHERE position >= ? AND position < ? ORDER BY position",
            [low, high],
        )

    def events(self, first: int, last: int, _span: tuple[Any, Any] | None = None) -> list[EventRow]:
        """Return the events with numbers from ``first`` to ``last``."""
        rows = self._connection.execute(
            "SELECT seq, CAST(occurred_at AS BLOB), CAST(body AS BLOB), CAST(mark AS TEXT) FROM audit_event "
            "WHERE seq BETWEEN ? AND ?",
            (first, last),
        )
        return [(seq, _sqlite_instant(at), body or b"", mark) for seq, at, body, mark in rows]

    def events_of(self, seqs: Sequence[int]) -> list[EventRow]:
        """Return the events with these few numbers, wherever they are."""
        return [event for seq in seqs for event in self.events(seq, seq)]

    def private(self, first: int, last: int) -> list[Row]:
        """Return (seq, key, JSON) of what is kept apart from these events."""
        return self.ask(
            "SELECT seq, key, CAST(content AS TEXT) FROM audit_private WHERE seq BETWEEN ? AND ?", [first, last]
        )

    def nodes(self, low: int, high: int) -> list[Row]:
        """Return (level, number, hash) of the inner nodes over leaves within ``low`` to ``high`` that are kept."""
        return self.ask(
            "SELECT level, number, CAST(hash AS BLOB) FROM audit_node WHERE number >= (? >> level) "
            "AND ((number + 1) << level) <= ? AND (number << level) >= ?",
            [low, high, low],
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class PostgresqlReader(Reader):
    """PostgreSQL, in read-only transactions."""

    def __init__(self, source: Source) -> None:
        """Connect.

        Raises:
            ConfigurationError: there is no such database, or it cannot be reached or read.
        """
        try:
            self._connection = psycopg.connect(source.address, autocommit=True)
            self._connection.execute("SET default_transaction_read_only = on")
            self._connection.execute("SET timezone = 'UTC'")
            self._connection.execute("SELECT 1 FROM audit_seal LIMIT 1")
        except psycopg.Error as exc:
            raise ConfigurationError(f"the audit log cannot be read: {type(exc).__name__}") from exc
        self._fast = self._connection.cursor(binary=True)
        self._fast.adapters.register_loader("text", ByteaBinaryLoader)
        self._fast.adapters.register_loader("timestamptz", Int8BinaryLoader)
        self._instant = _postgresql_instant()

    def ask(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a small question; ``?`` stands for a value."""
        return list(self._connection.execute(statement.replace("?", "%s"), tuple(values)).fetchall())

    def seals(self, low: int, high: int) -> list[Row]:
        """Return (position, seq, stored instant, leaf, chain) of positions ``low`` to before ``high``."""
        statement = (
            "SELECT position, seq, occurred_at, leaf, chain FROM audit_seal "
            "WHERE position >= %s AND position < %s ORDER BY position"
        )
        return list(self._fast.execute(statement, (low, high)).fetchall())

    def events(self, first: int, last: int, span: tuple[Any, Any] | None = None) -> list[EventRow]:
        """Return the events with numbers from ``first`` to ``last``; of the partitions of the instants in ``span``."""
        statement = "SELECT seq, occurred_at, body, mark FROM audit_event WHERE seq BETWEEN %s AND %s"
        values: tuple[Any, ...] = (first, last)
        if span is not None:
            statement += " AND occurred_at BETWEEN %s::timestamptz AND %s::timestamptz"
            values += tuple(self._instant(at).decode("ascii") or "infinity" for at in span)
        rows = self._fast.execute(statement.encode("ascii"), values).fetchall()
        instant = self._instant
        return [(seq, instant(at), body, mark) for seq, at, body, mark in rows]

    def events_of(self, seqs: Sequence[int]) -> list[EventRow]:
        """Return the events with these few numbers, wherever they are."""
        statement = "SELECT seq, occurred_at, body, mark FROM audit_event WHERE seq = ANY(%s)"
        rows = self._fast.execute(statement, (list(seqs),)).fetchall()
        return [(seq, self._instant(at), body, mark) for seq, at, body, mark in rows]

    def private(self, first: int, last: int) -> list[Row]:
        """Return (seq, key, JSON) of what is kept apart from these events."""
        return self.ask("SELECT seq, key, content::text FROM audit_private WHERE seq BETWEEN ? AND ?", [first, last])

    def nodes(self, low: int, high: int) -> list[Row]:
        """Return (level, number, hash) of the inner nodes over leaves within ``low`` to ``high`` that are kept."""
        rows = self.ask(
            "SELECT n.level, n.number, n.hash FROM generate_series(8, 62) AS l(level) JOIN audit_node n "
            "ON n.level = l.level AND n.number >= (?::bigint >> l.level) AND n.number < (?::bigint >> l.level) ",
            [low, high],
        )
        return [row for row in rows if row[1] << row[0] >= low]


def open_reader(source: Source) -> Reader:
    """Connect to a log, read-only.

    Raises:
        ConfigurationError: it cannot be read.
    """
    return PostgresqlReader(source) if source.dialect == "postgresql" else Reader(source)


def source_of(url: str) -> Source:
    """Return where the log of a database URL is."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Source("sqlite", parsed.database or "")
    return Source("postgresql", parsed.set(drivername="postgresql").render_as_string(hide_password=False))


def _sqlite_instant(stored: Any) -> bytes:
    text = stored if isinstance(stored, bytes) else str(stored).encode()
    return text[:10] + b"T" + text[11:] + b"Z"


def _postgresql_instant() -> Callable[[int], bytes]:
    """Return the function that writes PostgreSQL's microseconds as they are hashed; most share their second."""
    second, written = -1, b""

    def instant(microseconds: int) -> bytes:
        nonlocal second, written
        now, rest = divmod(microseconds, 1_000_000)
        if now != second:
            try:
                written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + _EPOCH_S)).encode("ascii")
            except (OverflowError, ValueError, OSError):
                return b""  # endless
            second = now
        return b"%s.%06dZ" % (written, rest)

    return instant
