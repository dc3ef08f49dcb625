"""Questions about critical results: what is open, what waits to be told, who was told."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from db.critical_models import (
    OPEN_ALERTS,
    AlertState,
    CriticalAlert,
    CriticalCommunication,
    CriticalNotice,
    NoticeState,
)
from db.models import Study
from db.report_models import UserAccount

HISTORY_ROWS = 100


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


def any_open(session: Session) -> bool:
    """Return whether any alert waits for somebody."""
    query = select(CriticalAlert.id).where(CriticalAlert.state.in_(OPEN_ALERTS)).limit(1)
    return session.scalar(query) is not None


@dataclass(frozen=True)
class Record:
    """One attempt to tell somebody, with the name of who tried."""

    row: CriticalCommunication
    by: str
    is_corrected: bool  # a later record replaces it


@dataclass(frozen=True)
class AlertDetail:
    """One alert with all that is known of it; names are printed names, empty when nobody did it."""

    alert: CriticalAlert
    study: Study
    opened_by: str
    confirmed_by: str
    closed_by: str
    records: Sequence[Record]  # oldest first
    notices: Sequence[CriticalNotice]  # oldest first

    @property
    def told(self) -> Record | None:
        """The record that stands: the newest that reached somebody and was not corrected."""
        standing = [one for one in self.records if one.row.reached and not one.is_corrected]
        return standing[-1] if standing else None

    @property
    def found_by(self) -> str:
        """The model that asserted it, or the person who opened it."""
        return self.alert.found_by or self.opened_by


@dataclass(frozen=True)
class Pulse:
    """What the top bar of a radiologist's page shows."""

    open: int
    escalated: int
    changed_at: datetime | None  # when the clock of any open alert began last
    newest: Sequence[CriticalAlert]  # opened or escalated after the instant that was asked about, newest first


@dataclass(frozen=True)
class SixFacts:
    """What an auditor asks of one critical result: what, who found it, who was told, when, how, read back."""

    study_id: UUID
    accession_number: str
    alert_id: UUID
    state: AlertState
    category: int
    what: str
    found_by: str
    found_at: datetime
    confirmed_by: str
    confirmed_at: datetime | None
    told: str
    told_role: str
    told_by: str
    told_at: datetime | None
    means: str
    read_back: bool | None
    no_read_back_reason: str
    attempts: int
    escalations: int

    @property
    def is_complete(self) -> bool:
        """Whether all six are on the record; a missing read-back counts when its reason is there."""
        heard = bool(self.read_back) or bool(self.no_read_back_reason) or self.category != 1
        return self.told_at is not None and bool(self.what and self.found_by and self.told and self.means) and heard


def pulse(session: Session, *, since: datetime | None) -> Pulse:
    """Return how many alerts are open, and which began or were escalated after ``since``."""
    is_open = CriticalAlert.state.in_(OPEN_ALERTS)
    counted = select(
        func.count(CriticalAlert.id), func.count(CriticalAlert.id).filter(CriticalAlert.level > 0)
    ).where(is_open)  # fmt: skip
    count, escalated = session.execute(counted).one()
    newest: list[CriticalAlert] = []
    if since is not None:
        query = select(CriticalAlert).where(is_open, CriticalAlert.clock_at > since)
        newest = list(session.scalars(query.order_by(CriticalAlert.clock_at.desc()).limit(3)))
    last = session.scalar(
        select(CriticalAlert.clock_at).where(is_open).order_by(CriticalAlert.clock_at.desc()).limit(1)
    )
    return Pulse(count, escalated, last, newest)


def open_list(session: Session) -> list[AlertDetail]:
    """Return every open alert, oldest first."""
    query = select(CriticalAlert).where(CriticalAlert.state.in_(OPEN_ALERTS))
    return _details(session, query.order_by(CriticalAlert.opened_at, CriticalAlert.id))


def history(session: Session, *, limit: int = HISTORY_ROWS) -> list[AlertDetail]:
    """Return the alerts that were settled last, newest first."""
    query = select(CriticalAlert).where(CriticalAlert.state.not_in(OPEN_ALERTS))
    return _details(session, query.order_by(CriticalAlert.closed_at.desc(), CriticalAlert.id).limit(limit))


def of_study(session: Session, study_id: UUID) -> list[AlertDetail]:
    """Return the alerts of one Study, oldest first."""
    query = select(CriticalAlert).where(CriticalAlert.study_id == study_id)
    return _details(session, query.order_by(CriticalAlert.opened_at, CriticalAlert.id))


def alert_detail(session: Session, alert_id: UUID) -> AlertDetail | None:
    """Return one alert; None when there is none."""
    return next(iter(_details(session, select(CriticalAlert).where(CriticalAlert.id == alert_id))), None)


