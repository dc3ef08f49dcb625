"""Critical results: alerts, confirmation, who was told."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.critical_record import six_facts_csv
from dashboard.critical_view import alert_view, critical_panel, form_words, most_overdue_first
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.reading import desk
from db.audit import AuditTag
from db.critical_models import CriticalAlert, Means, NewCommunication
from db.lifecycle import critical
from db.lifecycle.critical_notices import notice_again
from db.queries.critical import Pulse, alert_detail, failed_notices, history, open_list, pulse, summary
from db.types import utcnow
from db.uow import UnitOfWork

bp = Blueprint("critical", __name__, url_prefix="/critical")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CSV = "text/csv; charset=utf-8"


@bp.get("")
@requires(Permission.CRITICAL)
def show() -> ResponseReturnValue:
    """List open alerts, most overdue first, what could not be sent, and what was settled; recorded."""
    now = utcnow()
    with sessions()() as db:
        views = most_overdue_first([alert_view(one, site().critical, now) for one in open_list(db)])
        settled = [alert_view(one, site().critical, now) for one in history(db)]
        failed = failed_notices(db)
    with work() as uow:
        audit_view(uow, AuditTag.WORKLIST_VIEWED, detail={"tab": "critical", "rows": len(views) + len(settled)})
    return render_template("critical.html", views=views, settled=settled, failed=failed, w=form_words())


@bp.get("/alerts/<uuid:alert_id>")
@requires(Permission.CRITICAL)
def alert(alert_id: UUID) -> ResponseReturnValue:
    """Show all that is known of one alert; recorded."""
    with sessions()() as db:
        detail = alert_detail(db, alert_id)
    if detail is None:
        abort(404)
    with work() as uow:
        audit_view(uow, AuditTag.WORKLIST_VIEWED, study_id=detail.study.id, detail={"tab": "critical", "rows": 1})
    view = alert_view(detail, site().critical, utcnow())
    return render_template("critical_alert.html", view=view, w=form_words())


@bp.get("/pulse")
@requires(Permission.CRITICAL)
def beat() -> ResponseReturnValue:
    """Return the badge, and a note of what is new; 204 when nothing changed since ``seen``."""
    seen = request.args.get("seen", "")
    with sessions()() as db:
        now = pulse(db, since=_instant_of(seen))
    if _stamp(now) == seen:
        return Response(status=204)
    return render_template("_critical_pulse.html", critical_pulse=now)


beat.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/studies/<uuid:study_id>")
@requires(Permission.REPORT_EDIT)
def mark(study_id: UUID) -> ResponseReturnValue:
    """Open an alert for a finding, or in the reader's own words."""
    chosen = request.form.get("finding", "")
    with work() as uow:
        what, finding_id = request.form.get("what", ""), _uuid(chosen)
        opened = critical.mark(uow, study_id, category=_category(), what=what, finding_id=finding_id)
    return _back(study_id, opened.id, "Marked as critical.")


@bp.post("/alerts/<uuid:alert_id>/confirm")
@requires(Permission.CRITICAL)
def confirm(alert_id: UUID) -> ResponseReturnValue:
    """Say that the result is critical, and how soon somebody has to be told."""
    with work() as uow:
        critical.confirm(uow, alert_id, category=_category())
        study_id = _study_of(uow, alert_id)
    return _back(study_id, alert_id, "Confirmed. Now tell somebody who can act, and record it here.")


@bp.post("/alerts/<uuid:alert_id>/dismiss")
@requires(Permission.CRITICAL)
def dismiss(alert_id: UUID) -> ResponseReturnValue:
    """Say that the result is not critical, and why."""
    with work() as uow:
        critical.dismiss(uow, alert_id, request.form.get("reason", ""))
        study_id = _study_of(uow, alert_id)
    return _back(study_id, alert_id, "Not critical; your reason is kept.")


@bp.post("/alerts/<uuid:alert_id>/communication")
@requires(Permission.CRITICAL)
def communicate(alert_id: UUID) -> ResponseReturnValue:
    """Keep who was told, or that nobody was reached."""
    with work() as uow:
        kept = critical.record(uow, alert_id, _said())
        study_id = _study_of(uow, alert_id)
    words = "Recorded." if kept.reached else "Recorded: nobody was reached. The clock runs on."
    return _back(study_id, alert_id, words)


