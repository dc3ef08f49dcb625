"""Addresses of host names, asked for in the background: an association never waits long for a name server."""

import socket
import threading
import time
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger()
_FRESH_S = 60.0
_RETRY_S = 5.0  # after no answer
_PATIENCE_S = 2.0  # for a name that was never resolved


@dataclass
class _Entry:
    addresses: frozenset[str] = frozenset()
    due_at: float = float("-inf")  # ask (again) then
    answered: threading.Event = field(default_factory=threading.Event)


class Names:
    """Resolves and remembers; while the name server is away, its last answer stays in force."""

    def __init__(self, *, fresh_s: float = _FRESH_S, patience_s: float = _PATIENCE_S) -> None:
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str) -> frozenset[str]:
        """Return the addresses of a host name; none when it cannot be resolved, or not soon enough."""
        with self._lock:
            entry = self._entries.setdefault(host, _Entry())
            if time.monotonic() >= entry.due_at:
                entry.due_at = time.monotonic() + self._fresh_s
                threading.Thread(target=self._resolve, args=(host, entry), name="names", daemon=True).start()
        entry.answered.wait(self._patience_s)
        return entry.addresses

    @staticmethod
    def _resolve(host: str, entry: _Entry) -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            log.warning("peer.name_not_resolved", host=host)
            entry.due_at = min(entry.due_at, time.monotonic() + _RETRY_S)
        else:
            entry.addresses = frozenset(str(address[0]) for *_, address in found)
        entry.answered.set()
