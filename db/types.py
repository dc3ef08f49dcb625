"""Closed vocabularies and column types that the tables share."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Dialect, Enum
from sqlalchemy.types import TypeDecorator


class ReadingState(StrEnum):
    """Where one run of the pipeline stands (design: processing machine)."""

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    DRAFTED = "DRAFTED"
    NO_DRAFT = "NO_DRAFT"
    FAILED = "FAILED"
    HELD = "HELD"
    IGNORED = "IGNORED"


class ReportState(StrEnum):
    """Where the report of one Study stands (design: reporting machine)."""

    UNREAD = "UNREAD"
    DRAFTED = "DRAFTED"
    IN_REVIEW = "IN_REVIEW"
    PRELIMINARY = "PRELIMINARY"
    FINAL = "FINAL"
    ADDENDED = "ADDENDED"
    CORRECTED = "CORRECTED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


class DeliveryState(StrEnum):
    """Where the C-STORE of one result object to one destination stands."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    WITHDRAWN = "WITHDRAWN"
    HELD = "HELD"  # a person stopped it before it was sent


class CommitmentState(StrEnum):
    """What a destination promised about an object it accepted (PS3.4 Annex J)."""

    NOT_ASKED = "NOT_ASKED"
    ASKED = "ASKED"
    COMMITTED = "COMMITTED"
    REFUSED = "REFUSED"
    ALARM = "ALARM"


class CountState(StrEnum):
    """What a destination says of an object it accepted when it is asked what it holds."""

    NOT_ASKED = "NOT_ASKED"
    WAITING = "WAITING"
    HELD = "HELD"
    ALARM = "ALARM"


class ExpectationSource(StrEnum):
    """How somebody said what a Study should hold."""

    ARCHIVE = "c-find"
    STEP = "mpps"
    NOTICE = "ian"


class ExpectationState(StrEnum):
    """How far such a statement is to be trusted: a procedure step runs, and an archive may not have answered yet."""

    ASKED = "ASKED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Presence(StrEnum):
    """CID 240 Present-Absent, and undetermined."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


class Decision(StrEnum):
    """What the radiologist made of one Finding."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"


class Verdict(StrEnum):
    """What a person made of one whole Draft."""

    UNCHANGED = "unchanged"  # signed as the AI wrote it
    EDITED = "edited"
    REJECTED = "rejected"


class Role(StrEnum):
    """What an account may do; ``dashboard.permissions`` says what that is."""

    VIEWER = "viewer"  # reads reports and images, as a referring physician does
    RESIDENT = "resident"  # drafts and signs preliminary reports
    RADIOLOGIST = "radiologist"
    LEAD = "lead"  # a radiologist who also assigns work and keeps wording and quality
    ADMIN = "admin"
    AUDITOR = "auditor"
    SERVICE = "service"  # a machine: comes with a token, never with a password


class AccountSource(StrEnum):
    """Who checks the password of an account."""

    LOCAL = "local"  # we do
    OIDC = "oidc"  # an OpenID Connect provider; no password comes here
    LDAP = "ldap"  # a directory


class Priority(StrEnum):
    """Reading priority; AI may raise it, never lower it."""

    STAT = "STAT"
    URGENT = "URGENT"
    ROUTINE = "ROUTINE"


class Use(StrEnum):
    """What the drafts of a route are for; weights under a research licence never draft for clinical use."""

    CLINICAL = "clinical"
    RESEARCH = "research"


class PackageKind(StrEnum):
    """What a model package holds."""

    VLM = "vlm"
    EXPERT = "expert"


class PackageState(StrEnum):
    """Where a model package of this site stands."""

    IMPORTED = "IMPORTED"
    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"


class QueueMode(StrEnum):
    """Whether workers take Readings from the queue."""

    OPEN = "OPEN"
    PAUSED = "PAUSED"  # nothing new is taken; what runs goes on
    DRAINING = "DRAINING"  # only what was complete before is taken


class SwitchState(StrEnum):
    """Where a proposal to activate or retire a model package stands."""

    PROPOSED = "PROPOSED"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"


def choice(kind: type[StrEnum]) -> Enum:
    """Return the column type of a closed vocabulary: its values as text, checked by the database."""
    return Enum(
        kind,
        native_enum=False,
        length=16,
        create_constraint=True,
        name=kind.__name__.lower(),
        values_callable=lambda members: [str(m.value) for m in members],
    )


class UtcDateTime(TypeDecorator[datetime]):
    """A time-zone aware instant, stored in UTC; SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: it names no instant."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the instant in UTC."""
        del dialect
        if value is None:
            return None
        instant: datetime = value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def utcnow() -> datetime:
    """Return the present instant in UTC."""
    return datetime.now(UTC)
