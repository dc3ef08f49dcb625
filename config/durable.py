"""Files that survive a power cut: written beside, flushed, renamed, and the folder flushed."""

import errno
import os
from pathlib import Path

from config.errors import OutOfSpaceError


def write_durably(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``; when this returns, a crash cannot take it back.

    A reader sees the old file, no file, or the whole new one, never a part.

    Raises:
        OutOfSpaceError: the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutOfSpaceError("the disk is full") from exc
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder, so that a rename in it is durable (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
