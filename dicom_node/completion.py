"""When a Study is whole: what was announced is here, or nothing came for the quiet time of its source."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError
from config.routing import RuleBook
from db import lifecycle
from db.lifecycle import Receiving
from db.lifecycle.moves import locked
from db.lifecycle.timers import Situation, Timer, judge
from db.models import Study
from db.uow import Actor, UnitOfWork, unit_of_work

log = structlog.get_logger()
_SWEEPER = Actor("sweeper", "process")
Stamp = tuple[int, datetime | None]
Guard = Callable[[Callable[[], None]], None]


def _unguarded(act: Callable[[], None]) -> None:
    act()


class Completion:
    """Ends reception of Studies; what was found of one is kept until an Instance or an announcement changes it."""

    def __init__(self, sessions: sessionmaker[Session], rules: RuleBook, *, priors_wait_s: float = 0.0) -> None:
        self._sessions = sessions
        self._rules = rules
        self._priors_wait_s = priors_wait_s
        self._known: dict[UUID, tuple[Stamp, Situation]] = {}

    def sweep(self, now: datetime, guard: Guard = _unguarded) -> int:
        """Judge every Study that is whole by the routing rules of its called AE; return how many moved on.

        Images that come later reopen the Study as a new revision (``db.lifecycle.late``).

        Args:
            now: the present instant.
            guard: runs what is done about one Study, and decides whether its error keeps the others from their turn.

        Raises:
            TransientError: the database cannot be used; nothing is lost, call again.
        """
        with self._sessions() as session:
            open_ones = lifecycle.receiving(session)
        self._forget(open_ones)
        moved: list[UUID] = []
        for one in open_ones:
            if self._may_be_due(one, now):
                with structlog.contextvars.bound_contextvars(study_id=str(one.study_id)):
                    guard(partial(self._end, one, now, moved))
        return len(moved)

    def _end(self, one: Receiving, now: datetime, moved: list[UUID]) -> None:
        if self._timer(one, now).is_due and self._complete(one, now):
            moved.append(one.reading_id)

    def _forget(self, open_ones: list[Receiving]) -> None:
        ids = {one.reading_id for one in open_ones}
        self._known = {key: known for key, known in self._known.items() if key in ids}

    @staticmethod
    def _may_be_due(one: Receiving, now: datetime) -> bool:
        """Tell cheaply: before its quiet time only a person, or as many Instances as announced, complete a Study."""
        silent_s = (now - one.last_received_at).total_seconds()
        enough = one.announced_at is not None and one.instance_count >= one.expected
        return one.complete_now or enough or silent_s >= one.quiet_s

    def _timer(self, one: Receiving, now: datetime) -> Timer:
        stamp = (one.instance_count, one.announced_at)
        known = self._known.get(one.reading_id)
        if known is None or known[0] != stamp or known[1].priors_pending or one.complete_now:
            with self._sessions() as session:
                known = (stamp, self._situation(session, one, now))
            self._known[one.reading_id] = known
        return judge(known[1], now)

    def _situation(self, session: Session, one: Receiving, now: datetime) -> Situation:
        rules = self._rules.of(one.called_ae)
        return lifecycle.situation(session, one, rules, now=now, priors_wait_s=self._priors_wait_s)

    def _complete(self, one: Receiving, now: datetime) -> bool:
        try:
            with unit_of_work(self._sessions, _SWEEPER) as uow:
                ended = self._still_due(uow, one, now)
                if ended is None:
                    return False
                rules = self._rules.of(one.called_ae)
                verdict = rules.judge(lifecycle.study_facts(uow.session, one.study_id))
                state = lifecycle.complete(uow, one.reading_id, verdict, ended)
        except LifecycleError:
            return False  # another sweeper was faster
        log.info("study.completed", reading_id=one.reading_id, state=state, rule=verdict.rule)
        return True

    def _still_due(self, uow: UnitOfWork, one: Receiving, now: datetime) -> tuple[Situation, Timer] | None:
        """Ask again under the Study's lock: an Instance may have come between the question and the lock."""
        locked(uow, Study, one.study_id)
        again = [row for row in lifecycle.receiving(uow.session, [one.study_id]) if row.reading_id == one.reading_id]
        if not again:
            return None
        found = self._situation(uow.session, again[0], now)
        self._known[one.reading_id] = ((again[0].instance_count, again[0].announced_at), found)
        timer = judge(found, now)
        return (found, timer) if timer.is_due else None
