"""Critical results as they are shown: clocks in words, what may be done, and the sentence that is offered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from config.critical_settings import CriticalSettings
from dashboard.people import person
from dashboard.permissions import Permission
from db.critical_models import OPEN_ALERTS, AlertState, CriticalAlert, Means, NoticeState
from db.lifecycle.critical import CATEGORIES, SENTENCE_SECTIONS
from db.lifecycle.critical_clock import time_s
from db.queries.critical import AlertDetail, of_study
from db.types import Presence, utcnow

MEANS_WORDS = {Means.PHONE: "by phone", Means.IN_PERSON: "in person", Means.SECURE_MESSAGE: "by secure message"}
CATEGORY_WORDS = {1: "1 · within minutes", 2: "2 · within hours", 3: "3 · within days"}
STATE_PILLS = {
    AlertState.SUSPECTED: ("Suspected", "bad"),
    AlertState.CONFIRMED: ("Confirmed, nobody told", "warn"),
    AlertState.COMMUNICATED: ("Communicated", "ok"),
    AlertState.DISMISSED: ("Not critical", ""),
}
NOTICE_PILLS = {
    NoticeState.PENDING: ("Waiting to send", "info"),
    NoticeState.SENDING: ("Sending", "info"),
    NoticeState.SENT: ("Sent", "ok"),
    NoticeState.FAILED: ("Not sent", "bad"),
    NoticeState.WITHDRAWN: ("Withdrawn", ""),
}


@dataclass(frozen=True)
class Clock:
    """How long an open alert may still stay as it is."""

    left_s: int  # below 0 when the time is over
    act: str  # what has to be done: "to answer", "to tell somebody"
    escalations: int
    next_s: int  # until it is escalated again

    @property
    def words(self) -> str:
        """The clock in words; the page's script says it in the same ones."""
        return clock_words(self.left_s, self.act)

    @property
    def colour(self) -> str:
        """Colour class; the words say it too."""
        return "bad" if self.left_s < 0 else "warn"


@dataclass(frozen=True)
class AlertView:
    """One alert, its clock while it is open, and what this person may do."""

    detail: AlertDetail
    clock: Clock | None
    may_answer: bool

    @property
    def pill(self) -> tuple[str, str]:
        """Words and colour of its state."""
        return STATE_PILLS[self.detail.alert.state]

    @property
    def is_suspected(self) -> bool:
        """Whether a radiologist has to answer."""
        return self.detail.alert.state is AlertState.SUSPECTED

    @property
    def is_confirmed(self) -> bool:
        """Whether somebody has to be told."""
        return self.detail.alert.state is AlertState.CONFIRMED

    @property
    def sentence(self) -> str:
        """The sentence that is offered for the report; empty while nobody was told."""
        return offered_sentence(self.detail)


@dataclass(frozen=True)
class CriticalPanel:
    """What the reading page shows of critical results."""

    open: Sequence[AlertView]
    settled: Sequence[AlertView]
    may_mark: bool
    choices: Sequence[Any]  # present Findings that may be marked
    text: str  # of the sections that take a sentence
    words: Mapping[str, Any]  # that the forms offer


def alert_view(detail: AlertDetail, settings: CriticalSettings, now: datetime) -> AlertView:
    """Return an alert as the person logged in sees it."""
    clock = clock_of(detail.alert, settings, now) if detail.alert.state in OPEN_ALERTS else None
    return AlertView(detail, clock, person().may(Permission.CRITICAL))


def critical_panel(db: Session, page: Any, settings: CriticalSettings) -> CriticalPanel | None:
    """Return the alerts of the study of a `dashboard.desk.DeskPage`; None when there is nothing to show or mark."""
    now = utcnow()
    views = [alert_view(one, settings, now) for one in of_study(db, page.study.id)]
    may_mark = person().may(Permission.REPORT_EDIT)
    if not views and not may_mark:
        return None
    is_open = [one for one in views if one.clock is not None]
    names = {one.detail.alert.label.casefold() for one in is_open}
    present = [one.row for one in page.findings if one.row.presence is Presence.PRESENT]
    sections = page.report.sections
    return CriticalPanel(
        open=sorted(is_open, key=_most_overdue),
        settled=[one for one in views if one.clock is None],
        may_mark=may_mark,
        choices=[one for one in present if one.label.replace("_", " ").casefold() not in names],
        text="\n".join(str(sections.get(key) or "") for key in SENTENCE_SECTIONS),
        words=form_words(),
    )


def most_overdue_first(views: Sequence[AlertView]) -> list[AlertView]:
    """Return open alerts in the order in which somebody should turn to them."""
    return sorted(views, key=_most_overdue)


def _most_overdue(view: AlertView) -> tuple[int, int]:
    return (view.clock.left_s if view.clock else 0, view.detail.alert.category)


def clock_of(alert: CriticalAlert, settings: CriticalSettings, now: datetime) -> Clock:
    """Return the clock of an open alert at ``now``."""
    allowed_s = time_s(alert, settings)
    suspected = alert.state is AlertState.SUSPECTED
    began = alert.opened_at if suspected else alert.confirmed_at or alert.opened_at
    return Clock(
        left_s=round(allowed_s - (now - began).total_seconds()),
        act="to answer" if suspected else "to tell somebody",
        escalations=alert.level,
        next_s=max(0, round(allowed_s - (now - alert.clock_at).total_seconds())),
    )


def clock_words(left_s: int, act: str) -> str:
    """Return ``12 min 05 s to answer`` or ``overdue by 3 h 20 min``."""
    return f"overdue by {span(-left_s)}" if left_s < 0 else f"{span(left_s)} {act}"


def span(seconds: int) -> str:
    """Return a length of time in at most two units."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def offered_sentence(detail: AlertDetail) -> str:
    """Return a sentence about who was told; empty while nobody was."""
    told = detail.told
    if told is None:
        return ""
    row = told.row
    role = f" ({row.told_role})" if row.told_role else ""
    when = row.told_at.astimezone().strftime("%Y-%m-%d %H:%M")
    ending = "; the result was read back." if row.read_back else "."
    return (
        f"Critical result ({detail.alert.label}) communicated to {row.told_name}{role} "
        f"{MEANS_WORDS[row.means]} on {when} by {told.by}{ending}"
    )


def form_words() -> dict[str, Any]:
    """Return the words that the forms offer."""
    return {
        "means_words": MEANS_WORDS,
        "category_words": CATEGORY_WORDS,
        "categories": CATEGORIES,
        "notice_pills": NOTICE_PILLS,
        "sentence_sections": SENTENCE_SECTIONS,
        "span": span,
        "local": _local,
        "now_local": _local(utcnow()),
    }


def _local(value: datetime) -> str:
    """Return an instant in site time, as a form's field of date and time takes it."""
    return value.astimezone().strftime("%Y-%m-%dT%H:%M")
