"""Which retention class an audit event belongs to: how long its text has to be kept at least.

`clinical` is what bears on a report, a model or a configuration: as long as the record it explains and the technical
file of the device (EU MDR Article 10(8): ten years). `access` is who looked at what, and who came in (HIPAA
164.316(b)(2): six years). `system` is the running of the processes and associations (EU AI Act Articles 19 and 26(6):
six months at least). Whatever is not named here is clinical, the longest.
"""

from enum import StrEnum


class RetentionClass(StrEnum):
    """How long an audit event is kept."""

    CLINICAL = "clinical"
    ACCESS = "access"
    SYSTEM = "system"


_SUBJECTS = {
    **dict.fromkeys(("access", "audit", "dicomweb", "fhir", "images", "passkey", "token", "user", "worklist"),
                    RetentionClass.ACCESS),
    **dict.fromkeys(("association", "certificate", "destination", "peer", "process", "queue", "selftest"),
                    RetentionClass.SYSTEM),
}  # fmt: skip
_TAGS = {
    "report:viewed": RetentionClass.ACCESS,
    "study:traced": RetentionClass.ACCESS,
    "workitem:read": RetentionClass.ACCESS,
    "user:role_changed": RetentionClass.CLINICAL,  # who could sign on that day
    "user:created": RetentionClass.CLINICAL,
    "user:activated": RetentionClass.CLINICAL,
    "user:deactivated": RetentionClass.CLINICAL,
    "user:reauthenticated": RetentionClass.CLINICAL,  # part of a signature
    "dicomweb:stored": RetentionClass.CLINICAL,
    "audit:erased": RetentionClass.CLINICAL,
    "audit:key_rotated": RetentionClass.CLINICAL,
    "audit:archived": RetentionClass.CLINICAL,
    "audit:disposed": RetentionClass.CLINICAL,
    "audit:hold_placed": RetentionClass.CLINICAL,
    "audit:hold_lifted": RetentionClass.CLINICAL,
}


def retention_class(tag: str) -> RetentionClass:
    """Return the retention class of events with ``tag``."""
    return _TAGS.get(tag) or _SUBJECTS.get(tag.partition(":")[0], RetentionClass.CLINICAL)
