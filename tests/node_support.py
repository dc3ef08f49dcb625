"""What the node's tests share: a node on a free port with a migrated database, and peers that misbehave on demand."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.engine import make_engine, make_sessions
from db.models import AuditEvent, Base
from dicom_node.scp import RunningNode, start_node
from instances.part10 import FileMeta, file_head
from tests.migrated import migrated

AE_TITLE = "FIRSTREAD"


def node_settings(folder: Path, **changes: Any) -> Settings:
    """Settings with everything below ``folder`` and a free port, received in this process unless asked otherwise."""
    dicom = {"port": 0, "receivers": 0, "min_free_bytes": 0, **changes.pop("dicom", {})}
    retention = {"refuse_free_bytes": 0, **changes.pop("retention", {})}
    return Settings(data_dir=folder, dicom=dicom, retention=retention, **changes)


def migrated_sessions(settings: Settings) -> sessionmaker[Session]:
    """A migrated database of these settings."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrated(settings.database)
    return make_sessions(make_engine(settings.database))


@contextmanager
def running_node(settings: Settings, sessions: sessionmaker[Session] | None = None) -> Iterator[RunningNode]:
    """A node that listens, stopped at the end."""
    node = start_node(settings, sessions or migrated_sessions(settings), deliver=False)
    try:
        yield node
    finally:
        node.stop()


def ct_slice(**changes: Any) -> Dataset:
    """A small CT Instance with new UIDs; ``changes`` by keyword, None removes."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.PatientID = "P-1"
    ds.PatientName = "Test^Patient"
    ds.Modality = "CT"
    ds.BodyPartExamined = "CHEST"
    ds.InstanceNumber = 1
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(range(256)) * 2
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The Data Set's bytes in one of the two native little endian syntaxes."""
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, ds)
    return buffer.getvalue()


def write_file(path: Path, ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """A DICOM file of ``ds``."""
    meta = FileMeta(str(ds.get("SOPClassUID", "")), str(ds.get("SOPInstanceUID", "")), syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_head(meta) + encoded(ds, syntax))
    return path


def associate(
    port: int,
    *,
    sop_class: str = CTImageStorage,
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,),
    calling_ae: str = "MODALITY",
    called_ae: str = AE_TITLE,
) -> Association:
    """An association with one storage context, which may have been rejected."""
    ae = AE(calling_ae)
    ae.acse_timeout = ae.dimse_timeout = 30
    ae.add_requested_context(UID(sop_class), [UID(s) for s in syntaxes])
    return ae.associate("127.0.0.1", port, ae_title=called_ae)


def store_bytes(assoc: Association, data: bytes, *, sop_class: str, sop_instance: str) -> tuple[int | None, str]:
    """Send any bytes as a C-STORE, with a command of our choice; return status and Error Comment."""
    request = C_STORE()
    request.MessageID = 7
    request.Priority = 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_instance
    request.DataSet = BytesIO(data)
    answer = exchange(assoc, request)
    if answer is None:
        return None, ""
    return answer.Status, str(answer.ErrorComment or "")


def exchange(assoc: Association, request: Any) -> Any:
    """Send a DIMSE request as it is; return the answer, None when there was none."""
    # the association's own thread must be at rest, or on a busy machine it takes the answer from us
    assoc._reactor_checkpoint.clear()
    while not assoc._reactor_checkpoint._cond._waiters and assoc.is_established:
        time.sleep(0.0005)
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return answer


def store(port: int, ds: Dataset, *, data: bytes | None = None, **command: str) -> tuple[int | None, str]:
    """Send one Data Set on an association of its own; return status and Error Comment."""
    assoc = associate(port)
    assert assoc.is_established
    try:
        return store_bytes(
            assoc,
            encoded(ds) if data is None else data,
            sop_class=command.get("sop_class", str(ds.get("SOPClassUID", CTImageStorage))),
            sop_instance=command.get("sop_instance", str(ds.get("SOPInstanceUID", "1.2.3"))),
        )
    finally:
        assoc.release()


def rows(sessions: sessionmaker[Session], kind: type[Base]) -> list[Any]:
    """Every row of a table."""
    with sessions() as session:
        return list(session.scalars(select(kind)))


def audit_tags(sessions: sessionmaker[Session]) -> list[str]:
    """The audit events so far, in order."""
    with sessions() as session:
        return list(session.scalars(select(AuditEvent.tag).order_by(AuditEvent.seq)))
