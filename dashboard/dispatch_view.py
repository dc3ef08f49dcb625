"""What becomes of a signature: the pause before it is sent, and what each destination answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from dashboard.people import person, site
from dashboard.permissions import Permission
from db.models import Delivery
from db.queries.dispatch import Dispatch, latest_dispatch
from db.signing_models import HoldState
from db.types import CommitmentState, DeliveryState, Role, utcnow

_FINALISERS = frozenset({Role.RADIOLOGIST, Role.LEAD})
_D = DeliveryState
_ORDER = (_D.FAILED, _D.HELD, _D.SENDING, _D.PENDING, _D.DELIVERED, _D.WITHDRAWN)  # the first found speaks


@dataclass(frozen=True)
class Acknowledged:
    """One destination and what it said of what a signature owes it."""

    destination: str
    protocol: str
    pill: tuple[str, str]
    done: int
    total: int
    note: str
    at: datetime | None


@dataclass(frozen=True)
class DispatchView:
    """The pause of the newest signature, who did what with it, and its destinations."""

    found: Dispatch
    rows: Sequence[Acknowledged]
    seconds_left: float
    may_act: bool

    @property
    def hold_s(self) -> float:
        """Length of the pause."""
        hold = self.found.hold
        return (hold.until - self.found.signature.signed_at).total_seconds() if hold else 0.0

    @property
    def waits(self) -> bool:
        """Whether the pause is running: it can be stopped."""
        return self.seconds_left > 0

    @property
    def is_stopped(self) -> bool:
        """Whether a person stopped it and nobody went on."""
        return self.found.hold is not None and self.found.hold.state is HoldState.STOPPED

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to be expected without a person."""
        return self.is_stopped or all(one.pill[0] in {"Acknowledged", "Committed", "Failed"} for one in self.rows)


def dispatch_view(db: Session, study_id: UUID) -> DispatchView | None:
    """Return what becomes of the newest signature of a study's report; None before the first."""
    found = latest_dispatch(db, study_id)
    if found is None:
        return None
    hold = found.hold
    waits = hold is not None and hold.state is HoldState.WAITING
    left = max(0.0, (hold.until - utcnow()).total_seconds()) if hold and waits else 0.0
    mine = person().id == found.signature.user_id or person().role in _FINALISERS
    return DispatchView(found, _rows(found.deliveries), left, mine and person().may(Permission.REPORT_SIGN))


def _rows(deliveries: Sequence[Delivery]) -> list[Acknowledged]:
    protocols = {one.name: one.protocol for one in site().destinations}
    rows = []
    for name in sorted({one.destination for one in deliveries}):
        own = [one for one in deliveries if one.destination == name]
        worst = next(state for state in _ORDER if any(one.state is state for one in own))
        speaks = [one for one in own if one.state is worst]
        done = sum(one.state is _D.DELIVERED for one in own)
        times = [at for one in speaks if (at := one.committed_at or one.delivered_at)]
        note = next((one.last_error for one in speaks if one.last_error), "")
        pill = _pill(worst, speaks)
        rows.append(Acknowledged(name, protocols.get(name, ""), pill, done, len(own), note, max(times, default=None)))
    return rows


def _pill(state: DeliveryState, own: Sequence[Delivery]) -> tuple[str, str]:
    """Return words and colour: acknowledged is the peer's Success or accept, committed its promise to keep it."""
    if state is _D.DELIVERED:
        safe = all(one.commitment is CommitmentState.COMMITTED for one in own)
        return ("Committed", "ok") if safe else ("Acknowledged", "ok")
    words = {
        _D.FAILED: ("Failed", "bad"),
        _D.HELD: ("Stopped", "warn"),
        _D.SENDING: ("Sent, no answer yet", "info"),
        _D.PENDING: ("Pending", "info"),
        _D.WITHDRAWN: ("Withdrawn", ""),
    }
    return words[state]
