"""A small sealed log on each database, and somebody who rules over the database and may write whatever he likes."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from audit import tree
from audit.anchors import Anchors
from audit.keys import SealKeys
from audit.reading import source_of
from audit.sealing import seal_all
from audit.tables import tables_of
from audit.verify import Terms, Verdict, verify
from config.settings import AuditSettings
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.origin import read_keys
from db.uow import Actor, unit_of_work
from tests.conftest import _KEYS

BACKUP, SIZE = 240, 300  # events when the backup was made, and at the end
NODE = Actor("node", "process")
HEADS = (120, BACKUP, SIZE)
AT = 99  # the position that is attacked; its event says something about a patient


def record(sessions: sessionmaker[Session], count: int) -> None:
    """Record events; every third says something about a patient."""
    with unit_of_work(sessions, NODE) as uow:
        for number in range(count):
            detail = {"patient_id": f"P{number}", "number": number} if number % 3 == 0 else {"number": number}
            uow.audit(AuditTag.USER_LOGIN, object_type="thing", object_id=str(number), detail=detail)


def seal(url: str, count: int, keys: SealKeys, anchors: Path) -> None:
    """Record events, seal them with a head, and anchor it."""
    engine = make_engine(url)
    try:
        sessions = make_sessions(engine)
        record(sessions, count)
        seal_all(sessions, keys.folder)
        Anchors(sessions, AuditSettings(anchor_dir=anchors)).round()
    finally:
        engine.dispose()


@dataclass
class Prepared:
    """A log of 300 events with three anchored heads, and its backup of 240; databases to be copied."""

    keys: SealKeys
    anchors: Path
    full: str
    backup: str
    copy: Callable[[str], str]  # URL of a fresh copy


@dataclass
class Log:
    """One copy, to be attacked."""

    url: str
    prepared: Prepared
    origin: Path  # folder of the keys that mark events

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return make_url(self.url).get_backend_name()

    def raw(self) -> Any:
        """A connection of the driver's own, whose changes no trigger sees."""
        if self.dialect == "sqlite":
            return _Unguarded(make_url(self.url).database or "")
        connection = psycopg.connect(make_url(self.url).set(drivername="postgresql").render_as_string(False))
        connection.execute("SET session_replication_role = replica")
        return connection

    def do(self, *statements: str) -> None:
        """Run statements that no trigger sees."""
        with self.raw() as connection:
            for statement in statements:
                connection.execute(statement)

    def guarded(self, statement: str) -> None:
        """Run a statement as any account that may insert: with all triggers."""
        engine = make_engine(self.url)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Return rows."""
        with self.raw() as connection:
            return list(connection.execute(statement).fetchall())

    def seq(self, position: int) -> int:
        """Return the number of the event that was sealed at ``position``."""
        return int(self.ask(f"SELECT seq FROM audit_seal WHERE position = {position}")[0][0])

    def go_on(self, count: int = 0) -> None:
        """Let the system work on: events, a seal, a head."""
        engine = make_engine(self.url)
        sessions = make_sessions(engine)
        if count:
            record(sessions, count)
        seal_all(sessions, self.prepared.keys.folder)
        engine.dispose()

    def sealed_again(self) -> None:
        """Make leaves, chain and tree fit the events as they are now: what an attacker without a key can do."""
        with self.raw() as connection:
            cursor = connection.cursor()
            tables = tables_of(self.dialect, cursor)
            rows = tables.run("SELECT s.position, s.seq, e.occurred_at, e.body FROM audit_seal s "
                              "JOIN audit_event e ON e.seq = s.seq ORDER BY s.position")  # fmt: skip
            tables.run("DELETE FROM audit_node")
            frontier, chain = tree.Frontier(), tree.NO_CHAIN
            for position, seq, at, body in rows:
                text = f"{at[:10]}T{at[11:]}Z" if isinstance(at, str) else at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                leaf = tree.leaf_hash(tree.preimage(seq, text, body.encode()))
                chain = tree.chain_hash(chain, leaf)
                tables.run("UPDATE audit_seal SET leaf = ?, chain = ? WHERE position = ?", [leaf, chain, position])
                tables.write_nodes(node for node in frontier.append(leaf) if node[0] >= 8)

    def verify(self, **terms: Any) -> Verdict:
        """Verify with everything an auditor may hold."""
        values: dict[str, Any] = {
            "public_keys": self.prepared.keys.public(),
            "origin_keys": read_keys(self.origin).keys,
            "heads": [self.prepared.anchors],
        }
        return verify(source_of(self.url), Terms(**(values | terms)))


class _Unguarded:
    """A SQLite connection; triggers are away while it is used, and there again afterwards, to the letter."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path)

    def __enter__(self) -> sqlite3.Connection:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'audit_%'"
        self._triggers = self._connection.execute(query).fetchall()
        for name, _ in self._triggers:
            self._connection.execute(f"DROP TRIGGER {name}")
        return self._connection

    def __exit__(self, *_: object) -> None:
        for _, made in self._triggers:
            self._connection.execute(made)
        self._connection.commit()
        self._connection.close()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The log that is attacked, once per file of tests and database."""
    folder = tmp_path_factory.mktemp("log")
    keys, anchors = SealKeys(folder / "keys", create=True), folder / "anchors"
    copy, drop = (_sqlite if request.param == "sqlite" else _postgresql)(request, folder)
    backup = copy("")
    for before, size in ((0, HEADS[0]), (HEADS[0], BACKUP)):
        seal(backup, size - before, keys, anchors)
    full = copy(backup)
    seal(full, SIZE - BACKUP, keys, anchors)
    yield Prepared(keys, anchors, full, backup, copy)
    drop()


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> tuple[Callable[[str], str], Callable[[], None]]:
    empty = request.getfixturevalue("_migrated_file")

    def copy(url: str) -> str:
        source = Path(make_url(url).database) if url else empty
        target = folder / f"{uuid4().hex}.db"
        shutil.copyfile(source, target)
        return f"sqlite:///{target}"

    return copy, lambda: None


def _postgresql(request: pytest.FixtureRequest, _folder: Path) -> tuple[Callable[[str], str], Callable[[], None]]:
    server, made = request.getfixturevalue("postgres_server"), []

    def copy(url: str) -> str:
        name = f"t_{uuid4().hex}"
        server.create(name, template=make_url(url).database if url else "firstread_template")
        made.append(name)
        return str(server.url(name))

    return copy, lambda: [server.drop(name) for name in made] and None


def copy_of(prepared: Prepared) -> Log:
    """Return a copy of the log, to be attacked."""
    return Log(prepared.copy(prepared.full), prepared, _KEYS)


def named(verdict: Verdict, check: str) -> list[tuple[int, int]]:
    """Return position and number of the records that one check names."""
    return [(one.position, one.seq) for one in verdict.problems if one.check == check]


def only(verdict: Verdict, *checks: str) -> bool:
    """Return whether these checks, and no others, found something."""
    return {name for name, count in verdict.found.items() if count} == set(checks)


def sessions_of(log: Log) -> sessionmaker[Session]:
    """Return sessions of this system on a log."""
    return make_sessions(make_engine(log.url))
