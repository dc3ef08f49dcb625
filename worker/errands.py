"""One errand of a reader, from claim to an end a person can see: take, work, keep."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError, RefusedInputError, TransientError
from config.settings import Settings
from db.asking_models import ErrandState, Question, Redraft
from db.lifecycle import errands
from db.lifecycle.errands import ErrandClaim
from db.uow import Actor, UnitOfWork, unit_of_work
from worker.leases import renewed
from worker.reader import reason_of

log = structlog.get_logger()

Claimed = TypeVar("Claimed")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Duty(Generic[Claimed, Made]):
    """What is done for one kind of errand.

    Attributes:
        kind: its table.
        take: (unit of work, id, owner, lease in seconds) → the claim, or None when there is nothing to do.
        held: the lease of a claim.
        work: claim → result; runs without an open transaction.
        keep: (unit of work, claim, result) keeps it behind the fence.
    """

    kind: type[Question] | type[Redraft]
    take: Callable[[UnitOfWork, UUID, str, float], Claimed | None]
    held: Callable[[Claimed], ErrandClaim]
    work: Callable[[Claimed], Made]
    keep: Callable[[UnitOfWork, Claimed, Made], object]


class Runner(Generic[Claimed, Made]):
    """Runs the errands of one kind; safe to call again for the same one."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings, duty: Duty[Claimed, Made]) -> None:
        """Take what is to be done."""
        self._sessions = sessions
        self._settings = settings.worker
        self._duty = duty
        self._owner = f"{socket.gethostname()[:40]}:{os.getpid()}"

    def run(self, errand_id: UUID) -> None:
        """Bring an ASKED errand to its end; do nothing when another worker holds it or it is finished."""
        with self._unit() as uow:
            claim = self._duty.take(uow, errand_id, self._owner, self._settings.lease_s)
        if claim is None:
            log.info("errand.skipped")
            return
        started = time.monotonic()
        try:
            with self._heartbeat(self._duty.held(claim)):
                made = self._duty.work(claim)
            with self._unit() as uow:
                self._duty.keep(uow, claim, made)
        except LifecycleError:
            # the lease went to another worker, or later images overtook it
            log.warning("errand.lost", seconds=round(time.monotonic() - started, 1))
        except Exception as exc:
            if isinstance(exc, RefusedInputError):
                log.info("errand.refused", error=exc)
            else:
                log.exception("errand.ended", error=type(exc).__name__)
            self._end(self._duty.held(claim), exc)
        else:
            log.info("errand.done", seconds=round(time.monotonic() - started, 1))

    def _unit(self) -> AbstractContextManager[UnitOfWork]:
        return unit_of_work(self._sessions, Actor("worker", "process"))

    def _heartbeat(self, held: ErrandClaim) -> AbstractContextManager[None]:
        def renew() -> None:
            with self._unit() as uow:
                errands.keep_alive(uow, self._duty.kind, held, lease_s=self._settings.lease_s)

        return renewed(renew, every_s=self._settings.heartbeat_s)

    def _end(self, held: ErrandClaim, error: Exception) -> None:
        kind, reason, worker = self._duty.kind, reason_of(error), self._settings
        try:
            with self._unit() as uow:
                if isinstance(error, TransientError | MemoryError):
                    errands.try_later(
                        uow, kind, held, reason, base_s=worker.retry_base_s, max_attempts=worker.max_attempts
                    )
                    return
                refused = isinstance(error, RefusedInputError)
                errands.refuse_or_fail(uow, kind, held, ErrandState.REFUSED if refused else ErrandState.FAILED, reason)
        except LifecycleError:
            log.warning("errand.lost")
