"""The sweeper: completes Studies that are whole, gives expired work back, and publishes what was committed."""

import signal
import threading
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.broker import make_celery
from config.errors import AppError
from config.routing import load_rule_book
from config.settings import Settings
from db import lifecycle
from db.engine import make_engine, make_sessions
from db.lifecycle import errands, expectations
from db.lifecycle.outcomes import note_outcomes
from db.outbox import purge, relay
from db.starting import record_start, record_stop
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.completion import Completion
from worker.profiles import PROFILES

log = structlog.get_logger()

TICK_S = 0.5
KEEP_MESSAGES = timedelta(days=1)  # published ones; the audit log tells the story
KEEP_EXPECTATIONS = timedelta(days=30)
REQUEUE_EVERY_TICKS = 20  # leases are looked at every ten seconds
_ACTOR = Actor("sweeper", "process")


class Sweeper:
    """The three duties, each retried at the next tick whatever happened at this one."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        """Read the routing rules of every AE title we answer to.

        Raises:
            ConfigurationError: rules nobody can work with.
        """
        self._settings = settings
        self._sessions = sessions
        rules = load_rule_book(settings, profiles=PROFILES)
        self._completion = Completion(sessions, rules, priors_wait_s=settings.priors.wait_s)
        self._celery = make_celery(settings)
        self._ticks = 0

    def tick(self) -> None:
        """Do each duty once; one that fails does not keep the others from their turn."""
        if self._ticks % REQUEUE_EVERY_TICKS == 0:
            self._attempt("requeue", self._requeue)
            self._attempt("outcomes", self._note_outcomes)
        self._attempt("complete", self._complete)
        self._attempt("relay", lambda: relay(self._sessions, self._publish))
        self._ticks += 1

    def _attempt(self, step: str, duty: Callable[[], object]) -> None:
        try:
            duty()
        except AppError as exc:
            log.warning("sweep.failed", step=step, error=exc)
        except Exception as exc:
            # the edge of this process: tomorrow's studies must not wait for today's defect
            log.exception("sweep.crashed", step=step, error=type(exc).__name__)

    def _complete(self) -> None:
        """Complete what is whole; a Study that fails does not keep the others waiting."""
        self._completion.sweep(utcnow(), guard=lambda act: self._attempt("complete", act))

    def _requeue(self) -> None:
        with unit_of_work(self._sessions, _ACTOR) as uow:
            lifecycle.requeue_expired(uow, utcnow(), max_attempts=self._settings.worker.max_attempts)
        with unit_of_work(self._sessions, _ACTOR) as uow:
            lifecycle.requeue_due(uow, utcnow())
        with unit_of_work(self._sessions, _ACTOR) as uow:
            errands.requeue(uow, utcnow(), max_attempts=self._settings.worker.max_attempts)
        with unit_of_work(self._sessions, _ACTOR) as uow:
            purge(uow, utcnow() - KEEP_MESSAGES)
            expectations.forget(uow, utcnow() - KEEP_EXPECTATIONS)

    def _note_outcomes(self) -> None:
        with unit_of_work(self._sessions, _ACTOR) as uow:
            note_outcomes(uow)

    def _publish(self, task: str, arguments: dict[str, str]) -> None:
        """Send one message; a broker folder that somebody deleted is made again."""
        if not self._settings.broker_url:
            for part in ("queue", "control"):
                (self._settings.data_dir.resolve() / "broker" / part).mkdir(parents=True, exist_ok=True)
        self._celery.send_task(task, kwargs=arguments)


def run_sweeper(settings: Settings) -> None:
    """Sweep until SIGTERM or SIGINT."""
    sessions = make_sessions(make_engine(settings.database))
    sweeper = Sweeper(settings, sessions)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    record_start(sessions, settings, "sweeper")
    while not stop.wait(TICK_S):
        sweeper.tick()
    record_stop(sessions, "sweeper")
