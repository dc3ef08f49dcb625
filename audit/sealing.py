"""The sealer: gives every committed event its place in the chain and the tree, and signs the heads.

One process seals at a time (an advisory lock on PostgreSQL, the one writer on SQLite); those who record acts wait for
no chain. What it finds wrong never stops it: it seals what is there, and ``audit.verify`` names it.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import structlog
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session, sessionmaker

from audit import tree
from audit.heads import Head, sign
from audit.keys import SealKey, SealKeys
from audit.tables import KEPT_LEVEL, Seal, Tables, Waiting, moment, tables_of
from config.errors import TransientError
from config.settings import AuditSettings
from db.audit import AuditTag
from db.audit_models import AuditHead, AuditPending
from db.recording import write_recorded
from db.types import utcnow
from db.uow import Actor, UnitOfWork, unit_of_work

log = structlog.get_logger()

PER_PASS = 5000  # events sealed in one transaction
_REMEMBERED = 10_000  # latest seals whose instants a new process looks at
_CLOCK_QUIET_S = 600.0  # a clock that stays back makes one event in this time
SEALER = Actor("sealer", "process")


class Sealer:
    """Seals in rounds; a round that fails is tried again, whole."""

    def __init__(self, sessions: sessionmaker[Session], keys: SealKeys, settings: AuditSettings) -> None:
        """Seal in this database with these keys."""
        self._sessions = sessions
        self._keys = keys
        self._settings = settings
        self._signed = -float("inf")  # monotonic time of this process's last head
        self._latest: datetime | None = None  # of all sealed events' instants
        self._quiet_until = -float("inf")  # monotonic time before which a clock set back is not recorded again

    def round(self) -> int:
        """Seal everything that waits, sign a head when one is due; return how many events were sealed.

        Raises:
            TransientError: the database is busy or cannot be reached.
            ConfigurationError: there is no key.
        """
        total = 0
        while self._has_work():
            with unit_of_work(self._sessions, SEALER) as uow, locked(uow) as tables:
                sealed = self._seal(uow, tables) if tables else 0
                if tables:
                    self._sign_when_due(uow, tables)
            total += sealed
            if sealed < PER_PASS:
                break
        return total

    def head(self) -> Head | None:
        """Seal everything that waits and sign a head now; None when nothing was ever sealed.

        Raises:
            TransientError: another process seals, or as :meth:`round`.
        """
        self.round()
        with unit_of_work(self._sessions, SEALER) as uow, locked(uow) as tables:
            if tables is None:
                raise TransientError("another process seals just now")
            return self._sign(uow, tables, [self._keys.current()])

    def rotate(self) -> Head:
        """Let a new key sign from now on: recorded, sealed, and said in a head that both keys sign.

        Raises:
            TransientError: another process seals just now.
            ConfigurationError: there is no key to replace.
        """
        old, new = self._keys.rotate()
        try:
            return self._take_over(old, new)
        except BaseException:
            self._keys.put_back(old)
            raise

    def _take_over(self, old: SealKey, new: SealKey) -> Head:
        with unit_of_work(self._sessions, SEALER) as uow, locked(uow) as tables:
            if tables is None:
                raise TransientError("another process seals just now")
            detail = {"key": "seal", "before": old.public.name, "after": new.public.name}
            uow.audit(AuditTag.AUDIT_KEY_ROTATED, object_type="key", object_id=new.public.name, detail=detail)
            write_recorded(uow.session)
            while self._seal(uow, tables) == PER_PASS:
                pass
            head = self._sign(uow, tables, [new, old])
            assert head is not None  # the event of the rotation itself is in it
            return head

    def _has_work(self) -> bool:
        with self._sessions() as session:
            if session.scalar(select(AuditPending.seq).limit(1)) is not None:
                return True
        return self._due_by_time()

    # --- seals ---------------------------------------------------------------------------------------------

    def _seal(self, uow: UnitOfWork, tables: Tables) -> int:
        waiting = tables.waiting(PER_PASS)
        if not waiting:
            return 0
        size, chain = tables.edge()
        if self._latest is None:
            self._latest = _latest(tables, size)
        frontier = tree.Frontier(size, [tables.subtree(level, at) for level, at in tree.peaks_of(size)])
        seals, nodes = [], []
        for one in waiting:
            leaf = tree.leaf_hash(tree.preimage(one.seq, one.at, one.body))
            chain = tree.chain_hash(chain, leaf)
            seals.append(Seal(frontier.size, one.seq, one.stored_at, leaf, chain))
            nodes += [made for made in frontier.append(leaf) if made[0] >= KEPT_LEVEL]
        tables.write(seals)
        if nodes:
            tables.write_nodes(nodes)
        self._watch_clock(uow, size, waiting)
        return len(seals)

    def _watch_clock(self, uow: UnitOfWork, position: int, waiting: Sequence[Waiting]) -> None:
        """Record it when an event says an instant long before one that was sealed earlier; not for each of many."""
        for number, one in enumerate(waiting):
            at = moment(one.at)
            if at is None:
                continue
            late = (self._latest - at).total_seconds() if self._latest is not None else 0.0
            if late > self._settings.clock_tolerance_s and time.monotonic() >= self._quiet_until:
                self._quiet_until = time.monotonic() + _CLOCK_QUIET_S
                detail = {"position": position + number, "event": one.seq, "seconds": late}
                uow.audit(AuditTag.AUDIT_CLOCK_BACK, outcome="failure", object_type="clock", detail=detail)
                log.error("audit.clock_back", seconds=late)
            self._latest = at if self._latest is None else max(self._latest, at)

    # --- heads ---------------------------------------------------------------------------------------------

    def _sign_when_due(self, uow: UnitOfWork, tables: Tables) -> None:
        size, _ = tables.edge()
        before = last_head(uow.session)
        grown = size - (before.size if before else 0)
        if grown and (before is None or grown >= self._settings.head_every_events or self._due(before.signed_at)):
            self._sign(uow, tables, [self._keys.current()])

    def _due(self, signed_at: datetime) -> bool:
        if self._signed == -float("inf"):
            # another process signed it: the wall clock tells how long ago, unless it went back
            ago = (utcnow() - signed_at).total_seconds()
            if 0 <= ago < self._settings.head_every_s:
                self._signed = time.monotonic() - ago
        return self._due_by_time()

    def _due_by_time(self) -> bool:
        return time.monotonic() - self._signed >= self._settings.head_every_s

    def _sign(self, uow: UnitOfWork, tables: Tables, keys: Sequence[SealKey]) -> Head | None:
        """Sign a head over what is sealed; the one there is when it covers all."""
        size, chain = tables.edge()
        before = last_head(uow.session)
        self._signed = time.monotonic()
        if before is not None and before.size >= size:
            return _again(before)
        if size == 0:
            return None
        at = utcnow()
        root = tree.root_at(size, tables.subtree)
        successor = keys[0].public if len(keys) > 1 else None
        head = Head(self._settings.origin, size, root, chain, at, before.size if before else 0, successor)
        note = sign(head, keys)
        uow.session.add(
            AuditHead(size=size, root=root, chain=chain, signed_at=at, key_name=keys[0].public.name, note=note)
        )
        uow.session.flush()
        if before is not None and at < before.signed_at:
            detail = {"size": size, "seconds": (before.signed_at - at).total_seconds()}
            uow.audit(AuditTag.AUDIT_CLOCK_BACK, outcome="failure", object_type="head", detail=detail)
        return Head(**(vars(head) | {"signed_by": tuple(key.public.name for key in keys), "note": note}))


def last_head(session: Session) -> AuditHead | None:
    """Return the newest head."""
    return session.scalars(select(AuditHead).order_by(AuditHead.size.desc()).limit(1)).first()


def seal_all(
    sessions: sessionmaker[Session], folder: Path, settings: AuditSettings | None = None, *, create: bool = True
) -> Head | None:
    """Seal everything that waits with the key in ``folder`` and sign a head now."""
    return Sealer(sessions, SealKeys(folder, create), settings or AuditSettings()).head()


@contextmanager
def locked(uow: UnitOfWork) -> Iterator[Tables | None]:
    """Give the seal's tables in this transaction; None while another process seals.

    Raises:
        TransientError: the database is busy or cannot be reached.
    """
    connection = uow.session.connection()
    with _driver_errors():
        tables = tables_of(connection.dialect.name, _cursor(connection))
        yield tables if tables.lock() else None


def _cursor(connection: Connection) -> Any:
    return connection.connection.cursor()


@contextmanager
def _driver_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, psycopg.OperationalError) as exc:
        raise TransientError("the database cannot be reached, or is busy") from exc


def _latest(tables: Tables, size: int) -> datetime | None:
    """Return the latest instant of the latest seals, as the database compares them."""
    rows = tables.instants(size - _REMEMBERED)
    return max((at for at in map(moment, rows) if at is not None), default=None)


def _again(row: AuditHead) -> Head:
    return Head("", row.size, row.root, row.chain, row.signed_at, note=row.note, signed_by=(row.key_name,))
