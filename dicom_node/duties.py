"""What the node does beside answering: each duty in a thread of its own, again and again."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.types import utcnow
from dicom_node import commitment, counting, delivery, expected, looking, priors, self_test, testing
from instances import measuring, retention
from publishing import alerts, rejections, retractions

log = structlog.get_logger()


@dataclass(frozen=True)
class Duty:
    """One thing to do every ``pause_s`` seconds; it returns how much it did and may raise."""

    name: str
    run: Callable[[sessionmaker[Session], Settings, datetime], int]
    pause_s: float


DUTIES = (
    Duty("deliver", delivery.deliver_due, 1.0),
    Duty("ask_commitment", commitment.ask_due, 2.0),
    Duty("report_commitment", commitment.report_due, 1.0),
    Duty("count_delivered", counting.count_due, 5.0),
    Duty("try_destinations", testing.try_due, 0.5),
    Duty("ask_counts", expected.ask_counts, 2.0),
    Duty("fetch_priors", priors.fetch_due, 1.0),
    Duty("note_rejections", rejections.note_due, 10.0),
    Duty("retract_messages", retractions.retract_due, 10.0),
    Duty("watch_critical", alerts.watch, 1.0),
    Duty("mail_alerts", alerts.mail_due, 1.0),
    Duty("post_alerts", alerts.post_due, 1.0),
    Duty("delete_old", retention.delete_due, 60.0),
    Duty("look_at_peers", looking.look_due, 0.5),
    Duty("self_test", self_test.test_due, 1.0),
    Duty("measure_disk", measuring.measure_due, 30.0),
)


def start_duties(
    sessions: sessionmaker[Session], settings: Settings, stopped: threading.Event
) -> list[threading.Thread]:
    """Start every duty; each ends soon after ``stopped`` is set."""
    threads = [
        threading.Thread(target=_repeat, args=(duty, sessions, settings, stopped), name=duty.name, daemon=True)
        for duty in DUTIES
    ]
    for thread in threads:
        thread.start()
    return threads


def _repeat(duty: Duty, sessions: sessionmaker[Session], settings: Settings, stopped: threading.Event) -> None:
    while not stopped.wait(duty.pause_s):
        try:
            duty.run(sessions, settings, utcnow())
        except Exception as exc:  # noqa: BLE001 the thread's edge: what is due stays due and is tried again
            log.error("duty.interrupted", step=duty.name, error=type(exc).__name__)  # noqa: TRY400
