"""Leases that are renewed while work goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from config.errors import LifecycleError, TransientError

log = structlog.get_logger()


@contextmanager
def renewed(renew: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Call ``renew`` from a thread while the body runs, until it says that the lease is another's.

    Args:
        renew: prolongs the lease in a transaction of its own; raises `LifecycleError` once it is lost.
        every_s: seconds between two calls.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every_s):
            try:
                renew()
            except LifecycleError:
                log.warning("lease.lost")
                return
            except TransientError:
                log.warning("lease.renewed_late")

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
