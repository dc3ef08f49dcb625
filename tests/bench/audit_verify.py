"""How many events a second `audit.verify` checks, beside pymerkle's tree over the same leaves."""

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from pymerkle import InmemoryTree

from audit.keys import SealKeys
from audit.reading import source_of
from audit.verify import Terms, verify
from db.engine import make_engine
from db.models import AuditEvent
from db.origin import read_keys

_PEER_EVENTS = 100_000


def measure_verification(url: str, key_dir: Path, say: Callable[[str], None]) -> float:
    """Return events verified per second, every check of every event; print it beside the peer's."""
    keys = SealKeys(key_dir, create=True)
    keys.current()
    terms = Terms(public_keys=keys.public(), origin_keys=read_keys(key_dir).keys)
    begun = time.monotonic()
    verdict = verify(source_of(url), terms)
    seconds = time.monotonic() - begun
    assert not verdict.problems, verdict.problems[:3]
    ours = verdict.size / seconds
    say(
        f"\nverification: {verdict.size} events in {seconds:.1f} s, every check: {ours:.0f}/s"
        f"\npeer, pymerkle's tree alone over the same bodies, in memory already: {_peer(url):.0f}/s"
    )
    return ours


def _peer(url: str) -> float:
    engine = make_engine(url)
    with engine.connect() as connection:
        query = sa.select(AuditEvent.body).order_by(AuditEvent.seq).limit(_PEER_EVENTS)
        bodies = [body.encode() for body in connection.scalars(query)]
    engine.dispose()
    begun = time.monotonic()
    tree = InmemoryTree(algorithm="sha256")
    for body in bodies:
        tree.append_entry(body)
    tree.get_state()
    return len(bodies) / (time.monotonic() - begun)
