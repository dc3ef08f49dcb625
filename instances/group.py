"""Group commit: what waits at one moment is done together, and each caller gets the outcome of its own."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
_AT_MOST = 64  # one transaction: what comes later joins the next one


class GroupCommit(Generic[Item, Outcome]):
    """One thread that takes whatever waits and does it at once; nobody waits for a group to fill.

    While one group is being flushed, others gather for the next: the busier it gets, the larger the groups.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Outcome | Exception]]) -> None:
        """``work`` returns one outcome for each item, in order; an Exception among them is raised to its caller."""
        self._work = work
        self._waiting: list[tuple[Item, Future[Outcome]]] = []
        self._is_working = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="group-commit")

    def submit(self, item: Item) -> Future[Outcome]:
        """Let ``item`` join the next group; safe from any thread."""
        future: Future[Outcome] = Future()
        with self._lock:
            self._waiting.append((item, future))
            if self._is_working:
                return future
            self._is_working = True
        self._thread.submit(self._run)
        return future

    def _run(self) -> None:
        while group := self._take():
            items = [item for item, _ in group]
            try:
                outcomes = self._work(items)
            except BaseException as exc:  # noqa: BLE001 the thread's edge: whoever waits is told
                outcomes = [exc if isinstance(exc, Exception) else RuntimeError("interrupted")] * len(group)
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _take(self) -> list[tuple[Item, Future[Outcome]]]:
        with self._lock:
            group, self._waiting = self._waiting[:_AT_MOST], self._waiting[_AT_MOST:]
            self._is_working = bool(group)
        return group
