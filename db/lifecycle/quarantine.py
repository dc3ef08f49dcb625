"""What was refused or doubted, kept with its reason; and text as its column can hold it."""

from typing import Any
from uuid import UUID, uuid4

from db.audit import AuditTag
from db.models import Base, Quarantined
from db.uow import UnitOfWork


def quarantine(
    uow: UnitOfWork,
    *,
    reason: str,
    error: str,
    status: int,
    path: str = "",
    sop_instance_uid: str = "",
    calling_ae: str = "",
    study_id: UUID | None = None,
) -> UUID:
    """Keep what was refused or doubted, with its reason, for a person to see; return its id."""
    row = Quarantined(
        id=uuid4(),
        reason=fit(Quarantined, "reason", reason),
        error=fit(Quarantined, "error", error),
        status=status,
        path=path,
        sop_instance_uid=fit(Quarantined, "sop_instance_uid", sop_instance_uid),
        calling_ae=fit(Quarantined, "calling_ae", calling_ae),
        study_id=study_id,
    )
    uow.session.add(row)
    uow.audit(
        AuditTag.INSTANCE_QUARANTINED,
        outcome="failure",
        study_id=study_id,
        object_type="quarantined",
        object_id=str(row.id),
        detail={"error": row.error, "reason": row.reason, "status": status, "sop_instance_uid": row.sop_instance_uid},
    )
    return row.id


def fit(kind: type[Base], column: str, value: Any) -> Any:
    """Return text as its column can hold it: peers send values longer than their VR, and NULs."""
    if not isinstance(value, str):
        return value
    length = kind.__table__.c[column].type.length  # type: ignore[attr-defined]
    return value.replace("\x00", "")[:length]