def failed_notices(session: Session, *, limit: int = HISTORY_ROWS) -> list[tuple[CriticalNotice, CriticalAlert]]:
    """Return the notices that were given up, newest first, each with its alert."""
    query = (
        select(CriticalNotice, CriticalAlert)
        .join(CriticalAlert, CriticalAlert.id == CriticalNotice.alert_id)
        .where(CriticalNotice.state == NoticeState.FAILED)
        .order_by(CriticalNotice.created_at.desc(), CriticalNotice.id)
        .limit(limit)
    )
    return [(notice, alert) for notice, alert in session.execute(query)]


def summary(
    session: Session,
    *,
    accession_number: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 500,
) -> list[SixFacts]:
    """Return the six facts of every alert, newest first; those of one Accession Number, or opened in a span of time."""
    query = select(CriticalAlert).join(Study, Study.id == CriticalAlert.study_id)
    if accession_number:
        query = query.where(Study.accession_number == accession_number)
    if since is not None:
        query = query.where(CriticalAlert.opened_at >= since)
    if until is not None:
        query = query.where(CriticalAlert.opened_at < until)
    newest = query.order_by(CriticalAlert.opened_at.desc(), CriticalAlert.id).limit(limit)
    return [_six(one) for one in _details(session, newest)]


def details(session: Session, query: Select[Any]) -> list[tuple[AlertDetail, SixFacts]]:
    """Return the alerts that ``query`` selects, in its order, each with its six facts."""
    return [(one, _six(one)) for one in _details(session, query)]


def _six(one: AlertDetail) -> SixFacts:
    told = one.told
    return SixFacts(
        study_id=one.study.id,
        accession_number=one.study.accession_number,
        alert_id=one.alert.id,
        state=one.alert.state,
        category=one.alert.category,
        what=one.alert.label,
        found_by=one.found_by,
        found_at=one.alert.opened_at,
        confirmed_by=one.confirmed_by,
        confirmed_at=one.alert.confirmed_at,
        told=told.row.told_name if told else "",
        told_role=told.row.told_role if told else "",
        told_by=told.by if told else "",
        told_at=told.row.told_at if told else None,
        means=told.row.means.value if told else "",
        read_back=told.row.read_back if told else None,
        no_read_back_reason=told.row.no_read_back_reason if told else "",
        attempts=len(one.records),
        escalations=one.alert.level,
    )


def _details(session: Session, query: Select[Any]) -> list[AlertDetail]:
    """Return the alerts of ``query`` with their studies, people, records and notices, in five statements."""
    alerts: Sequence[CriticalAlert] = session.scalars(query).all()
    if not alerts:
        return []
    ids = [one.id for one in alerts]
    studies = {one.id: one for one in session.scalars(_among(Study, Study.id, {one.study_id for one in alerts}))}
    records: dict[UUID, list[CriticalCommunication]] = defaultdict(list)
    told = _among(CriticalCommunication, CriticalCommunication.alert_id, ids)
    for record in session.scalars(told.order_by(CriticalCommunication.created_at)):
        records[record.alert_id].append(record)
    notices: dict[UUID, list[CriticalNotice]] = defaultdict(list)
    sent = _among(CriticalNotice, CriticalNotice.alert_id, ids)
    for notice in session.scalars(sent.order_by(CriticalNotice.created_at, CriticalNotice.recipient)):
        notices[notice.alert_id].append(notice)
    people = _people(session, alerts, [one for some in records.values() for one in some])
    return [
        AlertDetail(
            alert=one,
            study=studies[one.study_id],
            opened_by=people.get(one.opened_by, ""),
            confirmed_by=people.get(one.confirmed_by, ""),
            closed_by=people.get(one.closed_by, ""),
            records=_records(records[one.id], people),
            notices=notices[one.id],
        )
        for one in alerts
    ]


def _among(kind: type[Any], column: Any, values: Iterable[UUID]) -> Select[Any]:
    return select(kind).where(column.in_(list(values)))


def _people(
    session: Session, alerts: Sequence[CriticalAlert], records: Sequence[CriticalCommunication]
) -> dict[UUID | None, str]:
    ids = {who for one in alerts for who in (one.opened_by, one.confirmed_by, one.closed_by) if who is not None}
    ids |= {one.told_by for one in records}
    rows = session.execute(select(UserAccount.id, UserAccount.printed_name).where(UserAccount.id.in_(ids)))
    return {key: name for key, name in rows}  # noqa: C416 rows are no pairs to the type checker


def _records(rows: Sequence[CriticalCommunication], people: dict[UUID | None, str]) -> list[Record]:
    corrected = {one.corrects_id for one in rows}
    return [Record(one, people.get(one.told_by, ""), one.id in corrected) for one in rows]
