"""How values read on the screen: names, dates, ages, states, differences."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime

from flask import Flask

from config.results import ResultKind
from dashboard.differences import word_diff
from db.types import DeliveryState, Priority, ReadingState, ReportState, utcnow

SECTION_TITLES: Mapping[str, str] = {
    "history": "History / indication",
    "technique": "Technique",
    "comparison": "Comparison",
    "findings": "Findings",
    "impression": "Impression",
    "recommendation": "Recommendation",
    "addendum": "Addendum",
}
EDITABLE_SECTIONS = ("history", "technique", "comparison", "findings", "impression", "recommendation")

_REPORT_PILLS: Mapping[ReportState, tuple[str, str]] = {
    ReportState.DRAFTED: ("AI draft", "ai"),
    ReportState.IN_REVIEW: ("In review", "info"),
    ReportState.PRELIMINARY: ("Preliminary", "warn"),
    ReportState.FINAL: ("Final", "ok"),
    ReportState.ADDENDED: ("Addended", "ok"),
    ReportState.CORRECTED: ("Corrected", "ok"),
    ReportState.REJECTED: ("Rejected", "bad"),
    ReportState.CANCELLED: ("Cancelled", ""),
}
_READING_PILLS: Mapping[ReadingState, tuple[str, str]] = {
    ReadingState.RECEIVING: ("Receiving", "info"),
    ReadingState.COMPLETE: ("Received", "info"),
    ReadingState.QUEUED: ("Waiting for AI", "info"),
    ReadingState.RUNNING: ("AI reading", "info"),
    ReadingState.RETRYING: ("AI retrying", "warn"),
    ReadingState.DRAFTED: ("Unread", ""),
    ReadingState.NO_DRAFT: ("No AI draft", "warn"),
    ReadingState.FAILED: ("AI failed", "bad"),
    ReadingState.HELD: ("Held", "warn"),
    ReadingState.IGNORED: ("Ignored", ""),
}
_DELIVERY_PILLS: Mapping[DeliveryState, tuple[str, str]] = {
    DeliveryState.PENDING: ("Waiting to send", "info"),
    DeliveryState.SENDING: ("Sending", "info"),
    DeliveryState.DELIVERED: ("Delivered", "ok"),
    DeliveryState.FAILED: ("Not delivered", "bad"),
    DeliveryState.WITHDRAWN: ("Withdrawn", ""),
    DeliveryState.HELD: ("Stopped", "warn"),
}

_K = ResultKind
_RESULT_KINDS: Mapping[str, str] = {
    _K.SEG: "Segmentation",
    _K.SEG_LABELMAP: "Segmentation (label map)",
    _K.HEAT_MAP: "Heat map",
    _K.FINDINGS_SR: "Coded findings, draft",
    _K.KEY_IMAGES: "Key images",
    _K.PRESENTATION_STATE: "Presentation state",
    _K.SECONDARY_CAPTURE: "Secondary Capture",
    _K.DRAFT_SR: "Draft report (SR)",
    _K.DRAFT_TEXT_SR: "Draft report (Basic Text SR)",
    _K.DRAFT_PDF: "Draft report (PDF)",
    _K.DRAFT_ORU: "Draft report (HL7)",
    _K.DRAFT_FHIR: "Draft report (FHIR)",
    _K.PRELIMINARY_SR: "Preliminary report (SR)",
    _K.SIGNED_SR: "Signed report (SR)",
    _K.SIGNED_FINDINGS_SR: "Coded findings, signed",
    _K.REPORT_TEXT_SR: "Report (Basic Text SR)",
    _K.REPORT_PDF: "Report (PDF)",
    _K.REPORT_ORU: "Report (HL7)",
    _K.REPORT_FHIR: "Report (FHIR)",
    _K.REJECTION_NOTE: "Rejection note",
    _K.RETRACTION_ORU: "Draft taken back (HL7)",
    _K.RETRACTION_FHIR: "Draft taken back (FHIR)",
}


def result_kind(kind: str) -> str:
    """Return what a result object is, in words."""
    return _RESULT_KINDS.get(kind, kind)


def status_pill(report: ReportState | None, reading: ReadingState | None) -> tuple[str, str]:
    """Return (words, colour class) for a study: the report speaks, and before it the pipeline."""
    if report is not None and report in _REPORT_PILLS:
        return _REPORT_PILLS[report]
    return _READING_PILLS[reading] if reading is not None else ("Unread", "")


def delivery_pill(state: DeliveryState) -> tuple[str, str]:
    """Return (words, colour class) for a delivery."""
    return _DELIVERY_PILLS[state]


def priority_class(priority: Priority) -> str:
    """Return the colour class of a priority; its word is always printed too."""
    return {Priority.STAT: "bad", Priority.URGENT: "warn", Priority.ROUTINE: "plain"}[priority]


def person_name(value: str) -> str:
    """Return a DICOM PN as ``FAMILY, Given Middle``; the alphabetic group, else the first one there is."""
    groups = [group for group in (value or "").split("=") if group.strip("^ ")]
    if not groups:
        return "Name not given"
    parts = [part.strip() for part in groups[0].split("^")] + [""] * 3
    family, given = parts[0].upper(), " ".join(part for part in parts[1:3] if part)
    return f"{family}, {given}" if given else family


def dicom_date(value: str) -> str:
    """Return a DICOM DA as ``2026-11-22``; what is no date comes back as it is."""
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", value or "")
    return "-".join(match.groups()) if match else (value or "–")


def dicom_time(value: str) -> str:
    """Return a DICOM TM as ``14:05``."""
    match = re.match(r"(\d\d)(\d\d)", value or "")
    return ":".join(match.groups()) if match else ""


def age_at(birth_date: str, study_date: str) -> str:
    """Return the patient's age at the study as ``63 y``, ``8 mo`` or ``5 d``; empty when unknown."""
    try:
        born = datetime.strptime(birth_date, "%Y%m%d").replace(tzinfo=UTC).date()
        day = datetime.strptime(study_date, "%Y%m%d").replace(tzinfo=UTC).date() if study_date else _today()
    except ValueError:
        return ""
    months = (day.year - born.year) * 12 + day.month - born.month - (day.day < born.day)
    if months < 0:
        return ""
    if months >= 24:
        return f"{months // 12} y"
    return f"{months} mo" if months else f"{(day - born).days} d"


