"""The receiver processes of one node: started, answered, and replaced when one dies."""

import contextlib
import pickle
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from config.errors import AppError
from config.settings import Settings
from dicom_node.context import Admission, Asking, Doorkeeper
from dicom_node.listener import Ear
from dicom_node.receiver import ENTER, KEEP, LEAVE, MAX_MESSAGE_BYTES, READY, REFUSE
from instances.arrival import Landed
from instances.inbox import Inbox

log = structlog.get_logger()
_SETTLED_S = 10.0  # a receiver that lives shorter is not replaced at once
_PAUSE_S = 1.0
_END_S = 3.0  # beyond the grace, then it is killed
_START_S = 20.0
_TICK_S = 0.5
_DOOR_THREADS = 4  # a name that is looked up slowly holds up few others
_REFUSING_THREADS = 2
_COMMAND = (sys.executable, "-m", "dicom_node.receiver")
_Waiting = list[tuple[socket.socket, Landed]]
"""Instances to keep, and where to answer."""


@dataclass(eq=False)
class _Receiver:
    """One process, the line to it, and the associations it serves."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket
    started: float
    is_gone: bool = False
    inside: set[UUID] = field(default_factory=set)


class Receivers:
    """``dicom.receivers`` processes that accept on the same ears; one thread here answers what they ask.

    That thread takes every Instance that waits to be kept at one moment and keeps them together, whichever
    process and association they came by. Comings, goings and refusals are answered beside it.
    """

    def __init__(self, ears: Sequence[Ear], settings: Settings, inbox: Inbox, door: Doorkeeper) -> None:
        self._ears = ears
        self._settings = settings
        self._inbox = inbox
        self._door = door
        self._receivers: set[_Receiver] = set()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._ready = threading.Semaphore(0)
        self._stopping = threading.Event()
        self._answering = threading.Thread(target=self._answer_all, name="receivers", daemon=True)
        self._at_door = ThreadPoolExecutor(_DOOR_THREADS, thread_name_prefix="door")
        self._refusing = ThreadPoolExecutor(_REFUSING_THREADS, thread_name_prefix="refuse")

    def start(self) -> None:
        """Start the processes, and return when all of them accept, or after a while."""
        for _ in range(self._settings.dicom.receivers):
            self._open()
        self._answering.start()
        deadline = time.monotonic() + _START_S
        for _ in range(self._settings.dicom.receivers):
            # one that comes later finds its connections in the kernel's queue
            self._ready.acquire(timeout=max(deadline - time.monotonic(), 0))

    def stop(self, grace_s: float) -> None:
        """Accept no more, let what is being stored end for ``grace_s`` seconds, and end the processes."""
        self._stopping.set()
        for ear in self._ears:
            ear.close()
        with self._lock:
            told = list(self._receivers)
        for receiver in told:
            with contextlib.suppress(OSError):
                receiver.line.send(pickle.dumps(grace_s))
        self._answering.join(grace_s + _END_S)
        if self._answering.is_alive():
            self._kill()
            self._answering.join()
        self._at_door.shutdown()
        self._refusing.shutdown()
        self._selector.close()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [receiver.process.pid for receiver in self._receivers]

    def _open(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            handles = [theirs.fileno(), *(ear.socket.fileno() for ear in self._ears)]
            process = subprocess.Popen(  # noqa: S603 our own interpreter and module
                [*_COMMAND, *map(str, handles)], pass_fds=handles, stdin=subprocess.DEVNULL
            )
        with contextlib.suppress(OSError):  # it died already, which is noticed
            ours.send(pickle.dumps((self._settings, [ear.is_tls for ear in self._ears])))
        receiver = _Receiver(process, ours, time.monotonic())
        with self._lock:
            self._receivers.add(receiver)
        self._selector.register(ours, selectors.EVENT_READ, partial(self._take_pair, receiver))

    # What receivers ask

    def _answer_all(self) -> None:
        """Answer until the node stops and every process has ended."""
        while not (self._stopping.is_set() and not self._receivers):
            waiting: _Waiting = []
            try:
                for key, _ in self._selector.select(_TICK_S):
                    key.data(key.fileobj, waiting)
                if waiting:
                    self._keep(waiting)
            except Exception as exc:
                # the thread's edge: whoever asked hears nothing, nothing is acknowledged, the others go on
                log.exception("receiver.not_answered", error=exc)

    def _keep(self, waiting: _Waiting) -> None:
        outcomes = self._inbox.keep_together([landed for _, landed in waiting])
        for (pair, _), outcome in zip(waiting, outcomes, strict=True):
            _reply(pair, outcome)

    def _take_pair(self, receiver: _Receiver, line: socket.socket, _waiting: _Waiting) -> None:
        """Take a socket pair that questions will come over; when the line has ended, so has the process."""
        try:
            message, descriptors, _, _ = socket.recv_fds(line, 1, 4)
        except OSError:
            message, descriptors = b"", []
        for descriptor in descriptors:
            pair = socket.socket(fileno=descriptor)
            self._selector.register(pair, selectors.EVENT_READ, partial(self._take_question, receiver))
        if message == READY:
            self._ready.release()
        elif not message:
            self._selector.unregister(line)
            line.close()
            threading.Thread(target=self._replace, args=(receiver,), name="receiver", daemon=True).start()

    def _take_question(self, receiver: _Receiver, pair: socket.socket, waiting: _Waiting) -> None:
        try:
            message = pair.recv(MAX_MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            self._selector.unregister(pair)
            pair.close()
            return
        verb, arguments = pickle.loads(message)  # noqa: S301 from our own process, never cut short
        if verb == KEEP:
            waiting.append((pair, *arguments))
            return
        pool, act = self._acts(receiver)[verb]
        pool.submit(act, *arguments).add_done_callback(partial(_reply_with, pair))

    def _acts(self, receiver: _Receiver) -> dict[str, tuple[ThreadPoolExecutor, Callable[..., Any]]]:
        return {
            REFUSE: (self._refusing, self._inbox.refuse),
            ENTER: (self._at_door, partial(self._enter, receiver)),
            LEAVE: (self._at_door, partial(self._leave, receiver)),
        }

    def _enter(self, receiver: _Receiver, asking: Asking) -> Admission:
        admission = self._door.enter(asking)
        if admission.rejection is None:
            receiver.inside.add(admission.association_id)
            if receiver.is_gone:
                self._leave(receiver, admission.association_id, "lost")
        return admission

    def _leave(self, receiver: _Receiver, association_id: UUID, how: str, *said: Any) -> None:
        """Record an end with what the receiver ``said`` of it: Instances, bytes, what else was answered."""
        receiver.inside.discard(association_id)
        self._door.leave(
            association_id, how=how, **dict(zip(("instances", "size_bytes", "answered"), said, strict=False))
        )

    # When one ends

    def _replace(self, receiver: _Receiver) -> None:
        """Record what a dead process left behind, and start another unless the node stops."""
        process = receiver.process
        process.wait()
        if not self._stopping.is_set():
            log.error("receiver.died", pid=process.pid, exit_code=process.returncode)
        self._forget(receiver)
        if not self._stopping.is_set() and time.monotonic() - receiver.started < _SETTLED_S:
            self._stopping.wait(_PAUSE_S)
        while not self._stopping.is_set():
            try:
                self._open()
            except (OSError, ValueError) as exc:  # no memory, too many processes, or the ears closed just now
                log.error("receiver.not_started", error=exc)  # noqa: TRY400
                self._stopping.wait(_PAUSE_S)
            else:
                break
        with self._lock:
            self._receivers.discard(receiver)
        if self._stopping.is_set():
            self._hang_up()  # one that was opened as the node was told to stop has not heard of it

    def _forget(self, receiver: _Receiver) -> None:
        """Record associations that are lost, and remove files that nobody finishes."""
        receiver.is_gone = True
        for association_id in list(receiver.inside):
            self._leave(receiver, association_id, "lost")
        with contextlib.suppress(OSError):
            self._inbox.instances.remove_leftovers(of_process=receiver.process.pid)

    def _kill(self) -> None:
        with self._lock:
            for receiver in self._receivers:
                log.error("receiver.killed", pid=receiver.process.pid)
                receiver.process.kill()

    def _hang_up(self) -> None:
        """End every process at once."""
        with self._lock:
            for receiver in self._receivers:
                with contextlib.suppress(OSError):
                    receiver.line.shutdown(socket.SHUT_RDWR)


def _reply_with(pair: socket.socket, done: Future[Any]) -> None:
    _reply(pair, done.exception() or done.result())


def _reply(pair: socket.socket, answer: Any) -> None:
    if isinstance(answer, BaseException) and not isinstance(answer, AppError):
        log.error("receiver.not_answered", error=type(answer).__name__)
        answer = RuntimeError(type(answer).__name__)  # others' exceptions do not all survive the way
    with contextlib.suppress(OSError):  # it died meanwhile
        pair.send(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
