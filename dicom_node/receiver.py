"""A receiver process: it accepts and receives, writes temporary files, and asks the node for everything else.

It holds no database for C-STORE. Each question goes over a socket pair that only the two processes have, one
message each way (pickled, from our own process to our own process); as many pairs are made as questions are open
at one moment, so nobody waits for another's answer. When the node is gone, so is the receiver.
"""

import gc
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import configure_mappers

from config.errors import AppError
from config.logs import configure_logs
from config.settings import Settings
from db.engine import make_engine, make_sessions
from db.lifecycle import Received
from db.origin import keys_are_in
from dicom_node.context import Admission, Asking, NodeContext
from dicom_node.listener import Ear, Listener
from instances.arrival import Announced, Arrival
from instances.inbox import Inbox, make_inbox

KEEP, REFUSE, ENTER, LEAVE = "keep", "refuse", "enter", "leave"  # what a receiver asks
READY, PAIR = b"r", b"p"  # on the line: it accepts now; a socket pair comes with this byte
MAX_MESSAGE_BYTES = 1 << 17  # a message is a few kilobytes: a header, never pixels
_LONGEST_IDENTITY = 1 << 13  # PS3.7 D.3.3.7 allows 64 KB; one that was cut is nobody's
_NODE_IS_GONE = 1


def main() -> None:
    """Run the receiver whose line and ears are the descriptors on the command line; the settings come by the line."""
    line, *listening = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    settings, are_tls = pickle.loads(_received(line))  # noqa: S301 from the node
    run_receiver(line, [Ear(ear, is_tls) for ear, is_tls in zip(listening, are_tls, strict=True)], settings)


def run_receiver(line: socket.socket, ears: Sequence[Ear], settings: Settings) -> None:
    """Serve until the node says stop.

    ``line`` carries to the node that we accept, and the socket pairs that questions go over; from the node the
    seconds of grace when it wants us to stop.
    """
    # Ctrl-C and a service manager's stop reach every process of the group: the node tells us when to end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logs(level=settings.log_level, json=settings.log_json, process="receiver")
    keys_are_in(settings.key_dir, create=settings.audit.key_dir is None)
    node = NodeLink(line)
    sessions = make_sessions(make_engine(settings.database))  # connects only for what is asked beside C-STORE
    inbox = RemoteInbox(node, make_inbox(sessions, settings))
    listener = Listener(ears, NodeContext(inbox, RemoteDoor(node), sessions, settings))
    configure_mappers()  # a tenth of a second, now instead of in the first association
    gc.freeze()  # what there is now stays: looking through it again and again costs every association
    listener.start()
    line.send(READY)
    listener.stop(pickle.loads(_received(line)))  # noqa: S301 from the node


def _received(line: socket.socket) -> bytes:
    """Return the next message; without a node this process ends at once, since nobody keeps what arrives."""
    try:
        message = line.recv(MAX_MESSAGE_BYTES)
    except OSError:
        message = b""
    if not message:
        os._exit(_NODE_IS_GONE)
    return message


class NodeLink:
    """The node process, as a receiver sees it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._idle: list[socket.socket] = []

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Ask the node and wait for its answer.

        Raises:
            AppError: what the node raised.
        """
        pair = self._pair()
        try:
            pair.send(pickle.dumps((verb, arguments), pickle.HIGHEST_PROTOCOL))
        except OSError:
            os._exit(_NODE_IS_GONE)
        answer = pickle.loads(_received(pair))  # noqa: S301 from the node
        self._idle.append(pair)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _pair(self) -> socket.socket:
        try:
            return self._idle.pop()
        except IndexError:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                socket.send_fds(self._line, [PAIR], [theirs.fileno()])
            return ours


class RemoteInbox:
    """A Keeper: files are written here, and kept by the node."""

    def __init__(self, node: NodeLink, inbox: Inbox) -> None:
        self._node = node
        self._name = inbox.name
        self.open = inbox.open

    def keep(self, arrival: Arrival) -> Received:
        """Let the node keep a finished Arrival; see :meth:`instances.inbox.Inbox.keep`."""
        self._name(arrival)
        kept: Received = self._node.ask(KEEP, arrival.landed)
        return kept

    def refuse(self, announced: Announced, arrival: Arrival | None, error: AppError | None, status: int) -> None:
        """Let the node keep what was refused; see :meth:`instances.inbox.Inbox.refuse`."""
        # a command may hold anything for a UID, of any length
        meta = announced.meta
        named = replace(announced, sop_class_uid=meta.sop_class_uid, sop_instance_uid=meta.sop_instance_uid)
        landed = replace(arrival.landed, announced=named, header=None) if arrival else None
        self._node.ask(REFUSE, named, landed, error, status)


class RemoteDoor:
    """A Doorkeeper: the node counts for all receivers together."""

    def __init__(self, node: NodeLink) -> None:
        self._node = node

    def enter(self, asking: Asking) -> Admission:
        """Ask the node who may come in."""
        cut = replace(asking, user=asking.user[:_LONGEST_IDENTITY], passcode=asking.passcode[:_LONGEST_IDENTITY])
        admission: Admission = self._node.ask(ENTER, cut)
        return admission

    def leave(
        self,
        association_id: UUID,
        *,
        how: str,
        instances: int = 0,
        size_bytes: int = 0,
        answered: Mapping[str, int] | None = None,
    ) -> None:
        """Tell the node that an association ended."""
        self._node.ask(LEAVE, association_id, how, instances, size_bytes, dict(answered or {}))


if __name__ == "__main__":
    main()
