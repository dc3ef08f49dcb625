"""What the data folder holds, counted once in a while, so that no page has to walk millions of files."""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.lifecycle.retention import bytes_per_day, days_of_data, kept_studies, next_to_go
from db.models import Instance
from db.running_models import DiskMeasure
from db.uow import Actor, unit_of_work
from instances.retention import retention_terms

EVERY = timedelta(hours=1)
KEEP = timedelta(days=30)
_ACTOR = Actor("node", "process")
FOLDERS = ("results", "hl7", "quarantine", "logs", "models", "broker", "archive", "synthetic")
"""Folders of the data folder that are walked; the images' sizes are in the database."""
_NEXT = 10


def measure_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Measure when the last measure is an hour old; return how many files were counted.

    Raises:
        TransientError: the database cannot be used.
    """
    with sessions() as session:
        newest = session.scalar(select(func.max(DiskMeasure.taken_at)))
    if newest is not None and now - newest < EVERY:
        return 0
    return measure(sessions, settings, now)


def measure(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Count what each part of the data folder holds and keep it; return how many files were walked."""
    began = time.monotonic()
    data = settings.data_dir.resolve()
    walked = {name: _walk(data / name) for name in FOLDERS}
    parts = {name: {"bytes": size, "files": files} for name, (files, size) in walked.items() if files}
    with sessions() as session:
        held = select(func.count(), func.sum(Instance.size_bytes)).where(Instance.deleted_at.is_(None))
        files, size = session.execute(held).one()
        parts["instances"] = {"bytes": int(size or 0), "files": files}
        parts["database"] = {"bytes": _database_bytes(session, data), "files": 1}
        facts = _facts(session, settings, now)
    with unit_of_work(sessions, _ACTOR) as uow:
        uow.session.add(DiskMeasure(taken_at=now, seconds=time.monotonic() - began, parts=parts, facts=facts))
        uow.session.execute(delete(DiskMeasure).where(DiskMeasure.taken_at < now - KEEP))
    return sum(files for files, _ in walked.values())


def _facts(session: Session, settings: Settings, now: datetime) -> dict[str, object]:
    terms = retention_terms(settings)
    kept = kept_studies(session, terms)
    soonest = next_to_go(session, terms, limit=_NEXT)
    return {
        "days_of_data": days_of_data(session, now),
        "per_day_7": bytes_per_day(session, now, days=7),
        "per_day_30": bytes_per_day(session, now, days=30),
        "kept": [{"reason": one.reason, "studies": one.studies, "bytes": one.size_bytes} for one in kept if one.reason],
        "may_go": next(({"studies": one.studies, "bytes": one.size_bytes} for one in kept if not one.reason), {}),
        "next": [
            {
                "study_id": str(one.study_id),
                "accession_number": one.accession_number,
                "received": one.last_received_at.isoformat(),
                "bytes": int(one.size_bytes),
            }
            for one in soonest
        ],
    }


def _walk(folder: Path) -> tuple[int, int]:
    """Return how many files lie below a folder, and their bytes; what disappears meanwhile is not counted."""
    files = size = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        files, size = files + 1, size + entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return files, size


def _database_bytes(session: Session, data: Path) -> int:
    bind = session.get_bind()
    if bind.dialect.name == "postgresql":
        return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    path = Path(bind.engine.url.database or data / "firstread.db")
    return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*") if one.is_file())
