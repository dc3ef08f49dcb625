"""After a crash: what lies in the store without a row is indexed or quarantined, never forgotten."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import structlog
from sqlalchemy import select

from config.errors import RefusedInputError
from db.lifecycle.priors import retrieval_of
from db.models import Instance
from instances.arrival import Announced, Arrival, instance_path, read_file
from instances.inbox import Inbox
from instances.part10 import HEAD_BYTES, FileMeta, split_file
from instances.retention import finish_interrupted
from instances.store import named_errors

log = structlog.get_logger()
_MARKER = ".reconciled"
_MARGIN_S = 120.0  # file systems and clocks that disagree a little


@dataclass(frozen=True)
class Reconciled:
    """What was found at start."""

    leftovers_removed: int
    orphans_indexed: int
    orphans_quarantined: int


def reconcile(inbox: Inbox, *, called_ae: str) -> Reconciled:
    """Bring store and database together after a stop at any moment; call before the port opens.

    Temporary files were never acknowledged and are removed. What retention had begun is finished. A file
    under its name without a row was flushed but perhaps not acknowledged: it is indexed like a new arrival,
    or quarantined when it is no Instance of that name. Only folders that changed since the last clean start
    are looked at.

    Raises:
        TransientError: database or file system cannot be used.
    """
    started = time.time()
    finish_interrupted(inbox.sessions, inbox.instances.root)
    with named_errors():
        removed = inbox.instances.remove_leftovers() + inbox.quarantined.remove_leftovers()
        orphans = list(_orphans(inbox))
    indexed = sum(_adopt(inbox, relative, called_ae) for relative in orphans)
    with named_errors():
        marker = inbox.instances.root / _MARKER
        marker.touch()
        os.utime(marker, (started, started))
    found = Reconciled(removed, indexed, len(orphans) - indexed)
    if removed or orphans:
        log.warning("store.reconciled", count=removed, instances=len(orphans))
    return found


def _orphans(inbox: Inbox) -> Iterator[str]:
    """Yield the relative paths of files that have no row."""
    root = inbox.instances.root
    files = _changed_files(root)
    while some := list(islice(files, 500)):
        with inbox.sessions() as session:
            claimed = select(Instance.path).where(Instance.path.in_(some), Instance.deleted_at.is_(None))
            known = set(session.scalars(claimed))
        yield from (path for path in some if path not in known)


def _changed_files(root: Path) -> Iterator[str]:
    """Yield files of the Series folders that got a new name since the last clean start."""
    marker = root / _MARKER
    since = marker.stat().st_mtime - _MARGIN_S if marker.exists() else 0.0
    for series in root.glob("[0-9]*/[0-9]*"):
        if series.is_dir() and series.stat().st_mtime >= since:
            yield from (str(path.relative_to(root)) for path in series.iterdir() if path.is_file())


def _adopt(inbox: Inbox, relative: str, called_ae: str) -> bool:
    """Index one orphan; return False when it had to be quarantined."""
    path = inbox.instances.root / relative
    with named_errors(), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        meta, offset = split_file(head)
    except RefusedInputError:
        meta, offset = FileMeta("", "", ""), 0
    with inbox.sessions() as session:
        retrieval = retrieval_of(session, relative.partition("/")[0])
    announced = Announced(
        meta.transfer_syntax_uid,
        meta.sop_class_uid,
        meta.sop_instance_uid,
        meta.source_ae,
        called_ae,
        move_originator_ae=called_ae,
        move_message_id=retrieval,
    )
    with Arrival(announced, inbox.instances) as arrival:
        read_file(arrival, path, offset)
        try:
            if instance_path(arrival.finish()) != relative:
                raise RefusedInputError("file name and content differ")  # noqa: TRY301
            inbox.keep(arrival)
        except RefusedInputError as exc:
            inbox.refuse(announced, arrival, exc, status=0)
            with named_errors():
                path.unlink(missing_ok=True)
            return False
    return True
