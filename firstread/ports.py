"""TCP ports of one machine: free ones, and waiting for one to answer."""

import socket
import time

from config.errors import TransientError


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(host: str, port: int, *, timeout_s: float) -> None:
    """Return once something listens.

    Raises:
        TransientError: nothing did in time; the process's log says why.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.1)
    raise TransientError(f"nothing listens on {host}:{port} after {timeout_s:.0f} s; see the logs folder")
