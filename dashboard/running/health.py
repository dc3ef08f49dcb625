"""Whether this process can do its work now: a round trip to the database, the disk and the broker, each in two seconds.

What is said of a failure names no path, host or secret: a monitor asks without logging in.
"""

import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from config.broker import make_celery
from config.errors import AppError
from config.settings import Settings
from db.running_models import WorkerPresence
from db.types import utcnow
from db.uow import Actor, unit_of_work
from instances.retention import free_bytes

log = structlog.get_logger()
LONGEST_S = 2.0
_FRESH_S = 2.0
_QUEUE = "firstread_readyz"


@dataclass(frozen=True)
class Health:
    """What one check found, in words, and how long it took."""

    is_good: bool
    words: str
    milliseconds: float


class _UndoneError(Exception):
    """Raised to roll a written row back."""


class _FaultError(Exception):
    """What is wrong, in words for anybody."""


@dataclass
class _Check:
    """One check in a thread of its own; while one hangs, no other is begun."""

    run: Callable[[], str]
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> Health:
        """Run the check, for two seconds at most."""
        began = time.monotonic()
        if not self._busy.acquire(blocking=False):
            return Health(False, "the check before this one still waits for an answer", 0.0)
        found: list[tuple[bool, str]] = []
        thread = threading.Thread(target=self._run, args=(found,), daemon=True)
        thread.start()
        thread.join(LONGEST_S)
        taken_ms = (time.monotonic() - began) * 1000
        if not found:
            return Health(False, f"no answer within {LONGEST_S:g} seconds", taken_ms)
        return Health(*found[0], taken_ms)

    def _run(self, found: list[tuple[bool, str]]) -> None:
        try:
            found.append((True, self.run()))
        except _FaultError as exc:
            found.append((False, str(exc)))
        except Exception as exc:  # noqa: BLE001 whatever it is, the answer is that this does not work
            log.warning("health.failed", error=type(exc).__name__)
            found.append((False, f"it failed: {type(exc).__name__}"))
        finally:
            self._busy.release()


class Readiness:
    """The checks of one process; an answer is good for two seconds, so that monitors cannot load it."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self._checks: Mapping[str, _Check] = {
            "database": _Check(lambda: check_database(sessions)),
            "disk": _Check(lambda: check_disk(settings)),
            "broker": _Check(lambda: check_broker(settings)),
        }
        self._asking = threading.Lock()
        self._asked_at = float("-inf")
        self._found: Mapping[str, Health] = {}

    def ask(self) -> Mapping[str, Health]:
        """Return what each check found, by name."""
        with self._asking:
            if time.monotonic() - self._asked_at >= _FRESH_S:
                self._found = self._take()
                self._asked_at = time.monotonic()
            return self._found

    def _take(self) -> Mapping[str, Health]:
        found: dict[str, Health] = {}
        threads = [
            threading.Thread(target=lambda name=name, check=check: found.update({name: check.take()}))
            for name, check in self._checks.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {name: found[name] for name in self._checks}


def check_database(sessions: sessionmaker[Session]) -> str:
    """Write a row and take it back; return what was done.

    Raises:
        _FaultError: it cannot be reached, written, or has no table of this release.
    """
    now = utcnow()
    try:
        with unit_of_work(sessions, Actor("web", "process")) as uow:
            uow.session.add(WorkerPresence(owner=f"readyz {uuid4()}", started_at=now, seen_at=now, models=[]))
            uow.session.flush()
            raise _UndoneError  # noqa: TRY301 the way out of a unit of work without a commit
    except _UndoneError:
        return "a row was written and taken back"
    except AppError as exc:
        raise _FaultError(str(exc)) from exc
    except SQLAlchemyError as exc:
        raise _FaultError("it does not have the tables of this release, or is broken") from exc


def check_disk(settings: Settings) -> str:
    """Write a small file into the data folder, flush it and delete it; return what was done.

    Raises:
        _FaultError: that is not possible, or less space is free than reception needs.
    """
    path = settings.data_dir.resolve() / f".readyz-{os.getpid()}"
    try:
        with path.open("wb") as file:
            file.write(b"firstread\n")
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        free = free_bytes(settings)
    except OSError as exc:
        raise _FaultError(f"the data folder cannot be written: {exc.strerror or type(exc).__name__}") from exc
    except AppError as exc:
        raise _FaultError("the folder of images cannot be asked for its free space") from exc
    floor = max(settings.retention.refuse_free_bytes, settings.dicom.min_free_bytes)
    if free < floor:
        raise _FaultError(f"{free / 1e9:.1f} GB are free, and below {floor / 1e9:.1f} GB nothing is received")
    return f"a file was written, flushed and deleted; {free / 1e9:.1f} GB are free"


def check_broker(settings: Settings) -> str:
    """Send a message through the broker on a queue of our own and take it back; return what was done.

    Raises:
        _FaultError: it cannot be reached, or did not give the message back.
    """
    try:
        app = make_celery(settings, "firstread-readyz")
        with app.connection_for_write(connect_timeout=LONGEST_S / 2) as connection:
            connection.ensure_connection(max_retries=1, timeout=LONGEST_S / 2)
            with connection.SimpleQueue(_queue_of(settings)) as queue:
                queue.put({"asked": "ready"})
                _take_back(queue)
    except OSError as exc:
        raise _FaultError(f"it cannot be used: {exc.strerror or type(exc).__name__}") from exc
    except Exception as exc:  # each transport has errors of its own
        raise _FaultError(f"it does not answer: {type(exc).__name__}") from exc
    return "a message was sent and taken back"


def _queue_of(settings: Settings) -> str:
    """Return a queue of this installation: the transports without a server keep what they know by name alone."""
    return f"{_QUEUE}_{zlib.crc32(str(settings.data_dir.resolve()).encode()):08x}"


def _take_back(queue: Any) -> None:
    """Take one message off the queue; a broker may need a moment until it is there."""
    until = time.monotonic() + LONGEST_S / 2
    while True:
        try:
            queue.get(block=False).ack()
        except queue.Empty:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
