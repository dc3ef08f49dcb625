"""The whole report as one HTML page: the presented form of a DiagnosticReport."""

import html

from reports.document import ReportDocument
from reports.fhir.datatypes import clean, fhir_date, human_names

_HEADINGS = {
    "history": "Clinical information",
    "technique": "Technique",
    "comparison": "Comparison",
    "findings": "Findings",
    "impression": "Impression",
    "recommendation": "Recommendation",
    "addendum": "Addendum",
}


def html_form(document: ReportDocument) -> str:
    """Return the report for people, without scripts and without anything to be fetched; every text is escaped."""
    notice = _element("p", document.notice, ' role="alert" style="font-weight:bold"') if document.notice else ""
    body = [
        _element("h1", document.study.description or "Diagnostic imaging report"),
        notice,
        _banner(document),
        *(_section(_HEADINGS[one.key], one.text) for one in document.sections),
        _not_assessed(document),
        _element("p", f"Correction: {document.correction}") if clean(document.correction) else "",
        *(_section(_addendum(one.number, one.signer.printed_name), one.text) for one in document.addenda),
        *(_signature(document, index) for index in range(len(document.signatures))),
        notice,
    ]
    return (
        f'<!DOCTYPE html><html lang="{html.escape(document.language, quote=True)}"><head><meta charset="utf-8">'
        f"<title>{_text('Diagnostic imaging report')}</title></head><body>{''.join(body)}</body></html>"
    )


def _addendum(number: int, name: str) -> str:
    return f"Addendum {number}, {name}"


def _banner(document: ReportDocument) -> str:
    patient, order = document.patient, document.order
    names = human_names(patient.name)
    rows = (
        ("Patient", " / ".join(name["text"] for name in names)),
        ("Patient ID", patient.patient_id),
        ("Born", fhir_date(patient.birth_date)),
        ("Sex", patient.sex),
        ("Accession number", order.accession_number),
        ("Study date", fhir_date(document.study.date)),
        ("Indication", order.indication),
        ("Organization", document.organization),
    )
    cells = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows if clean(value))
    return f"<table>{cells}</table>"


def _section(heading: str, text: str) -> str:
    return _element("h2", heading) + "".join(_element("p", line) for line in text.splitlines() if clean(line))


def _not_assessed(document: ReportDocument) -> str:
    items = "".join(_element("li", one) for one in document.not_assessed if clean(one))
    return f"{_element('h2', 'Not assessed by AI')}<ul>{items}</ul>" if items else ""


def _signature(document: ReportDocument, index: int) -> str:
    one = document.signatures[index]
    at = one.signer.signed_at.isoformat(timespec="minutes")
    return _element("p", f"{one.meaning}: {one.signer.printed_name}, {one.signer.organization}, {at}")


def _element(name: str, text: str, attributes: str = "") -> str:
    return f"<{name}{attributes}>{_text(text)}</{name}>"


def _text(text: str) -> str:
    return html.escape(clean(text))
