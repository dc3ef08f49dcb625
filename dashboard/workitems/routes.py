"""Readings as UPS-RS workitems, and a worklist that others work from (PS3.18 section 11)."""

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.routing import RoutingVerdict, load_rule_book
from dashboard.dicomweb.door import client, install_door, record
from dashboard.dicomweb.model import json_pieces
from dashboard.people import sessions, site
from dashboard.permissions import Permission, requires
from dashboard.workitems import asked, channel, subscribing  # noqa: F401 importing it adds its views to the blueprint
from dashboard.workitems.payload import read_payload
from dashboard.workitems.requirements import REASON, STATE, TRANSACTION, changes_of, first, lacking_at_end, new_workitem
from dashboard.workitems.service import MODIFIED, accepted_type, base, bp, plain, require_json, root, warn
from dashboard.workitems.shape import Shaper, selected
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle import workitems
from db.lifecycle.workitems import DeletedWorkitemError, NoWorkitemError, StepStateError, TransactionUidError
from db.queries.dicomweb import find_study
from db.queries.workitems import ReadingItem, find, search
from db.uow import unit_of_work
from db.workitem_models import StepState, Workitem
from instances.header import valid_uid

_UNSUPPORTED = "Requested optional Attributes are not supported."
_ALREADY = "The UPS is already in the requested state of {}."
_CREATED_BY = ("workitem", "uid", "AffectedSOPInstanceUID", "SOPInstanceUID", "00080018")
_LOCKED_BY = ("transaction-uid", "transactionUID", "transaction", "TransactionUID", "00081195")


def serve_workitems(app: Flask, csrf: CSRFProtect) -> None:
    """Add them to the dashboard; its own door asks a session for the mark that forms carry."""
    install_door(app)
    app.extensions["firstread.ups_channels"] = channel.Channels(app.extensions["firstread.settings"].web.threads)
    csrf.exempt(bp)
    app.register_blueprint(bp)


@bp.get("/workitems")
@requires(Permission.STUDY_READ)
def search_workitems() -> Response:
    """Return the workitems that match, newest scheduled first (section 11.9)."""
    media_type = accepted_type()
    query = asked.parse(request.args)
    with sessions()() as db:
        page, remaining = search(db, query.wanted, limit=query.limit, offset=query.offset)
        shaper = _shaper(db)
        make = shaper.full if query.is_whole else shaper.brief
        models = [selected(make(item), query.keywords) for item in page]
    record().write(
        AuditTag.WORKITEM_READ,
        subscriber=client().ae_title,
        keys=sorted(one.key.value for one in query.wanted),  # names only: a value may name a patient
        matches=len(models),
    )
    if remaining:
        query.warnings.append(f"There are {remaining} additional results that can be requested.")
    body = b"".join(json_pieces(models)) if models else b""
    return warn(Response(body, 200 if models else 204, content_type=media_type), *query.warnings)


@bp.get("/workitems/<uid>")
@requires(Permission.STUDY_READ)
def retrieve(uid: str) -> Response:
    """Return one workitem, never with its Transaction UID (section 11.5)."""
    media_type = accepted_type()
    with sessions()() as db:
        item = find(db, valid_uid(uid, what="the workitem UID"))
        if item is None:
            raise NoWorkitemError("there is no workitem of this UID")
        if isinstance(item, Workitem) and item.deleted_at is not None:
            raise DeletedWorkitemError("this workitem was deleted some time after its end")
        model = _shaper(db).full(item)
    study_id = item.study.id if isinstance(item, ReadingItem) else None
    record().write(AuditTag.WORKITEM_READ, study_id=study_id, subscriber=client().ae_title, workitem_uid=uid)
    answer = Response(b"".join(json_pieces([model])), 200, content_type=media_type)
    answer.headers["Content-Location"] = f"{base()}/workitems/{uid}"
    return answer


@bp.post("/workitems")
@requires(Permission.STUDY_STORE)
def create() -> Response:
    """Create a workitem; one for this station is performed by it (section 11.4)."""
    require_json()
    sent = read_payload(request.get_data())
    uid = asked.bare_parameter(_CREATED_BY, request.args)
    new = new_workitem(sent, valid_uid(uid, what="the workitem UID") if uid else "", site().dicom.ae_title)
    with unit_of_work(sessions(), client().actor) as uow:
        verdict = _verdict(uow.session, new.study_instance_uid) if new.is_ours else None
        made = workitems.create(uow, new, verdict)
        is_modified = bool(sent.dropped) or made.readiness is not new.readiness
    answer = Response(b"", 201)
    answer.headers["Location"] = answer.headers["Content-Location"] = f"{base()}/workitems/{new.uid}"
    return warn(answer, MODIFIED.format("created")) if is_modified else answer


