"""The indexed attributes of one Instance, read from its encoded bytes without touching the pixels."""

import re
import unicodedata
from collections.abc import Mapping

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag

from config.errors import InvalidUidError, MissingUidError
from db.lifecycle import InstanceHeader
from instances.elements import find_elements

# PS3.5 section 9.1, without its ban on leading zeros in a component: real devices break that one, and it
# names no path. What is left cannot hold a separator, a parent folder or a drive.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_NAME_DELIMITERS, _TEXT_DELIMITERS = {ord("^")}, {9, 10, 12, 13, ord("\\")}

_CHARACTER_SET = int(Tag("SpecificCharacterSet"))
_UIDS = {
    int(Tag("StudyInstanceUID")): "study_instance_uid",
    int(Tag("SeriesInstanceUID")): "series_instance_uid",
    int(Tag("SOPInstanceUID")): "sop_instance_uid",
    int(Tag("SOPClassUID")): "sop_class_uid",
}
_UID_NAMES = {tag: keyword_for_tag(tag) for tag in _UIDS}  # looked up once: this is the hot path of C-STORE
_TEXTS = {  # tag: field, longest value kept (the column's length)
    int(Tag("PatientID")): ("patient_id", 64),
    int(Tag("IssuerOfPatientID")): ("issuer_of_patient_id", 64),
    int(Tag("PatientBirthDate")): ("patient_birth_date", 8),
    int(Tag("PatientSex")): ("patient_sex", 16),
    int(Tag("AccessionNumber")): ("accession_number", 16),
    int(Tag("StudyDate")): ("study_date", 8),
    int(Tag("StudyTime")): ("study_time", 16),
    int(Tag("StudyDescription")): ("study_description", 64),
    int(Tag("Modality")): ("modality", 16),
    int(Tag("SeriesDescription")): ("series_description", 64),
    int(Tag("BodyPartExamined")): ("body_part", 16),
    int(Tag("Manufacturer")): ("manufacturer", 64),
    int(Tag("ManufacturerModelName")): ("manufacturer_model", 64),
}
_NAMES = {
    int(Tag("PatientName")): "patient_name",
    int(Tag("ReferringPhysicianName")): "referring_physician",
}
_SERIES_NUMBER, _INSTANCE_NUMBER = int(Tag("SeriesNumber")), int(Tag("InstanceNumber"))
_WANTED = frozenset({_CHARACTER_SET, *_UIDS, *_TEXTS, *_NAMES, _SERIES_NUMBER, _INSTANCE_NUMBER})


def valid_uid(uid: str, *, what: str) -> str:
    """Return ``uid``, safe to name a file: 1 to 64 characters, digits separated by single dots.

    Raises:
        MissingUidError: empty.
        InvalidUidError: anything else that is not a UID (PS3.5 section 9.1).
    """
    if not uid:
        raise MissingUidError(f"{what} is missing")
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise InvalidUidError(f"{what} is not a UID")
    return uid


def read_header(data: bytes | memoryview, transfer_syntax_uid: str, *, size: int | None = None) -> InstanceHeader:
    """Return the indexed attributes of an encoded Data Set; ``size`` is of all of it when ``data`` is its beginning.

    Text is decoded with its Specific Character Set; control characters are dropped and each value is cut
    to the length its VR allows. A number that is none is None. Nothing but UIDs can refuse an Instance.

    Raises:
        BeyondError: its beginning is not enough.
        UnreadableDatasetError: not a Data Set in this transfer syntax, or it ends too early.
        MissingUidError: Study, Series or SOP Instance UID or SOP Class UID is absent or empty.
        InvalidUidError: one of them is not a UID.
    """
    values = find_elements(data, transfer_syntax_uid, _WANTED, size=size)
    uids = {field: _uid(values, tag) for tag, field in _UIDS.items()}
    encodings = _encodings(values.get(_CHARACTER_SET, b""))
    texts = {
        field: _text(values.get(tag, b""), encodings, _TEXT_DELIMITERS)[:longest]
        for tag, (field, longest) in _TEXTS.items()
    }
    names = {field: _name(values.get(tag, b""), encodings) for tag, field in _NAMES.items()}
    return InstanceHeader(
        **uids,
        **texts,
        **names,
        series_number=_number(values.get(_SERIES_NUMBER, b"")),
        instance_number=_number(values.get(_INSTANCE_NUMBER, b"")),
        transfer_syntax_uid=transfer_syntax_uid,
    )


def _uid(values: Mapping[int, bytes], tag: int) -> str:
    raw = values.get(tag, b"").rstrip(b"\0 ")
    return valid_uid(raw.decode("ascii", errors="replace"), what=_UID_NAMES[tag])


def _encodings(raw: bytes) -> list[str]:
    """Return Python codecs for Specific Character Set; terms the Standard does not define are passed over."""
    terms = [term.strip() for term in raw.decode("ascii", errors="replace").rstrip("\0 ").split("\\")]
    known = [term for term in terms if term in python_encoding]
    if not known:
        # undeclared or misspelt: UTF-8 fails on everything else, Latin-1 on nothing
        return ["utf-8"] if raw else ["iso8859"]
    return list(convert_encodings(known))


def _text(raw: bytes, encodings: list[str], delimiters: set[int]) -> str:
    raw = raw.rstrip(b"\0 ")
    plain = raw.isascii() and b"\x1b" not in raw
    decoded = raw.decode("ascii") if plain else _decoded(raw, encodings, delimiters)
    if not decoded.isprintable():  # no control characters: the usual case, told quickly
        decoded = "".join(c for c in decoded if unicodedata.category(c)[0] != "C")
    return decoded.strip()


def _decoded(raw: bytes, encodings: list[str], delimiters: set[int]) -> str:
    try:
        if b"\x1b" not in raw:
            return raw.decode(encodings[0])
        return str(decode_bytes(raw, encodings, delimiters))
    except (LookupError, UnicodeError):
        return raw.decode("iso8859", errors="replace")


def _name(raw: bytes, encodings: list[str]) -> str:
    """Return a PN; its component groups are decoded apart, since ``=`` ends a code extension (PS3.5 6.1.2.5.3)."""
    groups = [_text(group, encodings, _NAME_DELIMITERS) for group in raw.split(b"=")]
    return "=".join(groups).rstrip("=")[:324]


def _number(raw: bytes) -> int | None:
    """Return the first value of an IS, or None when there is none that fits 32 bits."""
    try:
        number = int(raw.split(b"\\")[0].strip(b"\0 ").decode("ascii"))
    except (ValueError, UnicodeError):
        return None
    return number if -(2**31) <= number < 2**31 else None
