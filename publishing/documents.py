"""One report as PDF, HL7 and FHIR say it: gathered from a draft that was just made, or from the rows of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from pydicom import Dataset
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.settings import Settings
from db.lifecycle import text_sha256
from db.models import ImagingOrder, Reading, Study
from db.queries import ReportDetail, instance_paths
from db.queries.amendments import SignedAmendment, amendments, is_refused
from db.report_models import Signature, UserAccount
from db.types import ReportState
from publishing.facts import algorithms_of, own_objects, patient_facts, reported_findings, signer, study_facts
from reports.codes import code_table
from reports.document import (
    Addendum,
    Code,
    DocumentState,
    OrderFacts,
    PatientFacts,
    ReportDocument,
    ReportedFinding,
    SeriesFacts,
    SignatureFacts,
    StudyFacts,
)
from reports.source import study_header, timezone_of
from reports.values import AlgorithmIdentity, DraftIdentity, InstanceReference, Section, SectionKey, Signer, stable_uid

STATES: Mapping[ReportState, DocumentState] = {
    ReportState.PRELIMINARY: "preliminary",
    ReportState.FINAL: "final",
    ReportState.ADDENDED: "addended",
    ReportState.CORRECTED: "corrected",
}
_UNSPOKEN = frozenset({ReportState.UNREAD, ReportState.REJECTED, ReportState.CANCELLED})


# --- a draft that was just made ------------------------------------------------------------------------------


def draft_document(  # noqa: PLR0913 keyword-only; each is a part of the document
    *,
    source: Dataset,
    series: Sequence[SeriesFacts],
    order: ImagingOrder | None,
    sections: Mapping[str, str],
    findings: Sequence[ReportedFinding],
    algorithms: Sequence[AlgorithmIdentity],
    not_assessed: Sequence[str],
    organization: str,
    identity: DraftIdentity,
    objects: Sequence[InstanceReference],
) -> ReportDocument:
    """Return an AI draft as a document, before its rows exist; its UIDs are those `report_document` gives it later.

    Args:
        source: any one image of the Study; Patient and Study are taken from it.
        series: what was read.
        order: that asked for it, if known.
        sections: section key → text.
        findings: as the draft reports them, all pending.
        algorithms, not_assessed, organization, objects: as in `ReportDocument`.
        identity: of the draft's objects; ``reading_id`` and ``created_at`` are the document's version and time.

    Raises:
        RefusedInputError: no text.
        InvalidUidError: the source's UIDs are none.
    """
    header = study_header(source)
    study = StudyFacts(
        study_instance_uid=identity.study_instance_uid,
        date=_text(header, "StudyDate"),
        time=_text(header, "StudyTime"),
        timezone=timezone_of(header) or "",
        description=_text(header, "StudyDescription"),
        referring_physician=_text(header, "ReferringPhysicianName"),
        series=tuple(series),
    )
    patient = PatientFacts(
        patient_id=_text(header, "PatientID"),
        issuer_of_patient_id=_text(header, "IssuerOfPatientID"),
        name=_text(header, "PatientName"),
        birth_date=_text(header, "PatientBirthDate"),
        sex=_text(header, "PatientSex"),
    )
    return ReportDocument(
        state="draft",
        uid=version_uid(identity.study_instance_uid, identity.reading_id),
        report_uid=report_uid(identity.study_instance_uid),
        written_at=identity.created_at,
        patient=patient,
        study=study,
        order=order_facts(order, _text(header, "AccessionNumber")),
        sections=_sections(sections),
        algorithms=tuple(algorithms),
        findings=tuple(findings),
        not_assessed=tuple(not_assessed),
        organization=organization,
        objects=tuple(objects),
    )


def version_uid(study_instance_uid: str, version: str) -> str:
    """Return the UID of one version of a Study's report; ``version`` is the id of its Reading or Signature."""
    return stable_uid("report version", study_instance_uid, version)


def report_uid(study_instance_uid: str) -> str:
    """Return the UID of a Study's report through all its versions: a Study has one Report."""
    return stable_uid("report", study_instance_uid)


def order_facts(order: ImagingOrder | None, study: Study | str) -> OrderFacts:
    """Return what was asked for; without an order only the Accession Number of the images is known.

    Args:
        order: the order the Study answers, or None.
        study: the Study, or its Accession Number.
    """
    accession = study if isinstance(study, str) else study.accession_number
    if order is None:
        return OrderFacts(accession_number=accession)
    procedure = None
    if order.procedure_code:
        procedure = Code(order.procedure_code, order.procedure_scheme, order.procedure_text or order.procedure_code)
    return OrderFacts(
        accession_number=order.accession_number or accession,
        placer_order_number=order.placer_order_number,
        filler_order_number=order.filler_order_number,
        procedure=procedure,
        indication=order.indication,
        priority=order.priority.value,
        ordering_provider=order.ordering_provider,
        ordering_provider_id=order.ordering_provider_id,
        visit_number=order.visit_number,
        patient_class=order.patient_class,
        patient_location=order.patient_location,
    )


