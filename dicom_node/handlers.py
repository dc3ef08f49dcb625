"""DIMSE requests in, status out: thin, one function per event."""

from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation, UserIdentityNegotiation

from config.errors import AppError
from dicom_node import health, services
from dicom_node.context import Asking, NodeContext, Rejection, Tally, tally
from dicom_node.policy import NOT_READY
from dicom_node.scu import send_at_once
from dicom_node.tls import is_tls, subject_of
from dicom_node.transfer_syntaxes import is_storage_sop_class, is_unnamed, supported_contexts
from instances import storing
from instances.arrival import Announced

log = structlog.get_logger()
_STORAGE_SERVICE = UID("1.2.840.10008.4.2")
# PS3.4 table B.3-2, bytes 1, 3 and 5: level 2 (full) storage; digital signatures of level 3, since every bit is kept
# as it came; no element is coerced
FULL_STORAGE = bytes((2, 0, 3, 0, 0, 0))


def event_handlers(context: NodeContext) -> list[tuple[Any, ...]]:
    """Return the handlers to bind to the association server."""
    return [
        (evt.EVT_CONN_OPEN, send_at_once),
        (evt.EVT_REQUESTED, handle_request, [context]),
        (evt.EVT_USER_ID, handle_identity),
        (evt.EVT_SOP_EXTENDED, handle_storage_level),
        (evt.EVT_SOP_COMMON, handle_unnamed_classes),
        (evt.EVT_C_ECHO, handle_health, [context]),
        (evt.EVT_C_STORE, handle_store, [context]),
        (evt.EVT_RELEASED, handle_end, [context, "released"]),
        (evt.EVT_ABORTED, handle_end, [context, "aborted"]),
        *services.event_handlers(context),
    ]


def handle_request(event: Event, context: NodeContext) -> None:
    """Accept or reject an association, and support what it proposes of our kinds."""
    try:
        _answer_request(event, context)
    except Exception as exc:  # noqa: BLE001 the process edge: pynetdicom would let the caller in
        log.error("association.failed", error=type(exc).__name__, host=str(event.assoc.requestor.address))  # noqa: TRY400
        reject(event.assoc, NOT_READY)
        handle_end(event, context, "aborted")  # when it was counted already


def _answer_request(event: Event, context: NodeContext) -> None:
    assoc = event.assoc
    proposed = [str(cx.abstract_syntax) for cx in assoc.requestor.primitive.presentation_context_definition_list]
    admission = context.door.enter(asking(event, stores=any(is_storage_sop_class(uid) for uid in proposed)))
    if admission.rejection:
        reject(assoc, admission.rejection)
        return
    assoc.firstread_tally = Tally(admission.association_id)
    allowed = [uid for uid in proposed if not admission.sop_classes or uid in admission.sop_classes]
    assoc.acceptor.supported_contexts = [*supported_contexts(allowed), *services.supported_contexts(proposed)]
    identity = assoc.requestor.user_identity
    if admission.is_identified and identity and identity.positive_response_requested:
        confirmed = UserIdentityNegotiation()
        confirmed.server_response = b""  # nothing more is said to a name or passcode (PS3.7 table D.3-15)
        assoc.acceptor.add_negotiation_item(confirmed)


def reject(assoc: Association, rejection: Rejection) -> None:
    """Answer an association request with A-ASSOCIATE-RJ."""
    assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
    assoc.kill()


def asking(event: Event, *, stores: bool) -> Asking:
    """Return what an A-ASSOCIATE-RQ, and the connection it came on, say of who is calling whom."""
    requestor = event.assoc.requestor
    identity = requestor.user_identity
    sock = getattr(event.assoc.dul.socket, "socket", None)
    return Asking(
        calling_ae=_title(requestor.primitive.calling_ae_title),
        called_ae=_title(requestor.primitive.called_ae_title),
        address=str(requestor.address),
        tls_subject=subject_of(sock),
        is_tls=is_tls(sock),
        identity_type=int(identity.user_identity_type or 0) if identity else 0,
        user=_text(identity.primary_field) if identity else "",
        passcode=_text(identity.secondary_field) if identity else "",
        stores=stores,
    )