@bp.post("/alerts/<uuid:alert_id>/sentence")
@requires(Permission.REPORT_EDIT)
def add_sentence(alert_id: UUID) -> ResponseReturnValue:
    """Append the sentence to the report, as an edit of the reader who has it open."""
    version = request.form.get("version", type=int, default=0)
    section = request.form.get("section", "")
    with work() as uow:
        critical.add_sentence(uow, alert_id, request.form.get("text", ""), section=section, seen_version=version)
        study_id = _study_of(uow, alert_id)
    flash("Added to the report.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)


@bp.post("/notices/<uuid:notice_id>/again")
@requires(Permission.CRITICAL)
def send_again(notice_id: UUID) -> ResponseReturnValue:
    """Send a notice once more that was given up."""
    with work() as uow:
        notice_again(uow, notice_id)
    flash("Waiting to be sent again.", "ok")
    return redirect(url_for("critical.show"), 303)


@bp.get("/record")
@requires(Permission.AUDIT)
def record() -> ResponseReturnValue:
    """Show the six facts of the newest critical results, for the auditor; recorded."""
    return _record("")


@bp.post("/record")
@requires(Permission.AUDIT)
def record_search() -> ResponseReturnValue:
    """Show them for one accession number, or give them as CSV; the number is in the form, never in the address."""
    return _record(request.form.get("accession", "").strip()[:16], as_file=bool(request.form.get("csv")))


def _record(accession: str, *, as_file: bool = False) -> ResponseReturnValue:
    with sessions()() as db:
        facts = summary(db, accession_number=accession)
    tag = AuditTag.AUDIT_EXPORTED if as_file else AuditTag.AUDIT_VIEWED
    with work() as uow:
        audit_view(uow, tag, detail={"query": "critical results", "alerts": len(facts), "narrowed": bool(accession)})
    if as_file:
        headers = {"Content-Disposition": 'attachment; filename="critical-results.csv"'}
        return Response(six_facts_csv(facts), mimetype="text/csv", headers=headers, content_type=_CSV)
    return render_template("critical_record.html", facts=facts, accession=accession, w=form_words())


@bp.app_context_processor
def _on_every_page() -> dict[str, Any]:
    """Give every page the means to print the badge; nothing is asked until a page does."""
    return {"critical_now": _now, "critical_stamp": _stamp}


def _now() -> Pulse:
    with sessions()() as db:
        return pulse(db, since=None)


def _stamp(now: Pulse) -> str:
    """Return what changes when there is something new to say; only numbers."""
    changed = (now.changed_at - _EPOCH) // timedelta(microseconds=1) if now.changed_at else 0
    return f"{now.open}-{now.escalated}-{changed}"


def _instant_of(stamp: str) -> datetime | None:
    number = stamp.rpartition("-")[2]
    if not number.isascii() or not number.isdigit() or len(number) > 16:
        return None
    return _EPOCH + timedelta(microseconds=int(number))


def _said() -> NewCommunication:
    form = request.form
    try:
        told_at = datetime.fromisoformat(form.get("told_at", "")).astimezone()
        means = Means(form.get("means", ""))
    except (ValueError, OverflowError) as exc:
        raise RefusedInputError("say when and by which means they were told") from exc
    return NewCommunication(
        told_name=form.get("told_name", ""),
        told_role=form.get("told_role", ""),
        means=means,
        told_at=told_at,
        reached=form.get("reached") == "yes",
        read_back=form.get("read_back") == "yes",
        no_read_back_reason=form.get("no_read_back_reason", ""),
        note=form.get("note", ""),
        corrects_id=_uuid(form.get("corrects", "")),
    )


def _category() -> int:
    return request.form.get("category", type=int, default=0)


def _uuid(value: str) -> UUID | None:
    try:
        return UUID(value) if value else None
    except ValueError as exc:
        raise RefusedInputError("there is no such row") from exc


def _study_of(uow: UnitOfWork, alert_id: UUID) -> UUID:
    return uow.session.get_one(CriticalAlert, alert_id).study_id


def _back(study_id: UUID, alert_id: UUID, words: str) -> ResponseReturnValue:
    """Return to where the form was: the reading page's banner alone for a fragment request, so that no text is lost."""
    if request.headers.get("HX-Request"):
        page = desk(study_id)
        with sessions()() as db:
            panel = critical_panel(db, page, site().critical)
        banner = render_template("_critical_banner.html", p=page, panels={"critical": panel}, said=words)
        return Response(banner, headers={"HX-Trigger": "criticalAnswered"})  # the checks look again
    flash(words, "ok")
    if request.form.get("back") == "page":
        return redirect(url_for("critical.alert", alert_id=alert_id), 303)
    return redirect(url_for("reading.show", study_id=study_id, _anchor="critical"), 303)
