"""MLLP frames in a stream of bytes: ``0x0B message 0x1C 0x0D`` (HL7 v2.5.1 Implementation Guide, appendix C)."""

from config.errors import BrokenBodyError

START, END = b"\x0b", b"\x1c\x0d"


def framed(content: bytes) -> bytes:
    """Return a message in its frame."""
    return START + content + END


class FrameReader:
    """Takes bytes as they come and gives whole messages; bytes outside frames are dropped.

    A frame that begins inside another drops the first: its end was lost.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._looked_at = 0
        self._inside = False

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._inside

    def feed(self, data: bytes) -> list[bytes]:
        """Take ``data``; return the messages that are whole now.

        Raises:
            BrokenBodyError: a message is longer than allowed; nothing after it can be trusted.
        """
        self._held += data
        whole = []
        while (message := self._next()) is not None:
            whole.append(message)
        if len(self._held) > self._max_bytes:
            raise BrokenBodyError(f"a message is longer than {self._max_bytes} bytes")
        return whole

    def _next(self) -> bytes | None:
        if not self._inside:
            start = self._held.find(START)
            if start < 0:
                self._held.clear()
                return None
            del self._held[: start + 1]
            self._inside, self._looked_at = True, 0
        end = self._held.find(END, self._looked_at)
        if end < 0:
            self._looked_at = max(0, len(self._held) - 1)
            return None
        message = bytes(self._held[:end])
        del self._held[: end + len(END)]
        self._inside = False
        return message.rpartition(START)[2]
