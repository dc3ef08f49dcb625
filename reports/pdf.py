"""The report for people: typeset A4, the same bytes for the same document, marked on each page until it is verified."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import cast

from fpdf.enums import TableBordersLayout
from fpdf.fonts import FontFace

from reports.document import (
    DocumentState,
    PatientFacts,
    ReportDocument,
    ReportedFinding,
    SignatureFacts,
    StudyFacts,
)
from reports.equipment import distinct, use_notice
from reports.pdf_page import MARGIN, MISSING, QUIET, RULE, SHADE, WARNING, WIDTH, Head, Sheet, instant
from reports.text import one_line
from reports.values import AlgorithmIdentity

SECTION_TITLES: Mapping[str, str] = {
    "history": "History / indication",
    "technique": "Technique",
    "comparison": "Comparison",
    "findings": "Findings",
    "impression": "Impression",
    "recommendation": "Recommendation",
    "addendum": "Addendum",
}
STATE_WORDS: Mapping[DocumentState, str] = {
    "draft": "AI draft",
    "preliminary": "Preliminary",
    "final": "Final",
    "addended": "Final, with addendum",
    "corrected": "Corrected",
}

_SEX = {"M": "male", "F": "female", "O": "other"}
_DECISIONS = {"pending": "not decided", "accepted": "accepted", "edited": "changed", "rejected": "rejected"}
_LONGEST_CELL = 600  # bytes; a row of a table must fit on a page
_UNITS = {"cm3": "cm³", "mm3": "mm³", "[hnsf'U]": "HU", "1": ""}


def build_pdf(document: ReportDocument) -> bytes:
    """Return the report as PDF.

    Every page carries the organisation, the state of the report, the patient's banner and ``document.notice`` (above
    and below) until a radiologist signed; of a verified report with demonstration or research models every page says
    so of the AI part. A character that no font at hand can show becomes a visible box, and the report says so.

    Args:
        document: the report at one moment; its ``written_at`` is the creation date, so a resend has the same bytes.
    """
    sheet = Sheet(_strings(document), written_at=document.written_at, language=document.language)
    sheet.set_title("Radiology report")  # no name: titles show up in window bars and file listings
    sheet.set_subject(f"{_state_words(document)} {document.uid}")
    sheet.begin(_head(sheet, document))
    _write_order(sheet, document)
    _write_text(sheet, document)
    if document.findings:
        _write_findings(sheet, document)
    if document.not_assessed:
        sheet.heading("Not assessed")
        sheet.pen(9)
        sheet.paragraph("; ".join(one_line(one) for one in document.not_assessed))
    _write_signatures(sheet, document)
    if document.algorithms:
        _write_algorithms(sheet, document.algorithms)
    if sheet.unseen:
        sheet.ln(3)
        sheet.pen(8.5, bold=True, ink=WARNING)
        sheet.paragraph(
            f"Some characters cannot be shown here ({MISSING}); the DICOM structured report of this study has them."
        )
    return sheet.finished()


def _state_words(document: ReportDocument) -> str:
    """Return what the report is; a text that no model wrote and nobody signed is no AI draft."""
    return STATE_WORDS[document.state] if document.signatures or document.algorithms else "Not signed"


def _strings(value: object) -> Iterator[str]:
    """Yield every text of a document, to know which scripts it needs."""
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _strings(getattr(value, field.name))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for one in value:
            yield from _strings(one)


# --- what stands on every page ------------------------------------------------------------------------------


def _head(sheet: Sheet, document: ReportDocument) -> Head:
    limits = use_notice(document.algorithms)
    remark = f"AI part: {limits}, not for clinical use" if limits and limits not in document.notice else ""
    patient, study, order = document.patient, document.study, document.order
    procedure = one_line(order.procedure.meaning if order.procedure else study.description)
    modalities = ", ".join(one for one in study.modalities if one not in procedure.split())
    return Head(
        sheet,
        notice=document.notice,
        organization=document.organization or "Radiology",
        title=f"Radiology report – {_state_words(document)}",
        remark=remark,
        facts=(
            ("Patient", person(patient.name)),
            ("Patient ID", _identifier(patient)),
            ("Born · sex", f"{_date(patient.birth_date)} · {_SEX.get(patient.sex, 'sex unknown')}"),
            ("Accession number", order.accession_number),
            ("Study", _when(study)),
            ("Procedure", " · ".join(filter(None, [modalities, procedure]))),
        ),
        version=f"Version of {instant(document.written_at)} · {document.uid}",
    )


def person(name: str) -> str:
    """Return a PN as it is read, the ideographic or phonetic form in brackets: ``Yamada, Taro (山田 太郎)``."""
    alphabetic, *others = name.split("=")
    forms = [_person_parts(alphabetic), *(" ".join(one_line(group.replace("^", " ")).split()) for group in others)]
    first, *rest = [form for form in forms if form] or ["Name not given"]
    return f"{first} ({', '.join(rest)})" if rest else first


def _person_parts(group: str) -> str:
    family, given, middle, prefix, suffix = [*(one_line(part) for part in group.split("^")), *[""] * 5][:5]
    return ", ".join(filter(None, [family, " ".join(filter(None, [prefix, given, middle])), suffix]))


def _identifier(patient: PatientFacts) -> str:
    issuer = one_line(patient.issuer_of_patient_id)
    return one_line(patient.patient_id) + (f" ({issuer})" if issuer else "")


def _date(value: str) -> str:
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", value)
    return "-".join(match.groups()) if match else (one_line(value) or "unknown")


def _when(study: StudyFacts) -> str:
    clock = re.match(r"(\d\d)(\d\d)", study.time)
    return f"{_date(study.date)} {':'.join(clock.groups()) if clock else ''}".strip()


# --- the report ---------------------------------------------------------------------------------------------


def _write_order(sheet: Sheet, document: ReportDocument) -> None:
    order = document.order
    facts = [
        ("Ordered by", person(provider) if (provider := order.ordering_provider) else ""),
        ("Referring physician", person(referrer) if (referrer := document.study.referring_physician) else ""),
        ("Priority", order.priority if order.priority != "ROUTINE" else ""),
        ("Indication", one_line(order.indication)),
        ("Order numbers", " · ".join(filter(None, [order.placer_order_number, order.filler_order_number]))),
    ]  # fmt: skip
    for label, value in facts:
        if value:
            _fact(sheet, label, value)


def _fact(sheet: Sheet, label: str, value: str, *, left: float = 34.0, x: float = MARGIN) -> None:
    """Write a label and its value beside it."""
    sheet.keep_together(6)
    top = sheet.y
    sheet.set_x(x)
    sheet.pen(8, ink=QUIET)
    sheet.cell(left, 4.6, label)
    sheet.set_y(top)
    sheet.pen(9)
    sheet.paragraph(value, x=x + left, width=WIDTH - left - (x - MARGIN))


def _write_text(sheet: Sheet, document: ReportDocument) -> None:
    if document.correction:
        sheet.heading("Correction")
        sheet.pen(9.5, bold=True)
        sheet.paragraph(document.correction)
    for section in document.sections:
        sheet.heading(SECTION_TITLES[section.key])
        sheet.pen(10, bold=section.key == "impression")
        sheet.paragraph(section.text)
    for addendum in document.addenda:
        signer = addendum.signer
        sheet.heading(f"Addendum {addendum.number}")
        sheet.pen(8, ink=QUIET)
        sheet.paragraph(f"{one_line(signer.printed_name)}, {instant(signer.signed_at)}")
        sheet.pen(10)
        sheet.paragraph(addendum.text)


def _write_findings(sheet: Sheet, document: ReportDocument) -> None:
    sheet.heading("Findings of the AI models, and what the reader made of them")
    sheet.pen(8)
    with sheet.table(
        col_widths=(46, 16, 34, 40, 42),
        width=cast("int", WIDTH),
        align="LEFT",
        text_align="LEFT",
        line_height=4.2,
        padding=(0.9, 1.2),
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        headings_style=FontFace(emphasis="BOLD", fill_color=SHADE, color=QUIET),
    ) as table:
        table.row(["Finding", "Side", "AI says", "Measured", "Reader"])
        for finding in document.findings:
            table.row([sheet.visible(one_line(cell, _LONGEST_CELL)) for cell in _cells(finding)])
    sheet.set_draw_color(*RULE)
    if any(finding.score is not None for finding in document.findings):
        sheet.ln(0.8)
        sheet.pen(7, ink=QUIET)
        sheet.paragraph("Scores are raw outputs of a model from 0 to 1, not probabilities of disease.")


def _cells(finding: ReportedFinding) -> tuple[str, str, str, str, str]:
    score = "" if finding.score is None else f", score {finding.score:.2f}"
    measured = "; ".join(
        f"{one.key.replace('_', ' ')} {one.value:.4g} {_UNITS.get(one.unit_ucum, one.unit_ucum)}".strip()
        for one in finding.measurements
    )
    reader = _DECISIONS[finding.decision] + (f": {finding.reason}" if finding.reason else "")
    return finding.label, finding.laterality or "–", finding.presence + score, measured or "–", reader


def _write_signatures(sheet: Sheet, document: ReportDocument) -> None:
    sheet.heading("Signatures")
    if not document.signatures:
        sheet.pen(9.5, bold=True, ink=WARNING)
        sheet.paragraph(f"Not signed. {document.notice}.")
    for signature in document.signatures:
        _write_signature(sheet, signature)


def _write_signature(sheet: Sheet, signature: SignatureFacts) -> None:
    """Write printed name, moment and meaning of one signature (21 CFR 11.50), and what was signed."""
    sheet.keep_together(26)
    top, signer = sheet.y + 0.8, signature.signer
    sheet.set_y(top + 0.4)
    sheet.pen(10, bold=True)
    sheet.paragraph(one_line(signer.printed_name), x=MARGIN + 3, width=WIDTH - 3)
    rows = (
        ("Signed at", instant(signer.signed_at)),
        ("Meaning", one_line(signature.meaning)),
        ("As", f"{STATE_WORDS[signature.state]} · {one_line(signer.organization)} · staff {one_line(signer.staff_id)}"),
        ("Text SHA-256", signature.text_sha256),
    )
    page = sheet.page_no()
    for label, value in rows:
        if value:
            _fact(sheet, label, value, left=26, x=MARGIN + 3)
    if sheet.page_no() == page:
        sheet.set_fill_color(*RULE)
        sheet.rect(MARGIN, top, 0.8, sheet.y - top, style="F")
    sheet.ln(1.2)


def _write_algorithms(sheet: Sheet, algorithms: Sequence[AlgorithmIdentity]) -> None:
    sheet.heading("AI models that had a part in this report")
    for algorithm in distinct(algorithms):
        limits = use_notice([algorithm])
        sheet.pen(9)
        sheet.paragraph(
            f"{one_line(algorithm.name)} {one_line(algorithm.version)}, {one_line(algorithm.manufacturer)}"
            + (f" – {limits}, not for clinical use" if limits else "")
        )
        sheet.pen(7, ink=QUIET)
        sheet.paragraph(f"weights SHA-256 {algorithm.weights_sha256}")
