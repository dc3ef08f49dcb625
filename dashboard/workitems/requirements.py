"""What a workitem must hold when it is created, may change, and must hold at its end (PS3.4 table CC.2.5-3)."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Any, TypeVar
from uuid import uuid4

from config.errors import RefusedInputError
from dashboard.workitems.payload import Element, Payload
from db.lifecycle.workitems import Changes, NewWorkitem
from db.workitem_models import Readiness, StepPriority, StepState
from db.workitem_values import STATION, UPS_CLASS, WORKLIST_LABEL

S = TypeVar("S", bound=StrEnum)
STATE, TRANSACTION, PROGRESS, PERFORMED = "00741000", "00081195", "00741002", "00741216"
PRIORITY, LABEL, WORKLIST, READINESS, START = "00741200", "00741204", "00741202", "00404041", "00404005"
CODE, STATIONS, PERSONS, INPUT, REQUESTS = "00404018", "00404025", "00404034", "00404021", "0040A370"
SOP_CLASS, UID, STUDY, ACCESSION, CODE_VALUE = "00080016", "00080018", "0020000D", "00080050", "00080100"
REASON, MODIFIED = "00741238", "00404010"
_REQUIRED = {PRIORITY: "priority", LABEL: "label", READINESS: "input readiness", START: "start", STATE: "state"}
_OURS_TO_SAY = frozenset({STATE, SOP_CLASS, UID, TRANSACTION, MODIFIED})
# N-SET may not change whom and what it is about
_FIXED = {
    "00100010": "Patient's Name", "00100020": "Patient ID", "00100021": "Issuer of Patient ID",
    "00100030": "Patient's Birth Date", "00100040": "Patient's Sex", "00380010": "Admission ID",
    REQUESTS: "Referenced Request Sequence", STUDY: "Study Instance UID", STATE: "Procedure Step State",
    SOP_CLASS: "SOP Class UID", UID: "SOP Instance UID",
}  # fmt: skip
_PERFORMED = {  # final state code P
    "00404028": "Performed Station Name Code Sequence",
    "00404019": "Performed Workitem Code Sequence",
    "00404050": "Performed Procedure Step Start DateTime",
    "00404051": "Performed Procedure Step End DateTime",
    "00404033": "Output Information Sequence",
}
OURS_CODES = frozenset({"", "110003", "110004", "110005"})  # Computer Aided Diagnosis, Detection; Interpretation
_DT = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,6}))?([+-]\d{4})?")


def new_workitem(sent: Payload, asked_uid: str, ae_title: str) -> NewWorkitem:
    """Return what a client creates.

    Args:
        sent: its Data Set.
        asked_uid: the workitem UID of the address; ``""`` takes that of the Data Set, or a new one.
        ae_title: of this node: a Scheduled Station Name Code of this value names us, as ``STATION`` does.

    Raises:
        RefusedInputError: the Data Set does not meet the N-CREATE column of the table.
    """
    ds = sent.elements
    lacking = [words for tag, words in _REQUIRED.items() if not first(ds, tag)]
    if lacking:
        raise RefusedInputError(f"a workitem needs its {', '.join(lacking)}")
    if first(ds, STATE) != StepState.SCHEDULED:
        raise RefusedInputError("a workitem is created SCHEDULED")
    filled = [tag for tag in (TRANSACTION, PROGRESS, PERFORMED) if ds.get(tag, {}).get("Value")]
    if filled:
        raise RefusedInputError("a new workitem has no Transaction UID, no progress and nothing performed")
    if first(ds, SOP_CLASS, UPS_CLASS) != UPS_CLASS:
        raise RefusedInputError("the SOP Class of a workitem is UPS Push")
    own_uid = first(ds, UID)
    if own_uid and asked_uid and own_uid != asked_uid:
        raise RefusedInputError("the Data Set has another workitem UID than the address")
    columns = _columns(ds, ds)
    is_ours = _names_us(ds, ae_title)
    study_uid = _study_of(ds)
    if is_ours and not study_uid:
        raise RefusedInputError("a workitem for this station names a Study in its Input Information Sequence")
    if is_ours and columns["code"] not in OURS_CODES:
        raise RefusedInputError("this station performs no workitem of that code")
    name = first(ds, "00100010") or {}
    request = first(ds, REQUESTS) or {}
    return NewWorkitem(
        uid=asked_uid or own_uid or f"2.25.{uuid4().int}",
        attributes={tag: element for tag, element in ds.items() if tag not in _OURS_TO_SAY},
        readiness=_word(ds, READINESS, Readiness),
        patient_id=first(ds, "00100020", ""),
        patient_name="=".join(name.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("="),
        accession_number=first(request, ACCESSION, ""),
        study_instance_uid=study_uid,
        is_ours=is_ours,
        **columns,
    )


def changes_of(sent: Payload, ae_title: str) -> Changes:
    """Return what an update sets.

    Raises:
        RefusedInputError: an attribute that the N-SET column does not allow, or a required one without a value.
    """
    ds = {tag: element for tag, element in sent.elements.items() if tag not in {TRANSACTION, MODIFIED}}
    forbidden = [words for tag, words in _FIXED.items() if tag in ds]
    if forbidden:
        raise RefusedInputError(f"fixed when the workitem was created: {', '.join(forbidden)}")
    emptied = [words for tag, words in _REQUIRED.items() if tag in ds and not first(ds, tag)]
    if emptied:
        raise RefusedInputError(f"a workitem needs its {', '.join(emptied)}")
    if not ds:
        raise RefusedInputError("the update sets nothing")
    columns = _columns(ds, sent.elements)
    if STATIONS in ds:
        if _names_us(ds, ae_title):
            raise RefusedInputError("a workitem for this station is created, not assigned afterwards")
        columns["is_ours"] = False
    if INPUT in ds and _study_of(ds):
        columns["study_instance_uid"] = _study_of(ds)
    return Changes(
        elements=ds,
        columns=columns,
        readiness=_word(ds, READINESS, Readiness) if READINESS in ds else None,
        has_progress=PROGRESS in ds,
        has_assignment=STATIONS in ds or PERSONS in ds,
    )


def lacking_at_end(attributes: Mapping[str, Element], to: StepState) -> list[str]:
    """Return the names of attributes without which a workitem may not be COMPLETED; a canceled one needs none of it."""
    if to is not StepState.COMPLETED:
        return []
    performed = first(attributes, PERFORMED)
    if performed is None:
        return ["Unified Procedure Step Performed Procedure Sequence"]
    return [words for tag, words in _PERFORMED.items() if not performed.get(tag, {}).get("Value")]


def first(ds: Mapping[str, Element], tag: str, default: Any = None) -> Any:
    """Return the first value of an element."""
    values: Sequence[Any] = ds.get(tag, {}).get("Value", [])
    return values[0] if values else default


def _columns(ds: Mapping[str, Element], sent: Mapping[str, Element]) -> dict[str, Any]:
    """Return the columns that follow from elements, for those that are there."""
    columns: dict[str, Any] = {}
    if PRIORITY in ds:
        columns["priority"] = _word(ds, PRIORITY, StepPriority)
    if LABEL in ds:
        columns["label"] = first(ds, LABEL)
    if START in ds:
        columns["scheduled_at"] = instant(first(ds, START), first(sent, "00080201", ""))
    if WORKLIST in ds or ds is sent:
        columns["worklist_label"] = first(ds, WORKLIST, "") or WORKLIST_LABEL
    for name, tag in (("code", CODE), ("station", STATIONS)):
        if tag in ds or ds is sent:
            columns[name] = first(first(ds, tag, {}), CODE_VALUE, "")
    return columns


def _word(ds: Mapping[str, Element], tag: str, kind: type[S]) -> S:
    value = first(ds, tag)
    if value not in set(kind):
        raise RefusedInputError(f"the {_REQUIRED[tag]} is one of {', '.join(kind)}")
    return kind(value)


def _names_us(ds: Mapping[str, Element], ae_title: str) -> bool:
    named = [first(item, CODE_VALUE) for item in ds.get(STATIONS, {}).get("Value", [])]
    return STATION[0] in named or ae_title in named


def _study_of(ds: Mapping[str, Element]) -> str:
    named = [first(item, STUDY, "") for item in ds.get(INPUT, {}).get("Value", [])]
    return next((uid for uid in named if uid), "") or first(ds, STUDY, "")


def instant(value: str, offset: str = "") -> datetime:
    """Return the instant of a DT; without an offset of its own, by Timezone Offset From UTC, else by our clock's zone.

    Raises:
        RefusedInputError: there is no such time.
    """
    match = _DT.fullmatch(value)
    if match is None:
        raise RefusedInputError("a DateTime that is none")
    year, month, day, hour, minute, second, fraction, own = match.groups()
    microsecond = int((fraction or "").ljust(6, "0"))
    times = (int(hour or 0), int(minute or 0), int(second or 0), microsecond)
    try:
        found = datetime(int(year), int(month or 1), int(day or 1), *times)  # noqa: DTZ001 its zone follows
        return found.replace(tzinfo=_zone(own or offset)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise RefusedInputError("a DateTime that does not exist") from exc


def _zone(offset: str) -> tzinfo | None:
    """Return the zone of an offset; None for our clock's."""
    if not offset:
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
