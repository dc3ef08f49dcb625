"""A duty of the sealer's process: each month of events has its partition on PostgreSQL before it begins."""

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from db.partitions import is_partitioned, make_month, months
from db.types import utcnow

log = structlog.get_logger()
AHEAD = 3  # months that have a partition before they begin
EVERY_S = 3600.0
PARTITIONS = "partitions"  # the duty's name


def make_partitions(sessions: sessionmaker[Session]) -> int:
    """Make the partitions of this month and the next three that are missing; return how many were made.

    A month that cannot have one now keeps none of the others from theirs: it is said, and tried again. Until it has
    one its events go into the partition for everything else, where they are found, sealed and guarded like others.
    """
    made = 0
    for month in months(utcnow().date(), AHEAD):
        with sessions() as session:
            if not is_partitioned(session):
                return 0
            try:
                made += make_month(session, month)
                session.commit()
            except DBAPIError as exc:
                state = str(getattr(exc.orig, "sqlstate", "") or "")
                log.warning("audit.partition_not_made", key=f"{month:%Y-%m}", error=state or type(exc).__name__)
    return made
