"""Keep one Instance: bytes flushed to disk first, then its row, and only then is it said to be stored."""

import hashlib
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import (
    AppError,
    InvalidUidError,
    LifecycleError,
    SopMismatchError,
    TransientError,
    UnreadableDatasetError,
)
from config.settings import Settings
from db import lifecycle
from db.lifecycle import InstanceHeader, Received
from db.uow import Actor, unit_of_work
from dicom_node.header import read_header, valid_uid
from dicom_node.part10 import FileMeta, dataset_digest, file_head
from dicom_node.store import FileStore, named_errors

log = structlog.get_logger()
_ATTEMPTS = 3  # when another association changed the same Study first


@dataclass(frozen=True)
class Incoming:
    """One C-STORE request: the Data Set's bytes as received, and what the command said of them."""

    dataset: bytes
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    calling_ae: str
    called_ae: str

    @property
    def meta(self) -> FileMeta:
        """The file meta information to keep it with; a UID that is none is left out."""
        return FileMeta(
            sop_class_uid=_uid_or_nothing(self.sop_class_uid),
            sop_instance_uid=_uid_or_nothing(self.sop_instance_uid),
            transfer_syntax_uid=self.transfer_syntax_uid,
            source_ae=self.calling_ae,
        )


class Inbox:
    """Where Instances arrive: an instance store, a quarantine beside it, and the database."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        *,
        instances: FileStore,
        quarantine: FileStore,
        quiet_s: Callable[[str], float],
    ) -> None:
        self.sessions = sessions
        self.instances = instances
        self.quarantined = quarantine
        self._quiet_s = quiet_s
        self._one_at_a_time = [threading.Lock() for _ in range(64)]  # by SOP Instance UID

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            TransientError: the file system does not let us.
        """
        self.instances.prepare()
        self.quarantined.prepare()

    def keep(self, incoming: Incoming) -> Received:
        """Keep one Instance; on return it is on disk, in the database, and may be acknowledged.

        The same bytes a second time change nothing. The file gets its name inside the transaction: after
        the database agreed to it, before the commit.

        Raises:
            UnreadableDatasetError, InvalidUidError: see :func:`dicom_node.header.read_header`.
            SopMismatchError: the Data Set is not what the command announced.
            ConflictingInstanceError: other bytes are held under this SOP Instance UID; they stay.
            OutOfSpaceError: less space than the threshold would be left.
            TransientError: database or file system cannot be used now; nothing is acknowledged.
        """
        self.instances.require_space(len(incoming.dataset))
        header = read_header(incoming.dataset, incoming.transfer_syntax_uid)
        _require_match(header, incoming)
        return self._keep_checked(header, incoming)

    def _keep_checked(self, header: InstanceHeader, incoming: Incoming) -> Received:
        sha256 = hashlib.sha256(incoming.dataset).hexdigest()
        relative = instance_path(header)
        register = partial(self._register, header, relative, sha256, len(incoming.dataset), incoming)
        lock = self._one_at_a_time[hash(header.sop_instance_uid) % len(self._one_at_a_time)]
        with lock, self.instances.written(file_head(incoming.meta), incoming.dataset) as temporary:
            return _with_patience(partial(register, temporary))

    def _register(
        self, header: InstanceHeader, relative: str, sha256: str, size: int, incoming: Incoming, temporary: Path
    ) -> Received:
        with unit_of_work(self.sessions, Actor(incoming.calling_ae, "peer")) as uow:
            received = lifecycle.receive_instance(
                uow,
                header,
                path=relative,
                sha256=sha256,
                size_bytes=size,
                calling_ae=incoming.calling_ae,
                called_ae=incoming.called_ae,
                quiet_s=self._quiet_s(incoming.calling_ae),
            )
            if not self._already_there(relative, sha256):
                self.instances.publish(temporary, relative)
        return received

    def _already_there(self, relative: str, sha256: str) -> bool:
        """Return whether the file holds these bytes; a file with others is moved to the quarantine.

        It may be there without a row, when a process died between rename and commit, or be damaged.
        """
        target = self.instances.root / relative
        with named_errors():
            if not target.exists():
                return False
            if _digest(target) == sha256:
                return True
            # perhaps another file system: the instance store may be mounted by itself
            shutil.move(target, self.quarantined.root / f"displaced-{target.name}")
        log.error("instance.file_displaced")
        return False

    def refuse(self, incoming: Incoming, error: AppError | None, status: int) -> None:
        """Keep what was refused, with the reason, for a person to see.

        The file is named by its digest, so a sender that repeats itself fills no disk.

        Raises:
            TransientError: the refusal could not be recorded; the sender should be told to try later.
        """
        sha256 = hashlib.sha256(incoming.dataset).hexdigest()
        path = self._quarantine_bytes(incoming, f"{sha256}.dcm") if incoming.dataset else ""
        with unit_of_work(self.sessions, Actor(incoming.calling_ae, "peer")) as uow:
            lifecycle.quarantine(
                uow,
                reason=str(error)[:200] if error else "internal error",
                error=type(error).__name__ if error else "InternalError",
                status=status,
                path=path,
                sop_instance_uid=incoming.meta.sop_instance_uid,
                calling_ae=incoming.calling_ae,
            )

    def _quarantine_bytes(self, incoming: Incoming, name: str) -> str:
        if (self.quarantined.root / name).exists():
            return name
        try:
            self.quarantined.require_space(len(incoming.dataset))
            with self.quarantined.written(file_head(incoming.meta), incoming.dataset) as temporary:
                self.quarantined.publish(temporary, name)
        except TransientError as exc:
            log.warning("quarantine.bytes_dropped", error=exc, bytes=len(incoming.dataset))
            return ""
        return name


def make_inbox(sessions: sessionmaker[Session], settings: Settings) -> Inbox:
    """Return the inbox of these settings; call ``prepare`` before the first Instance."""
    quiet = {peer.ae_title: peer.quiet_s for peer in settings.dicom.peers if peer.quiet_s}
    floor = settings.dicom.min_free_bytes
    return Inbox(
        sessions,
        instances=FileStore(settings.instances_dir, min_free_bytes=floor),
        quarantine=FileStore(settings.instances_dir.parent / "quarantine", min_free_bytes=floor),
        quiet_s=lambda calling_ae: quiet.get(calling_ae) or settings.dicom.quiet_s,
    )


def instance_path(header: InstanceHeader) -> str:
    """Return the place of an Instance relative to the instance store; its UIDs must have been validated."""
    return f"{header.study_instance_uid}/{header.series_instance_uid}/{header.sop_instance_uid}.dcm"


def _require_match(header: InstanceHeader, incoming: Incoming) -> None:
    if header.sop_instance_uid != incoming.sop_instance_uid:
        raise SopMismatchError("SOP Instance UID of Data Set and command differ")
    if header.sop_class_uid != incoming.sop_class_uid:
        raise SopMismatchError("SOP Class UID of Data Set and command differ")


def _with_patience(register: Callable[[], Received]) -> Received:
    """Run ``register`` again when somebody else changed the Study first; then ask the sender to come back."""
    for _ in range(_ATTEMPTS):
        try:
            return register()
        except LifecycleError:
            log.info("instance.overtaken")
    raise TransientError("others keep changing this study")


def _digest(path: Path) -> str:
    try:
        return dataset_digest(path)
    except UnreadableDatasetError:
        return ""


def _uid_or_nothing(uid: str) -> str:
    try:
        return valid_uid(uid, what="UID")
    except InvalidUidError:
        return ""
