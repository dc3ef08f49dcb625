"""Questions about critical results: what is open, what waits to be told, who was told."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.critical_models import OPEN_ALERTS, CriticalAlert


def open_alerts(session: Session, study_id: UUID) -> list[CriticalAlert]:
    """Return the alerts of a Study that are not settled, oldest first.

    SUSPECTED ones no radiologist has answered: they block a final signature. CONFIRMED ones nobody has been told
    of: a warning that may be overridden.
    """
    query = (
        select(CriticalAlert)
        .where(CriticalAlert.study_id == study_id, CriticalAlert.state.in_(OPEN_ALERTS))
        .order_by(CriticalAlert.opened_at, CriticalAlert.id)
    )
    return list(session.scalars(query))
