"""Who is to read a study: taken by oneself, or given by a lead. Several at once may be given, and never signed."""

from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from dashboard.people import person, sessions, work
from dashboard.permissions import Permission, requires
from dashboard.reading import report_of
from dashboard.worklist import views
from dashboard.worklist_view import asked_of_query
from db.lifecycle.assigning import Before, assign, unassign
from db.queries import worklist_row
from db.queries.worklist_people import reports_of

bp = Blueprint("assigning", __name__)
AT_ONCE = 200


@bp.post("/studies/<uuid:study_id>/take")
@requires(Permission.REPORT_EDIT)
def take(study_id: UUID) -> ResponseReturnValue:
    """Take a study for oneself, from whom the page named; who was slower is told so."""
    with work() as uow:
        assign(uow, report_of(study_id), person().id, before=_before(request.form.get("before", "")))
    return _answer(study_id, "The study is yours to read.")


@bp.post("/studies/<uuid:study_id>/leave")
@requires(Permission.REPORT_EDIT)
def leave(study_id: UUID) -> ResponseReturnValue:
    """Give back a study that one took or was given."""
    with work() as uow:
        unassign(uow, report_of(study_id))
    return _answer(study_id, "The study is nobody's in particular now.")


@bp.post("/studies/<uuid:study_id>/assign")
@requires(Permission.STUDY_ASSIGN)
def give(study_id: UUID) -> ResponseReturnValue:
    """Give a study to a reader, or to nobody."""
    reader = _reader(request.form.get("reader", ""))
    with work() as uow:
        if reader is None:
            unassign(uow, report_of(study_id))
        else:
            assign(uow, report_of(study_id), reader)
    return _answer(study_id, "Assigned." if reader else "The study is nobody's in particular now.")


@bp.post("/worklist/take")
@requires(Permission.REPORT_EDIT)
def take_several() -> ResponseReturnValue:
    """Take the chosen studies that nobody has."""
    return _several(person().id, Before.NOBODY)


@bp.post("/worklist/assign")
@requires(Permission.STUDY_ASSIGN)
def give_several() -> ResponseReturnValue:
    """Give the chosen studies to a reader, or to nobody."""
    return _several(_reader(request.form.get("reader", "")), Before.ANYBODY)


def _several(reader: UUID | None, before: Before) -> ResponseReturnValue:
    """Assign what can be; a study that was signed or taken meanwhile does not stop the others."""
    chosen = _chosen()
    with sessions()() as db:
        reports = reports_of(db, chosen)
    missed = 0
    with work() as uow:
        for report_id in reports:
            try:
                if reader is None:
                    unassign(uow, report_id)
                else:
                    assign(uow, report_id, reader, before=before)
            except LifecycleError:
                missed += 1
    done = len(reports) - missed
    flash(f"{done} stud{'y' if done == 1 else 'ies'} {'assigned' if reader else 'un-assigned'}.", "ok")
    if missed:
        flash(f"{missed} not: final by now, or somebody else's.", "warn")
    return redirect(asked_of_query(request.form.get("list", "")).address(), 303)


def _answer(study_id: UUID, words: str) -> ResponseReturnValue:
    """Answer with the row as it is now, for a worklist that lives; else go back to where the form was."""
    given = request.form.get("list")
    if request.headers.get("HX-Request") and given is not None:
        with sessions()() as db:
            row = worklist_row(db, study_id)
        return render_template("_rows.html", rows=views([row] if row else []), list=given)
    flash(words, "ok")
    if given is not None:
        return redirect(asked_of_query(given).address(), 303)
    return redirect(url_for("reading.show", study_id=study_id), 303)


def _chosen() -> list[UUID]:
    try:
        chosen = [UUID(one) for one in request.form.getlist("study")]
    except ValueError as exc:
        raise RefusedInputError("these are no studies") from exc
    if not 0 < len(chosen) <= AT_ONCE:
        raise RefusedInputError(f"choose 1 to {AT_ONCE} studies")
    return chosen


def _reader(value: str) -> UUID | None:
    try:
        return UUID(value) if value else None
    except ValueError as exc:
        raise RefusedInputError("there is no such reader") from exc


def _before(value: str) -> UUID | Before:
    """Return who had it, as the form says; nobody when it names none."""
    return _reader(value) or Before.NOBODY
