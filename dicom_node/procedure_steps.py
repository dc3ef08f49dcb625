"""Modality Performed Procedure Step as SCP (PS3.4 Annex F): how many Instances a Study will have."""

from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom.events import Event

from config.errors import InvalidUidError, LifecycleError, TransientError, UnreadableDatasetError
from db.lifecycle import expectations
from db.types import ExpectationSource, ExpectationState
from db.uow import Actor, unit_of_work
from dicom_node import attributes
from dicom_node.attributes import refusal
from dicom_node.context import NodeContext
from instances.header import valid_uid

log = structlog.get_logger()

Answer = tuple[int | Dataset, Dataset | None]
_STATES = {
    "IN PROGRESS": ExpectationState.IN_PROGRESS,
    "COMPLETED": ExpectationState.COMPLETED,
    "DISCONTINUED": ExpectationState.DISCONTINUED,
}
_AT_CREATION = (  # type 1 in table F.7.2-1; what is of type 2 we do not need, and modalities leave out
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)
_NO_LONGER = 0xA710  # Error ID, PS3.4 F.7.2.2.4


def on_create(event: Event, context: NodeContext) -> Answer:
    """Answer N-CREATE: a modality began (PS3.4 F.7.2.1); Success once it is committed."""
    given = str(event.request.AffectedSOPInstanceUID or "")
    try:
        object_uid = valid_uid(given, what="the SOP Instance UID") if given else str(generate_uid())
        ds = attributes.read_list(event.request.AttributeList, event.context)
    except InvalidUidError:
        return refusal(attributes.INVALID_INSTANCE, "the SOP Instance UID is no UID"), None
    except UnreadableDatasetError:
        return refusal(attributes.PROCESSING_FAILURE, "the Attribute List cannot be read"), None
    wrong = _wrong_at_creation(ds) or _wrong_series(ds)
    if wrong is not None:
        return wrong, None
    steps = attributes.items(ds, "ScheduledStepAttributesSequence")
    try:
        with unit_of_work(context.sessions, _actor(event)) as uow:
            expectations.announce(
                uow,
                source=ExpectationSource.STEP,
                object_uid=object_uid,
                study_uids=[str(item.StudyInstanceUID) for item in steps],
                state=ExpectationState.IN_PROGRESS,
                instances=_references(ds),
            )
    except LifecycleError:
        return refusal(attributes.DUPLICATE_INSTANCE, "this procedure step is known"), None
    except TransientError as exc:
        return _unavailable(exc), None
    log.info("step.created", calling_ae=_calling(event), state=ExpectationState.IN_PROGRESS)
    if given:
        return attributes.SUCCESS, None
    reply = Dataset()
    reply.AffectedSOPInstanceUID = object_uid  # PS3.7 10.1.5.1.4: ours, when the peer gave none
    return attributes.SUCCESS, reply


def on_set(event: Event, context: NodeContext) -> Answer:
    """Answer N-SET: a modality goes on, has finished or gave up (PS3.4 F.7.2.2); Success once it is committed."""
    try:
        ds = attributes.read_list(event.request.ModificationList, event.context)
    except UnreadableDatasetError:
        return refusal(attributes.PROCESSING_FAILURE, "the Modification List cannot be read"), None
    status = str(ds.get("PerformedProcedureStepStatus", "") or "IN PROGRESS")
    state = _STATES.get(status)
    if state is None:
        return _bad_status(), None
    wrong = _wrong_series(ds)
    if wrong is not None:
        return wrong, None
    try:
        with unit_of_work(context.sessions, _actor(event)) as uow:
            answer = _advance(uow, str(event.request.RequestedSOPInstanceUID or ""), state, _references(ds))
    except LifecycleError:
        return refusal(attributes.PROCESSING_FAILURE, "it may no longer be updated", error_id=_NO_LONGER), None
    except TransientError as exc:
        return _unavailable(exc), None
    log.info("step.changed", calling_ae=_calling(event), state=state)
    return answer, None


def _advance(uow: Any, object_uid: str, state: ExpectationState, instances: list[str] | None) -> int | Dataset:
    rows = expectations.step(uow, object_uid)
    if not rows:
        return refusal(attributes.NO_SUCH_INSTANCE, "there is no such procedure step")
    named = instances is not None or rows[0].instances is not None
    if state is ExpectationState.COMPLETED and rows[0].state is ExpectationState.IN_PROGRESS and not named:
        # at its end a step has at least one Series, if one without images (table F.7.2-1)
        return refusal(attributes.MISSING_ATTRIBUTE, "PerformedSeriesSequence is missing")
    expectations.advance(uow, rows, state=state, instances=instances)
    return attributes.SUCCESS


def _wrong_at_creation(ds: Dataset) -> Dataset | None:
    wrong = attributes.lacking(ds, _AT_CREATION)
    if wrong is not None:
        return wrong
    if str(ds.PerformedProcedureStepStatus) != "IN PROGRESS":
        return _bad_status()
    steps = attributes.items(ds, "ScheduledStepAttributesSequence")
    if not steps:
        return refusal(attributes.MISSING_VALUE, "ScheduledStepAttributesSequence has no item")
    return next((wrong for item in steps if (wrong := attributes.bad_uid(item, "StudyInstanceUID"))), None)


def _wrong_series(ds: Dataset) -> Dataset | None:
    """Return the refusal of a Performed Series Sequence with a Series or an Instance that has no UID."""
    for series in attributes.items(ds, "PerformedSeriesSequence"):
        wrong = attributes.bad_uid(series, "SeriesInstanceUID")
        for item in _referenced(series):
            wrong = wrong or attributes.bad_uid(item, "ReferencedSOPInstanceUID")
        if wrong is not None:
            return wrong
    return None


def _references(ds: Dataset) -> list[str] | None:
    """Return the SOP Instances a step names; None when it does not speak of its Series."""
    series = attributes.items(ds, "PerformedSeriesSequence")
    if not series:
        return None
    return [str(item.ReferencedSOPInstanceUID) for one in series for item in _referenced(one)]


def _referenced(series: Dataset) -> list[Dataset]:
    keywords = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
    return [item for keyword in keywords for item in attributes.items(series, keyword)]


def _bad_status() -> Dataset:
    return refusal(attributes.INVALID_VALUE, "PerformedProcedureStepStatus is not allowed here")


def _unavailable(error: TransientError) -> Dataset:
    log.warning("step.postponed", error=error)
    return refusal(attributes.RESOURCE_LIMITATION, "it cannot be kept now; try again later")


def _calling(event: Event) -> str:
    return str(event.assoc.requestor.primitive.calling_ae_title).strip()


def _actor(event: Event) -> Actor:
    return Actor(_calling(event), "peer", address=str(event.assoc.requestor.address or "")[:64])
