"""The clock of critical results: who has not answered in time is said again, louder, once for each level."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

from sqlalchemy import ColumnElement, and_, or_, select

from config.critical_settings import CriticalSettings
from db.audit import AuditTag
from db.critical_models import OPEN_ALERTS, AlertState, Channel, CriticalAlert, CriticalNotice, Occasion
from db.uow import UnitOfWork


def escalate_due(uow: UnitOfWork, now: datetime, settings: CriticalSettings) -> int:
    """Escalate each open alert whose time is over, and write the notices that follow; return how many.

    An alert that another process is escalating at this moment is left to it; time that nobody was there to watch
    makes one escalation, not many. A notice is written in the commit of its level, so it is neither lost nor doubled.
    """
    due = _locked(uow, _is_due(now, settings))
    for alert in due:
        alert.level += 1
        alert.clock_at = now
        uow.audit(
            AuditTag.CRITICAL_ESCALATED,
            study_id=alert.study_id,
            object_type="critical_alert",
            object_id=str(alert.id),
            detail={"level": alert.level, "state": alert.state.value, "category": alert.category},
        )
    _write_notices(uow, due, now, settings)
    return len(due)


def announce_new(uow: UnitOfWork, now: datetime, settings: CriticalSettings) -> int:
    """Write the first notices of alerts that have none yet; return of how many alerts."""
    new = _locked(uow, CriticalAlert.noticed_level < CriticalAlert.level)
    _write_notices(uow, new, now, settings)
    return len(new)


def time_s(alert: CriticalAlert, settings: CriticalSettings) -> float:
    """Return the seconds that an open alert may stay as it is."""
    if alert.state is AlertState.SUSPECTED:
        return settings.escalate_s
    return settings.communicate_within_s(alert.category)


def _is_due(now: datetime, settings: CriticalSettings) -> ColumnElement[bool]:
    suspected = and_(
        CriticalAlert.state == AlertState.SUSPECTED,
        CriticalAlert.clock_at <= now - timedelta(seconds=settings.escalate_s),
    )
    confirmed = [
        and_(
            CriticalAlert.state == AlertState.CONFIRMED,
            CriticalAlert.category == category,
            CriticalAlert.clock_at <= now - timedelta(seconds=settings.communicate_within_s(category)),
        )
        for category in (1, 2, 3)
    ]
    return or_(suspected, *confirmed)


def _locked(uow: UnitOfWork, condition: ColumnElement[bool]) -> Sequence[CriticalAlert]:
    query = (
        select(CriticalAlert)
        .where(CriticalAlert.state.in_(OPEN_ALERTS), condition)
        .order_by(CriticalAlert.clock_at, CriticalAlert.id)
        .limit(100)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    return uow.session.scalars(query).all()


def _write_notices(uow: UnitOfWork, alerts: Sequence[CriticalAlert], now: datetime, settings: CriticalSettings) -> None:
    for alert in alerts:
        alert.noticed_level = alert.level
        occasion = _occasion(alert)
        if occasion is None:
            continue
        for channel, recipient in recipients(settings, escalated=alert.level > 0):
            notice = CriticalNotice(
                id=uuid4(),
                alert_id=alert.id,
                level=alert.level,
                occasion=occasion,
                channel=channel,
                recipient=recipient,
                next_attempt_at=now,
            )
            uow.session.add(notice)
    uow.session.flush()


def _occasion(alert: CriticalAlert) -> Occasion | None:
    """Return what there is to say; nothing of a result that a radiologist opened, until nobody was told in time."""
    if alert.state is AlertState.SUSPECTED:
        return Occasion.NOT_ANSWERED if alert.level else Occasion.SUSPECTED
    return Occasion.NOT_TOLD if alert.level else None


def recipients(settings: CriticalSettings, *, escalated: bool) -> list[tuple[Channel, str]]:
    """Return who is sent a notice, each once: ``escalate_to`` for an escalation, ``mail_to`` where nobody is named."""
    people = (settings.escalate_to or settings.mail_to) if escalated else settings.mail_to
    found = [(Channel.MAIL, one[:254]) for one in dict.fromkeys(people)] if settings.smtp_host else []
    if settings.webhook_url:
        host = urlsplit(settings.webhook_url).netloc.rpartition("@")[2]  # what else is in it may be a secret
        found.append((Channel.WEBHOOK, host[:254]))
    return found
