"""Keep Instances: bytes flushed first, then the name, then the row, and only then are they said to be stored."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, TransientError, UnreadableDatasetError
from config.quiet import quiet_seconds
from config.settings import Settings
from db import lifecycle
from db.lifecycle import InstanceHeader, NewInstance, Received
from db.uow import Actor, unit_of_work
from instances.arrival import Announced, Arrival, Landed, instance_path
from instances.group import GroupCommit
from instances.part10 import dataset_digest
from instances.store import FileStore, named_errors, sync_folder

log = structlog.get_logger()
Outcomes = list[Received | Exception]
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
        self._group = GroupCommit(self.keep_together)

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

        The same bytes a second time change nothing. What several threads keep at one moment is kept together.

        Raises:
            ConflictingInstanceError: other bytes are held under this SOP Instance UID; they stay.
            OutOfSpaceError: less space than the threshold would be left.
            TransientError: database or file system cannot be used now; nothing is acknowledged.
        """
        self.name(arrival)
        return self._group.submit(arrival.landed).result()

    def name(self, arrival: Arrival) -> None:
        """Give a finished Arrival's file its name, before the database is asked, if the name is free.

        A name without a row is nobody's: it is taken over when the Instance comes again, and :mod:`instances.reconcile`
        looks after those that a crash left.

        Raises:
            OutOfSpaceError: less space than the threshold is left.
            TransientError: the file system.
        """
        assert arrival.header is not None
        self.instances.require_space(0)
        self.instances.name(arrival.path, instance_path(arrival.header))

    def keep_together(self, group: Sequence[Landed]) -> Outcomes:
        """Keep finished Arrivals in one transaction; return what became of each, an error as :meth:`keep` raises it.

        The database agrees to each Instance, each file that has no name yet gets it, each folder is flushed once,
        then all is committed. One that is refused, or whose file cannot be placed, takes none of the others with it.
        """
        outcomes: dict[int, Received | Exception] = {}
        waiting = dict(enumerate(group))
        while waiting:
            items = list(waiting.values())
            try:
                kept = _with_patience(partial(self._register, items))
            except _NotPlacedError as exc:
                failed = list(waiting)[exc.position]
                outcomes[failed] = exc.error
                del waiting[failed]
                continue
            except Exception as exc:  # noqa: BLE001 whoever waits raises it as its own
                kept = self._apart(items, exc)
            outcomes |= zip(waiting, kept, strict=True)
            break
        return [outcomes[i] for i in range(len(group))]

    def _apart(self, group: Sequence[Landed], error: Exception) -> Outcomes:
        """Return the outcomes after a group failed: without a database all fail, else one of them is to blame."""
        if len(group) == 1 or isinstance(error, TransientError):
            return [error] * len(group)
        log.error("group.taken_apart", error=type(error).__name__, count=len(group))
        return [self.keep_together([one])[0] for one in group]

    def _register(self, group: Sequence[Landed]) -> Outcomes:
        news = [self._new_instance(landed) for landed in group]
        received = lifecycle.receive_more(self.sessions, news, provided=lambda: all(map(self._has_its_name, group)))
        if received is not None:
            return list(received)
        with unit_of_work(self.sessions, Actor(group[0].announced.calling_ae, "peer")) as uow:
            outcomes = lifecycle.receive_instances(uow, news)
            folders: set[str] = set()
            for position, (landed, outcome) in enumerate(zip(group, outcomes, strict=True)):
                try:
                    folders |= self._settled(landed, outcome)
                except TransientError as exc:
                    raise _NotPlacedError(position, exc) from exc
            with named_errors():
                for folder in folders:
                    sync_folder(folder)
        return list(outcomes)

    def _settled(self, landed: Landed, outcome: Received | Exception) -> set[str]:
        """Let a file have its name if, and only if, its Instance is kept; return the folders to flush."""
        is_named = self._has_its_name(landed)
        if isinstance(outcome, Received):
            return set() if is_named else self._placed(landed)
        if is_named:
            with named_errors():
                (self.instances.root / instance_path(_header(landed))).unlink()
        return set()

    def _has_its_name(self, landed: Landed) -> bool:
        """Return whether this very file stands under the Instance's name; another's may have come first."""
        try:
            return os.path.samefile(self.instances.root / instance_path(_header(landed)), landed.path)  # noqa: PTH121
        except OSError:
            return False  # there is none

    def _new_instance(self, landed: Landed) -> NewInstance:
        header, announced = _header(landed), landed.announced
        return NewInstance(
            header,
            path=instance_path(header),
            sha256=landed.sha256,
            size_bytes=landed.size,
            calling_ae=announced.calling_ae,
            called_ae=announced.called_ae,
            quiet_s=self._quiet_s(announced.calling_ae, announced.called_ae, header.modality),
            association_id=announced.association_id,
            retrieval=announced.retrieval,
        )

    def _placed(self, landed: Landed) -> set[str]:
        """Give a file its name, unless it is there; return the folders to flush."""
        relative = instance_path(_header(landed))
        if self._already_there(relative, landed.sha256):
            return {str((self.instances.root / relative).parent)}
        return self.instances.place(landed.path, relative)

    def _already_there(self, relative: str, sha256: str) -> bool:
        """Return whether the file holds these bytes; a file with others is moved to the quarantine.

        It may be there without a row, when a process died between rename and commit, or be damaged.
        """
        if not self.instances.holds(relative):
            return False
        target = self.instances.root / relative
        with named_errors():
            if _digest(target) == sha256:
                return True
            # perhaps another file system: the instance store may be mounted by itself
            shutil.move(target, self.quarantined.root / f"displaced-{target.name}")
        log.error("instance.file_displaced")
        return False

    def refuse(
        self, announced: Announced, arrival: Arrival | Landed | None, error: AppError | None, status: int
    ) -> None:
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

    def _quarantine_bytes(self, arrival: Arrival | Landed) -> str:
        name = f"{arrival.sha256}.dcm"
        if (self.quarantined.root / name).exists():
            return name
        try:
            self.quarantined.require_space(arrival.size)
            self.quarantined.adopt(Path(arrival.path), name)
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


class _NotPlacedError(Exception):
    """One file of a group cannot get its name; the transaction is undone and the group goes on without it."""

    def __init__(self, position: int, error: TransientError) -> None:
        super().__init__(position)
        self.position = position
        self.error = error


def _header(landed: Landed) -> InstanceHeader:
    assert landed.header is not None  # it is finished
    return landed.header


def _with_patience(register: Callable[[], Outcomes]) -> Outcomes:
    """Run ``register`` again when somebody else changed a Study first; then ask the senders to come back."""
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
