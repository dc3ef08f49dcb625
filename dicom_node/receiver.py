"""A receiver process: it accepts and receives, writes temporary files, and asks the node for everything else.

It holds no database for C-STORE. One request and one reply are one pickled tuple each, on a socket pair that
only the two processes have; many requests may be outstanding. When the node is gone, so is the receiver.
"""

import os
import pickle
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

from config.errors import AppError
from config.logs import configure_logs
from config.settings import Settings
from db.engine import make_engine, make_sessions
from db.lifecycle import Received
from dicom_node.context import Admission, Asking, NodeContext
from dicom_node.listener import Ear, Listener
from instances.arrival import Announced, Arrival
from instances.inbox import Inbox, make_inbox

STOP = "stop"  # from the node: accept no more, end within the seconds that follow
KEEP, REFUSE, ENTER, LEAVE = "keep", "refuse", "enter", "leave"  # to the node
_NODE_IS_GONE = 1


def run_receiver(pipe: Connection, ears: Sequence[Ear], settings: Settings) -> None:
    """Serve until the node says stop; the process's main function."""
    # Ctrl-C and a service manager's stop reach every process of the group: the node tells us when to end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logs(level=settings.log_level, json=settings.log_json, process="receiver")
    node = NodeLink(pipe)
    sessions = make_sessions(make_engine(settings.database))  # connects only for what is asked beside C-STORE
    inbox = RemoteInbox(node, make_inbox(sessions, settings))
    listener = Listener(ears, NodeContext(inbox, RemoteDoor(node), sessions, settings))
    listener.start()
    listener.stop(node.wait_for_stop())


class NodeLink:
    """The node process, as a receiver sees it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._numbers = count(1)
        self._open: dict[int, Future[Any]] = {}
        self._stop: Future[float] = Future()
        threading.Thread(target=self._listen, name="node", daemon=True).start()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Ask the node and wait for its answer.

        Raises:
            AppError: what the node raised.
        """
        number, answer = next(self._numbers), Future[Any]()
        self._open[number] = answer
        message = pickle.dumps((number, verb, arguments), pickle.HIGHEST_PROTOCOL)
        try:
            with self._sending:
                self._pipe.send_bytes(message)
        except OSError:
            os._exit(_NODE_IS_GONE)
        return answer.result()

    def wait_for_stop(self) -> float:
        """Return the seconds of grace, once the node wants us to end."""
        return self._stop.result()

    def _listen(self) -> None:
        while True:
            try:
                number, answer, error = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 from the node, on our pair
            except (EOFError, OSError):
                os._exit(_NODE_IS_GONE)  # at once: nobody is there to keep what arrives
            if number == STOP:
                self._stop.set_result(answer)
            elif error is not None:
                self._open.pop(number).set_exception(error)
            else:
                self._open.pop(number).set_result(answer)


class RemoteInbox:
    """A Keeper: files are written here, and kept by the node."""

    def __init__(self, node: NodeLink, inbox: Inbox) -> None:
        self._node = node
        self.open = inbox.open

    def keep(self, arrival: Arrival) -> Received:
        """Let the node keep a finished Arrival; see :meth:`instances.inbox.Inbox.keep`."""
        kept: Received = self._node.ask(KEEP, arrival.landed)
        return kept

    def refuse(self, announced: Announced, arrival: Arrival | None, error: AppError | None, status: int) -> None:
        """Let the node keep what was refused; see :meth:`instances.inbox.Inbox.refuse`."""
        self._node.ask(REFUSE, announced, arrival.landed if arrival else None, error, status)


class RemoteDoor:
    """A Doorkeeper: the node counts for all receivers together."""

    def __init__(self, node: NodeLink) -> None:
        self._node = node

    def enter(self, asking: Asking) -> Admission:
        """Ask the node who may come in."""
        admission: Admission = self._node.ask(ENTER, asking)
        return admission

    def leave(self, association_id: UUID, *, how: str, instances: int = 0, size_bytes: int = 0) -> None:
        """Tell the node that an association ended."""
        self._node.ask(LEAVE, association_id, how, instances, size_bytes)
