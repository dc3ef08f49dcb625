"""Where results go: what is owed to each destination, and whether it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.destination import Destination
from config.results import ResultKind, wants
from dashboard.people import sessions, site, work
from dashboard.permissions import Permission, requires
from db.lifecycle import destination_tests, node_tasks
from db.peers import added_peers, refused_callers
from db.queries import peers as peer_queries
from db.queries.destinations import DestinationState, destination_states
from db.types import utcnow

bp = Blueprint("destinations", __name__, url_prefix="/destinations")

_MOST_REFUSED = 20
_K = ResultKind
_WORDS: Sequence[tuple[ResultKind, str]] = (  # of a signed report; drafts are of the same forms
    (_K.SEG, "segmentations (binary)"),
    (_K.SEG_LABELMAP, "segmentations (label map)"),
    (_K.HEAT_MAP, "heat maps"),
    (_K.SIGNED_FINDINGS_SR, "findings SR"),
    (_K.SIGNED_SR, "report as Enhanced SR"),
    (_K.REPORT_TEXT_SR, "report as Basic Text SR"),
    (_K.KEY_IMAGES, "key images"),
    (_K.PRESENTATION_STATE, "presentation states"),
    (_K.SECONDARY_CAPTURE, "secondary captures"),
    (_K.REPORT_PDF, "PDF"),
    (_K.REJECTION_NOTE, "rejection notes"),
    (_K.REPORT_ORU, "report as HL7 ORU"),
    (_K.REPORT_FHIR, "report as FHIR bundle"),
)


@dataclass(frozen=True)
class Shown:
    """One row of the page."""

    name: str
    protocol: str
    address: str
    takes: str
    state: DestinationState
    is_configured: bool = True


@dataclass(frozen=True)
class ShownPeer:
    """One peer that may call; without ``port`` it is not known where it listens."""

    ae_title: str
    host: str
    port: int | None
    certificate_subject: str
    origin: str


@bp.get("")
@requires(Permission.DESTINATIONS)
def show() -> ResponseReturnValue:
    """Show every destination of the settings, and those that something is still owed to."""
    return render_template("destinations.html", rows=_rows(), **callers())


@bp.get("/states")
@requires(Permission.DESTINATIONS)
def states() -> ResponseReturnValue:
    """Return the table anew; the page asks while it waits for a test."""
    fragment = "_peers.html" if request.args.get("of") == "peers" else "_destinations.html"
    return render_template(fragment, rows=_rows(), **callers())


states.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/<name>/test")
@requires(Permission.DESTINATIONS)
def test(name: str) -> ResponseReturnValue:
    """Ask the node to try a destination; its outcome appears on the page."""
    if name not in {one.name for one in site().destinations}:
        abort(404)
    with work() as uow:
        destination_tests.ask_test(uow, name)
    flash(f"The node tries {name} now.", "info")
    return redirect(url_for("destinations.show"), 303)


@bp.post("/<kind>/<name>/echo")
@requires(Permission.DESTINATIONS)
def echo(kind: str, name: str) -> ResponseReturnValue:
    """Ask the node to look at a peer or an archive of priors, as far as C-ECHO; its outcome appears on the page."""
    found = callers()
    known = {node_tasks.PEER: {one.ae_title for one in found["peers"]}, node_tasks.SOURCE: {*found["source_names"]}}
    if name not in known.get(kind, set()):
        abort(404)
    with work() as uow:
        node_tasks.ask_task(uow, kind, name)
    flash(f"The node looks at {name} now.", "info")
    return redirect(url_for("destinations.show"), 303)


def callers() -> dict[str, Any]:
    """Return who may call and whom we ask for priors, as the page shows them."""
    now = utcnow()
    with sessions()() as db:
        looks = peer_queries.looks(db)
        lately = peer_queries.associations_lately(db, now)
        added = added_peers(db)
        refused = refused_callers(db, since=now - timedelta(days=1))[:_MOST_REFUSED]
    listed = [
        ShownPeer(one.ae_title, one.host or "any address", one.port, one.certificate_subject, "settings")
        for one in site().dicom.peers
    ]
    listed += [
        ShownPeer(
            one.ae_title, one.host or "any address", one.port, one.certificate_subject, f"added by {one.added_by}"
        )
        for one in added
    ]
    return {
        "peers": listed,
        "sources": site().priors.sources,
        "source_names": [one.name for one in site().priors.sources],
        "lately": lately,
        "looks": looks,
        "refused": refused,
        "lately_days": peer_queries.LATELY.days,
    }


def _rows() -> list[Shown]:
    with sessions()() as db:
        found = destination_states(db)
    rows = [
        Shown(one.name, one.protocol, _address(one), _takes(one), found.get(one.name, DestinationState()))
        for one in site().destinations
    ]
    known = {one.name for one in rows}
    gone = sorted(name for name in found if name not in known and (found[name].waiting or found[name].failed))
    return rows + [Shown(name, "", "", "", found[name], is_configured=False) for name in gone]


def _address(destination: Destination) -> str:
    """Return where it is."""
    if destination.url:
        return destination.url
    name = f"{destination.ae_title} at " if destination.ae_title else ""
    return f"{name}{destination.host}:{destination.port}{' with TLS' if destination.tls else ''}"


def _takes(destination: Destination) -> str:
    words = [text for kind, text in _WORDS if wants(destination, kind)]
    more = [
        text
        for asked, text in (
            (destination.drafts, "drafts too"),
            (destination.commitment, "storage commitment asked"),
            (destination.count, "counted"),
        )
        if asked
    ]
    return ", ".join(words) + (f"; {', '.join(more)}" if more else "")
