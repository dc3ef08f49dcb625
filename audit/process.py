"""The sealer's process: one thread per duty, so that a slow one keeps none of the others waiting."""

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session, sessionmaker

from audit.anchors import Anchors, places
from audit.forwarding import FORWARD_EVERY_S, Forwarder
from audit.keys import SealKeys
from audit.nightly import Nightly
from audit.partitions import EVERY_S, PARTITIONS, make_partitions
from audit.sealing import SEALER, Sealer
from config.errors import AppError
from config.settings import Settings
from db.engine import make_engine, make_sessions
from db.starting import record_start, record_stop

log = structlog.get_logger()
FAILED_S = 5.0  # at least, before what failed is tried again
VERIFY_LOOK_S = 60.0  # between two looks whether a verification is due
JOIN_S = 10.0  # what a duty gets to end its round


@dataclass(frozen=True)
class Duty:
    """Something the process does again and again."""

    name: str
    every_s: float  # between the end of a round and the next
    act: Callable[[], object]

    def attempt(self) -> bool:
        """Do it once; return whether it went well. What fails is said and tried again at the next round."""
        try:
            self.act()
        except AppError as exc:
            log.warning("audit.duty_failed", step=self.name, error=exc)
        except Exception as exc:
            # the edge of this thread: the seal must go on whatever happens to one duty
            log.exception("audit.duty_crashed", step=self.name, error=type(exc).__name__)
        else:
            return True
        return False

    def repeat(self, stop: threading.Event) -> None:
        """Do it until ``stop``."""
        while not stop.is_set():
            good = self.attempt()
            stop.wait(self.every_s if good else max(self.every_s, FAILED_S))


def seal_keys(settings: Settings) -> SealKeys:
    """Return the keys that sign heads; one is made where the data folder has none."""
    return SealKeys(settings.key_dir, create=settings.audit.key_dir is None)


def duties(settings: Settings, sessions: sessionmaker[Session]) -> list[Duty]:
    """Return what this process does, the seal first."""
    sealer = Sealer(sessions, seal_keys(settings), settings.audit)
    anchors = Anchors(sessions, settings.audit)
    nightly = Nightly(settings, sessions)
    forward = Duty("forward", FORWARD_EVERY_S, Forwarder(sessions, settings).patiently)
    return [
        Duty("seal", settings.audit.seal_every_s, sealer.round),
        Duty(PARTITIONS, EVERY_S, lambda: make_partitions(sessions)),
        *([Duty("anchor", settings.audit.anchor_every_s, anchors.round)] if places(settings.audit) else []),
        *([Duty("verify", VERIFY_LOOK_S, nightly.round)] if settings.audit.verify_every_s else []),
        *([forward] if settings.audit.syslog.host else []),
    ]


def run_duties(found: Sequence[Duty], stop: threading.Event) -> None:
    """Do every duty in a thread of its own until ``stop``."""
    threads = [threading.Thread(target=duty.repeat, args=(stop,), name=duty.name, daemon=True) for duty in found]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join(JOIN_S)


def run_sealer(settings: Settings) -> None:
    """Seal, and do what belongs to it, until SIGTERM or SIGINT; then seal what is left and sign a last head."""
    sessions = make_sessions(make_engine(settings.database))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    record_start(sessions, settings, SEALER.name)
    run_duties(duties(settings, sessions), stop)
    record_stop(sessions, SEALER.name)
    Duty("seal", 0, Sealer(sessions, seal_keys(settings), settings.audit).head).attempt()
