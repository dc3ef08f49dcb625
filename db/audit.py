"""The closed vocabulary of audit events; each is written in the transaction of the act it records."""

from enum import StrEnum


class AuditTag(StrEnum):
    """What happened, as ``subject:action``; docs/audit.md explains each."""

    # reception
    ASSOCIATION_ACCEPTED = "association:accepted"
    ASSOCIATION_REJECTED = "association:rejected"
    ASSOCIATION_FINISHED = "association:finished"
    STUDY_RECEIVED = "study:received"
    STUDY_REVISED = "study:revised"
    STUDY_IDENTITY_CONFLICT = "study:identity_conflict"
    INSTANCE_DUPLICATE = "instance:duplicate"
    INSTANCE_QUARANTINED = "instance:quarantined"
    # one per move of a Reading
    READING_COMPLETE = "reading:complete"
    READING_QUEUED = "reading:queued"
    READING_IGNORED = "reading:ignored"
    READING_HELD = "reading:held"
    READING_STARTED = "reading:started"
    READING_DRAFTED = "reading:drafted"
    READING_NO_DRAFT = "reading:no_draft"
    READING_RETRYING = "reading:retrying"
    READING_REQUEUED = "reading:requeued"
    READING_FAILED = "reading:failed"
    READING_PROCESS_AGAIN = "reading:process_again"
    READING_CANCELLED = "reading:cancelled"
    # about a Reading, without a move
    READING_SUPERSEDED = "reading:superseded"
    READING_PRIORITY_RAISED = "reading:priority_raised"
    READING_MESSAGE_REPEATED = "reading:message_repeated"
    # one per move of a Report
    REPORT_DRAFTED = "report:drafted"
    REPORT_OPENED = "report:opened"
    REPORT_INVALIDATED = "report:invalidated"
    REPORT_SIGNED_PRELIMINARY = "report:signed_preliminary"
    REPORT_SIGNED_FINAL = "report:signed_final"
    REPORT_REJECTED = "report:rejected"
    REPORT_ADDENDED = "report:addended"
    REPORT_CORRECTED = "report:corrected"
    # about a Report, without a move
    REPORT_VIEWED = "report:viewed"
    REPORT_LOCKED = "report:locked"
    REPORT_TAKEN_OVER = "report:taken_over"
    REPORT_RELEASED = "report:released"
    REPORT_EDITED = "report:edited"
    REPORT_LATE_IMAGES = "report:late_images"
    REPORT_EXPORTED = "report:exported"
    FINDING_DECIDED = "finding:decided"
    # one per move of a Delivery
    DELIVERY_STARTED = "delivery:started"
    DELIVERY_DELIVERED = "delivery:delivered"
    DELIVERY_POSTPONED = "delivery:postponed"
    DELIVERY_FAILED = "delivery:failed"
    DELIVERY_WITHDRAWN = "delivery:withdrawn"
    DELIVERY_RESUBMITTED = "delivery:resubmitted"
    # people
    USER_CREATED = "user:created"
    USER_LOGIN = "user:login"
    USER_LOGIN_FAILED = "user:login_failed"
    USER_LOGOUT = "user:logout"
    USER_LOCKED_OUT = "user:locked_out"
    USER_REAUTHENTICATED = "user:reauthenticated"
    USER_REAUTHENTICATION_FAILED = "user:reauthentication_failed"
    USER_PASSWORD_CHANGED = "user:password_changed"  # noqa: S105 a tag, not a secret
    USER_ROLE_CHANGED = "user:role_changed"
    USER_ACTIVATED = "user:activated"
    USER_DEACTIVATED = "user:deactivated"
    ACCESS_REFUSED = "access:refused"
    # looking
    WORKLIST_VIEWED = "worklist:viewed"
    IMAGES_VIEWED = "images:viewed"
    AUDIT_VIEWED = "audit:viewed"
    AUDIT_EXPORTED = "audit:exported"
    # the processes themselves
    PROCESS_STARTED = "process:started"
    PROCESS_STOPPED = "process:stopped"
    MODEL_LOADED = "model:loaded"
