"""How many events a second the application records while they are sealed, and what an ordinary table would take."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from audit.keys import SealKeys
from audit.sealing import Sealer
from config.settings import AuditSettings
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.origin import keys_are_in
from db.types import utcnow
from db.uow import Actor, unit_of_work

WRITERS = 2
PER_TRANSACTION = 10  # events of one act with its moves, as of a Study that is drafted
_PEER = "ordinary_event"


def measure_ingest(url: str, key_dir: Path, seconds: float, say: Callable[[str], None]) -> float:
    """Return events sealed per second, writers and sealer together; print it beside the peer's."""
    _make_peer(url)
    with ProcessPoolExecutor(WRITERS + 1, mp_context=get_context("spawn")) as pool:
        until = time.time() + seconds + 5
        sealing = pool.submit(_seal, url, key_dir, until)
        writing = [pool.submit(_write, url, key_dir, until - seconds, until) for _ in range(WRITERS)]
        written = sum(one.result() for one in writing)
        drained = sealing.result() - (until - seconds)
        until = time.time() + seconds / 2 + 5
        peers = [pool.submit(_write_peer, url, until - seconds / 2, until) for _ in range(WRITERS)]
        ordinary = sum(one.result() for one in peers) / (seconds / 2)
    say(
        f"\ningest: {written} events in {drained:.1f} s until the last was sealed, {WRITERS} writers, "
        f"{PER_TRANSACTION} events in a transaction: {written / drained:.0f}/s"
        f"\npeer, an ordinary table with the same columns and indexes: {ordinary:.0f}/s"
    )
    return written / drained


def _write(url: str, key_dir: Path, begin: float, until: float) -> int:
    """Record events through the unit of work; return how many."""
    keys_are_in(key_dir)
    sessions = make_sessions(make_engine(url))
    actor = Actor("bench", "person", uuid4(), "radiologist", "10.0.0.7")
    time.sleep(max(0.0, begin - time.time()))
    count = 0
    while time.time() < until:
        study = uuid4()
        with unit_of_work(sessions, actor) as uow:
            for number in range(PER_TRANSACTION - 1):
                uow.audit(AuditTag.IMAGES_VIEWED, study_id=study, detail={"frames": number})
            words = {"before": "no effusion", "after": "a small effusion"}
            uow.audit(AuditTag.REPORT_EDITED, study_id=study, detail=words)
        count += PER_TRANSACTION
    return count


def _seal(url: str, key_dir: Path, until: float) -> float:
    """Seal once a second, and then until nothing waits; return when that was."""
    keys_are_in(key_dir)
    sealer = Sealer(make_sessions(make_engine(url)), SealKeys(key_dir, create=True), AuditSettings())
    while time.time() < until or sealer.round():
        begun = time.time()
        sealer.round()
        time.sleep(max(0.0, min(1.0 - (time.time() - begun), until - time.time())))
    return time.time()


# --- the peer ------------------------------------------------------------------------------------------------


def _make_peer(url: str) -> None:
    engine = make_engine(url)
    table = sa.Table(
        _PEER,
        sa.MetaData(),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), index=True),
        *(sa.Column(name, sa.String(64)) for name in ("actor", "actor_kind", "tag", "outcome", "study_id")),
        *(sa.Column(name, sa.String(64)) for name in ("object_type", "object_id")),
        sa.Column("detail", sa.JSON()),
    )
    for name in ("study_id", "tag", "actor", "object_id"):
        sa.Index(f"ix_{_PEER}_{name}", table.c[name], table.c.seq)
    table.create(engine)
    engine.dispose()


def _write_peer(url: str, begin: float, until: float) -> int:
    sessions = make_sessions(make_engine(url))
    statement = sa.text(
        f"INSERT INTO {_PEER} (occurred_at, actor, actor_kind, tag, outcome, study_id, object_type, object_id, detail) "
        "VALUES (:at, 'bench', 'person', :tag, 'success', :study, '', '', :detail)"
    )
    time.sleep(max(0.0, begin - time.time()))
    count = 0
    while time.time() < until:
        study = str(uuid4())
        rows = [
            {"at": utcnow(), "tag": "images:viewed", "study": study, "detail": f'{{"frames": {number}}}'}
            for number in range(PER_TRANSACTION)
        ]
        with unit_of_work(sessions, Actor("bench", "person")) as uow:
            uow.session.connection().execute(statement, rows)
        count += PER_TRANSACTION
    return count
