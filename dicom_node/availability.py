"""Instance Availability Notification as SCP (PS3.4 Annex R): which Instances of a Study an archive has."""

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
_KINDS = frozenset({"ONLINE", "NEARLINE", "OFFLINE", "UNAVAILABLE"})
_GONE = "UNAVAILABLE"  # nobody can send it, so nobody waits for it


def on_create(event: Event, context: NodeContext) -> Answer:
    """Answer N-CREATE: an archive says which Instances of a Study it can give; Success once it is committed.

    Notifications add up: what any of them names as to be had is waited for, until one says that it is not.
    """
    given = str(event.request.AffectedSOPInstanceUID or "")
    try:
        object_uid = valid_uid(given, what="the SOP Instance UID") if given else str(generate_uid())
        ds = attributes.read_list(event.request.AttributeList, event.context)
    except InvalidUidError:
        return refusal(attributes.INVALID_INSTANCE, "the SOP Instance UID is no UID"), None
    except UnreadableDatasetError:
        return refusal(attributes.PROCESSING_FAILURE, "the Attribute List cannot be read"), None
    wrong = _wrong(ds)
    if wrong is not None:
        return wrong, None
    available, gone = _named(ds)
    calling_ae = str(event.assoc.requestor.primitive.calling_ae_title).strip()
    came_from = str(event.assoc.requestor.address or "")[:64]
    try:
        with unit_of_work(context.sessions, Actor(calling_ae, "peer", address=came_from)) as uow:
            expectations.announce(
                uow,
                source=ExpectationSource.NOTICE,
                object_uid=object_uid,
                study_uids=[str(ds.StudyInstanceUID)],
                state=ExpectationState.COMPLETED,
                instances=available,
                gone=gone,
            )
    except LifecycleError:
        return refusal(attributes.DUPLICATE_INSTANCE, "this notification is known"), None
    except TransientError as exc:
        log.warning("notice.postponed", error=exc)
        return refusal(attributes.RESOURCE_LIMITATION, "it cannot be kept now; try again later"), None
    log.info("notice.received", calling_ae=calling_ae)
    if given:
        return attributes.SUCCESS, None
    reply = Dataset()
    reply.AffectedSOPInstanceUID = object_uid
    return attributes.SUCCESS, reply


def _wrong(ds: Dataset) -> Dataset | None:
    """Return the refusal of a notification that lacks what table R.3.2-1 requires, or names what is none."""
    wrong = attributes.bad_uid(ds, "StudyInstanceUID") or attributes.lacking(ds, ("ReferencedSeriesSequence",))
    if wrong is not None:
        return wrong
    for series in attributes.items(ds, "ReferencedSeriesSequence"):
        wrong = attributes.bad_uid(series, "SeriesInstanceUID") or attributes.lacking(
            series, ("ReferencedSOPSequence",)
        )
        if wrong is not None:
            return wrong
    return next((wrong for item in _references(ds) if (wrong := _wrong_reference(item))), None)


def _wrong_reference(item: Dataset) -> Dataset | None:
    wrong = (
        attributes.bad_uid(item, "ReferencedSOPClassUID")
        or attributes.bad_uid(item, "ReferencedSOPInstanceUID")
        or attributes.lacking(item, ("InstanceAvailability", "RetrieveAETitle"))
    )
    if wrong is None and str(item.InstanceAvailability) not in _KINDS:
        return refusal(attributes.INVALID_VALUE, "InstanceAvailability is none of its four values")
    return wrong


def _named(ds: Dataset) -> tuple[list[str], list[str]]:
    """Return the SOP Instances that are to be had, and those that are not."""
    gone = {str(one.ReferencedSOPInstanceUID) for one in _references(ds) if str(one.InstanceAvailability) == _GONE}
    return [uid for one in _references(ds) if (uid := str(one.ReferencedSOPInstanceUID)) not in gone], sorted(gone)


def _references(ds: Dataset) -> list[Dataset]:
    series = attributes.items(ds, "ReferencedSeriesSequence")
    return [item for one in series for item in attributes.items(one, "ReferencedSOPSequence")]
