"""DiagnosticReport and Provenance: the report, and who made which part of it."""

import base64
import hashlib
from collections.abc import Mapping, Sequence

from reports.document import Code, DocumentState, ReportDocument
from reports.fhir.datatypes import (
    TERMINOLOGY,
    UID_SYSTEM,
    URI_SYSTEM,
    Json,
    clean,
    concept,
    fhir_moment,
    instant,
    kept,
    local_system,
    narrative,
    reference,
    references,
    term,
    uid_identifier,
)
from reports.fhir.findings import AI_ASSERTED, Links
from reports.fhir.form import html_form
from reports.fhir.parties import accession_identifier
from reports.values import Signer

STATUS: Mapping[DocumentState, str] = {
    "draft": "partial",
    "preliminary": "preliminary",
    "final": "final",
    "addended": "appended",
    "corrected": "corrected",
}
VERSION_TAG = local_system("report-version")
REPORT = Code("18748-4", "LN", "Diagnostic imaging study")


def report_identifier(document: ReportDocument) -> Json:
    """Return what identifies the report through all its versions."""
    return uid_identifier(document.report_uid, URI_SYSTEM)


def report_resource(document: ReportDocument, links: Links, results: Sequence[str], pdf: bytes | None) -> Json:
    """Return the DiagnosticReport: one resource through all versions, its status as the report's state."""
    study, order = document.study, document.order
    impression = "\n".join(clean(one.text) for one in document.sections if one.key == "impression")
    verifiers = [links.readers[one.staff_id] for one in interpreters(document)]
    accession = accession_identifier(document)
    is_ai = bool(document.algorithms) and not document.is_verified
    said = "\n".join(text for text in (document.notice, impression) if text)
    return kept(
        resourceType="DiagnosticReport",
        meta={"security": [AI_ASSERTED]} if is_ai else None,
        language=document.language,
        text=narrative(document.notice, study.description, *(one.text for one in document.sections)),
        identifier=[
            report_identifier(document),
            uid_identifier(document.uid, URI_SYSTEM) | {"use": "secondary"},
            *([accession] if accession else []),
        ],
        basedOn=[reference(links.order)] if links.order else None,
        status=STATUS[document.state],
        category=[term("v2-0074", "RAD", "Radiology")],
        code=concept(REPORT, order.procedure, text=study.description or REPORT.meaning),
        subject=reference(links.patient),
        effectiveDateTime=fhir_moment(study.date, study.time, study.timezone),
        issued=instant(document.written_at),
        performer=[reference(links.organization)] if links.organization else None,
        resultsInterpreter=references(verifiers),
        result=references(results),
        imagingStudy=[reference(links.study)],
        conclusion=said if impression else None,
        presentedForm=_forms(document, pdf),
    )


def interpreters(document: ReportDocument) -> list[Signer]:
    """Return who signed, each once, the first signature first."""
    return list({one.signer.staff_id: one.signer for one in document.signatures}.values())


def _forms(document: ReportDocument, pdf: bytes | None) -> list[Json]:
    page = html_form(document).encode()
    forms = [_form(document, "text/html", page)]
    return [*forms, _form(document, "application/pdf", pdf)] if pdf is not None else forms


def _form(document: ReportDocument, media_type: str, content: bytes) -> Json:
    # R4 Attachment: hash is the SHA-1 of the content, base64; it finds damage, it proves nothing
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    return {
        "contentType": media_type,
        "language": document.language,
        "data": base64.b64encode(content).decode("ascii"),
        "size": len(content),
        "hash": base64.b64encode(digest).decode("ascii"),
        "title": document.notice or "Diagnostic imaging report",
        "creation": instant(document.written_at),
    }


def provenance_resource(document: ReportDocument, links: Links, target: str, product: str) -> Json:
    """Return who made this version from what: models and readers as agents, the Study and our objects as sources.

    It has no ``signature``: a hash and a log-in are no detached signature, and none is made up.
    """
    follows = len(document.signatures) > 1
    words = [f"{one.meaning}: {one.signer.printed_name}" for one in document.signatures]
    return kept(
        resourceType="Provenance",
        meta={"tag": [{"system": VERSION_TAG, "code": document.uid}]},
        text=narrative(f"{STATUS[document.state]} report", *words, document.correction, document.notice),
        target=[reference(target)],
        occurredDateTime=instant(document.written_at),
        recorded=instant(document.written_at),
        reason=[concept(text=document.correction)] if clean(document.correction) else None,
        activity=term("v3-DataOperation", *(("UPDATE", "revise") if follows else ("CREATE", "create"))),
        agent=[
            *(_agent("author", device) for device in links.devices.values()),
            _agent("assembler", product),
            *_readers(document, links),
        ],
        entity=[
            {"role": "source", "what": reference(links.study)},
            *(
                {"role": "source", "what": {"identifier": {"system": UID_SYSTEM, "value": f"urn:oid:{uid}"}}}
                for uid in dict.fromkeys(one.sop_instance_uid for one in document.objects)
            ),
        ],
    )


def _readers(document: ReportDocument, links: Links) -> list[Json]:
    agents: dict[tuple[str, str], Json] = {}
    for one in document.signatures:
        verifies = one.state in {"final", "addended", "corrected"}
        roles = ["verifier"] if verifies else ["author"]
        if verifies and not document.algorithms:
            roles.insert(0, "author")  # nobody else wrote it
        for role in roles:
            key = (role, one.signer.staff_id)
            agents[key] = _agent(role, links.readers[one.signer.staff_id], links.organization)
    return list(agents.values())


def _agent(role: str, who: str, organization: str = "") -> Json:
    coded = {"system": f"{TERMINOLOGY}provenance-participant-type", "code": role, "display": role.capitalize()}
    return kept(
        type={"coding": [coded]},
        who=reference(who),
        onBehalfOf=reference(organization) if organization else None,
    )
