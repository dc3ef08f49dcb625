"""Play a folder of DICOM files into a node over real associations, and say what became of each file."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from config.errors import InvalidUidError, PeerUnavailableError, RefusedInputError, UnreadableDatasetError
from dicom_node import scu
from instances.elements import find_elements
from instances.header import valid_uid
from instances.part10 import FileMeta, file_head, split_file

Outcome = Literal["stored", "refused", "not sent", "skipped"]
_SOP_CLASS, _SOP_INSTANCE = int(Tag("SOPClassUID")), int(Tag("SOPInstanceUID"))
_PREFIX = bytes(128) + b"DICM"
_GUESSES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    ``stored``: the peer acknowledged it. ``refused``: the peer answered a failure, or does not take this SOP
    Class or transfer syntax. ``not sent``: no association, or it was lost. ``skipped``: nothing to send in it.
    """

    path: Path
    outcome: Outcome
    status: int | None = None
    reason: str = ""


@dataclass
class SendSummary:
    """Every file of a folder, with its outcome; ``seconds`` covers the associations only."""

    files: list[FileResult] = field(default_factory=list)
    seconds: float = 0.0
    bytes_stored: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Files per outcome."""
        return dict(Counter(file.outcome for file in self.files))

    def reasons(self) -> dict[str, int]:
        """Files per outcome and reason, of those that were not stored; most frequent first."""
        told = Counter(f"{file.outcome}: {file.reason}" for file in self.files if file.outcome != "stored")
        return dict(told.most_common())


def send_folder(
    folder: Path,
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str = "FIRSTREAD_SEND",
    *,
    tell: Callable[[FileResult], None] | None = None,
) -> SendSummary:
    """Send every file below ``folder``, in order of path, as it is stored; nothing is transcoded.

    Files without preamble or file meta information are read by trial and sent with one. Whatever cannot
    be sent is listed with its reason; no file can stop the others, and an absent peer is a reason too.

    Args:
        folder: a folder, or one file.
        host, port, called_ae: the peer.
        calling_ae: the name to call it under.
        tell: called with each result as it is known.
    """
    summary = SendSummary()

    def note(result: FileResult) -> None:
        summary.files.append(result)
        if tell:
            tell(result)

    with tempfile.TemporaryDirectory(prefix="firstread-send-") as scratch:
        origin: dict[scu.Outgoing, Path] = {}
        for path in _files(folder):
            prepared = _prepare(path, Path(scratch))
            if isinstance(prepared, FileResult):
                note(prepared)
            else:
                origin[prepared] = path
        began = time.monotonic()
        for result, size in _send_all(scu.Address(host, port, called_ae, calling_ae), origin):
            summary.bytes_stored += size if result.outcome == "stored" else 0
            note(result)
        summary.seconds = time.monotonic() - began
    return summary


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _send_all(peer: scu.Address, origin: dict[scu.Outgoing, Path]) -> Iterator[tuple[FileResult, int]]:
    waiting = dict(origin)
    try:
        for sent in scu.store(peer, list(origin)):
            path = waiting.pop(sent.item)
            yield _result(path, sent), path.stat().st_size
    except PeerUnavailableError as exc:
        for path in waiting.values():
            yield FileResult(path, "not sent", reason=str(exc)), 0


def _result(path: Path, sent: scu.Sent) -> FileResult:
    if sent.accepted:
        return FileResult(path, "stored", sent.status)
    outcome: Outcome = "refused" if sent.status is not None or sent.was_declined else "not sent"
    return FileResult(path, outcome, sent.status, sent.error)


def _prepare(path: Path, scratch: Path) -> scu.Outgoing | FileResult:
    """Return what to send, or why there is nothing to send."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        return FileResult(path, "skipped", reason=f"cannot be read: {type(exc).__name__}")
    try:
        meta, offset = _open(content)
        complete = _completed(meta, content[offset:])
        valid_uid(complete.sop_class_uid, what="SOP Class UID")
        valid_uid(complete.transfer_syntax_uid, what="Transfer Syntax UID")
    except InvalidUidError as exc:
        return FileResult(path, "skipped", reason=str(exc))
    except RefusedInputError:
        return FileResult(path, "skipped", reason="not DICOM" if content else "empty file")
    if complete.sop_class_uid == MediaStorageDirectoryStorage:
        return FileResult(path, "skipped", reason="DICOMDIR: a directory, not an Instance")
    if complete != meta or content[128:132] != b"DICM":
        path = _rewritten(scratch, complete, content[offset:])
    return scu.Outgoing(path, complete.sop_class_uid, complete.transfer_syntax_uid)


def _open(content: bytes) -> tuple[FileMeta, int]:
    """Return file meta information and the Data Set's offset, also without preamble or without both."""
    if content[128:132] == b"DICM":
        return split_file(content)
    if content[:2] == b"\x02\x00":
        meta, offset = split_file(_PREFIX + content)
        return meta, offset - len(_PREFIX)
    return FileMeta("", "", ""), 0


def _completed(meta: FileMeta, dataset: bytes) -> FileMeta:
    """Return the file meta information with what the Data Set itself says, which is what the peer will check."""
    syntax = meta.transfer_syntax_uid or _guess(dataset)
    if syntax == ExplicitVRBigEndian:
        return meta
    try:
        found = find_elements(dataset, syntax, {_SOP_CLASS, _SOP_INSTANCE})
    except UnreadableDatasetError:
        if meta.sop_class_uid and meta.sop_instance_uid:
            found = {}  # sent all the same: the peer's answer is what was asked for
        else:
            raise
    return FileMeta(
        _uid(found.get(_SOP_CLASS)) or meta.sop_class_uid,
        _uid(found.get(_SOP_INSTANCE)) or meta.sop_instance_uid,
        syntax,
        meta.source_ae,
    )


def _guess(dataset: bytes) -> str:
    for syntax in _GUESSES:
        try:
            find_elements(dataset, syntax, ())
        except UnreadableDatasetError:
            continue
        return str(syntax)
    raise UnreadableDatasetError("not a Data Set in any native transfer syntax")


def _uid(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0 ").decode("ascii", errors="replace")


def _rewritten(scratch: Path, meta: FileMeta, dataset: bytes) -> Path:
    """Write the same Data Set with complete file meta information, since that is what the sender reads."""
    copy = scratch / f"{len(list(scratch.iterdir()))}.dcm"
    copy.write_bytes(file_head(meta) + dataset)
    return copy