# --- the report of rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """A signature that is being made: what the document says before its rows exist.

    Attributes:
        signature: not yet kept.
        signer: who signs, as named in documents.
        sections: the text that is signed, without addenda.
        addendum: the new addendum; empty for none.
        correction: why the report is corrected; empty unless it is.
        objects: that are made with it.
    """

    signature: Signature
    signer: Signer
    sections: Mapping[str, str]
    addendum: str = ""
    correction: str = ""
    objects: Sequence[InstanceReference] = field(default=())


def report_document(
    session: Session, detail: ReportDetail, settings: Settings, *, act: Act | None = None
) -> ReportDocument:
    """Return a report as it was last signed, or its draft while nobody signed; with ``act`` as it will be signed.

    A signed report that was opened again still says what was signed. A draft that a reader edits is still a draft,
    with the text as it stands.

    Raises:
        RefusedInputError: unread, rejected or cancelled reports say nothing; nor does one without text.
    """
    signatures = [*detail.signatures, *([act.signature] if act else [])]
    if not signatures and detail.report.state in _UNSPOKEN:
        raise RefusedInputError(f"the report is {detail.report.state.value}: there is nothing to tell of it")
    refused = is_refused(session, detail.report.draft_id)
    draft = None if refused else detail.draft
    held = instance_paths(session, detail.study.id)
    algorithms = algorithms_of(draft.provenance.get("models", []) if draft else [])
    amended = amendments(session, detail.report.id)
    names = _Names(session, settings.organization, act)
    last = signatures[-1] if signatures else None
    sections = act.sections if act else _signed_sections(detail)
    study_uid = detail.study.study_instance_uid
    return ReportDocument(
        state=STATES[last.state] if last else "draft",
        uid=version_uid(study_uid, str(last.id) if last else _draft_version(detail)),
        report_uid=report_uid(study_uid),
        written_at=last.signed_at if last else _drafted_at(session, detail),
        patient=patient_facts(detail.study),
        study=study_facts(session, detail, held, settings.instances_dir),
        order=order_facts(_order(session, detail.study), detail.study),
        sections=_sections(sections),
        addenda=_addenda(amended, names, act),
        signatures=tuple(
            SignatureFacts(names.signer(one), STATES[one.state], one.meaning, one.text_sha256) for one in signatures
        ),
        correction=_correction(amended, act, last),
        algorithms=tuple(algorithms),
        findings=() if refused else tuple(reported_findings(detail, held, algorithms)),
        not_assessed=tuple(str(one.get("what", "")) for one in (draft.not_assessed if draft else [])),
        organization=settings.organization,
        objects=(*own_objects(detail, settings.results_dir, refused=refused), *(act.objects if act else ())),
    )


class _Names:
    """Who signed, by account; what is signed now is signed by who acts."""

    def __init__(self, session: Session, organization: str, act: Act | None) -> None:
        self._session = session
        self._organization = organization
        self._act = act

    def signer(self, signature: Signature) -> Signer:
        if self._act is not None and signature is self._act.signature:
            return self._act.signer
        account = self._session.get_one(UserAccount, signature.user_id)
        return signer(signature.printed_name, account.login, self._organization, signature.signed_at)


def _signed_sections(detail: ReportDetail) -> Mapping[str, str]:
    """Return the text under the last signature; the report's own may have been edited since."""
    sections: Mapping[str, str] = detail.report.sections
    if not detail.signatures:
        return sections
    wanted = detail.signatures[-1].text_sha256
    signed = (one.sections for one in reversed(detail.revisions) if text_sha256(one.sections) == wanted)
    return next(signed, sections)


def _draft_version(detail: ReportDetail) -> str:
    """Return the Reading of an untouched draft; a reader's edits make it another version."""
    if detail.draft is None:
        return str(detail.report.id)
    reading_id = str(detail.draft.reading_id)
    digest = text_sha256(detail.report.sections)
    return reading_id if digest == text_sha256(detail.draft.sections) else f"{reading_id} {digest}"


def _drafted_at(session: Session, detail: ReportDetail) -> datetime:
    """Return when the draft was made, as its objects say; of a draft that a reader edited, when it last changed."""
    draft = detail.draft
    if draft is None or text_sha256(detail.report.sections) != text_sha256(draft.sections):
        return detail.report.updated_at
    return session.get_one(Reading, draft.reading_id).completed_at or draft.created_at


def _sections(sections: Mapping[str, str]) -> tuple[Section, ...]:
    keys = [key for key in code_table().sections if key != "addendum" and str(sections.get(key) or "").strip()]
    if not keys:
        raise RefusedInputError("a report without any text says nothing")
    return tuple(Section(cast("SectionKey", key), str(sections[key])) for key in keys)


def _addenda(amended: Sequence[SignedAmendment], names: _Names, act: Act | None) -> tuple[Addendum, ...]:
    rows = [one for one in amended if one.amendment.state is ReportState.ADDENDED]
    made = [Addendum(one.amendment.number, one.amendment.text, names.signer(one.signature)) for one in rows]
    if act is not None and act.addendum:
        made.append(Addendum(len(made) + 1, act.addendum, act.signer))
    return tuple(made)


def _correction(amended: Sequence[SignedAmendment], act: Act | None, last: Signature | None) -> str:
    if act is not None:
        return act.correction
    if last is None or last.state is not ReportState.CORRECTED:
        return ""
    return next((one.amendment.text for one in amended if one.signature.id == last.id), "")


def _order(session: Session, study: Study) -> ImagingOrder | None:
    return session.get(ImagingOrder, study.order_id) if study.order_id else None


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "")