def _title(given: object) -> str:
    return str(given or "").strip(" \0")  # some pad with zero bytes, against PS3.5 section 6.2


def _text(field: bytes | None) -> str:
    return (field or b"").decode("utf-8", errors="surrogateescape")


def handle_end(event: Event, context: NodeContext, how: str) -> None:
    """Record the end of an accepted association."""
    ended = tally(event.assoc)
    if ended is not None:
        context.door.leave(
            ended.association_id,
            how=how,
            instances=ended.instances,
            size_bytes=ended.size_bytes,
            answered=ended.answered,
        )


def handle_identity(_event: Event) -> tuple[bool, None]:
    """Let pynetdicom go on: the door has judged the user identity, and the answer to it is given."""
    return True, None


def handle_storage_level(event: Event) -> dict[UID, bytes]:
    """Answer SOP Class Extended Negotiation of Storage: all is kept, nothing coerced (PS3.4 B.3.1)."""
    return {UID(uid): FULL_STORAGE for uid in event.app_info if is_storage_sop_class(str(uid))}


def handle_unnamed_classes(event: Event) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Tell pynetdicom which proposed SOP Classes without a name belong to the Storage Service (PS3.7 D.3.3.6)."""
    answer = {}
    for context in event.assoc.requestor.primitive.presentation_context_definition_list:
        if is_unnamed(str(context.abstract_syntax)):
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = context.abstract_syntax
            item.service_class_uid = _STORAGE_SERVICE
            answer[UID(context.abstract_syntax)] = item
    return answer


def handle_echo(_event: Event) -> int:
    """Answer C-ECHO: the process is there (PS3.4 Annex A)."""
    return storing.SUCCESS


def handle_health(event: Event, context: NodeContext) -> int:
    """Answer C-ECHO: the node is there, and could store: its database and its disk can be used."""
    counted = tally(event.assoc)
    if counted is not None:
        counted.echoes += 1
    return health.examine(context.sessions, context.settings)


def handle_store(event: Event, context: NodeContext) -> int | Dataset:
    """Answer one C-STORE; Success only once the Instance is safe on disk and in the database."""
    announced = announced_by(event)
    dataset = event.request.DataSet.getbuffer() if event.request.DataSet else memoryview(b"")
    try:
        arrival = context.inbox.open(announced)
    except AppError as exc:
        return _response(storing.refuse(context.inbox, announced, None, exc))
    with arrival:
        try:
            arrival.write(dataset)
        except AppError as exc:
            return _response(storing.refuse(context.inbox, announced, None, exc))
        answer = storing.keep(context.inbox, arrival, abstract_syntax=str(event.context.abstract_syntax))
        counted = tally(event.assoc)
        if answer[0] == storing.SUCCESS and counted is not None:
            counted.instances += 1
            counted.size_bytes += arrival.size
        elif counted is not None:
            counted.refused += 1
    return _response(answer)


def _response(answer: storing.Answer) -> int | Dataset:
    status, comment = answer
    if not comment:
        return status
    response = Dataset()
    response.Status = status
    response.ErrorComment = comment
    return response


def announced_by(event: Event) -> Announced:
    """Return what a C-STORE command says of its Data Set."""
    request = event.request
    asked = event.assoc.requestor.primitive
    came_on = tally(event.assoc)
    return Announced(
        transfer_syntax_uid=str(event.context.transfer_syntax),
        sop_class_uid=str(request.AffectedSOPClassUID or ""),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        calling_ae=str(asked.calling_ae_title).strip(),
        called_ae=str(asked.called_ae_title).strip(),
        association_id=came_on.association_id if came_on else None,
        move_originator_ae=str(request.MoveOriginatorApplicationEntityTitle or "").strip(),
        move_message_id=int(request.MoveOriginatorMessageID or 0),
    )
