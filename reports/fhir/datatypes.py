"""FHIR R4 datatypes from DICOM values: names, dates, codes, identifiers, search tokens, narrative."""

import html
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_OID, uuid5

from reports.document import Code

Json = dict[str, Any]

UID_SYSTEM = "urn:dicom:uid"
URI_SYSTEM = "urn:ietf:rfc:3986"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
LOCAL = "urn:x-firstread:"
"""Start of identifier systems for what has no registered one."""

# Coding Scheme Designator (PS3.16 table 8-1) -> code system URI
_SYSTEMS: Mapping[str, str] = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RADLEX": "http://radlex.org",
    "UCUM": "http://unitsofmeasure.org",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "C4": "http://www.ama-assn.org/go/cpt",
}
# What JSON or XML 1.0 cannot hold: control characters, surrogates, noncharacters
_UNSENDABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_DATE = re.compile(r"(\d{4})(?:(\d\d)(\d\d)?)?")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d)(?:([0-5]\d)(?:\.\d{1,6})?)?")
_ZONE = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")
_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"


def clean(text: str) -> str:
    """Return ``text`` without what JSON or XML cannot hold, and without white space around it."""
    return _UNSENDABLE.sub("", text).strip()


def kept(**fields: Any) -> Json:
    """Return the fields that say something: FHIR knows no empty strings, lists and objects."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def full_url(kind: str, *key: str) -> str:
    """Return the one ``urn:uuid`` that belongs to a thing, the same in every bundle."""
    return f"urn:uuid:{uuid5(NAMESPACE_OID, chr(31).join(('firstread', 'fhir', kind, *key)))}"


def coding(code: Code) -> Json:
    """Return a Coding; a scheme without a known URI has no system, only its words."""
    system = _SYSTEMS.get(code.scheme)
    return kept(system=system, code=clean(code.value).replace(" ", ""), display=clean(code.meaning))


def concept(*codes: Code | None, text: str = "") -> Json:
    """Return a CodeableConcept."""
    return kept(coding=[coding(code) for code in codes if code is not None], text=clean(text))


def term(system: str, code: str, display: str) -> Json:
    """Return a CodeableConcept of one code of HL7's own tables."""
    return {"coding": [{"system": TERMINOLOGY + system, "code": code, "display": display}]}


def identifier(system: str, value: str, *, kind: str = "", use: str = "") -> Json:
    """Return an Identifier; ``kind`` is a code of HL7 table 0203, such as ``ACSN``."""
    named = term("v2-0203", kind, _KINDS[kind]) if kind else None
    return kept(use=use, type=named, system=system, value=clean(value))


_KINDS = {
    "ACSN": "Accession ID",
    "PLAC": "Placer Identifier",
    "FILL": "Filler Identifier",
    "MR": "Medical record number",
    "EI": "Employee number",
}


def uid_identifier(uid: str, system: str = UID_SYSTEM) -> Json:
    """Return a DICOM UID as an Identifier (FHIR R4 ImagingStudy, section 5.4.1)."""
    return {"system": system, "value": f"urn:oid:{uid}"}


def local_system(*parts: str) -> str:
    """Return the URI of a namespace of ours; parts from outside are escaped."""
    return LOCAL + ":".join(quote(part, safe="") for part in parts if part)


def authority_system(issuer: str, default: str = "") -> str:
    """Return the namespace of Patient IDs of ``issuer``: an OID where there is one, else a URI of its name.

    Two issuers never share a namespace, for then one patient's report could be filed under another's name.

    Args:
        issuer: Issuer of Patient ID: a name, an OID, or ``NAME&OID&ISO``.
        default: what stands for an issuer that is not given, in the same forms.
    """
    parts = (issuer.strip() or default.strip()).split("&")
    oid = next((part for part in (parts[1:2] + parts[:1]) if _OID.fullmatch(part)), "")
    return f"urn:oid:{oid}" if oid else local_system("patient", clean(parts[0]))


def condition(one: Json) -> str:
    """Return the search that finds the resource with this Identifier, for ``ifNoneExist`` or a conditional update.

    ``,``, ``|``, ``$`` and ``\\`` in a value would make it another search (FHIR R4 section 3.1.1.3.9), and so file a
    report under another patient; they are escaped, then everything is percent-encoded.
    """
    token = f"{_escaped(one.get('system', ''))}|{_escaped(one['value'])}"
    return f"identifier={quote(token, safe='')}"


def tag_condition(system: str, code: str) -> str:
    """Return the search by a tag, for resources that have no identifier."""
    return f"_tag={quote(f'{_escaped(system)}|{_escaped(code)}', safe='')}"


def _escaped(value: str) -> str:
    return re.sub(r"([\\,|$])", r"\\\1", value)


def fhir_date(text: str) -> str:
    """Return a DA as a FHIR date, as exact as it is: year, month or day; ``""`` for what is no date."""
    match = _DATE.fullmatch(re.sub(r"[.-]", "", text.strip()))
    if match is None:
        return ""
    parts = [part for part in match.groups() if part]
    try:
        date(*(int(part) for part in (*parts, "01", "01")[:3]))
    except ValueError:
        return ""
    return "-".join(parts)


def fhir_moment(day: str, time: str, zone: str) -> str:
    """Return DA, TM and a zone as a FHIR dateTime; only the date where time or zone is missing."""
    on = fhir_date(day)
    clock, offset = _TIME.fullmatch(time.strip()), _ZONE.fullmatch(zone.strip())
    if len(on) < len("2026-11-22") or clock is None or offset is None:
        return on
    hours, minutes, seconds = clock[1], clock[2], clock[3] or "00"
    return f"{on}T{hours}:{minutes}:{seconds}{offset[1]}{offset[2]}:{offset[3]}"


def instant(moment: datetime) -> str:
    """Return a moment with its zone, exact to the millisecond."""
    return moment.isoformat(timespec="milliseconds")


def human_names(pn: str) -> list[Json]:
    """Return a PN (PS3.5 section 6.2.1) as HumanNames: alphabetic, ideographic and phonetic where they are given."""
    groups = [group for group in zip(("ABC", "IDE", "SYL"), pn.split("="), strict=False) if clean(group[1]).strip("^")]
    return [_human_name(text, form if len(groups) > 1 else "") for form, text in groups]


def _human_name(group: str, form: str) -> Json:
    family, given, middle, prefix, suffix = ([clean(part) for part in group.split("^")] + [""] * 5)[:5]
    # Chinese, Japanese and Korean names begin with the family's
    shown = (family, given, middle) if form in {"IDE", "SYL"} else (prefix, given, middle, family, suffix)
    return kept(
        extension=[{"url": _REPRESENTATION, "valueCode": form}] if form else None,
        text=" ".join(part for part in shown if part),
        family=family,
        given=[part for part in (given, middle) if part],
        prefix=[prefix] if prefix else None,
        suffix=[suffix] if suffix else None,
    )


def narrative(*lines: str) -> Json:
    """Return the text of a resource for people: one paragraph a line, escaped."""
    shown = "".join(f"<p>{html.escape(clean(line))}</p>" for line in lines if clean(line))
    return {
        "status": "generated",
        "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{shown or "<p>No text</p>"}</div>',
    }


def reference(target: str, display: str = "") -> Json:
    """Return a Reference to another resource of the bundle."""
    return kept(reference=target, display=clean(display))


def references(targets: Sequence[str]) -> list[Json]:
    """Return References."""
    return [reference(one) for one in targets]
