"""The pause of a pynetdicom association's own thread, made sure.

That thread says that it is paused before it waits, so whoever sends may believe it while the thread goes on, and takes
the answer that the sender waits for: it then waits until the network timeout.
"""

import threading

from pynetdicom.association import Association


class Checkpoint:
    """In place of the event that pynetdicom pauses the thread of an association by: ``clear`` returns once it waits."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._changed = threading.Condition()
        self._is_open = True
        self._is_waited_for = False

    def wait(self) -> None:
        """Wait until it is open; called by the thread."""
        with self._changed:
            self._is_waited_for = True
            self._changed.notify_all()
            while not self._is_open:
                self._changed.wait()
            self._is_waited_for = False

    def set(self) -> None:
        """Let the thread go on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop the thread; return when it waits, or has ended."""
        with self._changed:
            self._is_open = False
            if threading.current_thread() is self._thread:
                return
            while not self._is_waited_for and self._thread.is_alive():
                self._changed.wait(0.05)


def pause_surely(assoc: Association) -> None:
    """Give an association that was just opened a pause that can be relied on."""
    assoc._reactor_checkpoint = Checkpoint(assoc)
