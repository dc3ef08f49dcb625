"""Where results go: what is owed to each destination, and whether it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from config.destination import Destination
from config.results import ResultKind, wants
from dashboard.people import sessions, site, work
from dashboard.permissions import Permission, requires
from db.lifecycle import destination_tests
from db.queries.destinations import DestinationState, destination_states

bp = Blueprint("destinations", __name__, url_prefix="/destinations")

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


@bp.get("")
@requires(Permission.DESTINATIONS)
def show() -> ResponseReturnValue:
    """Show every destination of the settings, and those that something is still owed to."""
    return render_template("destinations.html", rows=_rows())


@bp.get("/states")
@requires(Permission.DESTINATIONS)
def states() -> ResponseReturnValue:
    """Return the table anew; the page asks while it waits for a test."""
    return render_template("_destinations.html", rows=_rows())


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
