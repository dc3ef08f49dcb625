"""The verification that is recorded: run by the sealer each night, or by ``firstread audit verify --record``."""

from datetime import timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from audit.anchors import StampCheck, read_certificates, stamp_problems
from audit.keys import SealKeys
from audit.reading import source_of
from audit.sealing import last_head
from audit.verify import Terms, Verdict, verify
from config.settings import AuditSettings, Settings
from db.audit import AuditTag
from db.models import AuditEvent
from db.origin import read_keys
from db.queries.audit.sealed import WHOLE
from db.types import utcnow
from db.uow import Actor, unit_of_work

log = structlog.get_logger()
VERIFIER = Actor("verifier", "process")


def terms_of(settings: Settings) -> Terms:
    """Return what this system itself verifies by: its own keys, its folder of anchors.

    Raises:
        ConfigurationError: a key or certificate cannot be read.
    """
    audit = settings.audit
    return Terms(
        SealKeys(settings.key_dir).public(),
        read_keys(settings.key_dir).keys,
        heads=[audit.anchor_dir] if audit.anchor_dir is not None and audit.anchor_dir.is_dir() else [],
        clock_tolerance_s=audit.clock_tolerance_s,
        unsealed_alarm_s=audit.unsealed_alarm_s,
        timestamps=stamps_of(audit),
    )


def stamps_of(audit: AuditSettings) -> StampCheck | None:
    """Return the check of time stamps, when a certificate to check them by is configured."""
    if audit.timestamp_certificate is None:
        return None
    return stamp_problems(read_certificates(audit.timestamp_certificate), timedelta(seconds=audit.clock_tolerance_s))


def record_verdict(sessions: sessionmaker[Session], verdict: Verdict, actor: Actor = VERIFIER) -> None:
    """Write down what a verification found; what does not hold is an alarm."""
    first = verdict.first_bad
    detail = {
        "from": verdict.first,
        "to": verdict.end,
        "root": verdict.root.hex(),
        "found": {name: count for name, count in verdict.found.items() if count},
        "skipped": sorted(verdict.skipped),
        **({"check": first.check, "position": first.position, "event": first.seq} if first else {}),
    }
    if not verdict.holds:
        log.error("audit.verification_failed", check=first.check if first else "")
    with unit_of_work(sessions, actor) as uow:
        uow.audit(
            AuditTag.AUDIT_VERIFIED,
            outcome="success" if verdict.holds else "failure",
            object_type="audit",
            object_id=WHOLE if (verdict.first, verdict.end) == (0, verdict.size) else "part",
            detail=detail,
        )


class Nightly:
    """Verifies the whole log when the last recorded verification is old enough."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        """Verify this system's log."""
        self._settings = settings
        self._sessions = sessions

    def round(self) -> bool:
        """Return whether it was time, and was done.

        Raises:
            AppError: a key, the database or a folder of anchors cannot be read.
        """
        with self._sessions() as session:
            latest = select(AuditEvent.occurred_at).where(
                AuditEvent.tag == AuditTag.AUDIT_VERIFIED, AuditEvent.object_id == WHOLE
            )
            at = session.scalar(latest.order_by(AuditEvent.seq.desc()).limit(1))
            if last_head(session) is None:
                return False  # nothing is signed yet
        if at is not None and 0 <= (utcnow() - at).total_seconds() < self._settings.audit.verify_every_s:
            return False
        terms = terms_of(self._settings)
        record_verdict(self._sessions, verify(source_of(self._settings.database), terms))
        return True
