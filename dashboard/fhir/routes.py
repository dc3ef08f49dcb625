"""Signed reports as FHIR R4 resources: read and search, nothing else; the audit log for auditors."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from flask import Blueprint, Flask, Response, request
from flask_wtf.csrf import CSRFProtect
from werkzeug.exceptions import MethodNotAllowed, NotFound

from config.errors import RefusedInputError
from dashboard.dicomweb.door import admit, client, install_door
from dashboard.fhir.audit_events import audit_resources, wanted_events
from dashboard.fhir.capability import capability
from dashboard.fhir.outcomes import answer, check_format, register_outcomes
from dashboard.fhir.searching import link, number, wanted_reports, window
from dashboard.fhir.shelf import KINDS, Resource, Shelf
from dashboard.people import sessions, site
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.queries.audit_telling import EventFilter, events_after
from db.queries.fhir import signed_reports
from db.uow import unit_of_work

bp = Blueprint("fhir", __name__, url_prefix="/fhir")
bp.before_request(admit)
register_outcomes(bp)
_PAGE, _MOST = 10, 50
_EVENTS, _MOST_EVENTS = 100, 1000
_INCLUDES = frozenset({"*", "DiagnosticReport:*", "DiagnosticReport:result", "DiagnosticReport:subject",
                       "DiagnosticReport:patient", "DiagnosticReport:based-on", "DiagnosticReport:performer",
                       "DiagnosticReport:results-interpreter"})  # fmt: skip


def serve_fhir(app: Flask, csrf: CSRFProtect) -> None:
    """Add them to the dashboard; its own door asks a session's POST for the mark that forms carry."""
    install_door(app)
    csrf.exempt(bp)
    app.register_blueprint(bp)


def base() -> str:
    """Return the address of the service, as the client reached it."""
    return f"{(site().web.public_url or request.url_root).rstrip('/')}/fhir"


@bp.get("/metadata")
@requires(Permission.STUDY_READ)
def metadata() -> Response:
    """Return what this server can do."""
    return answer(capability(base()))


@bp.get("/DiagnosticReport")
@requires(Permission.STUDY_READ)
def search() -> Response:
    """Return the signed reports that match, the last signed first."""
    check_format()
    included, backwards = _included(), _backwards()
    wanted_window = window(request.args, default=_PAGE, most=_MOST)
    entries: list[dict[str, Any]] = []
    with sessions()() as db:
        wanted = wanted_reports(request.args, db, site())
        page, total = signed_reports(db, wanted, limit=wanted_window.count, offset=wanted_window.offset)
        shelf = Shelf(db, site())
        for one in page:
            for resource in shelf.report(one.report_id):
                mode = _mode(resource, included, backwards=backwards)
                if mode:
                    entries.append(_entry(resource, mode))
    _note({one.study_id for one in page}, resource="DiagnosticReport", matches=len(page))
    following = wanted_window.offset + wanted_window.count
    is_more = wanted_window.count > 0 and following < total
    more = {"_offset": following, "_count": wanted_window.count} if is_more else {}
    return answer(_searchset("DiagnosticReport", entries, total, more))


@bp.get("/<any({}):kind>/<key>".format(",".join(KINDS)))
@requires(Permission.STUDY_READ)
def read(kind: str, key: str) -> Response:
    """Return one resource of a signed report."""
    check_format()
    with sessions()() as db:
        found = Shelf(db, site()).read(kind, key)
    if found is None:
        raise NotFound("There is no such resource, or nobody has signed it.")
    resource, study_id = found
    _note({study_id}, resource=kind)
    return answer(resource)


@bp.get("/AuditEvent")
@requires(Permission.AUDIT)
def search_audit() -> Response:
    """Return audit events in their order; looking at them is an event too."""
    check_format()
    count = number(request.args, "_count", _EVENTS, _MOST_EVENTS)
    with sessions()() as db:
        wanted = wanted_events(request.args, db, site())
        found = events_after(db, wanted, number(request.args, "_after", 0, 2**31), count + 1)
        resources = audit_resources(db, found[:count], site())
    study_ids = wanted.study_ids or ()
    _note_audit(study_ids[0] if len(study_ids) == 1 else None, len(resources))
    more = {"_after": found[count - 1].seq} if 0 < count < len(found) else {}
    return answer(_searchset("AuditEvent", [_entry(one, "match") for one in resources], None, more))


@bp.get("/AuditEvent/<int:seq>")
@requires(Permission.AUDIT)
def read_audit(seq: int) -> Response:
    """Return one audit event."""
    check_format()
    with sessions()() as db:
        found = events_after(db, EventFilter(), seq - 1, 1) if 0 < seq < 2**63 else []
        if not found or found[0].seq != seq:
            raise NotFound("There is no such event.")
        resource = audit_resources(db, found, site())[0]
        study_id = found[0].study_id
    _note_audit(study_id, 1)
    return answer(resource)


@bp.route("/", defaults={"rest": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@bp.route("/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@requires(Permission.STUDY_READ)
def unknown(rest: str) -> Response:
    """Refuse everything else."""
    del rest
    if request.method != "GET":
        raise MethodNotAllowed(["GET", "HEAD"], "This server is read only.")
    raise NotFound("There is no such resource type, or it cannot be searched.")


def _included() -> bool:
    asked = request.args.getlist("_include")
    if set(asked) - _INCLUDES:
        raise RefusedInputError("_include is * or a reference of DiagnosticReport")
    return bool(asked)


def _backwards() -> bool:
    asked = request.args.getlist("_revinclude")
    if set(asked) - {"*", "Provenance:target"}:
        raise RefusedInputError("_revinclude is Provenance:target")
    return bool(asked)


def _mode(resource: Resource, included: bool, *, backwards: bool) -> str:
    if resource["resourceType"] == "DiagnosticReport":
        return "match"
    if resource["resourceType"] == "Provenance":
        return "include" if backwards else ""
    return "include" if included else ""


def _entry(resource: Resource, mode: str) -> dict[str, Any]:
    url = f"{base()}/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "resource": resource, "search": {"mode": mode}}


def _searchset(kind: str, entries: Iterable[dict[str, Any]], total: int | None, more: dict[str, int]) -> dict[str, Any]:
    address = f"{base()}/{kind}"
    links = [{"relation": "self", "url": link(address, request.args)}]
    if more:
        links.append({"relation": "next", "url": link(address, request.args, **more)})
    once = {one["fullUrl"]: one for one in entries}
    found: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if total is not None:
        found["total"] = total
    return found | ({"entry": list(once.values())} if once else {})


def _note(studies: set[UUID], **detail: Any) -> None:
    """Record a look: one event for each Study it told of."""
    said = {"address": request.remote_addr or "", **detail}
    with unit_of_work(sessions(), client().actor) as uow:
        if not studies:
            uow.audit(AuditTag.FHIR_READ, detail=said)
        for study_id in sorted(studies):
            uow.audit(AuditTag.FHIR_READ, study_id=study_id, detail=said)


def _note_audit(study_id: UUID | None, events: int) -> None:
    said = {"address": request.remote_addr or "", "query": "fhir", "events": events}
    with unit_of_work(sessions(), client().actor) as uow:
        uow.audit(AuditTag.AUDIT_VIEWED, study_id=study_id, detail=said)
