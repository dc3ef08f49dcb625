"""What may go when the disk fills: pixel data of delivered, unheld Studies, oldest first.

Files are never unlinked under their names. Inside the transaction that marks the rows they are moved into a
folder of the same file system, under the Study's lock; what lies there after a stop at any moment is either
marked as deleted, and removed, or it is not, and gets its name back. So no file stays without a row that
claims it, and no row claims a file that is gone.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError
from config.settings import Settings
from db.lifecycle import retention
from db.lifecycle.retention import Candidate, Terms
from db.uow import Actor, unit_of_work
from instances.store import named_errors, sync_folder

log = structlog.get_logger()
_ACTOR = Actor("retention", "process")
_ASIDE = ".deleted"  # no UID begins with a dot, so reconciliation never looks there
_FAR_DAYS = 36_500.0
_A_TURN = 100  # Studies; a node that is told to stop does not wait for more


@dataclass(frozen=True)
class Due:
    """A Study that would go now, and why."""

    study: Candidate
    why: str


@dataclass(frozen=True)
class _Trigger:
    why: str
    received_before: datetime | None  # None: any age
    is_over: Callable[[int], bool]  # given bytes that count as free already


def retention_terms(settings: Settings) -> Terms:
    """Return what these settings ask of a Study before its pixel data go."""
    committing = frozenset(one.name for one in settings.destinations if one.commitment)
    return Terms(committing=committing, unreported=settings.retention.unreported)


def free_bytes(settings: Settings) -> int:
    """Return the free space where Instances are kept.

    Raises:
        TransientError: the file system cannot be asked.
    """
    with named_errors():
        return shutil.disk_usage(settings.instances_dir).free


def plan(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> list[Due]:
    """Return what :func:`delete_due` would delete now, in its order; nothing is changed."""
    terms = retention_terms(settings)
    found: dict[UUID, Due] = {}
    freed = 0
    for trigger in _triggers(settings, now):
        for study in _candidates(sessions, terms, trigger):
            if trigger.is_over(freed):
                break
            if study.study_id not in found:
                found[study.study_id] = Due(study, trigger.why)
                freed += study.size_bytes
    return list(found.values())


@dataclass(frozen=True)
class Forecast:
    """How full the file system of the instance store is, and when it refuses at the rate of the last week."""

    total_bytes: int
    free_bytes: int
    bytes_per_day: float
    refuses_at: datetime | None  # None: nothing arrives


def forecast(session: Session, settings: Settings, now: datetime) -> Forecast:
    """Return when associations will be refused for want of space if nothing is deleted.

    Raises:
        TransientError: the file system cannot be asked.
    """
    with named_errors():
        disk = shutil.disk_usage(settings.instances_dir)
    rate = retention.bytes_per_day(session, now)
    floor = max(settings.retention.refuse_free_bytes, settings.dicom.min_free_bytes)
    days = max(disk.free - floor, 0) / rate if rate else None
    far = days is None or days > _FAR_DAYS
    return Forecast(disk.total, disk.free, rate, None if far else now + timedelta(days=days or 0.0))


def delete_due(
    sessions: sessionmaker[Session], settings: Settings, now: datetime, *, actor: Actor = _ACTOR, most: int = _A_TURN
) -> int:
    """Delete pixel data that retention lets go, of ``most`` Studies; return how many files went.

    Raises:
        TransientError: database or file system cannot be used now; nothing is half done.
    """
    finish_interrupted(sessions, settings.instances_dir)
    terms = retention_terms(settings)
    studies = files = 0
    for trigger in _triggers(settings, now):
        for study in _candidates(sessions, terms, trigger):
            if studies >= most or trigger.is_over(0):
                break
            gone = _delete(sessions, settings.instances_dir, study, terms, trigger, actor)
            files += gone
            studies += bool(gone)
        else:
            if trigger.received_before is None and not trigger.is_over(0):
                log.warning("retention.disk_stays_full", bytes=free_bytes(settings))
    return files


def _triggers(settings: Settings, now: datetime) -> Iterator[_Trigger]:
    keep_days, wanted = settings.retention.keep_days, settings.retention.wanted_free_bytes
    if keep_days:
        yield _Trigger(f"older than {keep_days:g} days", now - timedelta(days=keep_days), lambda _: False)
    if wanted:
        yield _Trigger(
            f"less than {wanted} bytes were free", None, lambda freed: free_bytes(settings) + freed >= wanted
        )


def _candidates(sessions: sessionmaker[Session], terms: Terms, trigger: _Trigger) -> Iterator[Candidate]:
    """Yield Studies that may go, each once, page by page: what one of them meets does not stop the others."""
    last: Candidate | None = None
    while True:
        with sessions() as session:
            page = retention.next_to_go(session, terms, received_before=trigger.received_before, after=last)
        yield from page
        if not page:
            return
        last = page[-1]


def _delete(
    sessions: sessionmaker[Session], root: Path, study: Candidate, terms: Terms, trigger: _Trigger, actor: Actor
) -> int:
    try:
        with unit_of_work(sessions, actor) as uow:
            paths = retention.claim_pixels(uow, study.study_id, terms, received_before=trigger.received_before)
            if not paths:
                return 0  # something came between
            with named_errors():
                moved, size = _set_aside(root, study.study_id, paths)
            retention.pixels_deleted(
                uow,
                study.study_id,
                files=moved,
                size_bytes=size,
                missing=len(paths) - moved,
                why=trigger.why,
            )
    except LifecycleError:
        return 0  # somebody else was faster
    finally:
        _settle(sessions, root, study.study_id)
    log.info("retention.deleted", study_id=study.study_id, count=moved, bytes=size)
    return moved


def finish_interrupted(sessions: sessionmaker[Session], root: Path) -> int:
    """Finish what a process that was killed had begun; return of how many Studies.

    Raises:
        TransientError: database or file system cannot be used.
    """
    with named_errors():
        left = [UUID(one.name) for one in (root / _ASIDE).glob("*-*")]
    for study_id in left:
        _settle(sessions, root, study_id)
    if left:
        log.warning("retention.finished_interrupted", count=len(left))
    return len(left)


def _set_aside(root: Path, study_id: UUID, paths: Sequence[str]) -> tuple[int, int]:
    """Move files out of their places; on return that survives a power cut. Return how many, and their bytes."""
    aside = root / _ASIDE / str(study_id)
    moved = size = 0
    touched: set[Path] = set()
    for relative in paths:
        source, target = root / relative, aside / relative
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            size += source.stat().st_size
            source.rename(target)
        except FileNotFoundError:
            continue
        moved += 1
        touched |= {source.parent, target.parent}
    for folder in touched:
        sync_folder(folder)
    _remove_empty(root, {(root / relative).parent for relative in paths})
    return moved, size


def _remove_empty(root: Path, folders: set[Path]) -> None:
    """Remove folders that hold nothing any more, and their parents below ``root``."""
    for folder in folders:
        for one in (folder, *folder.parents):
            if one == root:
                break
            try:
                one.rmdir()
            except OSError:
                break  # not empty, or gone
    sync_folder(root)


def _settle(sessions: sessionmaker[Session], root: Path, study_id: UUID) -> None:
    """Remove what was set aside of a Study and is marked as deleted; give the rest its name back."""
    aside = root / _ASIDE / str(study_id)
    if not aside.exists():
        return
    with unit_of_work(sessions, _ACTOR) as uow:
        # under the lock: whoever set these files aside has committed, or will not
        deleted = retention.deleted_paths(uow, study_id)
        with named_errors():
            for path in [one for one in aside.rglob("*") if one.is_file()]:
                relative = path.relative_to(aside)
                if relative.as_posix() not in deleted:
                    _put_back(path, root, relative)
    with named_errors(), contextlib.suppress(FileNotFoundError):  # another process may remove it too
        shutil.rmtree(aside)


def _put_back(path: Path, root: Path, relative: Path) -> None:
    target = root / relative
    if target.exists():
        return  # the same Instance came again meanwhile
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    path.rename(target)
    for folder in (target.parent, target.parent.parent, root):
        sync_folder(folder)
