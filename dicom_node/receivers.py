"""The receiver processes of one node: started, answered, and replaced when one dies."""

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any
from uuid import UUID

import structlog

from config.errors import AppError
from config.settings import Settings
from dicom_node.context import Admission, Asking, Doorkeeper
from dicom_node.listener import Ear
from dicom_node.receiver import ENTER, KEEP, LEAVE, REFUSE, STOP, run_receiver
from instances.inbox import Inbox

log = structlog.get_logger()
_SETTLED_S = 10.0  # a receiver that lives shorter is not replaced at once
_PAUSE_S = 1.0
_END_S = 3.0  # beyond the grace, then it is killed
_PRELOADED = ["dicom_node.receiver", "db.peer_models", "dicom_node.handlers", "pynetdicom", "psycopg"]


class Receivers:
    """``dicom.receivers`` processes that accept on the same ears."""

    def __init__(self, ears: Sequence[Ear], settings: Settings, inbox: Inbox, door: Doorkeeper) -> None:
        self._ears = ears
        self._receivers = [_Receiver(ears, settings, inbox, door) for _ in range(settings.dicom.receivers)]

    def start(self) -> None:
        """Start the processes; connections wait in the kernel's queue until they are ready."""
        for receiver in self._receivers:
            receiver.start()
        atexit.register(self._hang_up)

    def stop(self, grace_s: float) -> None:
        """Accept no more, let what is being stored end for ``grace_s`` seconds, and end the processes."""
        for ear in self._ears:
            ear.close()
        for receiver in self._receivers:
            receiver.tell_to_stop(grace_s)
        deadline = time.monotonic() + grace_s + _END_S
        for receiver in self._receivers:
            receiver.end(deadline)
        atexit.unregister(self._hang_up)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [receiver.pid for receiver in self._receivers if receiver.pid]

    def _hang_up(self) -> None:
        """End the processes when the node ends without having been stopped; they would wait for a word of ours."""
        for receiver in self._receivers:
            receiver.hang_up()


class _Receiver:
    """One place among the receivers, and the process in it now."""

    def __init__(self, ears: Sequence[Ear], settings: Settings, inbox: Inbox, door: Doorkeeper) -> None:
        self._ears = ears
        self._settings = settings
        self._inbox = inbox
        self._door = door
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(_PRELOADED)
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._sending = threading.Lock()
        self._inside: set[UUID] = set()  # associations of this process
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="receiver", daemon=True)
        # what waits for the database beside the group commit; one thread keeps coming and going in order
        self._at_door = ThreadPoolExecutor(1, thread_name_prefix="door")
        self._refusing = ThreadPoolExecutor(2, thread_name_prefix="refuse")
        self._answers: dict[str, Callable[..., Future[Any]]] = {
            KEEP: inbox.keep_later,
            REFUSE: lambda *what: self._refusing.submit(inbox.refuse, *what),
            ENTER: lambda asking: self._at_door.submit(self._enter, asking),
            LEAVE: lambda *who: self._at_door.submit(self._leave, *who),
        }

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process, and the thread that answers it."""
        self._open()
        self._thread.start()

    def _open(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = self._processes.Process(
            target=run_receiver, args=(theirs, self._ears, self._settings), name="receiver", daemon=True
        )
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours

    def _tend(self) -> None:
        """Answer one process after the other until the node stops."""
        while True:
            started = time.monotonic()
            self._answer()
            self._bury()
            if self._stopping.is_set():
                return
            if time.monotonic() - started < _SETTLED_S and self._stopping.wait(_PAUSE_S):
                return
            self._open_again()

    def _open_again(self) -> None:
        while not self._stopping.is_set():
            try:
                self._open()
            except OSError as exc:  # no memory, or too many processes
                log.error("receiver.not_started", error=exc)  # noqa: TRY400
                self._stopping.wait(_PAUSE_S)
            else:
                break
        if self._stopping.is_set():
            self.hang_up()

    def _answer(self) -> None:
        """Answer requests until the process is gone."""
        pipe = self._pipe
        assert pipe is not None
        while True:
            try:
                number, verb, arguments = pickle.loads(pipe.recv_bytes())  # noqa: S301 from our own process
            except (EOFError, OSError):
                return
            self._answers[verb](*arguments).add_done_callback(partial(self._reply, pipe, number))

    def _reply(self, pipe: Connection, number: int, done: Future[Any]) -> None:
        error = done.exception()
        if error is not None and not isinstance(error, AppError):
            log.error("receiver.not_answered", error=type(error).__name__)
            error = RuntimeError(type(error).__name__)  # others' exceptions do not all survive the way
        answer = (number, None if error else done.result(), error)
        with contextlib.suppress(OSError), self._sending:  # it died meanwhile
            pipe.send_bytes(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))

    def _enter(self, asking: Asking) -> Admission:
        admission = self._door.enter(asking)
        if admission.rejection is None:
            self._inside.add(admission.association_id)
        return admission

    def _leave(self, association_id: UUID, how: str, instances: int, size_bytes: int) -> None:
        self._inside.discard(association_id)
        self._door.leave(association_id, how=how, instances=instances, size_bytes=size_bytes)

    def _bury(self) -> None:
        """Record what a dead process left behind: associations that are lost, files that nobody finishes."""
        process, self._process = self._process, None
        assert process is not None
        assert self._pipe is not None
        self._pipe.close()
        process.join()
        if not self._stopping.is_set():
            log.error("receiver.died", pid=process.pid, exit_code=process.exitcode)
        self._at_door.submit(self._forget, process.pid or 0).result()

    def _forget(self, pid: int) -> None:
        for association_id in list(self._inside):
            self._leave(association_id, "lost", 0, 0)
        with contextlib.suppress(OSError):
            self._inbox.instances.remove_leftovers(of_process=pid)

    def tell_to_stop(self, grace_s: float) -> None:
        """Ask the process to end."""
        self._stopping.set()
        pipe = self._pipe
        if pipe is not None:
            with contextlib.suppress(OSError), self._sending:
                pipe.send_bytes(pickle.dumps((STOP, grace_s, None)))

    def end(self, deadline: float) -> None:
        """Wait for the process to end; kill it when it does not in time."""
        self._thread.join(max(deadline - time.monotonic(), 0))
        pid = self.pid
        if self._thread.is_alive() and pid:
            log.error("receiver.killed", pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._thread.join()
        self._at_door.shutdown()
        self._refusing.shutdown()

    def hang_up(self) -> None:
        """End the connection to the process, which ends it at once."""
        self._stopping.set()
        if self._pipe is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._pipe.fileno())) as ours:
                ours.shutdown(socket.SHUT_RDWR)  # a close alone would wait for the thread that reads
