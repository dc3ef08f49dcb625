"""The models: what drafts now and is loaded, what the store holds, and switching by two people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user

from config.errors import RefusedInputError
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.lifecycle import model_switching
from db.package_models import Package
from db.queries.models import (
    Recalled,
    StoredPackage,
    Used,
    decided_switches,
    recall_list,
    stored_packages,
    used_lately,
)
from db.queries.workers import WorkerSeen, workers_alive
from db.types import PackageState, utcnow

bp = Blueprint("models", __name__, url_prefix="/models")

_LONGEST_MANIFEST = 4 * 1024**2


@dataclass(frozen=True)
class InForce:
    """One model that workers draft with now; ``warm_in`` names those that hold it."""

    card: Mapping[str, Any]
    warm_in: tuple[str, ...]
    offered_by: int
    used: Used


@dataclass(frozen=True)
class InStore:
    """One package of the store, with what its own manifest says."""

    stored: StoredPackage
    manifest: Mapping[str, Any]
    used: Used
    recalled: Sequence[Recalled]


@bp.get("")
@requires(Permission.ACCOUNT)
def show() -> ResponseReturnValue:
    """Show the models to who runs the system and to who approves switches."""
    if not (current_user.may(Permission.RUNNING) or current_user.may(Permission.MODEL_APPROVE)):
        with work() as uow:
            audit_view(uow, AuditTag.ACCESS_REFUSED, outcome="failure", detail={"endpoint": request.endpoint})
        abort(403)
    now = utcnow()
    with sessions()() as db:
        workers = workers_alive(db, now)
        used = used_lately(db, now)
        packages = [_in_store(db, one, used) for one in stored_packages(db)]
        decided = decided_switches(db)
    return render_template(
        "models.html",
        in_force=_in_force(workers, used),
        workers=workers,
        packages=packages,
        waiting=[one for one in packages if one.stored.open_switch],
        decided=decided,
        states=PackageState,
    )


@bp.post("/<uuid:package_id>/propose")
@requires(Permission.RUNNING)
def propose(package_id: UUID) -> ResponseReturnValue:
    """Propose to activate or retire a package; a second person decides."""
    with work() as uow:
        if uow.session.get(Package, package_id) is None:
            abort(404)
        model_switching.propose(
            uow,
            package_id,
            act=request.form.get("act", ""),
            reason=request.form.get("reason", ""),
            fall_back=request.form.get("fall_back") == "yes",
        )
    flash("Proposed. A lead radiologist decides within seven days; a worker compares the files meanwhile.", "ok")
    return redirect(url_for("models.show"), 303)


@bp.post("/switches/<uuid:switch_id>/withdraw")
@requires(Permission.RUNNING)
def withdraw(switch_id: UUID) -> ResponseReturnValue:
    """Take one's own proposal back."""
    with work() as uow:
        model_switching.withdraw(uow, switch_id)
    flash("Taken back.", "ok")
    return redirect(url_for("models.show"), 303)


@bp.post("/switches/<uuid:switch_id>/decide")
@requires(Permission.MODEL_APPROVE)
def decide(switch_id: UUID) -> ResponseReturnValue:
    """Approve or decline what somebody else proposed; an approval takes effect with the next Reading."""
    verdict, answer = request.form.get("verdict", ""), request.form.get("answer", "")
    if verdict not in {"approve", "decline"}:
        raise RefusedInputError("approve or decline")
    with work() as uow:
        if verdict == "approve":
            replaced = model_switching.approve(uow, switch_id, answer=answer)
            said = f"In force from the next reading on{f', in place of {replaced}' if replaced else ''}."
        else:
            model_switching.decline(uow, switch_id, answer=answer)
            said = "Declined."
    flash(said, "ok")
    return redirect(url_for("models.show"), 303)


def _in_force(workers: Sequence[WorkerSeen], used: Mapping[tuple[str, str], Used]) -> list[InForce]:
    cards: dict[tuple[str, str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for worker in workers:
        for card in worker.models:
            if card.get("role") in {"vlm", "expert"}:
                cards.setdefault((str(card["role"]), card["name"], card["version"]), []).append((worker.owner, card))
    return [
        InForce(
            said[0][1],
            tuple(owner for owner, card in said if card.get("is_warm")),
            len(said),
            used.get((name, version), Used(0, None)),
        )
        for (role, name, version), said in sorted(cards.items(), key=lambda item: (item[0][0] != "vlm", item[0]))
    ]


def _in_store(db: Any, stored: StoredPackage, used: Mapping[tuple[str, str], Used]) -> InStore:
    package = stored.package
    asks = package.state is not PackageState.IMPORTED or stored.open_switch is not None
    recalled = recall_list(db, package.name, package.version) if asks else ()
    key = (package.name, package.version)
    return InStore(stored, _manifest(package), used.get(key, Used(0, None)), recalled)


def _manifest(package: Package) -> Mapping[str, Any]:
    """Return what the package's manifest says, for people to read; empty when it cannot be read.

    What drafts is decided by the record and by the workers, who compare the file with the record.
    """
    folder = site().data_dir.resolve() / "models" / "store" / package.folder
    for path in sorted(folder.glob("*.json")):
        try:
            if path.stat().st_size > _LONGEST_MANIFEST:
                continue
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict) and "files" in found and "licence" in found:
            return _readable(found)
    return {}


def _readable(found: Mapping[str, Any]) -> dict[str, Any]:
    use, files, budget = found.get("intended_use"), found.get("files"), found.get("budget")
    statement = use.get("statement", "") if isinstance(use, dict) else str(use or "")
    if isinstance(files, list):
        files = {str(one.get("path")): str(one.get("sha256")) for one in files if isinstance(one, dict)}
    return {
        "intended_use": statement,
        "files": {str(name): str(digest) for name, digest in files.items()} if isinstance(files, dict) else {},
        "memory_mb": budget.get("memory_mb", 0) if isinstance(budget, dict) else 0,
    }
