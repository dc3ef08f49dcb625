"""Who took part in an act: the ActiveParticipants of an audit message (PS3.15 section A.5.2, A.5.3)."""

from xml.etree import ElementTree as ET

from reports.audit_message.codes import DCM, LOCAL_SCHEME, MEANINGS, EventKind
from reports.audit_message.values import AuditSource, RecordedEvent, access_point, sendable, token

_MOVES = {"110102", "110104", "110112"}  # have a source and a destination
_MEDIA = {"110106"}


def coded(parent: ET.Element, name: str, code: str, meaning: str = "", scheme: str = DCM) -> None:
    """Append a coded element: ``csd-code``, ``codeSystemName``, ``originalText``, all three demanded."""
    meaning = meaning or MEANINGS.get(code, code)
    ET.SubElement(parent, name, {"csd-code": token(code), "codeSystemName": scheme, "originalText": token(meaning)})


def add_participants(message: ET.Element, event: RecordedEvent, kind: EventKind, source: AuditSource) -> None:
    """Append who acted, the only requestor, then Firstread itself and the other end of a transfer."""
    ours, theirs = _roles(event, kind)
    if event.actor_kind == "process" and event.actor in {"", source.name}:
        _ourselves(message, event, source, ours or "110150", requestor=True)
    else:
        _actor(message, event, source, theirs)
        _ourselves(message, event, source, ours or "110150", requestor=False)
    other = _other_end(event, kind)
    if other:
        code = "110154" if kind.event in _MEDIA else "110152" if ours == "110153" else "110153"
        end = ET.SubElement(message, "ActiveParticipant", {"UserID": other, "UserIsRequestor": "false"})
        coded(end, "RoleIDCode", code)


def _roles(event: RecordedEvent, kind: EventKind) -> tuple[str, str]:
    """Return RoleIDCodes: Firstread's, and the actor's when it is a peer."""
    if kind.event in _MEDIA:
        return "110153", ""
    if kind.event == "110100":
        return "110150", "110151"
    if kind.event not in _MOVES:
        return "", ""
    receives = kind.cycle == "2" or kind.action == "U"
    if kind.event == "110112":
        receives = event.actor_kind != "process"  # a query of others: it comes to us
    ours, peers = ("110152", "110153") if receives else ("110153", "110152")
    return ours, peers if event.actor_kind == "peer" else ""


def _other_end(event: RecordedEvent, kind: EventKind) -> str:
    if kind.event in _MEDIA:
        return token(str(event.detail.get("file") or event.detail.get("format") or "file"))
    if kind.event in _MOVES and event.actor_kind == "process":
        return token(str(event.detail.get("destination") or event.detail.get("source") or ""), "")
    return ""


def _actor(message: ET.Element, event: RecordedEvent, source: AuditSource, role: str) -> None:
    name = token(event.actor)
    fields = {"UserID": name, "UserName": name, "UserIsRequestor": "true"}
    if event.actor_kind == "person":
        fields["UserID"] = f"{name}@{token(source.name)}"  # A.5.2.1
        fields["AlternativeUserID"] = token(event.user_id or event.actor)  # never given to another person
    elif event.actor_kind == "peer" and ":" not in event.actor:
        fields["AlternativeUserID"] = f"AETITLES={name}"  # A.5.2.2
    if event.address:
        code, point = access_point(event.address)
        fields |= {"NetworkAccessPointTypeCode": code, "NetworkAccessPointID": point} if point else {}
    made = ET.SubElement(message, "ActiveParticipant", fields)
    if role:
        coded(made, "RoleIDCode", role)
    if event.role:
        coded(made, "RoleIDCode", event.role, sendable(event.role), LOCAL_SCHEME)


def _ourselves(message: ET.Element, event: RecordedEvent, source: AuditSource, role: str, *, requestor: bool) -> None:
    fields = {
        "UserID": token(source.name),
        "UserName": "Firstread",
        "UserIsRequestor": "true" if requestor else "false",
    }
    title = token(str(event.detail.get("called_ae") or ""), "")
    if title:
        fields["AlternativeUserID"] = f"AETITLES={title}"
    coded(ET.SubElement(message, "ActiveParticipant", fields), "RoleIDCode", role)
