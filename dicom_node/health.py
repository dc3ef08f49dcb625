"""Whether the node could keep an Instance now: what a C-ECHO asks."""

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db.peers import check_tables
from db.uow import Actor, unit_of_work
from instances.store import FileStore

log = structlog.get_logger()
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110  # PS3.7 annex C.5.14


def examine(sessions: sessionmaker[Session], settings: Settings) -> int:
    """Return the status for a C-ECHO: Success once database and instance store have been used, else a failure."""
    try:
        with FileStore(settings.instances_dir).written(b"echo"):
            pass
        with unit_of_work(sessions, Actor("node", "process")) as uow:
            check_tables(uow.session)
    except (AppError, SQLAlchemyError) as exc:
        log.error("node.not_healthy", error=exc)  # noqa: TRY400
        return PROCESSING_FAILURE
    return SUCCESS
