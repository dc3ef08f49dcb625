"""The seal's tables through the driver's own cursor, for both databases: what the sealer writes, and proofs read.

Values come as the database holds them, text as bytes, instants as text: a row somebody tampered with must be sealed
and shown, not stop whoever reads it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from audit import tree

KEPT_LEVEL = 8  # nodes below are hashed from at most 256 leaves when they are needed
# PostgreSQL's own words for an instant as it is hashed
_AT = """to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_LOCK = 7_310_552_042  # any number; the same for every sealer


class Waiting(NamedTuple):
    """An event that is not sealed yet."""

    seq: int
    stored_at: str  # the instant as the database writes it
    at: str  # the instant as it is hashed
    body: bytes  # empty when the event is gone


class Seal(NamedTuple):
    """One row of ``audit_seal``."""

    position: int
    seq: int
    stored_at: str
    leaf: bytes
    chain: bytes


class Tables:
    """What both databases do alike; statements have ``?`` where the driver's own sign goes, ``@at`` for an instant."""

    sign = "?"
    waiting_sql = (
        "SELECT p.seq, CAST(p.occurred_at AS BLOB), CAST(e.body AS BLOB) FROM audit_pending p "
        "LEFT JOIN audit_event e ON e.seq = p.seq AND e.occurred_at = p.occurred_at ORDER BY p.seq LIMIT ?"
    )

    def __init__(self, cursor: Any) -> None:
        """Work with the cursor of an open transaction."""
        self.cursor = cursor

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement gives."""
        self.cursor.execute(statement.replace("?", self.sign).replace("@at", _AT), tuple(values))
        return list(self.cursor.fetchall()) if self.cursor.description else []

    def lock(self) -> bool:
        """Return whether this transaction is the only one that seals; SQLite has one writer anyway."""
        return True

    def waiting(self, limit: int) -> list[Waiting]:
        """Return what waits, in the order of numbers."""
        rows = self.run(self.waiting_sql, [limit])
        return [Waiting(seq, text(at), instant(text(at)), bytes(body or b"")) for seq, at, body in rows]

    def write(self, seals: Sequence[Seal]) -> None:
        """Add seals, and take their events off what waits."""
        self.cursor.executemany(
            "INSERT INTO audit_seal (position, seq, occurred_at, leaf, chain) VALUES (?, ?, ?, ?, ?)", seals
        )
        self.cursor.executemany("DELETE FROM audit_pending WHERE seq = ?", [(seal.seq,) for seal in seals])

    def write_nodes(self, nodes: Iterable[tuple[int, int, bytes]]) -> None:
        """Add inner nodes of the tree."""
        statement = "INSERT INTO audit_node (level, number, hash) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        self.cursor.executemany(statement.replace("?", self.sign), list(nodes))

    def edge(self) -> tuple[int, bytes]:
        """Return how many events are sealed, and the chain's last value."""
        rows = self.run("SELECT position, chain FROM audit_seal ORDER BY position DESC LIMIT 1")
        return (rows[0][0] + 1, bytes(rows[0][1])) if rows else (0, tree.NO_CHAIN)

    def leaves(self, low: int, high: int) -> list[bytes]:
        """Return the leaf hashes of positions from ``low`` to before ``high``."""
        rows = self.run(
            "SELECT leaf FROM audit_seal WHERE position >= ? AND position < ? ORDER BY position", [low, high]
        )
        return [bytes(row[0]) for row in rows]

    def instants(self, low: int) -> list[str]:
        """Return the instants, as they are hashed, of the seals from position ``low`` on."""
        rows = self.run("SELECT CAST(occurred_at AS BLOB) FROM audit_seal WHERE position >= ?", [low])
        return [instant(text(row[0])) for row in rows]

    def subtree(self, level: int, number: int) -> bytes:
        """Return the hash of a whole subtree, from the node kept, or from what is below it."""
        if level >= KEPT_LEVEL:
            rows = self.run("SELECT hash FROM audit_node WHERE level = ? AND number = ?", [level, number])
            if rows:
                return bytes(rows[0][0])
        if level <= KEPT_LEVEL:
            return tree.root_of(self.leaves(number << level, number + 1 << level))
        return tree.node_hash(self.subtree(level - 1, 2 * number), self.subtree(level - 1, 2 * number + 1))


class PostgresqlTables(Tables):
    """PostgreSQL, psycopg 3."""

    sign = "%s"

    def lock(self) -> bool:
        """Return whether this transaction is the only one that seals."""
        self.cursor.execute("SET LOCAL timezone = 'UTC'")
        self.cursor.execute("SET LOCAL datestyle = 'ISO'")
        return bool(self.run(f"SELECT pg_try_advisory_xact_lock({_LOCK})")[0][0])

    def waiting(self, limit: int) -> list[Waiting]:
        """Return what waits, in the order of numbers."""
        # two steps: a join could be planned over the whole log
        rows = self.run("SELECT seq, occurred_at::text, @at FROM audit_pending ORDER BY seq LIMIT ?", [limit])
        if not rows:
            return []
        bodies = self.run(
            "SELECT seq, occurred_at::text, body FROM audit_event WHERE seq = ANY(?) "
            "AND occurred_at >= ?::timestamptz AND occurred_at <= ?::timestamptz",
            [[row[0] for row in rows], *_ends(row[1] for row in rows)],
        )
        held = {(seq, at): body.encode("utf-8") for seq, at, body in bodies}
        return [Waiting(seq, stored, at or "", held.get((seq, stored), b"")) for seq, stored, at in rows]

    def instants(self, low: int) -> list[str]:
        """Return the instants, as they are hashed, of the seals from position ``low`` on."""
        return [row[0] or "" for row in self.run("SELECT @at FROM audit_seal WHERE position >= ?", [low])]

    def write(self, seals: Sequence[Seal]) -> None:
        """Add seals, and take their events off what waits."""
        with self.cursor.copy("COPY audit_seal (position, seq, occurred_at, leaf, chain) FROM STDIN") as copy:
            for seal in seals:
                copy.write_row(seal)
        self.run("DELETE FROM audit_pending WHERE seq = ANY(?)", [[seal.seq for seal in seals]])


def tables_of(dialect: str, cursor: Any) -> Tables:
    """Return the tables of a database, by the name of its dialect."""
    return PostgresqlTables(cursor) if dialect == "postgresql" else Tables(cursor)


def text(value: Any) -> str:
    """Return text as SQLite gave it, whatever somebody put there."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def instant(stored: str) -> str:
    """Return SQLite's text of an instant as it is hashed."""
    return f"{stored[:10]}T{stored[11:]}Z"


def moment(at: str) -> datetime | None:
    """Return the instant that the hashed text says; None when it says none."""
    try:
        return datetime.fromisoformat(at)
    except ValueError:
        return None


def _ends(instants: Iterable[str]) -> tuple[str, str]:
    """Return the first and the last instant; text in one form and zone sorts as time does, endless ones aside."""
    known = sorted(instants)
    return ("-infinity", "infinity") if "infinity" in known[-1] else (known[0], known[-1])
