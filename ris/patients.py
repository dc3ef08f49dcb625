"""Patients from messages: PID and MRG into DICOM terms."""

import re
from collections.abc import Sequence

from db.lifecycle.patients import PatientIdentity
from reports.hl7_encoding import plain
from ris.inbound import MISSING_FIELD, RefusedMessageError, Segment

_GROUPS = {"A": 0, "": 0, "I": 1, "P": 2}  # Name Representation Code (XPN.8) to component group of a PN


def identity(pid: Segment) -> PatientIdentity:
    """Return who a PID segment names; parts that are not there are empty."""
    number, issuer = identifier(pid, 3)
    return PatientIdentity(
        patient_id=number,
        issuer_of_patient_id=issuer,
        patient_name=_name(pid, 5),
        patient_birth_date=_date(pid.text(7)),
        patient_sex=_sex(pid.text(8)),
    )


def identifier(segment: Segment, field: int) -> tuple[str, str]:
    """Return Patient ID and issuer of a CX field: the medical record number (MR), else the first.

    The issuer is the name of the assigning authority (HD.1), else its OID (HD.2).
    """
    places = range(1, segment.repetitions(field) + 1)
    ranked = sorted(places, key=lambda place: segment.text(field, 5, repetition=place) != "MR")
    for place in ranked:
        number = plain(segment.text(field, 1, repetition=place))[:64]
        if number:
            issuer = segment.text(field, 4, 1, place) or segment.text(field, 4, 2, place)
            return number, plain(issuer)[:64]
    return "", ""


def read_update(segments: Sequence[Segment]) -> PatientIdentity:
    """Return the patient an ADT^A08 describes.

    Raises:
        RefusedMessageError: it names none.
    """
    pid = next((one for one in segments if one.name == "PID"), None)
    who = identity(pid) if pid else None
    if who is None or not who.patient_id:
        raise RefusedMessageError(MISSING_FIELD, "it names no patient (PID-3)")
    return who


def read_merges(segments: Sequence[Segment]) -> list[tuple[tuple[str, str], PatientIdentity]]:
    """Return the merges of an ADT^A40: the identifier that is gone (MRG-1), and the patient that stays.

    Raises:
        RefusedMessageError: there is none, one is incomplete, or a patient would be merged into itself.
    """
    merges = []
    pid: Segment | None = None
    for segment in segments:
        if segment.name == "PID":
            pid = segment
        elif segment.name == "MRG":
            stays = identity(pid) if pid else None
            gone = identifier(segment, 1)
            if stays is None or not stays.patient_id or not gone[0]:
                raise RefusedMessageError(MISSING_FIELD, "a merge names no two patients (PID-3, MRG-1)")
            if gone == (stays.patient_id, stays.issuer_of_patient_id):
                raise RefusedMessageError(MISSING_FIELD, "a merge names one patient twice (PID-3, MRG-1)")
            merges.append((gone, stays))
    if not merges:
        raise RefusedMessageError(MISSING_FIELD, "it holds no merge (MRG)")
    return merges


def _name(pid: Segment, field: int) -> str:
    """Return XPN repetitions as one PN; HL7 has the suffix before the prefix, DICOM the other way round."""
    groups = ["", "", ""]
    for place in range(1, pid.repetitions(field) + 1):
        code = pid.text(field, 8, repetition=place)
        family = pid.text(field, 1, 1, place)
        parts = [family, *(pid.text(field, component, repetition=place) for component in (2, 3, 5, 4))]
        name = "^".join(name_part(part) for part in parts).rstrip("^")
        position = _GROUPS.get(code, 0)
        groups[position] = groups[position] or name
    return "=".join(groups).rstrip("=")[:324]


def name_part(text: str) -> str:
    """Return one component of a PN, without the characters that separate components, groups and values."""
    return plain(re.sub(r"[\^=\\]", " ", text))


def _date(value: str) -> str:
    return value[:8] if re.fullmatch("[0-9]{8}", value[:8]) else ""


def _sex(value: str) -> str:
    return value.upper() if value.upper() in {"M", "F", "O"} else ""
