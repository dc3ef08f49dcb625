"""The worklist: tabs with counts, filters, search, kept lists, and rows that live without moving."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID

from flask import Blueprint, Response, current_app, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from config.routing import RuleBook, load_rule_book
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.worklist_view import (
    DAYS,
    MODALITIES,
    ORDERS,
    SORTS,
    Asked,
    RowView,
    asked_of,
    asked_of_query,
    news,
    row_view,
    tab_views,
)
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle.kept_lists import drop_list, keep_list
from db.queries import CompletionTimer, Tab, Worklist, WorklistRow, completion_timers, worklist, worklist_rows
from db.queries.worklist import still_listed
from db.queries.worklist_people import kept_lists, readers, senders
from db.types import Priority, ReadingState, utcnow

bp = Blueprint("worklist", __name__, url_prefix="/worklist")

PAGE_SIZE = 50
_RULES = "firstread.rules"


@bp.get("")
@requires(Permission.WORKLIST)
def show() -> ResponseReturnValue:
    """Show one page of one tab; recorded."""
    asked = _asked()
    found = _find(asked)
    with work() as uow:
        audit_view(
            uow,
            AuditTag.WORKLIST_VIEWED,
            detail={"tab": asked.tab.value, "rows": len(found.rows), "searched": bool(asked.search)},
        )
    with sessions()() as db:
        choices = {"readers": readers(db), "senders": senders(db), "kept": kept_lists(db, person().id)}
    shown = [row.study_id for row in found.rows]
    return render_template(
        "worklist.html",
        tabs=tab_views(found, asked),
        tab=asked.tab.value,
        asked=asked,
        rows=views(found.rows),
        modalities=MODALITIES,
        priorities=list(Priority),
        days=DAYS,
        sorts=SORTS,
        order=ORDERS[asked.sort],
        here=urlencode(asked.query()),
        first=asked.here().address() if asked.after or asked.before else "",
        previous=asked.address(after="", before=found.previous_cursor) if found.previous_cursor else "",
        next=asked.address(before="", after=found.next_cursor) if found.next_cursor else "",
        pulse=asked.address("worklist.pulse", shown=",".join(one.hex for one in shown)),
        **choices,
    )


@bp.post("/search")
@requires(Permission.WORKLIST)
def search() -> ResponseReturnValue:
    """Keep the search words in the session: a patient's name does not belong in an address."""
    session["search"] = "" if request.form.get("clear") else " ".join(request.form.get("search", "").split())[:64]
    tab = request.form.get("tab", "")
    if "list" in request.form:
        return redirect(asked_of_query(request.form["list"]).here().address(), 303)
    return redirect(url_for("worklist.show", tab=tab if tab in list(Tab) else Tab.TO_READ.value), 303)


@bp.get("/pulse")
@requires(Permission.WORKLIST)
def pulse() -> ResponseReturnValue:
    """Return what became of the rows on the screen, fresh counts, and a bar when the list is another. No row moves.

    Nothing comes (204) when nothing changed since the pulse whose ``seen`` the address holds.
    """
    asked = _asked()
    shown = _shown()
    found = _find(asked)
    now = [row.study_id for row in found.rows]
    with sessions()() as db:
        away = [one for one in shown if one not in set(now)]
        gone_rows = worklist_rows(db, away)
        still = frozenset(now) | still_listed(db, asked.tab, asked.wanted(person().id), person().id, away)
    on_screen = set(shown)
    changed = news(shown, now, still) if "shown" in request.args else None
    page = render_template(
        "_news.html",
        tabs=tab_views(found, asked),
        tab=asked.tab.value,
        asked=asked,
        here=asked.address(),
        rows=views([*(row for row in found.rows if row.study_id in on_screen), *gone_rows]),
        words=changed.words if changed else "",
        list=urlencode(asked.query()),
    )
    seen = hashlib.sha256(page.encode()).hexdigest()[:16]
    if request.args.get("seen") == seen:
        return Response(status=204)
    again = asked.address("worklist.pulse", shown=request.args.get("shown", ""), seen=seen)
    return page.replace("@again@", again.replace("&", "&amp;"), 1)


pulse.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/studies/<uuid:study_id>/complete")
@requires(Permission.WORKLIST)
def complete_now(study_id: UUID) -> ResponseReturnValue:
    """End reception of a study now; the sweeper routes it at its next turn."""
    with work() as uow:
        lifecycle.complete_now(uow, study_id)
    flash("The study is processed with the images that are here.", "ok")
    return redirect(url_for("worklist.show", tab=Tab.PROCESSING.value), 303)


@bp.post("/lists")
@requires(Permission.WORKLIST)
def keep() -> ResponseReturnValue:
    """Keep the list that is shown under a name; it is an address, without the search words."""
    asked = asked_of_query(request.form.get("list", "")).here()
    shared = request.form.get("shared") == "1"
    with work() as uow:
        keep_list(uow, request.form.get("name", ""), urlencode(asked.query()), shared=shared)
    flash("The list is kept for everybody." if shared else "The list is kept.", "ok")
    return redirect(asked.address(), 303)


@bp.post("/lists/<uuid:list_id>/drop")
@requires(Permission.WORKLIST)
def drop(list_id: UUID) -> ResponseReturnValue:
    """Delete a kept list."""
    with work() as uow:
        drop_list(uow, list_id)
    flash("The list is deleted.", "ok")
    return redirect(asked_of_query(request.form.get("list", "")).address(), 303)


def views(rows: Sequence[WorklistRow]) -> list[RowView]:
    """Return what the person logged in sees of these rows."""
    timers = _timers(rows)
    return [row_view(row, timers.get(row.study_id), person()) for row in rows]


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
    return asked_of(request.args, str(session.get("search", "")))


def _shown() -> list[UUID]:
    try:
        return [UUID(one) for one in request.args.get("shown", "").split(",") if one][: 2 * PAGE_SIZE]
    except ValueError as exc:
        raise RefusedInputError("these are no studies") from exc


def _find(asked: Asked) -> Worklist:
    cursor: dict[str, Any] = {"after": asked.after or None, "before": asked.before or None}
    with sessions()() as db:
        return worklist(
            db,
            asked.tab,
            wanted=asked.wanted(person().id),
            reader=person().id,
            sort=asked.sort,
            limit=PAGE_SIZE,
            **cursor,
        )
