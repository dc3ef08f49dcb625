"""What waits for a person to sort out: failed readings, what was not delivered, committed or told; quarantine."""

from uuid import UUID

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from config.routing import RoutingVerdict, load_rule_book
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle.critical_notices import notice_again
from db.models import Reading
from db.queries import problems
from db.queries.audit.sealed import seal_state
from db.queries.audit_telling import forwarding_backlog
from db.queries.critical import failed_notices
from db.queries.destinations import count_alarms
from db.types import Use, utcnow
from db.uow import UnitOfWork

bp = Blueprint("problems", __name__, url_prefix="/problems")


@bp.get("")
@requires(Permission.PROBLEMS)
def show() -> ResponseReturnValue:
    """Show everything that needs a person; recorded, for it names patients."""
    with sessions()() as db:
        found = problems(db)
        not_held = count_alarms(db)
        not_told = failed_notices(db)
        terms = site().audit.syslog
        untold_log = [one for one in forwarding_backlog(db, terms.sink) if one.waits_s(utcnow()) > terms.alarm_s]
        seal = seal_state(db).faults(utcnow(), site().audit.unsealed_alarm_s)
    with work() as uow:
        audit_view(uow, AuditTag.WORKLIST_VIEWED, detail={"tab": "problems"})
    groups = [
        ("Failed", "The pipeline gave up; the reason says at what.", found.failed),
        ("Held", "Not read until a person decides.", found.held),
    ]
    shown = {"problems": found, "not_held": not_held, "not_told": not_told, "untold_log": untold_log, "seal": seal}
    return render_template("problems.html", groups=groups, **shown)


@bp.post("/readings/<uuid:reading_id>/again")
@requires(Permission.PROCESS_AGAIN)
def process_again(reading_id: UUID) -> ResponseReturnValue:
    """Give a reading back to the pipeline; one that was never routed takes the first rule that would draft it."""
    with work() as uow:
        if uow.session.get(Reading, reading_id) is None:
            abort(404)
        give_back(uow, reading_id)
    flash("Queued again.", "ok")
    return _back()


@bp.post("/deliveries/<uuid:delivery_id>/again")
@requires(Permission.PROCESS_AGAIN)
def deliver_again(delivery_id: UUID) -> ResponseReturnValue:
    """Owe a delivery once more that failed, or that its destination would not commit to or did not hold."""
    with work() as uow:
        lifecycle.resubmit(uow, delivery_id)
    flash("Waiting to be sent again.", "ok")
    return _back()


@bp.post("/notices/<uuid:notice_id>/again")
@requires(Permission.PROCESS_AGAIN)
def tell_again(notice_id: UUID) -> ResponseReturnValue:
    """Send a notice about a critical result once more that was given up."""
    with work() as uow:
        notice_again(uow, notice_id)
    flash("Waiting to be sent again.", "ok")
    return _back()


def give_back(uow: UnitOfWork, reading_id: UUID) -> None:
    """Queue a Reading once more; one that was never routed takes the first rule that would draft it.

    Raises:
        LifecycleError: it cannot be queued from where it is, or is gone.
        RefusedInputError: no rule drafts such a Study.
    """
    reading = uow.session.get(Reading, reading_id)
    if reading is None:
        raise LifecycleError("this study is no longer in the queue")
    if reading.profile:
        lifecycle.process_again(uow, reading_id)
        return
    verdict = _verdict(uow, reading.study_id)
    lifecycle.process_again(uow, reading_id, profile=verdict.profile, use=Use(verdict.use))


def _verdict(uow: UnitOfWork, study_id: UUID) -> RoutingVerdict:
    facts = lifecycle.study_facts(uow.session, study_id)
    verdict = load_rule_book(site()).of(facts.called_ae).judge(facts, only_drafting=True)
    if verdict.action != "draft":
        raise RefusedInputError("No routing rule drafts this kind of study: change the rules first.")
    return verdict


def _back() -> ResponseReturnValue:
    if request.form.get("back") == "worklist":
        return redirect(url_for("worklist.show", tab="no_draft"), 303)
    return redirect(url_for("problems.show"), 303)
