"""Earlier Studies of the same patient: found, awaited, here, or refused."""

from uuid import UUID

from sqlalchemy import Connection, select

from db.lifecycle.late import reopen
from db.lifecycle.moves import locked
from db.models import Reading, Study
from db.types import ReadingState
from db.uow import UnitOfWork


def is_fetched(connection: Connection, study_instance_uid: str, retrieval: int) -> bool:
    """Return whether the retrieval of ours with this Message ID fetches this Study; never for 0."""
    del connection, study_instance_uid, retrieval
    return False


def take_for_reading(uow: UnitOfWork, study_id: UUID) -> int:
    """Stop taking a Study for a prior, since others send it to us; return its revision."""
    study = locked(uow, Study, study_id)
    study.is_prior = False
    standing = select(Reading.state).where(Reading.study_id == study_id, Reading.superseded.is_(False))
    if uow.session.scalars(standing).one() is ReadingState.RECEIVING:
        return study.revision
    return reopen(uow, study_id)
