"""Read an earlier report out of an archive's SR document: a Dataset in, a frozen value out.

The text is somebody else's: it is shown to people as a quotation, and trusted for nothing else. Documents of any
origin come here, so depth, number of items and length are bounded, and whatever is missing is just not there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
)

from config.errors import RefusedInputError
from reports.text import one_line, text_block

REPORT_CLASSES = frozenset({BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage})
PDF_CLASS = EncapsulatedPDFStorage
MAX_DEPTH, MAX_ITEMS, MAX_CHARACTERS = 12, 2000, 30_000
_MEASUREMENT_REPORT = "126000"  # DCM Imaging Measurement Report: numbers for machines, not a narrative
_OBSERVER_TYPE, _DEVICE = "121005", "121007"
_CONTEXT = frozenset({"HAS OBS CONTEXT", "HAS CONCEPT MOD", "HAS ACQ CONTEXT", "HAS PROPERTIES", "SELECTED FROM"})


@dataclass(frozen=True)
class PriorReport:
    """What one SR document says.

    Attributes:
        title: meaning of the document's title code.
        date: ``YYYY-MM-DD`` of verification, else of the content; ``""`` when unknown.
        author: who verified it, else who wrote it.
        is_verified: a person stands behind it (Verification Flag).
        sections: heading and text, in the document's order; a heading may be empty.
        is_shortened: there was more than is read.
    """

    title: str
    date: str
    author: str
    is_verified: bool
    sections: tuple[tuple[str, str], ...]
    is_shortened: bool


@dataclass(frozen=True)
class PdfReport:
    """That there is a report as PDF; its text is not read."""

    title: str
    date: str


def read_prior_report(ds: Dataset) -> PriorReport:
    """Return what an SR document says.

    Raises:
        RefusedInputError: it is no narrative report of a person: another SOP Class, not COMPLETE, a device's
            unverified draft, measurements only, or without text.
    """
    if ds.get("SOPClassUID") not in REPORT_CLASSES:
        raise RefusedInputError("not a text report")
    if str(ds.get("CompletionFlag", "")) != "COMPLETE":
        raise RefusedInputError("the report is not complete")
    verified = str(ds.get("VerificationFlag", "")) == "VERIFIED"
    if not verified and _is_by_device(ds):
        raise RefusedInputError("a device's draft that nobody verified is no report")
    title = _code(ds, "ConceptNameCodeSequence")
    if title[0] == _MEASUREMENT_REPORT:
        raise RefusedInputError("measurements only")
    reader = _Reader()
    sections = reader.sections(ds)
    if not sections:
        raise RefusedInputError("the report has no text")
    verifier = _first(ds, "VerifyingObserverSequence")
    date = str(verifier.get("VerificationDateTime", "") or "") if verified else ""
    return PriorReport(
        title=title[1] or "Report",
        date=_day(date or str(ds.get("ContentDate", "") or "")),
        author=_author(ds, verifier if verified else Dataset()),
        is_verified=verified,
        sections=sections,
        is_shortened=reader.is_shortened,
    )


def read_pdf_report(ds: Dataset) -> PdfReport:
    """Return what is said about an encapsulated PDF.

    Raises:
        RefusedInputError: another SOP Class.
    """
    if ds.get("SOPClassUID") != PDF_CLASS:
        raise RefusedInputError("not an encapsulated PDF")
    title = str(ds.get("DocumentTitle", "") or "") or _code(ds, "ConceptNameCodeSequence")[1]
    return PdfReport(one_line(title, 120) or "Document", _day(str(ds.get("ContentDate", "") or "")))


class _Reader:
    """One pass over a content tree, in its order, without recursion."""

    def __init__(self) -> None:
        self.is_shortened = False
        self._items = 0
        self._characters = 0

    def sections(self, ds: Dataset) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, list[str]]] = []
        for heading, text in self._texts(ds):
            if not found or found[-1][0] != heading:
                found.append((heading, []))
            found[-1][1].append(text)
        return tuple((heading, "\n".join(lines)) for heading, lines in found)

    def _texts(self, root: Dataset) -> Iterator[tuple[str, str]]:
        """Yield (heading of the innermost named container, text) of each item that says something."""
        waiting = [(item, "", 1) for item in reversed(_items(root, "ContentSequence"))]
        while waiting:
            item, heading, depth = waiting.pop()
            self._items += 1
            if self._items > MAX_ITEMS or self._characters > MAX_CHARACTERS:
                self.is_shortened = True
                return
            if str(item.get("RelationshipType", "")) in _CONTEXT:
                continue
            kind, (_, name) = str(item.get("ValueType", "")), _code(item, "ConceptNameCodeSequence")
            text = self._fitted(_said(item, kind, name, heading))
            if text:
                yield heading, text
            inner = (name or heading) if kind == "CONTAINER" else heading
            children = _items(item, "ContentSequence")
            if depth < MAX_DEPTH:
                waiting += [(child, inner, depth + 1) for child in reversed(children)]
            elif children:
                self.is_shortened = True

    def _fitted(self, text: str) -> str:
        room = max(0, MAX_CHARACTERS - self._characters)
        self._characters += len(text)
        if len(text) > room:
            self.is_shortened = True
            return text[:room].rstrip() + " …"
        return text


def _said(item: Dataset, kind: str, name: str, heading: str) -> str:
    """Return what one content item says in words; empty for references, containers and what is not for reading."""
    if kind == "TEXT":
        return text_block(str(item.get("TextValue", "") or "")).replace("\r\n", "\n")
    if kind == "CODE":
        value = _code(item, "ConceptCodeSequence")[1]
    elif kind == "NUM":
        measured = _first(item, "MeasuredValueSequence")
        unit = _code(measured, "MeasurementUnitsCodeSequence")[0]
        value = f"{one_line(str(measured.get('NumericValue', '') or ''), 32)} {'' if unit == '1' else unit}".strip()
    elif kind == "DATE":
        value = _day(str(item.get("Date", "") or ""))
    else:
        return ""
    if not value:
        return ""
    return f"{name}: {value}" if name and name != heading else value


def _is_by_device(ds: Dataset) -> bool:
    authors = _items(ds, "AuthorObserverSequence")
    if authors:
        return all(str(author.get("ObserverType", "")) == "DEV" for author in authors)
    observers = [
        _code(item, "ConceptCodeSequence")[0]
        for item in _items(ds, "ContentSequence")[:MAX_ITEMS]
        if _code(item, "ConceptNameCodeSequence")[0] == _OBSERVER_TYPE
    ]
    return bool(observers) and all(kind == _DEVICE for kind in observers)


def _author(ds: Dataset, verifier: Dataset) -> str:
    name = verifier.get("VerifyingObserverName") or _first(ds, "AuthorObserverSequence").get("PersonName") or ""
    shown = str(name).partition("=")[0].replace("^", " ")
    return one_line(shown, 120)


def _code(ds: Dataset, keyword: str) -> tuple[str, str]:
    """Return value and meaning of the first code of a sequence; empty when there is none."""
    code = _first(ds, keyword)
    return one_line(str(code.get("CodeValue", "") or "")), one_line(str(code.get("CodeMeaning", "") or ""), 120)


def _first(ds: Dataset, keyword: str) -> Dataset:
    return next(iter(_items(ds, keyword)), Dataset())


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = ds.get(keyword)
    return list(value) if isinstance(value, Items) else []


def _day(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}" if value[:8].isdigit() and len(value) >= 8 else ""
