"""Where "sign and next" goes: the study that the worklist has first for whoever signed."""

from uuid import UUID

from dashboard.people import sessions
from db.queries import Tab, worklist

_LOOKED_AT = 20  # the first of a list may be in somebody's hands


def next_study(study_id: UUID) -> UUID | None:
    """Return the first study to read that nobody holds, another than this one; None when there is none."""
    with sessions()() as db:
        rows = worklist(db, Tab.TO_READ, limit=_LOOKED_AT).rows
    return next((row.study_id for row in rows if row.study_id != study_id and not row.locked_by), None)
