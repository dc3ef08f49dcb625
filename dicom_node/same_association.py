"""A notification to a peer on the association its request came on, once that request has been answered."""

import threading
from collections.abc import Callable
from io import BytesIO

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_ACTION_RSP, N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.events import Event

from dicom_node.association import NodeAssociation

log = structlog.get_logger()
_AT_ONCE = threading.BoundedSemaphore(8)


def when_answered(assoc: Association, act: Callable[[Association], None]) -> None:
    """Call ``act`` after the N-ACTION that is being handled has been answered, if the association allows.

    On our own kind of association that is its thread. On pynetdicom's it is a thread beside it, of which there
    are few: when too many associations want this, nothing is called.
    """

    def begin(event: Event) -> None:
        if isinstance(event.message, N_ACTION_RSP):
            assoc.unbind(evt.EVT_DIMSE_SENT, begin)
            if _AT_ONCE.acquire(blocking=False):
                threading.Thread(target=_release_after, args=(assoc, act), name="notify", daemon=True).start()

    if isinstance(assoc, NodeAssociation):
        assoc.afterwards.append(lambda on: _safely(on, act))
    else:
        assoc.bind(evt.EVT_DIMSE_SENT, begin)


def _release_after(assoc: Association, act: Callable[[Association], None]) -> None:
    try:
        _safely(assoc, act)
    finally:
        _AT_ONCE.release()


def _safely(assoc: Association, act: Callable[[Association], None]) -> None:
    try:
        act(assoc)
    except Exception as exc:  # noqa: BLE001 the edge of the association: what was not told is told later
        log.error("notification.interrupted", error=type(exc).__name__)  # noqa: TRY400


def send_event_report(
    assoc: Association, event_type: int, information: Dataset, instance: tuple[str, str], told: Callable[[int], None]
) -> bool:
    """Send N-EVENT-REPORT without waiting for its answer; ``told`` is called with the status when that comes.

    Args:
        assoc: an association a peer opened; meanwhile it serves what the peer sends.
        event_type: Event Type ID.
        information: Event Information.
        instance: Affected SOP Class UID and SOP Instance UID.
        told: called by whoever receives the answer, if there is one.

    Returns:
        Whether it was sent: not when the association is over, or gives us no SCP role.
    """
    sop_class, sop_instance = instance
    roles = [cx for cx in assoc.accepted_contexts if cx.abstract_syntax == sop_class and cx.as_scp]
    if not assoc.is_established or not roles:
        return False
    syntax = roles[0].transfer_syntax[0]
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance
    request.EventTypeID = event_type
    request.EventInformation = _stream(encode(information, syntax.is_implicit_VR, syntax.is_little_endian))

    def answered(event: Event) -> None:
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            assoc.unbind(evt.EVT_DIMSE_RECV, answered)
            _safely(assoc, lambda _: told(int(event.message.command_set.Status)))

    assoc.bind(evt.EVT_DIMSE_RECV, answered)
    assoc.dimse.send_msg(request, roles[0].context_id)
    return True


def _stream(encoded: bytes | None) -> BytesIO:
    assert encoded is not None
    return BytesIO(encoded)
