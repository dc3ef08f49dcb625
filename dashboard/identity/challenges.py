"""Challenges of passkeys: kept by the server, each good once, for one purpose, one session and five minutes."""

import threading
import time

from flask import current_app

VALID_S = 300
_MOST = 4096  # of all sessions; the oldest goes first


class Challenges:
    """What was asked of whom. One process serves the dashboard, so its memory is the place."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[str, str, float]] = {}
        self._lock = threading.Lock()

    def keep(self, challenge: bytes, purpose: str, owner: str) -> None:
        """Keep a challenge that ``owner``, a session, was given for ``purpose``."""
        now = time.monotonic()
        with self._lock:
            fresh = {key: kept for key, kept in self._kept.items() if kept[2] > now}
            for key in list(fresh)[: max(0, len(fresh) - _MOST + 1)]:
                del fresh[key]
            self._kept = fresh | {challenge: (purpose, owner, now + VALID_S)}

    def take(self, challenge: bytes, purpose: str, owner: str) -> bool:
        """Return whether exactly this was asked; it is gone afterwards, whatever the answer."""
        with self._lock:
            kept = self._kept.pop(challenge, None)
        return kept is not None and kept[:2] == (purpose, owner) and kept[2] > time.monotonic()


def challenges() -> Challenges:
    """Return the application's challenges."""
    found: Challenges = current_app.extensions["firstread.challenges"]
    return found
