"""Write one result into the result store, durably, and return its row."""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from config.destination import Destination
from config.durable import write_durably
from config.results import ResultKind, receivers
from db.lifecycle import NewObject


def keep_object(
    ds: Dataset,
    kind: ResultKind,
    path: str,
    *,
    results_dir: Path,
    destinations: Sequence[Destination] = (),
    is_signed: bool = False,
    tracking_uids: Sequence[str] = (),
) -> NewObject:
    """Write one finished DICOM object to ``path`` below the result store; it is owed to whom takes its kind.

    Raises:
        OutOfSpaceError: the result store is full.
    """
    content = encode(ds)
    write_durably(results_dir / path, content)
    return NewObject(
        kind=kind,
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
        destinations=receivers(destinations, kind, is_signed=is_signed),
        tracking_uids=tuple(tracking_uids),
    )


def keep_message(
    content: bytes, kind: ResultKind, path: str, *, results_dir: Path, uid: str, destinations: Sequence[str]
) -> NewObject:
    """Write one message to ``path`` below the result store; ``uid`` is the identity it carries.

    Raises:
        OutOfSpaceError: the result store is full.
    """
    write_durably(results_dir / path, content)
    return NewObject(
        kind=kind,
        sop_instance_uid=uid,
        sop_class_uid="",
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
        destinations=tuple(destinations),
    )


def encode(ds: Dataset) -> bytes:
    """Return a finished object as a DICOM file."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
