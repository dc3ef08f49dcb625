"""A file that is written past the page cache: gathered in one aligned buffer, then straight to the disk.

A received object is written once and read much later. Through the page cache it would be copied into fresh memory
and flushed from there, which can cost more than receiving it. Where the file system knows no ``O_DIRECT`` (open(2)),
the same calls go through the cache.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

BUFFER_BYTES = 1 << 20
_BLOCK = 4096  # offset, length and memory of a direct write are multiples of the largest logical block in use
_HASH_BYTES = 1 << 17
_MOST_IDLE = 16
_O_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_WRITERS = ThreadPoolExecutor(4, thread_name_prefix="writer")  # a large object is written while the rest comes in
_idle: list[mmap.mmap] = []  # buffers: fresh memory is dear


class DirectFile:
    """One new file that grows. ``sha256`` and ``size`` are of what was written after the head.

    Every method may raise OSError.
    """

    def __init__(self, path: str, head: bytes, *, mode: int) -> None:
        """Make the file; nothing of it is safe before :meth:`flush`, its name only when the caller flushes that."""
        self.path = path
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._start = self._filled = self._hashed = len(head)  # the head is not hashed
        self._written = 0  # bytes that are in the file
        self._handle, self._is_direct = _open(path, mode)
        self._first = _buffer()  # stays as it is: the header is read from it
        self._others: list[mmap.mmap] = []
        self._view = memoryview(self._first)
        self._view[: len(head)] = head
        self._being_written: Future[None] | None = None

    def write(self, piece: memoryview) -> None:
        """Append ``piece``."""
        self.size += len(piece)
        while piece:
            part = piece[: BUFFER_BYTES - self._filled]
            self._view[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            piece = piece[len(part) :]
            if self._filled == BUFFER_BYTES:
                self._write_behind()
            elif not self._others and self._filled - self._hashed >= _HASH_BYTES:
                self._hash()  # a small object, while more of it is awaited

    def flush(self) -> None:
        """Write what is left, and wait until the disk has all of it."""
        self._await_writer()
        self._hash()
        if self._filled:
            length = self._written + self._filled
            padded = -(-self._filled // _BLOCK) * _BLOCK
            self._view[self._filled : padded] = bytes(padded - self._filled)
            self._drain(self._view[:padded])
            os.ftruncate(self._handle, length)
        os.fsync(self._handle)

    def _hash(self) -> None:
        self.sha256.update(self._view[self._hashed : self._filled])
        self._hashed = self._filled

    def _write_behind(self) -> None:
        """Let the full buffer be hashed and written while the other one is filled."""
        self._await_writer()
        self._being_written = _WRITERS.submit(self._hash_and_drain, self._view, self._hashed)
        if len(self._others) < 2:
            self._others.insert(0, _buffer())
        else:
            self._others.reverse()
        self._view = memoryview(self._others[0])
        self._filled = self._hashed = 0

    def _hash_and_drain(self, full: memoryview, hashed: int) -> None:
        self.sha256.update(full[hashed:])
        self._drain(full)

    def _await_writer(self) -> None:
        if self._being_written is not None:
            writing, self._being_written = self._being_written, None
            writing.result()

    def _drain(self, rest: memoryview) -> None:
        """Write whole blocks at the end of the file."""
        while rest:
            try:
                count = os.pwrite(self._handle, rest, self._written)
            except OSError as exc:
                if exc.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._write_through_cache()  # it wants larger blocks than ours
                continue
            self._written += count
            rest = rest[count:]
            if count % _BLOCK:  # cut short, so that the rest is not aligned
                self._write_through_cache()

    def _write_through_cache(self) -> None:
        if self._is_direct:
            fcntl.fcntl(self._handle, fcntl.F_SETFL, fcntl.fcntl(self._handle, fcntl.F_GETFL) & ~_O_DIRECT)
            self._is_direct = False

    @property
    def beginning(self) -> memoryview:
        """The first bytes that were written after the head, all of them when they are few."""
        return memoryview(self._first)[self._start : min(self._start + self.size, BUFFER_BYTES)]

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """Map what was written after the head, once it is flushed."""
        with (
            mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ) as whole,
            memoryview(whole) as view,
            view[self._start :] as dataset,
        ):
            yield dataset

    def close(self) -> None:
        """Give file descriptor and buffer back; the file stays."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):
            self._await_writer()
        with contextlib.suppress(OSError):
            os.close(self._handle)
        self._handle = -1
        self._view = memoryview(b"")
        _idle.extend([self._first, *self._others][: max(_MOST_IDLE - len(_idle), 0)])


def _buffer() -> mmap.mmap:
    try:
        return _idle.pop()
    except IndexError:
        return mmap.mmap(-1, BUFFER_BYTES)


def _open(path: str, mode: int) -> tuple[int, bool]:
    """Make a file; return its descriptor, and whether writing to it is direct."""
    if _O_DIRECT:
        try:
            return os.open(path, _FLAGS | _O_DIRECT, mode), True
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            with contextlib.suppress(FileNotFoundError):  # some make the file before they refuse the flag
                os.unlink(path)  # noqa: PTH108 plain strings on C-STORE's hot path
    return os.open(path, _FLAGS, mode), False
