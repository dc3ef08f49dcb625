"""The forwarder: every sealed event to the audit record repository, in order, at least once.

The record itself is the buffer: a cursor in the database (``audit_forwarding``) says how far the repository was told,
and what lies beyond waits however long the repository is away. Syslog gives no receipts, so the cursor has two ends.
All before ``position`` counts as received: it was written ``resend_s`` or longer ago, on a connection that has not
broken since, and the peer's machine has acknowledged every octet of it. What lies between ``position`` and ``sent`` is
written again after a break or a restart; a receiver knows the copies by the id of the event.
"""

import time
from collections import deque
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session, sessionmaker

from audit.recorded import audit_source, recorded
from audit.sealing import SEALER
from audit.syslog import Link, syslog_message
from config.errors import LifecycleError, PeerUnavailableError
from config.settings import Settings
from db.audit_forwarding_models import AuditForwarding
from db.queries.audit_telling import sealed_events
from db.types import utcnow
from db.uow import unit_of_work
from reports.audit_message import audit_message

log = structlog.get_logger()
PER_WRITE = 200  # events of one write
PER_ROUND = 10_000
FORWARD_EVERY_S = 1.0
_LONGEST_WAIT_S = 60.0


def require_told(session: Session, settings: Settings, end: int) -> None:
    """Refuse to let events go that the repository was not told of yet: the record is its buffer.

    Args:
        session: where the cursor is.
        settings: name the repository, when there is one.
        end: place behind the last event that is to go.

    Raises:
        LifecycleError: it was not told of all before ``end``.
    """
    if not settings.audit.syslog.host:
        return
    row = session.get(AuditForwarding, settings.audit.syslog.sink)
    if row is None or row.position < end:
        raise LifecycleError("the audit repository was not told of all these events yet")


@dataclass(frozen=True)
class _Written:
    """Up to which place was written when."""

    end: int
    at: float  # monotonic


class Forwarder:
    """Sends in rounds; one object belongs to one thread."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        """Read the record here, and send where ``audit.syslog`` says."""
        self._sessions = sessions
        self._terms = settings.audit.syslog
        self._source = audit_source(settings)
        self._sink = self._terms.sink
        self._link: Link | None = None
        self._sent = 0
        self._failures, self._again_at = 0, -float("inf")
        self._written: deque[_Written] = deque()

    def round(self) -> int:
        """Send what is sealed and was not sent yet; return how many messages were written.

        Raises:
            PeerUnavailableError: the repository is away; nothing is lost, the next round goes on.
            TransientError: the database is busy or cannot be reached.
            ConfigurationError: a certificate or key cannot be used.
        """
        try:
            total = self._round()
        except PeerUnavailableError as exc:
            self._drop()
            self._note(error=str(exc))
            raise
        return total

    def patiently(self) -> int:
        """Do a round; while the repository is away wait longer and longer between them, up to a minute.

        Raises:
            as :meth:`round`.
        """
        if time.monotonic() < self._again_at:
            return 0
        try:
            total = self.round()
        except PeerUnavailableError:
            self._failures += 1
            self._again_at = time.monotonic() + min(2.0**self._failures, _LONGEST_WAIT_S)
            raise
        self._failures = 0
        return total

    def close(self) -> None:
        """End the connection."""
        self._drop()

    def _round(self) -> int:
        if self._link is None:
            self._sent = self._position()
            self._written.clear()
            self._link = Link(self._terms)
        self._link.check()
        total = 0
        while total < PER_ROUND:
            told, end = self._batch()
            if end == self._sent:
                break
            self._link.send(told)
            total += end - self._sent
            self._sent = end
            self._written.append(_Written(end, time.monotonic()))
        self._note()
        return total

    def _batch(self) -> tuple[list[bytes], int]:
        """Return the next messages and the place behind the last."""
        with self._sessions() as session:
            found = sealed_events(session, self._sent, PER_WRITE)
            there = [event for _, event in found if event is not None]
            for position, event in found:
                if event is None:  # archived, or taken away: that is for ``audit verify`` to judge
                    log.error("audit.event_missing", count=position)
            told = [
                syslog_message(
                    audit_message(one, self._source, most_octets=self._terms.most_octets - 512), at=one.occurred_at
                )
                for one in recorded(session, there)
            ]
        return told, found[-1][0] + 1 if found else self._sent

    def _confirmed(self, position: int) -> int:
        """Return up to where it counts as received."""
        if self._link is None or self._link.unacknowledged():
            return position
        until = time.monotonic() - self._terms.resend_s
        while self._written and self._written[0].at <= until:
            position = self._written.popleft().end
        return position

    def _position(self) -> int:
        with self._sessions() as session:
            row = session.get(AuditForwarding, self._sink)
            return row.position if row else 0

    def _note(self, error: str = "") -> None:
        """Keep how far it came, when that changed."""
        with self._sessions() as session:
            row = session.get(AuditForwarding, self._sink)
        position = row.position if row else 0
        if not error:
            position = max(position, self._confirmed(position))
        sent = position if error else self._sent  # after a break the window waits again
        if row is not None and (row.position, row.sent, row.last_error) == (position, sent, error):
            return
        with unit_of_work(self._sessions, SEALER) as uow:
            values = {"position": position, "sent": sent, "updated_at": utcnow(), "last_error": error[:200]}
            uow.session.merge(AuditForwarding(sink=self._sink, **values))

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
