"""A hospital's audit trail for the benchmark: many drafts and ten events of each, sealed, by COPY into PostgreSQL.

Bodies are what ``db.audit_record.sheet`` would make (the first of each kind is compared with it), marks and leaves are
true ones, so that the verification has everything to verify. A second process makes the other half.
"""

import hmac
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from multiprocessing import get_context
from uuid import UUID

import psycopg
from psycopg import sql

from db.audit_record import canonical

EVENTS_PER_DRAFT = 10
EPOCH = datetime(2025, 1, 3, tzinfo=UTC)
SPAN = timedelta(days=660)
MODELS = tuple((f"CXR{n}", f"{n}.{m}.0") for n in range(4) for m in range(5))
READERS = 40
_TAGS = (
    ("study:received", "peer", "SCANNER"),
    ("reading:queued", "process", "sweeper"),
    ("reading:started", "process", "worker"),
    ("reading:drafted", "process", "worker"),
    ("report:opened", "person", "reader"),
    ("images:viewed", "person", "reader"),
    ("report:edited", "person", "reader"),
    ("user:reauthenticated", "person", "reader"),
    ("report:signed_final", "person", "reader"),
    ("delivery:delivered", "process", "node"),
)
_NODE_LEVEL = 8


@dataclass(frozen=True)
class Site:
    """How large the site is, and the key its events are marked with."""

    drafts: int
    key_name: str
    key: bytes

    @property
    def events(self) -> int:
        """Number of events."""
        return self.drafts * EVENTS_PER_DRAFT

    def at(self, number: int) -> datetime:
        """When the study of that number came."""
        return EPOCH + SPAN * (number / self.drafts)


def key_of(kind: str, number: int) -> UUID:
    """The id of the row of a kind that belongs to a study."""
    return UUID(bytes=sha256(f"{kind}{number}".encode()).digest()[:16], version=4)


def reader_of(number: int) -> int:
    """Who reads the study."""
    return number * 7919 % READERS


# --- events --------------------------------------------------------------------------------------------------


def bodies(site: Site, number: int) -> Iterator[tuple[datetime, str]]:
    """Yield time and canonical body of the events of one study, oldest first."""
    study, reading, report = (str(key_of(kind, number)) for kind in ("study", "reading", "report"))
    came = site.at(number)
    for place, (tag, kind, actor) in enumerate(_TAGS):
        at = came + timedelta(microseconds=place * 137)  # in order over all studies; the span leaves room
        words = {
            "actor": f"{actor}{reader_of(number) if kind == 'person' else number % 12 if kind == 'peer' else ''}",
            "at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "detail": {"address": f"10.0.{number % 200}.7"} if kind != "process" else {"attempt": 1},
            "id": sha256(b"%d" % (number * EVENTS_PER_DRAFT + place)).hexdigest()[:32],
            "kind": kind,
            "outcome": "failure" if tag == "images:viewed" and number % 5000 == 0 else "success",
            **({"reading_id": reading} if tag.startswith("reading") else {}),
            **({"report_id": report} if tag.startswith("report") else {}),
            "study_id": study,
            "tag": tag,
            "v": 1,
        }
        if kind == "person":
            words["user"] = str(key_of("user", reader_of(number)))
        if tag.startswith("user:"):
            words |= {"object_id": words["user"], "object_type": "user"}
        yield at, json.dumps(words, separators=(",", ":"), sort_keys=True)


def check_bodies(site: Site) -> None:
    """Raise when a body is not the canonical one."""
    for _, body in bodies(site, 0):
        assert canonical(json.loads(body)).decode() == body


def _fill_events(url: str, site: Site, first: int, end: int) -> bytes:
    """COPY the events of studies ``first`` to ``end``; return their leaves, one after the other."""
    leaves = bytearray()
    statement = "COPY audit_event (seq, occurred_at, body, mark) FROM STDIN"
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # nothing waits for the sealer
        for start in range(first, end, 20_000):
            with cursor.copy(statement) as copy:
                for number in range(start, min(start + 20_000, end)):
                    copy.write(_lines(site, number, leaves))
            connection.commit()
    return bytes(leaves)


