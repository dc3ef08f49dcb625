"""QIDO-RS: what a query asks for, and the answer (PS3.18 section 10.6)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydicom.datadict import dictionary_VR, keyword_for_tag
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from dashboard.dicomweb.model import json_model, json_values, tag_of
from dashboard.dicomweb.rows import Row
from db.queries.dicomweb import INSTANCE_KEYS, SERIES_KEYS, STUDY_KEYS, How, Match
from instances.header import valid_uid


class Level(StrEnum):
    """What is searched for."""

    STUDY = "studies"
    SERIES = "series"
    INSTANCE = "instances"


MOST = {Level.STUDY: 1000, Level.SERIES: 5000, Level.INSTANCE: 10_000}
_CONTROLS = frozenset({
    "accept", "emptyvaluematching", "fuzzymatching", "includefield", "limit", "multiplevaluematching", "offset",
})  # fmt: skip
_KEYS = {
    Level.STUDY: {*STUDY_KEYS},
    Level.SERIES: {*STUDY_KEYS, *SERIES_KEYS},
    Level.INSTANCE: {*STUDY_KEYS, *SERIES_KEYS, *INSTANCE_KEYS},
}
# PS3.18 tables 10.6.3-3 to 10.6.3-5, what is always returned
_STUDY = (
    "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy",
    "ReferringPhysicianName", "TimezoneOffsetFromUTC", "RetrieveURL", "PatientName", "PatientID", "PatientBirthDate",
    "PatientSex", "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
_SERIES = (
    "SpecificCharacterSet", "Modality", "TimezoneOffsetFromUTC", "SeriesDescription", "RetrieveURL", "StudyInstanceUID",
    "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "RequestAttributesSequence", "InstanceAvailability",
)  # fmt: skip
_INSTANCE = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "InstanceAvailability", "TimezoneOffsetFromUTC",
    "RetrieveURL", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated",
    "NumberOfFrames",
)  # fmt: skip
_RETURNED = {Level.STUDY: _STUDY, Level.SERIES: _SERIES, Level.INSTANCE: _INSTANCE}
# what includefield=all adds
_MORE = {
    Level.STUDY: ("StudyDescription", "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight",
                  "InstitutionName", "ProcedureCodeSequence", "OtherPatientIDs", "AdmissionID", "Occupation",
                  "NameOfPhysiciansReadingStudy"),
    Level.SERIES: ("BodyPartExamined", "Laterality", "SeriesDate", "SeriesTime", "ProtocolName", "Manufacturer",
                   "ManufacturerModelName", "StationName", "FrameOfReferenceUID", "PatientPosition", "OperatorsName",
                   "PerformingPhysicianName", "SeriesDescriptionCodeSequence"),
    Level.INSTANCE: ("ImageType", "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime", "ContentDate",
                     "ContentTime", "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "PixelSpacing",
                     "SliceThickness", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "HighBit",
                     "PixelRepresentation", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept",
                     "ViewPosition", "ImageLaterality", "ContentLabel", "ConceptNameCodeSequence", "CompletionFlag",
                     "VerificationFlag"),
}  # fmt: skip
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_NUMBER = re.compile(r"[+-]?\d{1,9}")
_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."


@dataclass
class Query:
    """What one request asks for; ``relational`` names the levels above that its address does not fix."""

    level: Level
    relational: Sequence[Level] = ()
    matches: list[Match] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    limit: int = 0
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


def parse(level: Level, args: MultiDict[str, str], fixed: dict[str, str]) -> Query:
    """Return the query of an address.

    Args:
        level: what is searched for.
        args: the query parameters.
        fixed: UIDs of the path, by keyword.

    Raises:
        RefusedInputError: a parameter that is no attribute, or a value that its VR does not allow.
    """
    above = {Level.STUDY: [], Level.SERIES: [Level.STUDY], Level.INSTANCE: [Level.STUDY, Level.SERIES]}[level]
    named = {Level.STUDY: "StudyInstanceUID", Level.SERIES: "SeriesInstanceUID"}
    query = Query(level, [one for one in above if named[one] not in fixed])
    for keyword, uid in fixed.items():
        query.matches.append(Match(keyword, How.ONE_OF, (valid_uid(uid, what=keyword),)))
    for name, values in args.lists():
        if name.lower() not in _CONTROLS:
            _add_key(query, name, values)
    query.limit, query.offset = _window(query, args)
    if args.get("fuzzymatching", "false").lower() not in {"false", ""}:
        query.warnings.append(_FUZZY)
    query.fields += [*_fields_of(query.level, query.relational), *_included(query, args.getlist("includefield"))]
    return query


def answer(row: Row, query: Query, base: str) -> dict[str, object]:
    """Return one match in the DICOM JSON Model, with the attributes its query asks for.

    What the database knows is said even when it is empty; what only the header knows, when it is there.
    """
    known = {**row.known, "RetrieveURL": base + row.address, "SpecificCharacterSet": "ISO_IR 192"}
    wanted = dict.fromkeys(query.fields)
    missing = [keyword for keyword in wanted if keyword not in known]
    model = json_values({keyword: known[keyword] for keyword in wanted if keyword in known})
    if missing:
        header = json_model(row.header(missing))
        model = {**header, **model}  # the character set is ours
    return dict(sorted(model.items()))


def _add_key(query: Query, name: str, values: list[str]) -> None:
    outer, *inner = name.split(".")
    keyword = _keyword(outer)
    if inner or keyword not in _KEYS[query.level]:
        query.warnings.append(f"The attribute {name} is not supported for matching and was ignored.")
        if not inner:
            query.fields.append(keyword)
        return
    query.fields.append(keyword)
    listed = keyword == "ModalitiesInStudy" or dictionary_VR(keyword) == "UI"
    if len(values) > 1 and not listed:
        raise RefusedInputError(f"{keyword} is given more than once")
    match = _match(keyword, [part for value in values for part in (_split(value) if listed else [value])])
    if match is not None:
        query.matches.append(match)


def _keyword(name: str) -> str:
    tag = tag_of(name)
    keyword = keyword_for_tag(tag) if tag is not None else ""
    if not keyword:
        raise RefusedInputError(f"{name[:64]!r} is no attribute")
    return keyword


def _split(value: str) -> list[str]:
    return [part for part in re.split(r"[,\\]", value) if part.strip()]


def _match(keyword: str, values: list[str]) -> Match | None:
    """Return the matching that ``values`` ask for; None for universal matching (PS3.4 C.2.2.2)."""
    values = [value.strip() for value in values]
    if not any(values) or values == ["*"]:
        return None
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return Match(keyword, How.ONE_OF, tuple(valid_uid(value, what=keyword) for value in values))
    if vr in {"DA", "TM"}:
        return _range(keyword, values[0], vr)
    if vr == "IS":
        if not _NUMBER.fullmatch(values[0]):
            raise RefusedInputError(f"{keyword} is a number")
        return Match(keyword, How.ONE_OF, (str(int(values[0])),))
    wild = any(sign in value for value in values for sign in "*?")
    return Match(keyword, How.WILDCARD if wild else How.ONE_OF, tuple(values))


def _range(keyword: str, value: str, vr: str) -> Match:
    pattern = _DATE if vr == "DA" else _TIME
    low, dash, high = value.partition("-")
    low, high = low.strip(), (high.strip() if dash else low.strip())
    if not (low or high) or any(end and not pattern.fullmatch(end) for end in (low, high)):
        raise RefusedInputError(f"{keyword} is a {'date' if vr == 'DA' else 'time'} or a range of two")
    if vr == "TM":  # "08-09" is from 08:00:00 to 09:59:59
        low, high = (
            (low[:6] + "000000"[len(low[:6]) :] if low else ""),
            (high[:6] + "005959"[len(high[:6]) :] if high else ""),
        )
    return Match(keyword, How.RANGE, (low, high))


def _window(query: Query, args: MultiDict[str, str]) -> tuple[int, int]:
    most = MOST[query.level]
    limit, offset = (_count(args, name) for name in ("limit", "offset"))
    return min(most if limit is None else limit, most), offset or 0


def _count(args: MultiDict[str, str], name: str) -> int | None:
    value = args.get(name, "")
    if value and not re.fullmatch(r"\d{1,9}", value):
        raise RefusedInputError(f"{name} is a number, 0 or more")
    return int(value) if value else None


def _fields_of(level: Level, relational: Sequence[Level]) -> list[str]:
    return [keyword for one in (*relational, level) for keyword in _RETURNED[one]]


def _included(query: Query, values: list[str]) -> list[str]:
    included = []
    for value in (part for given in values for part in given.split(",")):
        if value.strip().lower() == "all":
            included += [keyword for one in (*query.relational, query.level) for keyword in _MORE[one]]
        elif value.strip():
            included.append(_keyword(value.strip().split(".")[0]))
    return included
