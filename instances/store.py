"""Files that are down before anybody is told so: temporary file, fsync, rename, fsync of the folder."""

import contextlib
import errno
import itertools
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from config.errors import OutOfSpaceError, TransientError
from instances.direct_file import DirectFile

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_TWICE = {errno.EEXIST, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}  # link(2)
_INCOMING = ".incoming"  # no UID begins with a dot
_AMPLE_BYTES, _AMPLE_S = 4 << 30, 0.2  # what no disk takes in that time
_MOST_REMEMBERED = 10_000
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750  # patients' data: nothing for others
_LIFE, _NUMBERS = os.urandom(8).hex(), itertools.count()  # for names that no process before this one gave


class FileStore:
    """One folder tree of Instances; relative paths only, made of validated UIDs by the caller."""

    def __init__(self, root: Path, *, min_free_bytes: int = 0) -> None:
        self.root = root
        self.incoming = root / _INCOMING
        self._min_free = min_free_bytes
        self._ample_until = 0.0  # until then nobody has to look again
        self._flushed: set[str] = set()  # folders whose own names are known to be safe
        # C-STORE's hot path works on plain strings
        self._root, self._incoming = f"{root}/", f"{self.incoming}/"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            TransientError: the file system does not let us.
        """
        with named_errors():
            self.root.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            self.incoming.mkdir(mode=_FOLDER_MODE, exist_ok=True)

    def require_space(self, size: int) -> None:
        """Check that ``size`` bytes fit above the threshold.

        Raises:
            OutOfSpaceError: they do not.
        """
        if not size and time.monotonic() < self._ample_until:
            return
        with named_errors():
            disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self._min_free:
            raise OutOfSpaceError(f"{free} bytes are free, {self._min_free} must stay free")
        if free - self._min_free > _AMPLE_BYTES:
            self._ample_until = time.monotonic() + _AMPLE_S

    def temporary(self) -> tuple[str, int]:
        """Open a new temporary file; return its path and descriptor, readable and writable.

        Raises:
            OSError: it cannot be made.
        """
        path = self._new_name()
        return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def direct(self, head: bytes) -> DirectFile:
        """Open a new temporary file that begins with ``head`` and bypasses the page cache.

        Raises:
            OSError: it cannot be made.
        """
        return DirectFile(self._new_name(), head, mode=_FILE_MODE)

    def _new_name(self) -> str:
        return f"{self._incoming}{_owner()}{_LIFE}-{next(_NUMBERS)}.part"

    @contextmanager
    def written(self, *parts: bytes) -> Iterator[str]:
        """Give the path of a flushed temporary file holding ``parts``; what is still there at the end is removed.

        Raises:
            OutOfSpaceError: the disk is full.
            TransientError: any other trouble of the file system.
        """
        with named_errors():
            path, handle = self.temporary()
        try:
            with named_errors():
                self._write(handle, parts)
            yield path
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108

    @staticmethod
    def _write(handle: int, parts: tuple[bytes, ...]) -> None:
        with open(handle, "wb", buffering=0) as file:
            for part in parts:
                rest = memoryview(part)
                while rest:  # an unbuffered write may stop short of 2 GiB
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    def holds(self, relative: str) -> bool:
        """Return whether there is a file of this name."""
        return os.path.exists(self._root + relative)  # noqa: PTH110

    def name(self, temporary: str, relative: str) -> None:
        """Give a flushed file a second name, flushed as well; nothing where another has it, or a file has one only.

        Raises:
            OutOfSpaceError, TransientError: as :meth:`written`.
        """
        target = self._root + relative
        folder = target.rpartition("/")[0]
        with named_errors():
            try:
                self._in_its_folder(os.link, temporary, target)
            except OSError as exc:
                if exc.errno in _NOT_TWICE:
                    return
                raise
            sync_folder(folder)
            self._flush_names_of(folder)

    def _flush_names_of(self, folder: str) -> None:
        """Flush the folders above, once: who made this one may not have come so far yet."""
        if folder not in self._flushed:
            for above in Path(folder).relative_to(self.root).parents:
                sync_folder(self.root / above)
            if len(self._flushed) >= _MOST_REMEMBERED:
                self._flushed.clear()
            self._flushed.add(folder)

    def place(self, temporary: str, relative: str) -> set[str]:
        """Move a flushed file to its name; return the folders to flush before that name survives a power cut.

        Raises:
            OutOfSpaceError, TransientError: as :meth:`written`.
        """
        target = self._root + relative
        folder = target.rpartition("/")[0]
        with named_errors():
            return {folder, *self._in_its_folder(os.replace, temporary, target)}

    def _in_its_folder(self, act: Callable[[str, str], None], temporary: str, target: str) -> list[str]:
        """Link or move a file; make the folders on the way when they are missing, and return those with a new name."""
        try:
            act(temporary, target)
        except FileNotFoundError:
            folder = target.rpartition("/")[0]
            self._flushed.discard(folder)
            made = _make_folders(Path(folder), self.root)
            act(temporary, target)
            return [str(above) for above in made]
        return []

    def publish(self, temporary: str, relative: str) -> Path:
        """Move a flushed file to its name; afterwards name and bytes survive a power cut.

        Raises:
            OutOfSpaceError, TransientError: as :meth:`written`.
        """
        folders = self.place(temporary, relative)
        with named_errors():
            for folder in folders:
                sync_folder(folder)
        return self.root / relative

    def adopt(self, path: Path, relative: str) -> Path:
        """Take a file from elsewhere, perhaps another file system, under a name here; durable on return.

        Raises:
            OutOfSpaceError, TransientError: the file system.
        """
        with named_errors():
            target, handle = self.temporary()
            with open(handle, "wb") as copy, path.open("rb") as source:  # noqa: PTH123 an open descriptor
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
        return self.publish(target, relative)

    def remove_leftovers(self, *, of_process: int | None = None) -> int:
        """Remove temporary files that no living process is writing, or those of one that died; return how many."""
        removed = 0
        mine = f"{_host()}~{of_process}~"
        for path in self.incoming.glob("*.part"):
            is_dead = path.name.startswith(mine) if of_process else not _owner_is_alive(path.name)
            if is_dead:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


class named_errors:  # noqa: N801 a context manager is read as a verb
    """Turn an OSError into ours: a full disk, or trouble that may pass."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _at: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in _FULL:
            raise OutOfSpaceError("the disk is full") from error
        name = errno.errorcode.get(error.errno or 0, "an error")
        raise TransientError(f"the file system answered {name}") from error


def sync_folder(folder: str | Path) -> None:
    """Flush a folder, so that a name made in it is not lost."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folders(folder: Path, root: Path) -> list[Path]:
    """Make ``folder`` below ``root``; return the parents that got a new name."""
    missing = [f for f in (folder, *folder.parents) if f != root and f.is_relative_to(root) and not f.exists()]
    for new in reversed(missing):
        new.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    return [f.parent for f in missing]


@cache
def _host() -> str:
    return socket.gethostname()


def _owner() -> str:
    """Return the prefix of this process's temporary files; one store may serve several hosts."""
    return f"{_host()}~{os.getpid()}~"


def _owner_is_alive(name: str) -> bool:
    host, _, rest = name.partition("~")
    pid = rest.partition("~")[0]
    if host != _host():
        return True  # another node's; it cleans up after itself
    if not pid.isdigit() or int(pid) == os.getpid():
        return False  # ours, from a life before this one: called before the port opens
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
