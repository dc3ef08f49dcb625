"""Keep one Instance: bytes flushed to disk first, then its row, and only then is it said to be stored."""

import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, TransientError, UnreadableDatasetError
from config.quiet import quiet_seconds
from config.settings import Settings
from db import lifecycle
from db.lifecycle import InstanceHeader, Received
from db.uow import Actor, unit_of_work
from instances.arrival import Announced, Arrival, instance_path
from instances.part10 import dataset_digest
from instances.store import FileStore, named_errors

log = structlog.get_logger()
_ATTEMPTS = 3  # when another association changed the same Study first


class Inbox:
    """Where Instances arrive: an instance store, a quarantine beside it, and the database."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        *,
        instances: FileStore,
        quarantine: FileStore,
        quiet_s: Callable[[str, str, str], float],
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

    def open(self, announced: Announced) -> Arrival:
        """Return the file into which an announced Data Set is written; close it in any case.

        Raises:
            OutOfSpaceError: less space than the threshold is left.
            TransientError: the file system cannot be used now.
        """
        self.instances.require_space(0)
        return Arrival(announced, self.instances)

    def keep(self, arrival: Arrival) -> Received:
        """Keep a finished Arrival; on return it is on disk, in the database, and may be acknowledged.

        The same bytes a second time change nothing. The file gets its name inside the transaction: after
        the database agreed to it, before the commit.

        Raises:
            ConflictingInstanceError: other bytes are held under this SOP Instance UID; they stay.
            OutOfSpaceError: less space than the threshold would be left.
            TransientError: database or file system cannot be used now; nothing is acknowledged.
        """
        header = arrival.header
        assert header is not None
        self.instances.require_space(0)
        lock = self._one_at_a_time[hash(header.sop_instance_uid) % len(self._one_at_a_time)]
        with lock:
            return _with_patience(partial(self._register, header, arrival))

    def _register(self, header: InstanceHeader, arrival: Arrival) -> Received:
        announced = arrival.announced
        relative = instance_path(header)
        with unit_of_work(self.sessions, Actor(announced.calling_ae, "peer")) as uow:
            received = lifecycle.receive_instance(
                uow,
                header,
                path=relative,
                sha256=arrival.sha256,
                size_bytes=arrival.size,
                calling_ae=announced.calling_ae,
                called_ae=announced.called_ae,
                quiet_s=self._quiet_s(announced.calling_ae, announced.called_ae, header.modality),
            )
            if not self._already_there(relative, arrival.sha256):
                self.instances.publish(arrival.path, relative)
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

    def refuse(self, announced: Announced, arrival: Arrival | None, error: AppError | None, status: int) -> None:
        """Keep what was refused, with the reason, for a person to see.

        The file is named by its digest, so a sender that repeats itself fills no disk.

        Raises:
            TransientError: the refusal could not be recorded; the sender should be told to try later.
        """
        path = self._quarantine_bytes(arrival) if arrival is not None and arrival.size else ""
        with unit_of_work(self.sessions, Actor(announced.calling_ae, "peer")) as uow:
            lifecycle.quarantine(
                uow,
                reason=str(error)[:200] if error else "internal error",
                error=type(error).__name__ if error else "InternalError",
                status=status,
                path=path,
                sop_instance_uid=announced.meta.sop_instance_uid,
                calling_ae=announced.calling_ae,
            )

    def _quarantine_bytes(self, arrival: Arrival) -> str:
        name = f"{arrival.sha256}.dcm"
        if (self.quarantined.root / name).exists():
            return name
        try:
            self.quarantined.require_space(arrival.size)
            self.quarantined.adopt(arrival.path, name)
        except TransientError as exc:
            log.warning("quarantine.bytes_dropped", error=exc, bytes=arrival.size)
            return ""
        return name


def make_inbox(sessions: sessionmaker[Session], settings: Settings) -> Inbox:
    """Return the inbox of these settings; call ``prepare`` before the first Instance."""
    floor = settings.dicom.min_free_bytes
    return Inbox(
        sessions,
        instances=FileStore(settings.instances_dir, min_free_bytes=floor),
        quarantine=FileStore(settings.instances_dir.parent / "quarantine", min_free_bytes=floor),
        quiet_s=lambda calling_ae, called_ae, modality: quiet_seconds(
            settings.dicom, calling_ae=calling_ae, called_ae=called_ae, modality=modality
        ),
    )


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
