"""Storage commitment in both directions (PS3.4 Annex J)."""

from datetime import datetime
from typing import Any

from pynetdicom.events import Event
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from dicom_node.context import NodeContext

_PROCESSING_FAILURE = 0x0110


def on_action(event: Event, context: NodeContext) -> tuple[int, Any]:
    """Answer N-ACTION: a peer asks us to commit."""
    del event, context
    return _PROCESSING_FAILURE, None


def on_event_report(event: Event, context: NodeContext) -> tuple[int, Any]:
    """Answer N-EVENT-REPORT: a destination says what it commits to."""
    del event, context
    return _PROCESSING_FAILURE, None


def report_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Tell peers what we commit to; return how many took the answer."""
    del sessions, settings, now
    return 0


def ask_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Ask destinations to commit to what they accepted; return how many objects were asked for."""
    del sessions, settings, now
    return 0
