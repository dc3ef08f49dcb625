"""What an audit event is told from: plain values, whoever read them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any

_UNSENDABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
ERASED = "[erased]"


@dataclass(frozen=True)
class RecordedStudy:
    """The Study an event is about, as it is known now; empty where it was erased."""

    study_instance_uid: str
    accession_number: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    sop_classes: Mapping[str, int] = field(default_factory=dict)  # Instances received, by SOP Class UID


@dataclass(frozen=True)
class RecordedEvent:
    """One event of the audit log, with the values that were kept apart."""

    seq: int
    id: str  # the same in every copy of the message
    occurred_at: datetime  # with zone
    tag: str
    outcome: str
    actor: str
    actor_kind: str  # person, process, peer
    user_id: str = ""
    role: str = ""
    address: str = ""
    study_id: str = ""
    reading_id: str = ""
    report_id: str = ""
    object_type: str = ""
    object_id: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    body: str = ""  # the canonical body itself, what the chain holds
    study: RecordedStudy | None = None

    @property
    def is_success(self) -> bool:
        """Whether it came about."""
        return self.outcome == "success"

    @property
    def is_emergency(self) -> bool:
        """Whether it was done under break-glass."""
        return "break_glass" in self.detail or self.tag in {"access:glass_broken", "access:glass_used"}

    @property
    def indicator(self) -> str:
        """EventOutcomeIndicator (PS3.15 section A.5.2): 12 where an account was locked, 4 for any other failure."""
        if self.tag == "user:locked_out":
            return "12"
        return "0" if self.is_success else "4"


@dataclass(frozen=True)
class AuditSource:
    """The system that tells: its name, the site it stands at, and its release."""

    name: str  # AuditSourceID, and the domain of its logins
    site: str = ""
    release: str = ""
    authority: str = ""  # of Patient IDs that came without an issuer


def sendable(text: str) -> str:
    """Return ``text`` without what XML 1.0 (section 2.2) and FHIR strings cannot hold; each becomes U+FFFD."""
    return _UNSENDABLE.sub("\ufffd", text)


def token(text: str, default: str = "?") -> str:
    """Return ``text`` as an XML token: sendable, one line, no white space around; ``default`` for nothing."""
    return " ".join(sendable(text).split()) or default


def said(value: Any) -> str:
    """Return a detail as text: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def access_point(address: str) -> tuple[str, str]:
    """Return NetworkAccessPointTypeCode and NetworkAccessPointID: 2 for an IP address, 1 for a name."""
    text = token(address, "")
    try:
        return "2", str(ip_address(text))
    except ValueError:
        return "1", text
