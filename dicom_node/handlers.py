"""DIMSE requests in, status out: thin, one function per event."""

from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from sqlalchemy.orm import Session, sessionmaker

from config.errors import (
    AppError,
    ConflictingInstanceError,
    InvalidUidError,
    LifecycleError,
    MissingUidError,
    NotAuthorisedError,
    OutOfSpaceError,
    SopMismatchError,
    TransientError,
    UnreadableDatasetError,
    UnsupportedSopClassError,
)
from config.settings import DicomSettings
from db.audit import AuditTag
from db.uow import Actor, unit_of_work
from dicom_node.inbox import Inbox, Incoming
from dicom_node.policy import Rejection, judge_association
from dicom_node.scu import send_at_once
from dicom_node.transfer_syntaxes import is_unnamed, supported_contexts

log = structlog.get_logger()
SUCCESS = 0x0000
INTERNAL_ERROR = (0xC0FF, "Internal error")
_STORAGE_SERVICE = UID("1.2.840.10008.4.2")

# PS3.4 table B.2-1, PS3.7 section 9.1.1.1.9. First match wins. The comment (0000,0902) is fixed text,
# at most 64 characters, so nothing about a patient can get into it.
STATUS: dict[type[AppError], tuple[int, str]] = {
    UnsupportedSopClassError: (0x0122, "SOP Class was not negotiated"),
    MissingUidError: (0xC001, "Study, Series, SOP Instance or SOP Class UID is missing"),
    InvalidUidError: (0x0117, "A UID is malformed"),
    SopMismatchError: (0xA900, "Data Set is not what the command announced"),
    UnreadableDatasetError: (0xC002, "Data Set cannot be parsed or ends too early"),
    ConflictingInstanceError: (0xC003, "Other content is stored under this SOP Instance UID"),
    NotAuthorisedError: (0x0124, "Not authorised"),
    OutOfSpaceError: (0xA700, "Not enough space left"),
    TransientError: (0xA700, "Temporarily unable to store"),
    LifecycleError: (0xA700, "Temporarily unable to store"),
    AppError: (0xC000, "Cannot understand"),
}


@dataclass(frozen=True)
class NodeContext:
    """What every handler of one node shares."""

    inbox: Inbox
    sessions: sessionmaker[Session]
    dicom: DicomSettings


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
    ]


def handle_request(event: Event, context: NodeContext) -> None:
    """Accept or reject an association, record it, and support what it proposes of our kinds."""
    assoc = event.assoc
    asked = assoc.requestor.primitive
    calling_ae = str(asked.calling_ae_title).strip()
    rejection = judge_association(
        context.dicom,
        calling_ae=calling_ae,
        called_ae=str(asked.called_ae_title),
        address=str(assoc.requestor.address),
        active=sum(1 for other in assoc.ae.active_associations if other.is_acceptor),
    )
    _record_association(context, event, calling_ae, rejection)
    if rejection:
        assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        assoc.kill()
        return
    proposed = [cx.abstract_syntax for cx in asked.presentation_context_definition_list]
    assoc.acceptor.supported_contexts = supported_contexts(proposed)


def _record_association(context: NodeContext, event: Event, calling_ae: str, rejection: Rejection | None) -> None:
    address = str(event.assoc.requestor.address)
    if rejection:
        log.warning("association.rejected", calling_ae=calling_ae, host=address, error=rejection.reason)
    tag = AuditTag.ASSOCIATION_REJECTED if rejection else AuditTag.ASSOCIATION_ACCEPTED
    detail = {"address": address, "called_ae": str(event.assoc.requestor.primitive.called_ae_title).strip()}
    if rejection:
        detail["reason"] = rejection.reason
    _audit(context, calling_ae, tag, "failure" if rejection else "success", detail)


def handle_end(event: Event, context: NodeContext, how: str) -> None:
    """Record the end of an accepted association."""
    asked = event.assoc.requestor.primitive
    if asked is None:
        return  # a connection that never asked for an association
    calling_ae = str(asked.calling_ae_title).strip()
    detail = {"address": str(event.assoc.requestor.address), "how": how}
    outcome = "success" if how == "released" else "failure"
    _audit(context, calling_ae, AuditTag.ASSOCIATION_FINISHED, outcome, detail)


def _audit(context: NodeContext, calling_ae: str, tag: AuditTag, outcome: str, detail: dict[str, Any]) -> None:
    try:
        with unit_of_work(context.sessions, Actor(calling_ae, "peer")) as uow:
            uow.audit(tag, outcome=outcome, object_type="association", detail=detail)
    except AppError as exc:
        # the association is of no use without a database, but its C-STORE will say so with a status
        log.error("association.not_recorded", error=exc, calling_ae=calling_ae)  # noqa: TRY400


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
    return SUCCESS


def handle_store(event: Event, context: NodeContext) -> int | Dataset:
    """Answer one C-STORE; Success only once the Instance is safe on disk and in the database."""
    incoming = _incoming(event)
    error: AppError | None = None
    try:
        if incoming.sop_class_uid != str(event.context.abstract_syntax):
            raise UnsupportedSopClassError("the command's SOP Class is not the context's")  # noqa: TRY301
        context.inbox.keep(incoming)
    except AppError as exc:
        error = exc
        status, comment = next(answer for kind, answer in STATUS.items() if isinstance(exc, kind))
    except Exception as exc:  # noqa: BLE001 the process edge: whatever it is, the peer gets an answer
        log.error("instance.failed", error=type(exc).__name__, calling_ae=incoming.calling_ae)  # noqa: TRY400
        status, comment = INTERNAL_ERROR
    else:
        return SUCCESS
    return _refused(context, incoming, error, status, comment)


def _refused(context: NodeContext, incoming: Incoming, error: AppError | None, status: int, comment: str) -> Dataset:
    log.warning(
        "instance.refused", error=error or "InternalError", status=f"{status:04X}", calling_ae=incoming.calling_ae
    )
    if not 0xA700 <= status <= 0xA7FF:
        try:
            context.inbox.refuse(incoming, error, status)
        except Exception as exc:  # noqa: BLE001 nothing was recorded, so the sender has to keep its copy
            log.error("instance.refusal_not_recorded", error=type(exc).__name__)  # noqa: TRY400
            status, comment = STATUS[TransientError]
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment
    return answer


def _incoming(event: Event) -> Incoming:
    request = event.request
    asked = event.assoc.requestor.primitive
    return Incoming(
        dataset=request.DataSet.getvalue() if request.DataSet else b"",
        transfer_syntax_uid=str(event.context.transfer_syntax),
        sop_class_uid=str(request.AffectedSOPClassUID or ""),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        calling_ae=str(asked.calling_ae_title).strip(),
        called_ae=str(asked.called_ae_title).strip(),
    )
