"""One Reading, from claim to an end a person can see: load, compute, save."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import (
    AppError,
    GeometryError,
    LifecycleError,
    OutsideIntendedUseError,
    RefusedInputError,
    TransientError,
    UndecodablePixelsError,
)
from config.settings import Settings
from db import lifecycle
from db.lifecycle import Claim, NewDraft
from db.uow import Actor, UnitOfWork, unit_of_work

log = structlog.get_logger()

Pipeline = Callable[[Claim], NewDraft]


class Reader:
    """Reads Studies with one pipeline; safe to call again for the same Reading."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings, pipeline: Pipeline) -> None:
        """Take a pipeline that turns a Claim into a draft; it runs without an open transaction."""
        self._sessions = sessions
        self._settings = settings.worker
        self._pipeline = pipeline
        self._owner = f"{socket.gethostname()[:40]}:{os.getpid()}"

    def _unit(self) -> "contextmanager[UnitOfWork]":
        return unit_of_work(self._sessions, Actor("worker", "process"))  # type: ignore[return-value]

    def read(self, reading_id: UUID) -> None:
        """Turn a QUEUED Reading into a draft, or into a stated reason for having none.

        Does nothing when another worker holds the Reading or it is finished: a message may come twice.
        """
        with self._unit() as uow:
            claim = lifecycle.claim(uow, reading_id, owner=self._owner, lease_s=self._settings.lease_s)
        if claim is None:
            log.info("reading.skipped")
            return
        started = time.monotonic()
        try:
            with self._heartbeat(claim):
                draft = self._pipeline(claim)
            with self._unit() as uow:
                lifecycle.drafted(uow, claim, draft)
        except LifecycleError:
            # the lease went to another worker, or late images superseded this run: its result stands
            log.warning("reading.lost", seconds=round(time.monotonic() - started, 1))
        except (OutsideIntendedUseError, RefusedInputError) as exc:
            self._finish(claim, lambda uow: lifecycle.no_draft(uow, claim, _reason(exc)))
        except TransientError as exc:
            self._retry(claim, _reason(exc))
        except AppError as exc:
            self._finish(claim, lambda uow: lifecycle.fail(uow, claim, _reason(exc)))
        except MemoryError:
            self._retry(claim, "the worker ran out of memory")
        except Exception as exc:  # noqa: BLE001 the edge of the worker: every end must be visible
            log.exception("reading.crashed", error=type(exc).__name__)
            self._finish(claim, lambda uow: lifecycle.fail(uow, claim, f"internal error: {type(exc).__name__}"))
        else:
            log.info("reading.drafted", seconds=round(time.monotonic() - started, 1))

    def _retry(self, claim: Claim, reason: str) -> None:
        settings = self._settings
        self._finish(
            claim,
            lambda uow: lifecycle.retry(
                uow, claim, reason, base_s=settings.retry_base_s, max_attempts=settings.max_attempts
            ),
        )

    def _finish(self, claim: Claim, move: Callable[[UnitOfWork], object]) -> None:
        """Make the last move of a Reading; a worker that lost its lease leaves it to the one that has it."""
        try:
            with self._unit() as uow:
                move(uow)
        except LifecycleError:
            log.warning("reading.lost")

    @contextmanager
    def _heartbeat(self, claim: Claim) -> Iterator[None]:
        """Renew the lease from a thread while the pipeline computes."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._settings.heartbeat_s):
                try:
                    with self._unit() as uow:
                        lifecycle.heartbeat(uow, claim, lease_s=self._settings.lease_s)
                except LifecycleError:
                    log.warning("reading.lease_lost")
                    return
                except TransientError:
                    log.warning("reading.heartbeat_late")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


_KIND = {
    GeometryError: "geometry",
    UndecodablePixelsError: "pixel data",
}


def _reason(exc: AppError) -> str:
    """Return what a person reads; our errors carry no patient data."""
    kind = next((word for error, word in _KIND.items() if isinstance(exc, error)), "")
    return f"{kind}: {exc}" if kind else str(exc)
