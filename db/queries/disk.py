"""The last measure of the disk, and those before it."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.running_models import DiskMeasure


def newest_measure(session: Session) -> DiskMeasure | None:
    """Return what was measured last; None before the first time."""
    return session.scalar(select(DiskMeasure).order_by(DiskMeasure.id.desc()).limit(1))
