"""One Reading, from claim to an end a person can see: load, compute, save."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import (
    AppError,
    GeometryError,
    LifecycleError,
    RefusedInputError,
    TransientError,
    UndecodablePixelsError,
)
from config.settings import Settings
from db import lifecycle, queries
from db.lifecycle import Claim, NewDraft
from db.uow import Actor, UnitOfWork, unit_of_work
from worker.leases import renewed
from worker.presence import process_name

log = structlog.get_logger()

Pipeline = Callable[[Claim], NewDraft]


class Reader:
    """Reads Studies with one pipeline; safe to call again for the same Reading."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings, pipeline: Pipeline) -> None:
        """Take a pipeline that turns a Claim into a draft; it runs without an open transaction."""
        self._sessions = sessions
        self._settings = settings.worker
        self._pipeline = pipeline

    def _unit(self) -> AbstractContextManager[UnitOfWork]:
        return unit_of_work(self._sessions, Actor("worker", "process"))

    def read(self, reading_id: UUID) -> None:
        """Turn a QUEUED Reading into a draft, or into a stated reason for having none.

        Does nothing when another worker holds the Reading or it is finished: a message may come twice.
        """
        with self._unit() as uow:
            claim = lifecycle.claim(uow, reading_id, owner=process_name(), lease_s=self._settings.lease_s)
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
            # the lease went to another worker, or late images superseded this run: that result stands
            log.warning("reading.lost", seconds=round(time.monotonic() - started, 1))
        except Exception as exc:
            if isinstance(exc, RefusedInputError):
                log.info("reading.refused", error=exc)
            else:
                log.exception("reading.ended", error=type(exc).__name__)
            self._end(claim, exc)
        else:
            log.info("reading.drafted", seconds=round(time.monotonic() - started, 1))

    def read_with_others(self, reading_id: UUID) -> None:
        """Read one Study and, side by side, as many waiting ones as one batch of the model takes.

        The others' own messages come later and find nothing to do.
        """
        if self._settings.together == 1:
            # in this thread, so that the task's soft time limit reaches the pipeline
            self.read(reading_id)
            return
        with self._sessions() as session:
            waiting = queries.waiting_readings(session, self._settings.together)
        company = [reading_id, *(one for one in waiting if one != reading_id)][: self._settings.together]
        with ThreadPoolExecutor(len(company), thread_name_prefix="reading") as pool:
            list(pool.map(self._read_bound, company))

    def _read_bound(self, reading_id: UUID) -> None:
        # a thread starts without the task's log context
        with structlog.contextvars.bound_contextvars(process="worker", reading_id=str(reading_id)):
            self.read(reading_id)

    def _end(self, claim: Claim, error: Exception) -> None:
        """Make the move that an error of the pipeline leads to; every end is visible, with its reason.

        A worker that lost its lease leaves the Reading to the one that has it.
        """
        reason = reason_of(error)
        try:
            with self._unit() as uow:
                if isinstance(error, RefusedInputError):
                    lifecycle.no_draft(uow, claim, reason)
                elif isinstance(error, TransientError | MemoryError):
                    lifecycle.retry(
                        uow,
                        claim,
                        reason,
                        base_s=self._settings.retry_base_s,
                        max_attempts=self._settings.max_attempts,
                    )
                else:
                    lifecycle.fail(uow, claim, reason)
        except LifecycleError:
            log.warning("reading.lost")

    def _heartbeat(self, claim: Claim) -> AbstractContextManager[None]:
        """Renew the lease from a thread while the pipeline computes."""

        def renew() -> None:
            with self._unit() as uow:
                lifecycle.heartbeat(uow, claim, lease_s=self._settings.lease_s)

        return renewed(renew, every_s=self._settings.heartbeat_s)


def reason_of(error: Exception) -> str:
    """Return what a person reads: our own errors carry no patient data, any other only gives its class."""
    if isinstance(error, GeometryError):
        return f"geometry: {error}"
    if isinstance(error, UndecodablePixelsError):
        return f"pixel data: {error}"
    if isinstance(error, AppError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the worker ran out of memory"
    return f"internal error: {type(error).__name__}"
