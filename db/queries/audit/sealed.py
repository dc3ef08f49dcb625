"""How far the seal of the audit log is: what waits, the newest head, where heads could not be put."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.audit_anchor_models import AuditAnchor
from db.audit_models import AuditHead, AuditPending
from db.models import AuditEvent

WHOLE = "log"  # object of the event of a verification of everything; one of an interval says nothing of the rest


@dataclass(frozen=True)
class SealState:
    """The seal as it stands."""

    waiting_since: datetime | None  # instant of the oldest event without a seal
    size: int  # of the newest head
    head_at: datetime | None
    failing: tuple[str, ...]  # kinds of anchor whose latest attempt failed
    verified: str  # outcome of the latest recorded verification; empty when there is none

    def faults(self, now: datetime, unsealed_alarm_s: float) -> list[str]:
        """Return what a person has to look into, in words."""
        found = []
        if self.verified == "failure":
            found.append(
                "The last verification of the audit log found that it was changed: run firstread audit verify."
            )
        if self.waiting_since is not None and (now - self.waiting_since).total_seconds() > unsealed_alarm_s:
            found.append("Events have waited too long for their seal: is the process firstread sealer running?")
        found += [f"The newest signed heads could not be put outside this system ({kind})." for kind in self.failing]
        return found


def seal_state(session: Session) -> SealState:
    """Return how far the seal is."""
    head = session.execute(select(AuditHead.size, AuditHead.signed_at).order_by(AuditHead.size.desc()).limit(1)).first()
    latest = select(func.max(AuditAnchor.id)).group_by(AuditAnchor.kind)
    failing = select(AuditAnchor.kind).where(AuditAnchor.id.in_(latest), AuditAnchor.outcome == "failure")
    verified = select(AuditEvent.outcome).where(
        AuditEvent.tag == AuditTag.AUDIT_VERIFIED, AuditEvent.object_id == WHOLE
    )
    return SealState(
        waiting_since=session.scalar(select(AuditPending.occurred_at).order_by(AuditPending.seq).limit(1)),
        size=head[0] if head else 0,
        head_at=head[1] if head else None,
        failing=tuple(session.scalars(failing.order_by(AuditAnchor.kind))),
        verified=session.scalar(verified.order_by(AuditEvent.seq.desc()).limit(1)) or "",
    )
