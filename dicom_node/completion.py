"""When a Study is whole: nothing new for the quiet time of its source."""

from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError
from config.routing import Rules
from db import lifecycle
from db.models import Reading
from db.uow import Actor, unit_of_work

log = structlog.get_logger()
_SWEEPER = Actor("sweeper", "process")


def complete_quiet_studies(sessions: sessionmaker[Session], rules: Rules, now: datetime) -> int:
    """Judge every Study that fell quiet by the routing rules and move its Reading on; return how many moved.

    Images that come later reopen the Study as a new revision (``lifecycle.receive_instance``).

    Raises:
        TransientError: the database cannot be used; nothing is lost, call again.
    """
    with sessions() as session:
        quiet = lifecycle.quiet_studies(session, now)
    return sum(_complete(sessions, rules, reading_id, now) for reading_id in quiet)


def _complete(sessions: sessionmaker[Session], rules: Rules, reading_id: UUID, now: datetime) -> bool:
    try:
        with unit_of_work(sessions, _SWEEPER) as uow:
            if reading_id not in lifecycle.quiet_studies(uow.session, now):
                return False  # an image came between the question and the lock
            study_id = uow.session.get_one(Reading, reading_id).study_id
            verdict = rules.judge(lifecycle.study_facts(uow.session, study_id))
            state = lifecycle.complete(uow, reading_id, verdict)
    except LifecycleError:
        return False  # another sweeper was faster
    log.info("study.completed", study_id=study_id, reading_id=reading_id, state=state, rule=verdict.rule)
    return True
