"""The queue of Readings, and of what readers asked of the models: why each waits, and what may be done."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import AppError, LifecycleError, RefusedInputError
from config.routing import RuleBook, load_rule_book
from dashboard.people import sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.problems import give_back
from db import lifecycle
from db.asking_models import ErrandState, Question, Redraft
from db.lifecycle import errands
from db.lifecycle.queue_control import hold, retry_now, set_queue
from db.models import Reading
from db.queries.queue import QueueView, queue_view
from db.types import QueueMode, ReadingState, utcnow
from db.uow import UnitOfWork

bp = Blueprint("queue", __name__, url_prefix="/queue")

_Kind = type[Question] | type[Redraft]
_RULES = "firstread.queue_rules"
_MOST = 200  # rows of one form
_TITLES: Mapping[ReadingState, str] = {
    ReadingState.RUNNING: "Being read",
    ReadingState.RETRYING: "Tried again later",
    ReadingState.QUEUED: "Waiting for a worker",
    ReadingState.COMPLETE: "Complete",
    ReadingState.HELD: "Held",
    ReadingState.RECEIVING: "Being received",
}


def _hold(uow: UnitOfWork, reading_id: UUID) -> None:
    hold(uow, reading_id, reason=request.form.get("reason", ""))


def _complete(uow: UnitOfWork, reading_id: UUID) -> None:
    reading = uow.session.get(Reading, reading_id)
    if reading is None:
        raise LifecycleError("this study is no longer in the queue")
    lifecycle.complete_now(uow, reading.study_id)


def _errand(do: Callable[[UnitOfWork, _Kind, UUID], None], kind: _Kind) -> Callable[[UnitOfWork, UUID], None]:
    return lambda uow, errand_id: do(uow, kind, errand_id)


_ACTS: Mapping[str, tuple[Callable[[UnitOfWork, UUID], Any], str]] = {
    "retry": (retry_now, "woken"),
    "hold": (_hold, "held"),
    "release": (give_back, "released"),
    "complete": (_complete, "taken as complete"),
    "wake_question": (_errand(errands.wake, Question), "woken"),
    "stop_question": (_errand(errands.stop, Question), "stopped"),
    "wake_redraft": (_errand(errands.wake, Redraft), "woken"),
    "stop_redraft": (_errand(errands.stop, Redraft), "stopped"),
}
_FITS: Mapping[ReadingState, tuple[tuple[str, str], ...]] = {
    ReadingState.RUNNING: (("hold", "Stop and hold"),),
    ReadingState.RETRYING: (("retry", "Retry now"), ("hold", "Hold")),
    ReadingState.QUEUED: (("hold", "Hold"),),
    ReadingState.HELD: (("release", "Release"),),
    ReadingState.RECEIVING: (("complete", "Process now"),),
    ReadingState.COMPLETE: (),
}
_ERRAND_FITS: Mapping[ErrandState, tuple[tuple[str, str], ...]] = {
    ErrandState.ASKED: (("wake", "Retry now"), ("stop", "Cancel")),
    ErrandState.RUNNING: (("stop", "Stop"),),
}


@bp.get("")
@requires(Permission.RUNNING)
def show() -> ResponseReturnValue:
    """Show the queue."""
    return render_template("queue.html", **_values())


@bp.get("/rows")
@requires(Permission.RUNNING)
def rows() -> ResponseReturnValue:
    """Return head and rows anew; the page puts them into the rows it shows, so that none of them moves."""
    return render_template("_queue.html", **_values())


rows.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/mode")
@requires(Permission.RUNNING)
def mode() -> ResponseReturnValue:
    """Pause, drain or open the whole queue."""
    wanted = request.form.get("mode", "")
    if wanted not in list(QueueMode):
        raise RefusedInputError("the queue is opened, drained or paused")
    with work() as uow:
        woken = set_queue(uow, QueueMode(wanted), reason=request.form.get("reason", ""))
    said = {
        QueueMode.PAUSED: "Paused: workers take nothing new. What runs goes on.",
        QueueMode.DRAINING: "Draining: workers take only what is complete by now.",
        QueueMode.OPEN: f"Open: {woken} waiting.",
    }
    flash(said[QueueMode(wanted)], "warn" if QueueMode(wanted) is QueueMode.PAUSED else "ok")
    return redirect(url_for("queue.show"), 303)


@bp.post("/act")
@requires(Permission.PROCESS_AGAIN)
def act() -> ResponseReturnValue:
    """Do one thing to the rows that were selected; each is an act of its own, and what cannot be done is said."""
    name, _, alone = request.form.get("act", "").partition(":")
    if name not in _ACTS:
        raise RefusedInputError("select what to do")
    do, word = _ACTS[name]
    done, refused = 0, []
    for reading_id in _chosen([alone] if alone else request.form.getlist("reading")):
        try:
            with work() as uow:
                do(uow, reading_id)
            done += 1
        except (LifecycleError, RefusedInputError) as exc:
            refused.append(str(exc))
    if done:
        flash(f"{done} {word}.", "ok")
    for words in refused[:5]:
        flash(words, "warn")
    if not done and not refused:
        flash("Select studies first.", "info")
    return redirect(url_for("queue.show"), 303)


def _chosen(given: list[str]) -> list[UUID]:
    try:
        return [UUID(one) for one in given[:_MOST]]
    except ValueError as exc:
        raise RefusedInputError("this form names something that is no reading") from exc


def _values() -> dict[str, Any]:
    view, trouble = _view()
    offered = {"fits": _FITS, "errand_fits": _ERRAND_FITS}
    return {"view": view, "titles": _TITLES, "trouble": trouble, "modes": QueueMode, **offered}


def _view() -> tuple[QueueView, str]:
    rules, trouble = _rules()
    with sessions()() as db:
        return queue_view(db, rules, utcnow(), priors_wait_s=site().priors.wait_s), trouble


def _rules() -> tuple[RuleBook, str]:
    """Return the rules this process read first; with those of nobody when the file cannot be used now."""
    kept: RuleBook | None = current_app.extensions.get(_RULES)
    if kept is not None:
        return kept, ""
    try:
        kept = load_rule_book(site())
    except AppError as exc:
        from config.routing import Rules

        return RuleBook(Rules(rules=())), f"The routing rules cannot be read: {exc}"
    current_app.extensions[_RULES] = kept
    return kept, ""