def _lines(site: Site, number: int, leaves: bytearray) -> bytes:
    lines = []
    for place, (at, body) in enumerate(bodies(site, number)):
        seq = number * EVENTS_PER_DRAFT + place + 1
        raw = body.encode()
        moment = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        mark = f"{site.key_name}:{hmac.digest(site.key, raw, 'sha256').hex()}".encode()
        leaves += sha256(b"\x00%d %b\n%b" % (seq, moment, raw)).digest()
        lines.append(b"%d\t%b\t%b\t%b\n" % (seq, moment, raw.replace(b"\\", b"\\\\"), mark))
    return b"".join(lines)


def _fill_seals(url: str, site: Site, leaves: bytes, place: Callable[[int], datetime]) -> bytes:
    """COPY the seals of all leaves; return the chain's last value."""
    chain = bytes(32)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        with cursor.copy("COPY audit_seal (position, seq, occurred_at, leaf, chain) FROM STDIN") as copy:
            for position in range(site.events):
                leaf = leaves[position * 32 : position * 32 + 32]
                chain = sha256(chain + leaf).digest()
                at = place(position).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                copy.write(f"{position}\t{position + 1}\t{at}\t\\\\x{leaf.hex()}\t\\\\x{chain.hex()}\n")
        row = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
        with cursor.copy("COPY audit_node (level, number, hash) FROM STDIN") as copy:
            for level, number, node in _nodes(row):
                copy.write(f"{level}\t{number}\t\\\\x{node.hex()}\n")
    return chain


def fill_events(url: str, site: Site) -> None:
    """Put the site's events and their seals into an empty migrated database."""
    check_bodies(site)
    if url.startswith("sqlite"):
        _fill_sqlite(url, site)
        return
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        day = EPOCH
        while day < EPOCH + SPAN + timedelta(days=62):
            connection.execute("SELECT audit_partition(%s)", (day.date(),))
            day += timedelta(days=28)
        made = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'audit_event' AND indexname NOT LIKE 'pk%'"
        ).fetchall()
        for name, _ in made:
            connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        half = site.drafts // 2
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            parts = [pool.submit(_fill_events, plain, site, *span) for span in ((0, half), (half, site.drafts))]
            leaves = b"".join(part.result() for part in parts)
        _fill_seals(plain, site, leaves, lambda position: _at(site, position))
        for _, definition in made:
            connection.execute(definition.replace(" ON ONLY ", " ON ").encode())
        connection.execute("SELECT setval('audit_event_seq', %s)", (site.events,))


def _fill_sqlite(url: str, site: Site) -> None:
    leaves = bytearray()
    with without_triggers(url) as connection:
        for start in range(0, site.drafts, 1000):
            lines = b"".join(_lines(site, n, leaves) for n in range(start, min(start + 1000, site.drafts)))
            rows = [line.split("\t") for line in lines.decode().splitlines()]
            connection.executemany(
                "INSERT INTO audit_event (seq, occurred_at, body, mark) VALUES (?, ?, ?, ?)",
                [(int(seq), _stored(at), body.replace("\\\\", "\\"), mark) for seq, at, body, mark in rows],
            )
        chain, row = bytes(32), [bytes(leaves[at : at + 32]) for at in range(0, len(leaves), 32)]
        for position, leaf in enumerate(row):
            chain = sha256(chain + leaf).digest()
            at = _stored(_at(site, position).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
            connection.execute(
                "INSERT INTO audit_seal VALUES (?, ?, ?, ?, ?)", (position, position + 1, at, leaf, chain)
            )
        for level, number, node in _nodes(row):
            connection.execute("INSERT INTO audit_node VALUES (?, ?, ?)", (level, number, node))
        connection.commit()


def _stored(at: str) -> str:
    return at.replace("T", " ").rstrip("Z")


def _nodes(row: list[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield the whole subtrees that are kept, from the leaves."""
    level = 0
    while len(row) > 1:
        row = [sha256(b"\x01" + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        level += 1
        if level >= _NODE_LEVEL:
            yield from ((level, number, node) for number, node in enumerate(row))


@contextmanager
def without_triggers(url: str) -> Iterator[sqlite3.Connection]:
    """Give a connection to a SQLite database whose triggers are away meanwhile."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        connection.execute("PRAGMA synchronous = OFF")
        for name, _ in made:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, definition in made:
            connection.execute(definition)
        connection.commit()


def _at(site: Site, position: int) -> datetime:
    number, place = divmod(position, EVENTS_PER_DRAFT)
    return site.at(number) + timedelta(microseconds=place * 137)
