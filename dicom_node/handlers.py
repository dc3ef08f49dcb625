"""DIMSE requests in, status out: thin, one function per event."""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation

from config.errors import AppError
from dicom_node import services, storing
from dicom_node.context import Asking, NodeContext, Tally, tally
from dicom_node.scu import send_at_once
from dicom_node.transfer_syntaxes import is_storage_sop_class, is_unnamed, supported_contexts
from instances.arrival import Announced

_STORAGE_SERVICE = UID("1.2.840.10008.4.2")


def event_handlers(context: NodeContext) -> list[tuple[Any, ...]]:
    """Return the handlers to bind to the association server."""
    return [
        (evt.EVT_CONN_OPEN, send_at_once),
        (evt.EVT_REQUESTED, handle_request, [context]),
        (evt.EVT_SOP_COMMON, handle_unnamed_classes),
        (evt.EVT_C_ECHO, handle_echo),
        (evt.EVT_C_STORE, handle_store, [context]),
        (evt.EVT_RELEASED, handle_end, [context, "released"]),
        (evt.EVT_ABORTED, handle_end, [context, "aborted"]),
        *services.event_handlers(context),
    ]


def handle_request(event: Event, context: NodeContext) -> None:
    """Accept or reject an association, and support what it proposes of our kinds."""
    assoc = event.assoc
    proposed = [str(cx.abstract_syntax) for cx in assoc.requestor.primitive.presentation_context_definition_list]
    admission = context.door.enter(asking(event, stores=any(is_storage_sop_class(uid) for uid in proposed)))
    if admission.rejection:
        rejection = admission.rejection
        assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        assoc.kill()
        return
    assoc.firstread_tally = Tally(admission.association_id)
    allowed = [uid for uid in proposed if not admission.sop_classes or uid in admission.sop_classes]
    assoc.acceptor.supported_contexts = [*supported_contexts(allowed), *services.supported_contexts(proposed)]


def asking(event: Event, *, stores: bool) -> Asking:
    """Return what an A-ASSOCIATE-RQ says of who is calling whom."""
    requestor = event.assoc.requestor
    return Asking(
        calling_ae=str(requestor.primitive.calling_ae_title).strip(),
        called_ae=str(requestor.primitive.called_ae_title).strip(),
        address=str(requestor.address),
        stores=stores,
    )


def handle_end(event: Event, context: NodeContext, how: str) -> None:
    """Record the end of an accepted association."""
    ended = tally(event.assoc)
    if ended is not None:
        context.door.leave(ended.association_id, how=how, instances=ended.instances, size_bytes=ended.size_bytes)


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
    """Answer C-ECHO: the node is there (PS3.4 Annex A)."""
    return storing.SUCCESS


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
