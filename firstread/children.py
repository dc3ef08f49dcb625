"""Child processes under one parent: started, watched, restarted when they die, stopped together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import structlog

log = structlog.get_logger()

STOP_GRACE_S = 20.0
MAX_BACKOFF_S = 30.0
STABLE_S = 60.0  # a child that lived this long starts again without delay


@dataclass
class Child:
    """One verb of the command line, run as a process of its own."""

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    restart_at: float = 0.0


@dataclass
class Family:
    """The parent's view of its children; one thread."""

    environment: Mapping[str, str]
    log_dir: Path | None = None
    children: list[Child] = field(default_factory=list)
    _stopping: bool = False

    def add(self, name: str, *arguments: str) -> None:
        """Register a child: ``firstread ARGUMENTS``."""
        self.children.append(Child(name, arguments))

    def start(self) -> None:
        """Start every child that is not running."""
        for child in self.children:
            if child.process is None:
                self._spawn(child)

    def _spawn(self, child: Child) -> None:
        output = None
        if self.log_dir is not None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            output = (self.log_dir / f"{child.name}.log").open("ab")
        child.process = subprocess.Popen(  # noqa: S603 our own interpreter and verbs
            [sys.executable, "-m", "firstread", *child.arguments],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # its own group: Ctrl-C reaches the parent alone, which stops the children in order
            start_new_session=True,
        )
        if output is not None:
            output.close()
        child.started_at = time.monotonic()
        log.info("child.started", child=child.name, pid=child.process.pid)

    def watch(self) -> None:
        """Restart what died, with growing delay for a child that keeps dying."""
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                child.failures = 0 if now - child.started_at > STABLE_S else child.failures + 1
                delay = min(MAX_BACKOFF_S, 0.5 * 2.0**child.failures) if child.failures else 0.0
                log.error("child.died", child=child.name, exit_code=code, seconds=delay)
                child.process, child.restart_at = None, now + delay
            if child.process is None and now >= child.restart_at and not self._stopping:
                self._spawn(child)

    def run_until_signalled(self, tick_s: float = 0.5) -> None:
        """Watch until SIGINT or SIGTERM, then stop everything."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._stopping:
                self.watch()
                time.sleep(tick_s)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stopping = True

    def stop(self) -> None:
        """Ask every child to end, last started first; kill what does not within the grace time."""
        self._stopping = True
        for child in reversed(self.children):
            _signal_group(child.process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE_S
        for child in reversed(self.children):
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("child.killed", child=child.name)
            # grandchildren (a worker's pool) must not outlive their parent
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()
            log.info("child.stopped", child=child.name, exit_code=child.process.returncode)
            child.process = None


def _signal_group(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is None:
        return
    try:
        if number is signal.SIGTERM:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
    except ProcessLookupError:
        return
