"""The DIMSE services beside echo and store: which there are, and who answers each."""

from collections.abc import Callable, Iterable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
)

from dicom_node import availability, commitment, procedure_steps
from dicom_node.context import NodeContext, tally

Answer = tuple[int | Dataset, Any]
"""Status, by itself or with an Error Comment, and the reply's Attribute List or None."""
Service = Callable[[Event, NodeContext], Answer]

N_CREATE: dict[str, Service] = {
    ModalityPerformedProcedureStep: procedure_steps.on_create,
    InstanceAvailabilityNotification: availability.on_create,
}
N_SET: dict[str, Service] = {ModalityPerformedProcedureStep: procedure_steps.on_set}
N_ACTION: dict[str, Service] = {StorageCommitmentPushModel: commitment.on_action}
N_EVENT_REPORT: dict[str, Service] = {StorageCommitmentPushModel: commitment.on_event_report}
_SUCCESS = 0x0000
_NO_SUCH_SOP_CLASS = 0x0118  # PS3.7 annex C
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def event_handlers(context: NodeContext) -> list[tuple[Any, ...]]:
    """Return the handlers of the normalised services."""
    return [
        (evt.EVT_N_CREATE, _answer, [context, N_CREATE]),
        (evt.EVT_N_SET, _answer, [context, N_SET]),
        (evt.EVT_N_ACTION, _answer, [context, N_ACTION]),
        (evt.EVT_N_EVENT_REPORT, _answer, [context, N_EVENT_REPORT]),
    ]


def supported_contexts(proposed: Iterable[str]) -> list[PresentationContext]:
    """Return what we support of the ``proposed`` abstract syntaxes beside Verification and Storage.

    Storage commitment is offered in both roles: a peer asks us (we are SCP), and a peer reports on an association it
    opened to us (then it is the SCP, PS3.4 J.3.3).
    """
    known = {*N_CREATE, *N_SET, *N_ACTION}
    contexts = []
    for uid in sorted({str(uid) for uid in proposed} & {str(uid) for uid in known}):
        context = build_context(uid, _SYNTAXES)
        if uid == StorageCommitmentPushModel:
            context.scu_role = context.scp_role = True
        contexts.append(context)
    return contexts


def _answer(event: Event, context: NodeContext, table: dict[str, Service]) -> Answer:
    service = table.get(str(event.context.abstract_syntax))
    answer = service(event, context) if service else (_NO_SUCH_SOP_CLASS, None)
    counted = tally(event.assoc)
    if counted is not None and _code(answer[0]) != _SUCCESS:
        counted.refused += 1
    return answer


def _code(status: int | Dataset) -> int:
    return int(status.Status) if isinstance(status, Dataset) else status
