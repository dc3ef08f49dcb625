"""The one way the priority of a Reading changes: upwards. Neither AI, an order nor a workitem ever lowers one."""

from collections.abc import Mapping

from db.audit import AuditTag
from db.models import Reading
from db.types import Priority
from db.uow import UnitOfWork

_URGENCY: Mapping[Priority, int] = {Priority.STAT: 0, Priority.URGENT: 1, Priority.ROUTINE: 2}


def raise_priority(uow: UnitOfWork, reading: Reading, asked: Priority | None, **because: str) -> None:
    """Raise the priority of a Reading that is locked to ``asked``, if that is higher; audited with ``because``."""
    if asked is None or _URGENCY[asked] >= _URGENCY[reading.priority]:
        return
    detail = {"from": reading.priority.value, "to": asked.value, **because}
    uow.audit(AuditTag.READING_PRIORITY_RAISED, study_id=reading.study_id, reading_id=reading.id, detail=detail)
    reading.priority = asked
