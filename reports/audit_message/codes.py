"""What each act of the audit log is to DICOM (PS3.15 section A.5.3) and FHIR: one table for both.

A tag is ``subject:action`` (``db.audit.AuditTag``); a tag of another release is judged by its subject.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DCM = "DCM"
RFC3881 = "RFC-3881"
LOCAL_SCHEME = "99FIRSTREAD"
"""Coding Scheme Designator of our own codes: a tag as EventTypeCode, a role, an object's kind."""

MEANINGS: Mapping[str, str] = {
    # EventID
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110102": "Begin Transferring DICOM Instances",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110108": "Network Entry",
    "110109": "Order Record",
    "110110": "Patient Record",
    "110111": "Procedure Record",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    # EventTypeCode
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110123": "Logout",
    "110124": "Attach",
    "110125": "Detach",
    "110126": "Node Authentication",
    "110127": "Emergency Override Started",
    "110128": "Network Configuration",
    "110129": "Security Configuration",
    "110131": "Software Configuration",
    "110132": "Use of Restricted Function",
    "110135": "Object Security Attributes Changed",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
    "110138": "Emergency Override Stopped",
    "110141": "Local Service Operation Started",
    "110142": "Local Service Operation Stopped",
    # RoleIDCode
    "110150": "Application",
    "110151": "Application Launcher",
    "110152": "Destination Role ID",
    "110153": "Source Role ID",
    "110154": "Destination Media",
    # ParticipantObjectIDTypeCode
    "110180": "Study Instance UID",
    "110181": "SOP Class UID",
    "110182": "Node ID",
}
"""Code Meanings of the codes of DICOM that are used (PS3.16 Annex D, CID 400 to 405)."""

ACTIONS: Mapping[str, str] = {
    **dict.fromkeys(("110100", "110102", "110108", "110112", "110113", "110114"), "E"),
    "110101": "R",
    "110103": "CRUD",
    "110104": "CRU",
    "110105": "D",
    "110106": "R",
    **dict.fromkeys(("110109", "110110", "110111"), "CRUD"),
}
"""EventActionCodes that each EventID may have (PS3.15 sections A.5.3.1 to A.5.3.15)."""


@dataclass(frozen=True)
class EventKind:
    """How an act is told: EventID, EventActionCode, the objects' life cycle stage, and the DICOM EventTypeCode."""

    event: str
    action: str
    cycle: str
    type_code: str = ""


# EventID, action, life cycle (1 creation, 2 import or copy, 3 amendment, 4 verification, 6 access, 8 derivation,
# 10 export, 11 disclosure, 13 archiving, 14 logical deletion, 15 erasure), EventTypeCode or "", then the tags
_TABLE: tuple[tuple[str, str, str, str, str], ...] = (
    ("110100", "E", "6", "110120", "process:started model:loaded"),
    ("110100", "E", "6", "110121", "process:stopped"),
    ("110101", "R", "6", "", "audit:viewed study:traced access:glass_reviewed"),
    ("110101", "R", "4", "", "audit:verified"),
    ("110101", "R", "10", "", "audit:exported"),
    ("110102", "E", "2", "", "prior:fetching"),
    ("110102", "E", "11", "", "delivery:started"),
    ("110103", "R", "6", "", "images:viewed"),
    ("110103", "R", "4", "", "commitment:requested commitment:reported commitment:report_failed delivery:committed "
     "delivery:commitment_asked delivery:not_committed delivery:commitment_alarm delivery:counted"),
    ("110104", "C", "2", "", "study:received instances:received instance:quarantined prior:retrieved prior:refused "
     "prior:failed dicomweb:stored"),
    ("110104", "R", "2", "", "instance:duplicate"),
    ("110104", "U", "3", "", "study:revised"),
    ("110104", "C", "11", "", "delivery:delivered delivery:postponed delivery:failed"),
    ("110104", "R", "11", "", "dicomweb:retrieved"),
    ("110105", "D", "15", "", "study:pixels_deleted"),
    ("110106", "R", "10", "", "report:exported assessment:exported quality:exported"),
    ("110106", "R", "13", "", "audit:archived"),
    ("110108", "E", "6", "110124", "association:accepted"),
    ("110108", "E", "6", "110125", "association:finished"),
    ("110109", "C", "1", "", "message:received message:refused order:received worklist:kept"),
    ("110109", "R", "6", "", "worklist:viewed"),
    ("110109", "U", "3", "", "order:updated order:attached"),
    ("110109", "D", "14", "", "order:cancelled worklist:dropped"),
    ("110110", "C", "1", "", "critical:opened critical:recorded annotation:kept"),
    ("110110", "C", "8", "", "report:drafted"),
    ("110110", "R", "6", "", "report:opened report:viewed fhir:read access:glass_used"),
    ("110110", "R", "11", "", "notice:started notice:sent notice:postponed notice:failed notice:resubmitted"),
    ("110110", "U", "3", "", "patient:updated patient:merged report:rejected report:locked report:taken_over "
     "report:released report:edited report:late_images report:assigned report:unassigned report:text_accepted "
     "report:restored report:template_used report:sentence_settled report:put_back report:draft_waits "
     "report:draft_taken report:draft_set_aside answer:copied critical:dismissed critical:communicated "
     "critical:reopened critical:escalated annotation:changed"),
    ("110110", "U", "4", "", "report:signed_preliminary report:signed_final report:addended report:corrected "
     "finding:decided critical:confirmed"),
    ("110110", "U", "8", "", "report:critical_suspected"),
    ("110110", "D", "14", "", "report:invalidated notice:withdrawn annotation:removed"),
    ("110110", "D", "15", "", "audit:erased"),
    ("110111", "C", "1", "", "study:expected reading:queued reading:process_again question:asked redraft:asked "
     "workitem:created workitem:subscribed"),
    ("110111", "C", "8", "", "reading:drafted question:answered redraft:offered"),
    ("110111", "R", "6", "", "workitem:read draft:reproduced"),
    ("110111", "U", "3", "", "study:identity_conflict study:complete_now reading:complete reading:ignored "
     "reading:held reading:started reading:no_draft reading:retrying reading:requeued reading:failed "
     "reading:superseded reading:priority_raised reading:message_repeated question:started question:asked_again "
     "question:refused question:failed redraft:started redraft:asked_again redraft:adopted redraft:refused "
     "redraft:failed dispatch:stopped dispatch:released dispatch:replaced delivery:resubmitted delivery:stopped "
     "delivery:released delivery:rejection_noted workitem:claimed workitem:updated workitem:completed "
     "workitem:cancel_requested"),
    ("110111", "D", "14", "", "reading:cancelled redraft:discarded delivery:withdrawn workitem:cancelled "
     "workitem:unsubscribed"),
    ("110112", "E", "6", "", "prior:searched dicomweb:queried"),
    ("110113", "E", "6", "110126", "association:rejected"),
    ("110113", "E", "3", "110127", "access:glass_broken"),
    ("110113", "E", "3", "110128", "peer:added peer:removed peer:tested destination:tested"),
    ("110113", "E", "3", "110129", "certificate:loaded audit:key_rotated audit:clock_back audit:anchor_failed"),
    ("110113", "E", "15", "110129", "audit:removed audit:disposed"),
    ("110113", "E", "2", "110129", "audit:restored"),
    ("110113", "E", "3", "110131", "wording:added wording:retired model:fetched model:imported model:activated "
     "model:deactivated model:retired model:verified licence:accepted licence:refused model:switch_proposed "
     "model:switch_approved model:switch_declined model:switch_withdrawn model:switch_expired queue:paused "
     "queue:draining queue:resumed config:changed schema:migrated"),
    ("110113", "E", "6", "110132", "access:refused passkey:cloned"),
    ("110113", "E", "3", "110135", "study:hold_placed study:hold_lifted audit:hold_placed audit:hold_lifted"),
    ("110113", "E", "3", "110136", "user:role_changed"),
    ("110113", "E", "3", "110137", "user:created user:password_changed user:activated user:deactivated "
     "passkey:added passkey:removed token:created token:revoked"),
    ("110113", "E", "6", "110141", "selftest:started"),
    ("110113", "E", "6", "110142", "selftest:finished"),
    ("110114", "E", "6", "110122", "user:login user:login_failed user:locked_out user:reauthenticated "
     "user:reauthentication_failed user:screen_unlocked"),
    ("110114", "E", "6", "110123", "user:logout user:screen_locked"),
)  # fmt: skip
KINDS: Mapping[str, EventKind] = {
    tag: EventKind(event, action, cycle, type_code)
    for event, action, cycle, type_code, tags in _TABLE
    for tag in tags.split()
}
"""The kind of each tag that is known."""

