"""Marks on sessions that the server keeps itself, because a cookie can be copied."""

import threading
import time


class SessionMarks:
    """Session names that carry a mark: logged out, or locked. Forgotten once their cookie has expired anyway."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._marked: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Mark a session."""
        now = time.time()
        with self._lock:
            self._marked = {one: at for one, at in self._marked.items() if at > now - self._keep_s} | {key: now}

    def remove(self, key: str) -> None:
        """Take the mark off."""
        with self._lock:
            self._marked.pop(key, None)

    def __contains__(self, key: str) -> bool:
        return key in self._marked
