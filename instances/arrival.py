"""One Data Set on its way into a file: written piece by piece, hashed as it comes, never held whole in memory."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from uuid import UUID

from config.errors import InvalidUidError, SopMismatchError, UnreadableDatasetError
from db.lifecycle import InstanceHeader
from instances.elements import BeyondError
from instances.header import read_header, valid_uid
from instances.part10 import FileMeta, file_head
from instances.store import FileStore, named_errors


@dataclass(frozen=True)
class Announced:
    """What a C-STORE command, or a part of a STOW-RS request, says of the Data Set that follows it."""

    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    calling_ae: str
    called_ae: str
    association_id: UUID | None = None
    move_originator_ae: str = ""  # (0000,1030): whose C-MOVE brought it; our own AE title for any retrieval of ours
    move_message_id: int = 0  # (0000,1031): of that C-MOVE, or of our retrieval

    @property
    def retrieval(self) -> int:
        """The Message ID of the retrieval of ours that says it brought this; 0 when others sent it."""
        return self.move_message_id if self.move_originator_ae == self.called_ae else 0

    @property
    def meta(self) -> FileMeta:
        """The file meta information to keep it with; a UID that is none is left out."""
        return FileMeta(
            sop_class_uid=_uid_or_nothing(self.sop_class_uid),
            sop_instance_uid=_uid_or_nothing(self.sop_instance_uid),
            transfer_syntax_uid=self.transfer_syntax_uid,
            source_ae=self.calling_ae,
        )


@dataclass(frozen=True)
class Landed:
    """An Arrival as plain values, so that another process of ours can keep its file; ``header`` once it is finished."""

    announced: Announced
    path: str
    sha256: str
    size: int
    header: InstanceHeader | None


class Arrival:
    """A temporary file that grows; ``finish`` makes it durable and readable, leaving the block removes it.

    After :meth:`finish`: ``header`` is set, ``sha256`` and ``size`` are of the Data Set without file meta.
    """

    def __init__(self, announced: Announced, store: FileStore) -> None:
        """Open the file and write what stands before the Data Set.

        Raises:
            OutOfSpaceError, TransientError: it cannot be made.
        """
        self.announced = announced
        self.header: InstanceHeader | None = None
        with named_errors():
            self._file = store.direct(file_head(announced.meta))

    def write(self, piece: memoryview) -> None:
        """Append a piece of the Data Set.

        Raises:
            OutOfSpaceError, TransientError: it cannot be written.
        """
        with named_errors():
            self._file.write(piece)

    def finish(self) -> InstanceHeader:
        """Do :meth:`flush` and :meth:`read`."""
        self.flush()
        return self.read()

    def flush(self) -> None:
        """Wait until the disk has all that was written; the bytes survive a power cut, the name does not yet.

        Raises:
            OutOfSpaceError, TransientError: the file system.
        """
        with named_errors():
            self._file.flush()

    def read(self) -> InstanceHeader:
        """Read the header of what was flushed.

        Raises:
            UnreadableDatasetError, InvalidUidError: see :func:`instances.header.read_header`.
            SopMismatchError: the Data Set is not what was announced.
            TransientError: the file system.
        """
        self.header = self._read_header()
        if self.header.sop_instance_uid != self.announced.sop_instance_uid:
            raise SopMismatchError("SOP Instance UID of Data Set and command differ")
        if self.header.sop_class_uid != self.announced.sop_class_uid:
            raise SopMismatchError("SOP Class UID of Data Set and command differ")
        return self.header

    def _read_header(self) -> InstanceHeader:
        if not self.size:
            raise UnreadableDatasetError("the Data Set is empty")
        syntax = self.announced.transfer_syntax_uid
        try:
            return read_header(self._file.beginning, syntax, size=self.size)
        except BeyondError:
            with named_errors(), self._file.content() as dataset:
                return read_header(dataset, syntax)

    @property
    def path(self) -> str:
        """The temporary file."""
        return self._file.path

    @property
    def size(self) -> int:
        """Bytes of the Data Set so far."""
        return self._file.size

    @property
    def sha256(self) -> str:
        """The SHA-256 of the Data Set's bytes, once it is finished."""
        return self._file.sha256.hexdigest()

    @property
    def landed(self) -> Landed:
        """What is known of it."""
        return Landed(self.announced, self.path, self.sha256, self.size, self.header)

    def close(self) -> None:
        """Remove the temporary file, if nobody gave it a name meanwhile."""
        self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 plain strings on C-STORE's hot path

    def __enter__(self) -> "Arrival":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def instance_path(header: InstanceHeader) -> str:
    """Return the place of an Instance relative to the instance store; its UIDs must have been validated."""
    return f"{header.study_instance_uid}/{header.series_instance_uid}/{header.sop_instance_uid}.dcm"


def read_file(arrival: Arrival, path: Path, offset: int) -> None:
    """Write into ``arrival`` what stands in a file from ``offset`` on.

    Raises:
        OutOfSpaceError, TransientError: the file system.
    """
    with named_errors(), path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(1 << 20):
            arrival.write(memoryview(piece))


def _uid_or_nothing(uid: str) -> str:
    try:
        return valid_uid(uid, what="UID")
    except InvalidUidError:
        return ""
