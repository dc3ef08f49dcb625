"""Notices about critical results on their way: claim, confirm, postpone, withdraw; at least once, with one identity."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, or_, select

from config.errors import LifecycleError
from db.critical_models import AlertState, Channel, CriticalAlert, CriticalNotice, NoticeState, Occasion
from db.lifecycle.moves import locked, move_notice
from db.models import Reading, Study
from db.types import Priority, utcnow
from db.uow import UnitOfWork

_MAX_DELAY_S = 3600.0
_WANTED_WHILE = {
    Occasion.SUSPECTED: AlertState.SUSPECTED,
    Occasion.NOT_ANSWERED: AlertState.SUSPECTED,
    Occasion.NOT_TOLD: AlertState.CONFIRMED,
}


@dataclass(frozen=True)
class NoticeJob:
    """One notice to send now, with all that may be said in it; who sends it decides whether the patient is named."""

    notice_id: UUID
    recipient: str
    attempt: int
    alert_id: UUID
    study_id: UUID
    occasion: Occasion
    level: int
    category: int
    state: AlertState
    opened_at: datetime
    priority: Priority
    modalities: str
    label: str
    patient_name: str
    patient_id: str
    accession_number: str


def claim_notice(uow: UnitOfWork, now: datetime, channel: Channel, *, lease_s: float) -> NoticeJob | None:
    """Take the notice of ``channel`` that waits longest, or whose sender died; None when there is none.

    Notices that somebody's answer made pointless are withdrawn on the way.
    """
    while True:
        notice = uow.session.scalar(
            select(CriticalNotice)
            .where(
                CriticalNotice.channel == channel,
                or_(
                    and_(CriticalNotice.state == NoticeState.PENDING, CriticalNotice.next_attempt_at <= now),
                    and_(CriticalNotice.state == NoticeState.SENDING, CriticalNotice.lease_until < now),
                ),
            )
            .order_by(CriticalNotice.next_attempt_at, CriticalNotice.id)
            .limit(1)
            .with_for_update(key_share=True, skip_locked=True)
            .execution_options(populate_existing=True)
        )
        if notice is None:
            return None
        job = _claim(uow, notice, now, lease_s)
        if job is not None:
            return job


def _claim(uow: UnitOfWork, notice: CriticalNotice, now: datetime, lease_s: float) -> NoticeJob | None:
    alert = uow.session.get_one(CriticalAlert, notice.alert_id, populate_existing=True)
    if notice.state is NoticeState.SENDING:
        move_notice(
            uow, notice, NoticeState.PENDING, study_id=alert.study_id, detail={"error": "the sender stopped"}
        )  # fmt: skip
    notice.lease_until = None
    if alert.state is not _WANTED_WHILE[notice.occasion]:
        move_notice(uow, notice, NoticeState.WITHDRAWN, study_id=alert.study_id)
        uow.session.flush()
        return None
    notice.attempts += 1
    notice.lease_until = now + timedelta(seconds=lease_s)
    move_notice(uow, notice, NoticeState.SENDING, study_id=alert.study_id)
    uow.session.flush()
    study = uow.session.get_one(Study, alert.study_id)
    query = select(Reading.priority).where(Reading.study_id == study.id, Reading.superseded.is_(False))
    return NoticeJob(
        notice_id=notice.id,
        recipient=notice.recipient,
        attempt=notice.attempts,
        alert_id=alert.id,
        study_id=study.id,
        occasion=notice.occasion,
        level=notice.level,
        category=alert.category,
        state=alert.state,
        opened_at=alert.opened_at,
        priority=uow.session.scalars(query).one(),
        modalities=study.modalities,
        label=alert.label,
        patient_name=study.patient_name,
        patient_id=study.patient_id,
        accession_number=study.accession_number,
    )


def notice_sent(uow: UnitOfWork, job: NoticeJob) -> None:
    """Record that the mail server or the webhook took it.

    Raises:
        LifecycleError: the lease ran out, and somebody else sends it; both carry one identity.
    """
    notice, study_id = _held(uow, job)
    notice.sent_at = utcnow()
    notice.last_error = ""
    move_notice(uow, notice, NoticeState.SENT, study_id=study_id, detail={"attempts": notice.attempts})


def notice_failed(
    uow: UnitOfWork, job: NoticeJob, error: str, at: datetime, *, base_s: float, max_attempts: int
) -> NoticeState:
    """Postpone, counted from ``at``, by ``base_s`` doubled per attempt, an hour at most, or give up; return the state.

    Raises:
        LifecycleError: the lease ran out, and somebody else sends it.
    """
    notice, study_id = _held(uow, job)
    notice.last_error = error[:200]
    to = NoticeState.FAILED if notice.attempts >= max_attempts else NoticeState.PENDING
    if to is NoticeState.PENDING:
        delay_s = min(base_s * 2 ** min(notice.attempts - 1, 30), _MAX_DELAY_S)
        notice.next_attempt_at = at + timedelta(seconds=delay_s)
    detail = {"error": notice.last_error, "attempts": notice.attempts}
    move_notice(uow, notice, to, study_id=study_id, detail=detail)
    return to


def notice_again(uow: UnitOfWork, notice_id: UUID) -> None:
    """Send a FAILED notice once more, at a person's wish.

    Raises:
        LifecycleError: there is no such notice, or it has not failed.
    """
    notice = locked(uow, CriticalNotice, notice_id)
    study_id = uow.session.get_one(CriticalAlert, notice.alert_id).study_id
    notice.attempts = 0
    notice.next_attempt_at = utcnow()
    move_notice(uow, notice, NoticeState.PENDING, study_id=study_id)


def _held(uow: UnitOfWork, job: NoticeJob) -> tuple[CriticalNotice, UUID]:
    notice = locked(uow, CriticalNotice, job.notice_id)
    if notice.state is not NoticeState.SENDING or notice.attempts != job.attempt:
        raise LifecycleError("somebody else sends this notice")
    notice.lease_until = None
    return notice, job.study_id