def _today() -> date:
    return utcnow().astimezone().date()


def instant(value: datetime | None) -> str:
    """Return an instant in site time with its zone."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if value else "–"


def elapsed(value: datetime | None) -> str:
    """Return how long ago an instant was, as a clock a worklist shows: ``7 min``, ``3 h``, ``2 d``."""
    if value is None:
        return "–"
    seconds = max(0.0, (utcnow() - value).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def countdown(seconds: int) -> str:
    """Return a time that is left as ``42 s`` or ``2 min 05 s``; the page's script says it in the same words."""
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60:02d} s"


def clock(value: datetime) -> str:
    """Return the time of day of an instant, in site time."""
    return value.astimezone().strftime("%H:%M:%S")


def waiting_class(value: datetime | None, priority: Priority) -> str:
    """Return the colour class of the waiting clock; limits in minutes per priority."""
    if value is None:
        return ""
    warn, bad = {Priority.STAT: (20, 60), Priority.URGENT: (60, 240), Priority.ROUTINE: (720, 2880)}[priority]
    minutes = (utcnow() - value).total_seconds() / 60
    return "age-bad" if minutes >= bad else "age-warn" if minutes >= warn else ""


def register_filters(app: Flask) -> None:
    """Make these functions available to the templates."""
    for function in (
        person_name, dicom_date, dicom_time, age_at, instant, elapsed, waiting_class, word_diff,
        priority_class, delivery_pill, status_pill, result_kind, countdown, clock,
    ):  # fmt: skip
        app.add_template_filter(function)
        app.add_template_global(function)
    app.jinja_env.globals["section_titles"] = SECTION_TITLES
