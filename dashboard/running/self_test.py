"""The self-test: a synthetic study through the whole system, watched step by step."""

from dataclasses import dataclass

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from dashboard.people import sessions, site, work
from dashboard.permissions import Permission, requires
from db.lifecycle import node_tasks
from db.queries.self_tests import Progress, progress, self_tests
from db.running_models import NodeTask
from db.types import utcnow

bp = Blueprint("self_test", __name__, url_prefix="/self-test")


@dataclass(frozen=True)
class Shown:
    """One self-test and how far it came."""

    task: NodeTask
    seen: Progress

    @property
    def is_good(self) -> bool:
        """Whether every step was good; only of one that is over."""
        return bool(self.seen.steps) and all(step.is_good for step in self.seen.steps)

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return ((self.task.finished_at or utcnow()) - self.task.asked_at).total_seconds()


@bp.get("")
@requires(Permission.RUNNING)
def show() -> ResponseReturnValue:
    """Show the self-tests, newest first."""
    return render_template("self_test.html", tests=_tests())


@bp.get("/steps")
@requires(Permission.RUNNING)
def steps() -> ResponseReturnValue:
    """Return the list anew; the page asks while a test is on its way."""
    return render_template("_self_test.html", tests=_tests())


steps.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("")
@requires(Permission.RUNNING)
def begin() -> ResponseReturnValue:
    """Ask the node for a self-test; one that is on its way is not asked for twice."""
    with work() as uow:
        node_tasks.ask_task(uow, node_tasks.SELF_TEST)
    flash("The node sends a synthetic study to itself now.", "info")
    return redirect(url_for("self_test.show"), 303)


def _tests() -> list[Shown]:
    with sessions()() as db:
        return [Shown(one, progress(db, one, site().results_dir, utcnow())) for one in self_tests(db)]