@bp.post("/workitems/<uid>")
@requires(Permission.STUDY_STORE)
def update(uid: str) -> Response:
    """Set attributes of a workitem (section 11.6)."""
    require_json()
    sent = read_payload(request.get_data())
    transaction = asked.bare_parameter(_LOCKED_BY, request.args) or first(sent.elements, TRANSACTION, "")
    changes = changes_of(sent, site().dicom.ae_title)
    with unit_of_work(sessions(), client().actor) as uow:
        workitems.update_workitem(uow, valid_uid(uid, what="the workitem UID"), transaction, changes)
    answer = Response(b"", 200)
    answer.headers["Content-Location"] = f"{base()}/workitems/{uid}"
    return warn(answer, _UNSUPPORTED) if sent.dropped else answer


@bp.put("/workitems/<uid>/state")
@requires(Permission.STUDY_STORE)
def change_state(uid: str) -> Response:
    """Claim, complete or cancel a workitem (section 11.7)."""
    require_json()
    ds = read_payload(request.get_data()).elements
    asked_for, transaction = first(ds, STATE, ""), first(ds, TRANSACTION, "")
    if asked_for not in set(StepState):
        raise RefusedInputError("the Procedure Step State is IN PROGRESS, COMPLETED or CANCELED")
    to = StepState(asked_for)
    is_new = True
    with unit_of_work(sessions(), client().actor) as uow:
        found = workitems.find_workitem(uow, valid_uid(uid, what="the workitem UID"))
        if not transaction:
            raise TransactionUidError("the Transaction UID is missing")
        if to is StepState.SCHEDULED:
            raise StepStateError("a workitem is SCHEDULED when it is created, and only then")
        if to is StepState.IN_PROGRESS:
            workitems.claim_workitem(uow, uid, transaction)
        else:
            attributes = found.attributes if isinstance(found, Workitem) else {}
            lacking = lacking_at_end(attributes, to)
            is_new = workitems.end_workitem(uow, uid, transaction, to, lacking, reason=_reason_of(attributes))
    return Response(b"", 200) if is_new else warn(Response(b"", 200), _ALREADY.format(to.value))


@bp.post("/workitems/<uid>/cancelrequest")
@requires(Permission.STUDY_STORE)
def cancel_request(uid: str) -> Response:
    """Ask for a workitem to be canceled that somebody else performs, or nobody yet (section 11.8)."""
    body = request.get_data()
    if body.strip():
        require_json()
    ds = read_payload(body, may_be_empty=True).elements
    told = {tag: ds[tag] for tag in (REASON, "0074100E", "0074100A", "0074100C") if tag in ds}
    reason = first(ds, REASON, "")
    valid_uid(uid, what="the workitem UID")
    with unit_of_work(sessions(), client().actor) as uow:
        is_new = workitems.request_cancel(uow, uid, client().ae_title, told, reason=reason)
    if not is_new:
        return warn(Response(b"", 200), _ALREADY.format(StepState.CANCELED.value))
    with unit_of_work(sessions(), client().actor) as uow:
        is_accepted = workitems.cancel_unclaimed(uow, uid, reason=reason)
    if not is_accepted:
        raise StepStateError("the request is on record; the performer goes on")
    return plain(202, "The request was accepted.")


def _reason_of(attributes: Mapping[str, Any]) -> str:
    progress = first(attributes, "00741002") or {}
    return str(first(progress, REASON, "") or first(attributes, REASON, ""))


def _shaper(db: Session) -> Shaper:
    return Shaper(db, site(), f"{root()}/dicomweb" if site().web.dicomweb else "")


def _verdict(db: Session, study_instance_uid: str) -> RoutingVerdict | None:
    """Return how a Study that is here would be drafted; None when it is not here."""
    study = find_study(db, study_instance_uid)
    if study is None:
        return None
    facts = lifecycle.study_facts(db, study.id)
    return load_rule_book(site()).of(facts.called_ae).judge(facts, only_drafting=True)
