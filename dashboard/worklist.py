"""The worklist: tabs with counts, filters, search, and a bar that says when the list has changed."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from flask import Blueprint, current_app, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from config.routing import RuleBook, load_rule_book
from dashboard.desk import OPENABLE
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import status_pill
from db import lifecycle
from db.audit import AuditTag
from db.queries import CompletionTimer, Tab, Worklist, WorklistRow, completion_timers, worklist
from db.types import Priority, ReadingState, ReportState, utcnow

bp = Blueprint("worklist", __name__, url_prefix="/worklist")

PAGE_SIZE = 50
_RULES = "firstread.rules"
_MODALITIES = ("CR", "CT", "DX", "MG", "MR", "NM", "PT", "RF", "US", "XA")
_TITLES: Mapping[Tab, str] = {
    Tab.TO_READ: "AI drafted",
    Tab.IN_REVIEW: "In review",
    Tab.PRELIMINARY: "Preliminary",
    Tab.SIGNED: "Final",
    Tab.REJECTED: "Rejected",
    Tab.PROCESSING: "In progress",
    Tab.NO_DRAFT: "No draft",
    Tab.ALL: "All",
}
AGAIN = frozenset({ReadingState.HELD, ReadingState.IGNORED, ReadingState.FAILED, ReadingState.NO_DRAFT})


@dataclass(frozen=True)
class TabView:
    """One tab with its count."""

    key: str
    title: str
    count: int


@dataclass(frozen=True)
class RowView:
    """One study of the list, and what this person may do with it."""

    row: WorklistRow
    pill: tuple[str, str]
    is_waiting: bool
    can_open: bool
    can_process: bool
    timer: CompletionTimer | None  # while it is being received


@dataclass(frozen=True)
class Asked:
    """What the address asks for; nothing in it names a patient. The search words live in the session."""

    tab: Tab
    modality: str
    priority: Priority | None
    after: str
    search: str

    def address(self, endpoint: str, **more: Any) -> str:
        """Return the address of this list."""
        given = {"modality": self.modality, "priority": self.priority, "after": self.after} | more
        return url_for(endpoint, tab=self.tab.value, **{key: value for key, value in given.items() if value})


@bp.get("")
@requires(Permission.WORKLIST)
def show() -> ResponseReturnValue:
    """Show one page of one tab; recorded."""
    asked = _asked()
    found = _find(asked)
    timers = _timers(found.rows)
    with work() as uow:
        audit_view(
            uow,
            AuditTag.WORKLIST_VIEWED,
            detail={"tab": asked.tab.value, "rows": len(found.rows), "searched": bool(asked.search)},
        )
    return render_template(
        "worklist.html",
        tabs=_tabs(found),
        tab=asked.tab.value,
        asked=asked,
        rows=[_view(row, timers.get(row.study_id)) for row in found.rows],
        total=found.counts[asked.tab],
        modalities=_MODALITIES,
        priorities=list(Priority),
        here=asked.address("worklist.show"),
        first=asked.address("worklist.show", after="") if asked.after else "",
        next=asked.address("worklist.show", after=found.next_cursor) if found.next_cursor else "",
        pulse=asked.address("worklist.pulse", stamp=_stamp(found)),
    )


@bp.post("/search")
@requires(Permission.WORKLIST)
def search() -> ResponseReturnValue:
    """Keep the search words in the session: a patient's name does not belong in an address."""
    session["search"] = "" if request.form.get("clear") else " ".join(request.form.get("search", "").split())[:64]
    tab = request.form.get("tab", "")
    return redirect(url_for("worklist.show", tab=tab if tab in list(Tab) else Tab.TO_READ.value), 303)


@bp.get("/pulse")
@requires(Permission.WORKLIST)
def pulse() -> ResponseReturnValue:
    """Return fresh counts, and a bar when the list differs from what is shown. No row moves by itself."""
    asked = _asked()
    found = _find(asked)
    return render_template(
        "_news.html",
        tabs=_tabs(found),
        tab=asked.tab.value,
        here=asked.address("worklist.show", after=""),
        timers=_timers(found.rows).values(),
        changed=request.args.get("stamp") != _stamp(found),
    )


pulse.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/studies/<uuid:study_id>/complete")
@requires(Permission.WORKLIST)
def complete_now(study_id: UUID) -> ResponseReturnValue:
    """End reception of a study now; the sweeper routes it at its next turn."""
    with work() as uow:
        lifecycle.complete_now(uow, study_id)
    flash("The study is processed with the images that are here.", "ok")
    return redirect(url_for("worklist.show", tab=Tab.PROCESSING.value), 303)


def _timers(rows: Iterable[WorklistRow]) -> dict[UUID, CompletionTimer]:
    """Return the timers of those rows that are being received."""
    open_ones = [row.study_id for row in rows if row.reading_state is ReadingState.RECEIVING]
    if not open_ones:
        return {}
    settings = site()
    with sessions()() as db:
        found = completion_timers(
            db,
            _rules(),
            priors_wait_s=settings.priors.wait_s,
            now=utcnow(),
            study_ids=open_ones,
        )
    return {one.study_id: one for one in found}


def _rules() -> RuleBook:
    """Return the rules as they were when they were first asked for: the sweeper, too, reads them once."""
    book = current_app.extensions.get(_RULES)
    if book is None:
        book = current_app.extensions[_RULES] = load_rule_book(site())
    return cast("RuleBook", book)


def _asked() -> Asked:
    tab, priority = request.args.get("tab") or Tab.TO_READ.value, request.args.get("priority", "")
    modality = request.args.get("modality", "")
    if tab not in list(Tab) or (priority and priority not in list(Priority)) or len(modality) > 16:
        raise RefusedInputError("there is no such list")
    return Asked(
        tab=Tab(tab),
        modality=modality,
        priority=Priority(priority) if priority else None,
        after=request.args.get("after", ""),
        search=str(session.get("search", "")),
    )


def _find(asked: Asked) -> Worklist:
    with sessions()() as db:
        return worklist(
            db,
            tab=asked.tab,
            search=asked.search,
            modality=asked.modality,
            priority=asked.priority,
            after=asked.after or None,
            limit=PAGE_SIZE,
        )


def _tabs(found: Worklist) -> list[TabView]:
    return [TabView(tab.value, title, found.counts[tab]) for tab, title in _TITLES.items()]


def _view(row: WorklistRow, timer: CompletionTimer | None) -> RowView:
    state = row.report_state
    return RowView(
        row=row,
        pill=status_pill(state if state is not ReportState.UNREAD else None, row.reading_state),
        is_waiting=state in {ReportState.UNREAD, ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY},
        can_open=state in OPENABLE and not row.locked_by and person().may(Permission.REPORT_EDIT),
        can_process=state is ReportState.UNREAD
        and row.reading_state in AGAIN
        and not row.is_prior
        and person().may(Permission.PROCESS_AGAIN),
        timer=timer,
    )


def _stamp(found: Worklist) -> str:
    """Return what changes when a row does; short, and says nothing about anybody."""
    seen = [(str(r.study_id), r.reading_state, r.report_version, r.priority, r.instance_count) for r in found.rows]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
