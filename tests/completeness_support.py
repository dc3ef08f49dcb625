"""What the tests of completeness share: a modality that reports its steps, and an archive that notifies."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_CREATE
from pynetdicom.sop_class import InstanceAvailabilityNotification, ModalityPerformedProcedureStep
from sqlalchemy.orm import Session, sessionmaker

from config.routing import RuleBook, Rules
from db.types import utcnow
from dicom_node.completion import Completion
from dicom_node.scp import RunningNode
from tests.node_support import AE_TITLE, exchange

CT_CHEST = {"name": "ct-chest", "when": {"modality": ["CT"]}, "profile": "ct"}


def rules(*completeness: dict[str, Any]) -> Rules:
    """Rules that draft every CT, with these completeness rules."""
    return Rules.model_validate({"rules": [CT_CHEST], "completeness": list(completeness)})


def sweep(node: RunningNode, book: Rules | RuleBook, now: datetime) -> int:
    """One sweep; return how many Studies moved on."""
    chosen = book if isinstance(book, RuleBook) else RuleBook(book)
    return Completion(node.sessions, chosen).sweep(now)


def later(seconds: float) -> datetime:
    """The instant that many seconds from now."""
    return utcnow() + timedelta(seconds=seconds)


@contextmanager
def peer(
    port: int, sop_class: str, *, calling_ae: str = "MODALITY", syntax: str | None = None
) -> Iterator[Association]:
    """An association for one normalised service."""
    ae = AE(calling_ae)
    ae.acse_timeout = ae.dimse_timeout = 30
    ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title=AE_TITLE)
    assert assoc.is_established
    yield assoc
    assoc.release()


def new_step(study_uid: str, **changes: Any) -> Dataset:
    """The Attribute List a modality begins a step with; ``changes`` by keyword, None removes."""
    step = Dataset()
    step.StudyInstanceUID = study_uid
    step.AccessionNumber = step.RequestedProcedureID = step.ScheduledProcedureStepID = "A-1"
    ds = Dataset()
    ds.ScheduledStepAttributesSequence = Items([step])
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^Patient", "P-1", "", ""
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle = "PPS1", "MODALITY"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20261122", "090000"
    ds.PerformedProcedureStepStatus, ds.Modality = "IN PROGRESS", "CT"
    ds.PerformedProcedureStepEndDate = ds.PerformedProcedureStepEndTime = ""
    ds.PerformedSeriesSequence = Items([])
    return changed(ds, changes)


def end_of_step(uids: Sequence[str], *, status: str = "COMPLETED", **changes: Any) -> Dataset:
    """The Modification List a modality ends a step with: one Series of these Instances."""
    series = Dataset()
    series.SeriesInstanceUID, series.ProtocolName = generate_uid(), "CHEST"
    series.ReferencedImageSequence = Items([reference(uid) for uid in uids])
    series.ReferencedNonImageCompositeSOPInstanceSequence = Items([])
    ds = Dataset()
    ds.PerformedProcedureStepStatus = status
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20261122", "091000"
    ds.PerformedSeriesSequence = Items([series])
    return changed(ds, changes)


def notice(study_uid: str, uids: Sequence[str], *, availability: str = "ONLINE", **changes: Any) -> Dataset:
    """The Attribute List of an availability notification: one Series of these Instances."""
    references = [reference(uid) for uid in uids]
    for item in references:
        item.InstanceAvailability, item.RetrieveAETitle = availability, "PACS"
    series = Dataset()
    series.SeriesInstanceUID = generate_uid()
    series.ReferencedSOPSequence = Items(references)
    ds = Dataset()
    ds.ReferencedPerformedProcedureStepSequence = Items([])
    ds.StudyInstanceUID = study_uid
    ds.ReferencedSeriesSequence = Items([series])
    return changed(ds, changes)


def reference(uid: str) -> Dataset:
    """A reference to a CT Instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
    return item


def changed(ds: Dataset, changes: dict[str, Any]) -> Dataset:
    """``ds`` with other values; None removes."""
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def begin_step(port: int, study_uid: str, **changes: Any) -> tuple[str, Dataset]:
    """Send N-CREATE for a step; return its UID and the response."""
    uid = str(generate_uid())
    with peer(port, ModalityPerformedProcedureStep) as assoc:
        response, _ = assoc.send_n_create(new_step(study_uid, **changes), ModalityPerformedProcedureStep, uid)
    return uid, response


def set_step(port: int, uid: str, modification: Dataset) -> Dataset:
    """Send N-SET for a step; return the response."""
    with peer(port, ModalityPerformedProcedureStep) as assoc:
        response, _ = assoc.send_n_set(modification, ModalityPerformedProcedureStep, uid)
    return response


def notify(port: int, attributes: Dataset, uid: str | None = None) -> Dataset:
    """Send N-CREATE for a notification; return the response."""
    with peer(port, InstanceAvailabilityNotification, calling_ae="ARCHIVE") as assoc:
        response, _ = assoc.send_n_create(attributes, InstanceAvailabilityNotification, uid or str(generate_uid()))
    return response


def send_bytes(assoc: Association, attribute_list: bytes, uid: str) -> int | None:
    """Send any bytes as the Attribute List of an N-CREATE; return the status."""
    request = N_CREATE()
    request.MessageID = 7
    request.AffectedSOPClassUID = ModalityPerformedProcedureStep
    request.AffectedSOPInstanceUID = uid
    request.AttributeList = BytesIO(attribute_list)
    answer = exchange(assoc, request)
    return None if answer is None else answer.Status


@contextmanager
def no_database(sessions: sessionmaker[Session]) -> Iterator[None]:
    """The SQLite database of these sessions is away meanwhile."""
    engine = sessions.kw["bind"]
    path = Path(engine.url.database)
    engine.dispose()
    names = [one for one in path.parent.iterdir() if one.name.startswith(path.name)]
    for one in names:
        one.rename(one.with_name(f"away-{one.name}"))
    path.mkdir()
    yield
    engine.dispose()
    path.rmdir()
    for one in names:
        one.with_name(f"away-{one.name}").rename(one)
