"""The patient and study facts that every object of ours copies from the images it was made from."""

import re
import warnings

from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID
from pydicom.valuerep import PersonName, validate_value

from config.errors import InvalidUidError
from reports.text import one_line, text_block

# Type 2 in every IOD we write: present, empty when unknown.
_TYPE_2 = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
           "StudyTime", "ReferringPhysicianName")  # fmt: skip
# Identity is never shortened: a cut Patient ID would be another patient's.
_NEVER_SHORTENED = ("PatientID", "IssuerOfPatientID", "PatientName", "AccessionNumber")
_LIMITS = {"LO": 64, "SH": 16}
_TEXT = ("LO", "SH", "PN", "UC", "CS", "AE")
_BLOCK = ("ST", "LT", "UT")
_PRECISE = ("DA", "TM", "DT", "AS", "CS", "DS", "IS", "UI")
_TIMEZONE = re.compile(r"^[+-](0\d|1[0-4])[0-5]\d$")


def study_header(source: Dataset) -> Dataset:
    """Return a clean Unicode copy of ``source`` without pixels and private elements, to copy modules from.

    Text is decoded from whatever Specific Character Set the sender used and freed of control characters; a value
    that its VR does not allow is left out (emptied, when the element must be present). Patient ID, names and
    Accession Number keep their full length.

    Raises:
        InvalidUidError: Study, Series or SOP Instance UID is missing or is no UID.
    """
    _require_uids(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the value, which may name the patient
        return _clean_copy(source)


def _clean_copy(source: Dataset) -> Dataset:
    header = Dataset()
    for tag in source.keys():  # noqa: SIM118  iterating a Dataset decodes every element and stops at a bad one
        if tag.is_private or tag.group >= 0x6000:
            continue
        element = _clean_element(source, tag)
        if element is not None:
            header.add(element)
    _fill_required(header)
    return header


def _require_uids(source: Dataset) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not UID(str(source.get(keyword, ""))).is_valid:
            raise InvalidUidError(f"source has no valid {keyword}")


def _fill_required(header: Dataset) -> None:
    for keyword in _TYPE_2:
        if keyword not in header or header[keyword].value is None:
            setattr(header, keyword, "")
    if header.PatientSex not in ("", "M", "F", "O"):
        header.PatientSex = ""
    header.SpecificCharacterSet = "ISO_IR 192"


def _clean_element(source: Dataset, tag: int) -> DataElement | None:
    try:
        element = source[tag]
        if element.VR == "SQ":
            items = [_clean_item(item) for item in element.value]
            return DataElement(element.tag, "SQ", DicomSequence(items))
        value = _clean_value(element)
        if element.VR in _PRECISE:
            for part in value if isinstance(value, list) else [value]:
                validate_value(element.VR, str(part), pydicom_config.RAISE)
        return DataElement(element.tag, element.VR, value)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError, OverflowError):
        return None  # the sender's broken value; required elements are emptied by the caller


def _clean_item(item: Dataset) -> Dataset:
    clean = Dataset()
    for tag in item.keys():  # noqa: SIM118  see study_header
        element = None if tag.is_private else _clean_element(item, tag)
        if element is not None and element.keyword != "SpecificCharacterSet":
            clean.add(element)
    return clean


def _clean_value(element: DataElement) -> object:
    value = element.value
    if element.VR in _BLOCK:
        return text_block(str(value or ""))
    if element.VR not in _TEXT:
        return list(value) if element.VM > 1 else value
    limit = None if element.keyword in _NEVER_SHORTENED else _LIMITS.get(element.VR)
    if element.VM <= 1:
        return _clean_text(value, limit)
    if dictionary_VM(element.tag) == "1":  # a backslash that should not be there
        return _clean_text("/".join(str(part) for part in value), limit)
    return [_clean_text(part, limit) for part in value]


def _clean_text(value: object, limit: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, PersonName):  # groups keep their separators
        return "=".join(one_line(group) for group in str(value).split("="))
    return one_line(str(value))[:limit]


def timezone_of(header: Dataset) -> str | None:
    """Return the source's Timezone Offset From UTC (``+0100``), or None when it is absent or malformed.

    It holds for every date and time of an Instance, the copied Study Date and Time too, so our objects keep it.
    """
    offset = str(header.get("TimezoneOffsetFromUTC", "") or "").strip()
    return offset if _TIMEZONE.match(offset) else None