# a tag of another release: EventID and, where it must have one, EventTypeCode by its subject ...
_SUBJECTS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("association",), ("110108", "110124")),
    **dict.fromkeys(("audit",), ("110101", "")),
    **dict.fromkeys(("images", "commitment", "prompt"), ("110103", "")),
    **dict.fromkeys(("instance", "instances", "prior", "dicomweb", "dimse"), ("110104", "")),
    **dict.fromkeys(("assessment", "quality"), ("110106", "")),
    **dict.fromkeys(("message", "order", "worklist"), ("110109", "")),
    **dict.fromkeys(
        ("patient", "report", "finding", "critical", "notice", "fhir", "answer", "annotation", "disclosure"),
        ("110110", ""),
    ),
    **dict.fromkeys(
        ("study", "reading", "draft", "question", "redraft", "dispatch", "delivery", "workitem", "expert"),
        ("110111", ""),
    ),
    **dict.fromkeys(("peer", "destination"), ("110113", "110128")),
    **dict.fromkeys(("certificate", "key"), ("110113", "110129")),
    **dict.fromkeys(
        ("model", "licence", "wording", "queue", "settings", "rules", "config", "schema"), ("110113", "110131")
    ),
    **dict.fromkeys(("access",), ("110113", "110132")),
    **dict.fromkeys(("selftest",), ("110113", "110141")),
    **dict.fromkeys(("user", "passkey", "token", "session"), ("110113", "110137")),
    **dict.fromkeys(("process",), ("110100", "110120")),
}
# ... and what its act does; any other act changes something
_VERBS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("received", "created", "added", "drafted", "stored", "kept", "opened", "asked"), ("C", "1")),
    **dict.fromkeys(("viewed", "read", "listed", "retrieved", "queried", "searched", "shown"), ("R", "6")),
    **dict.fromkeys(("exported", "downloaded"), ("R", "10")),
    **dict.fromkeys(("removed", "revoked", "withdrawn", "cancelled", "dropped"), ("D", "14")),
    **dict.fromkeys(("erased", "deleted"), ("D", "15")),
}


def kind_of(tag: str) -> EventKind:
    """Return what an act is; one whose very subject is unknown is a use of a local function (110113, 110141)."""
    known = KINDS.get(tag)
    if known is not None:
        return known
    subject, _, act = tag.partition(":")
    event, type_code = _SUBJECTS.get(subject, ("110113", "110141"))
    action, cycle = _VERBS.get(act, ("U", "3"))
    allowed = ACTIONS[event]
    return EventKind(event, action if action in allowed else allowed[0], cycle, type_code)


def is_placed(tag: str) -> bool:
    """Return whether the table knows the tag, or at least its subject."""
    return tag in KINDS or tag.partition(":")[0] in _SUBJECTS
