"""multipart/related in both directions, piece by piece: no part is ever whole in memory (RFC 2046, RFC 2387)."""

import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from config.errors import BrokenBodyError

_READ = 1 << 16
_MOST_HEADER = 16 * 1024
_MOST_PREAMBLE = 64 * 1024
_MOST_PADDING = 128
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,\-./:=? ]{0,199}[A-Za-z0-9'()+_,\-./:=?]")


class Body:
    """The bytes of a request as they come.

    A read waits until it is full, so a sender that crawls is not seen from inside: somebody else has to ask ``is_late``
    and hang up.
    """

    def __init__(self, read: Callable[[int], bytes], *, slow_bytes_per_s: int = 0) -> None:
        self._read = read
        self._longest_s = max(_READ / slow_bytes_per_s, 1.0) if slow_bytes_per_s else math.inf
        self._since = math.inf

    def read(self) -> bytes:
        """Return some more bytes; ``b""`` at the end.

        Raises:
            BrokenBodyError: it stopped arriving.
        """
        self._since = time.monotonic()
        try:
            return self._read(_READ)
        except OSError as exc:
            raise BrokenBodyError("the request stopped arriving") from exc
        finally:
            self._since = math.inf

    @property
    def is_late(self) -> bool:
        """Whether what is being read arrives more slowly than is allowed."""
        return time.monotonic() - self._since > self._longest_s


class Part:
    """One part: its header fields, by lower-case name, and its bytes, which can be read once."""

    def __init__(self, headers: Mapping[str, str], pieces: Iterator[bytes]) -> None:
        self.headers = headers
        self.pieces = pieces

    @property
    def media_type(self) -> str:
        """Its Content-Type without parameters; ``""`` when it has none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def parts(body: Body, boundary: str) -> Iterator[Part]:
    """Yield the parts of a multipart body; what is left unread of one is passed over.

    Raises:
        BrokenBodyError: no boundary, endless or malformed header fields, or an end that is missing.
    """
    if not _BOUNDARY.fullmatch(boundary):
        raise BrokenBodyError("the Content-Type has no usable boundary")
    reader = _Reader(body, b"\r\n--" + boundary.encode("ascii"))
    reader.skip_preamble()
    while not reader.is_over:
        part = Part(reader.headers(), reader.pieces())
        yield part
        for _ in part.pieces:
            pass


class _Reader:
    """A window over the body, at most a read, a header and a delimiter long."""

    def __init__(self, body: Body, delimiter: bytes) -> None:
        self._body = body
        self._delimiter = delimiter
        self._window = bytearray(b"\r\n")  # so that a delimiter at the very beginning looks like the others
        self.is_over = False

    def _fill(self) -> None:
        piece = self._body.read()
        if not piece:
            raise BrokenBodyError("the body ends before its last boundary")
        self._window += piece

    def skip_preamble(self) -> None:
        skipped = 0
        for piece in self.pieces():
            skipped += len(piece)
            if skipped > _MOST_PREAMBLE:
                raise BrokenBodyError("the first boundary does not come")

    def headers(self) -> dict[str, str]:
        """Return the header fields of the part that begins here."""
        while (end := (b"\r\n" + self._window).find(b"\r\n\r\n")) < 0:
            if len(self._window) > _MOST_HEADER:
                raise BrokenBodyError("the header of a part does not end")
            self._fill()
        block = bytes(self._window[: max(end - 2, 0)])
        # the empty line ends the header; it may be the first
        del self._window[: end + 2]
        if len(block) > _MOST_HEADER:
            raise BrokenBodyError("the header of a part is too long")
        return _fields(block)

    def pieces(self) -> Iterator[bytes]:
        """Yield what stands before the next delimiter, and step over that."""
        search = 0
        while True:
            at = self._window.find(self._delimiter, search)
            if at >= 0:
                after = self._after_delimiter(at + len(self._delimiter))
                if after is None:  # the boundary with more behind it is data
                    search = at + 1
                    continue
                if at:
                    yield bytes(self._window[:at])
                del self._window[:after]
                return
            safe = len(self._window) - len(self._delimiter) + 1
            if safe > 0:
                yield bytes(self._window[:safe])
                del self._window[:safe]
            search = 0
            self._fill()

    def _after_delimiter(self, position: int) -> int | None:
        """Return where the line of a delimiter ends, None when it is no delimiter (RFC 2046 section 5.1.1)."""
        while True:
            rest = bytes(self._window[position : position + _MOST_PADDING + 2])
            if rest.startswith(b"--"):
                self.is_over = True
                return position + 2
            stripped = rest.lstrip(b" \t")
            if stripped.startswith(b"\r\n"):
                return position + len(rest) - len(stripped) + 2
            if len(rest) > _MOST_PADDING or (stripped and stripped != b"\r" and rest != b"-"):
                return None
            self._fill()


def _fields(block: bytes) -> dict[str, str]:
    found = {}
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if line and (not colon or not name.strip() or line[0] in " \t"):
            raise BrokenBodyError("a header field of a part is malformed")
        if line:
            found[name.strip().lower()] = value.strip()
    return found


def new_boundary() -> str:
    """Return a boundary no payload holds: 128 random bits."""
    return secrets.token_hex(16)


def related(media_type: str, boundary: str) -> str:
    """Return the Content-Type of a multipart/related answer whose parts are of ``media_type``."""
    return f'multipart/related; type="{media_type}"; boundary={boundary}'


def write_parts(boundary: str, made: Iterable[tuple[Mapping[str, str], Iterable[bytes]]]) -> Iterator[bytes]:
    """Yield the body of an answer: each part's header fields and pieces, then the last boundary."""
    opening = f"--{boundary}\r\n"
    for headers, pieces in made:
        yield (opening + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode("latin-1")
        yield from pieces
        opening = f"\r\n--{boundary}\r\n"
    yield f"\r\n--{boundary}--\r\n".encode("ascii")
