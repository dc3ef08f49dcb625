"""A report as an HL7 v2.5.1 message: ORU^R01 as IHE Report Distribution (RAD-128) sends it.

The text is sent whole, one OBX per section, as FT with ``\\.br\\`` for a line end. While nobody verified it, each
of these texts begins with the notice. Findings go as text only: a coded value without its presence would be misread.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import hl7  # type: ignore[import-untyped]

from config.destination import Destination
from config.exchange_settings import Hl7Settings
from reports.codes import code_table
from reports.document import Code, DocumentState, OrderFacts, PatientFacts, ReportDocument, SignatureFacts
from reports.equipment import distinct, use_notice
from reports.hl7_encoding import (
    Formatted,
    Repetition,
    Value,
    dicom_timestamp,
    message,
    plain,
    segment,
    timestamp,
    xcn,
    xpn,
)
from reports.values import AlgorithmIdentity, SectionKey, Signer

PRIORITIES: Mapping[str, str] = {"STAT": "S", "URGENT": "A", "ROUTINE": "R"}
"""HL7 table 0485, extended priority codes: stat, as soon as possible, routine."""
_STATUS: Mapping[DocumentState, str] = {"draft": "R", "preliminary": "P", "final": "F", "corrected": "C"}
# 55752-0 is what HL7 receivers expect for the clinical information; the other headings are those of our SR
_HISTORY = Code("55752-0", "LN", "Clinical information")
_STUDY = ("113014", "DICOM Study", "DCM")
_SEXES = {"M", "F", "O"}


def build_oru(
    document: ReportDocument, destination: Destination, settings: Hl7Settings, *, uid: str, pdf: bytes | None
) -> bytes:
    """Return the report as an ORU^R01^ORU_R01 message in UTF-8, without its MLLP frame.

    OBR-25 and OBX-11 are R for a draft, P, F and C for a preliminary, final and corrected report, and for one with an
    addendum what ``destination.addendum_status`` says (tables 0123 and 0085; R means "not yet verified").

    Args:
        document: the report.
        destination: who gets it (MSH-5, MSH-6, status of an addendum).
        settings: who we are.
        uid: identity of the message; the same one gives the same bytes.
        pdf: the report as PDF, to go along as an ED value.
    """
    status = _STATUS.get(document.state) or destination.addendum_status
    return message(
        [
            _msh(document, destination, settings, uid),
            _pid(document.patient, settings),
            _pv1(document),
            _orc(document),
            _obr(document, status),
            *_notes(document),
            segment("TQ1", "1", "", "", "", "", "", "", "", PRIORITIES[document.order.priority]),
            *_observations(document, status, pdf),
        ]
    )


def control_id(uid: str, destination: str) -> str:
    """Return the Message Control ID (MSH-10, at most 20 characters) of message ``uid`` to ``destination``."""
    return hashlib.sha256(f"{uid}\x1f{destination}".encode()).hexdigest()[:20].upper()


def _msh(document: ReportDocument, destination: Destination, settings: Hl7Settings, uid: str) -> hl7.Segment:
    return segment(
        "MSH",
        settings.application,
        settings.facility,
        destination.application,
        destination.facility,
        timestamp(document.written_at),
        "",
        ("ORU", "R01", "ORU_R01"),
        control_id(uid, destination.name),
        settings.processing,
        "2.5.1",
        *[""] * 5,
        "UNICODE UTF-8",
    )


def _pid(patient: PatientFacts, settings: Hl7Settings) -> hl7.Segment:
    authority = _authority(patient.issuer_of_patient_id, settings.authority)
    identifier: Repetition = (patient.patient_id, "", "", authority, "MR")
    born = dicom_timestamp(patient.birth_date, "", "")
    sex = patient.sex if patient.sex in _SEXES else ""
    return segment("PID", "1", "", identifier, "", xpn(patient.name), "", born, sex)


def _authority(issuer: str, ours: str) -> tuple[str, ...]:
    """Return PID-3.4 (HD) of an Issuer of Patient ID: a name, or an OID; that of the settings when it is the same."""
    known = tuple(ours.split("&"))
    if not issuer or issuer in known[:2]:
        return known
    return ("", issuer, "ISO") if "." in issuer and issuer.replace(".", "").isdecimal() else (issuer,)


def _pv1(document: ReportDocument) -> hl7.Segment:
    order = document.order
    referring = xcn(document.study.referring_physician)
    # table 0004: U = unknown; the field is required
    fields: list[Value] = ["1", order.patient_class or "U", order.patient_location, *[""] * 4, referring, *[""] * 10]
    return segment("PV1", *fields, order.visit_number)


def _orc(document: ReportDocument) -> hl7.Segment:
    order = document.order
    provider = xcn(order.ordering_provider, order.ordering_provider_id)
    status = "CM" if document.is_verified else "IP"
    return segment("ORC", "RE", order.placer_order_number, _filler(order), "", status, *[""] * 6, provider)


def _filler(order: OrderFacts) -> str:
    return order.filler_order_number or order.accession_number


def _obr(document: ReportDocument, status: str) -> hl7.Segment:
    order, study = document.order, document.study
    fields: dict[int, Value] = {
        1: "1",
        2: order.placer_order_number,
        3: _filler(order),
        4: _procedure(document),
        7: dicom_timestamp(study.date, study.time, study.timezone),
        16: xcn(order.ordering_provider, order.ordering_provider_id),
        18: order.accession_number,
        22: timestamp(document.written_at),
        24: "RAD",
        25: status,
        31: ("", order.indication) if order.indication else "",
        44: _coded(order.procedure) if order.procedure else "",
    }
    if document.signatures:
        *others, last = document.signatures
        fields[32] = _interpreter(last.signer)
        fields[33] = list(dict.fromkeys(_interpreter(one.signer) for one in _assistants(others, last)))
    return segment("OBR", *(fields.get(position, "") for position in range(1, 45)))


def _assistants(others: Sequence[SignatureFacts], last: SignatureFacts) -> Iterator[SignatureFacts]:
    return (one for one in others if one.signer.staff_id != last.signer.staff_id)


def _procedure(document: ReportDocument) -> Repetition:
    """Return OBR-4: the code ordered, else that of any imaging report beside the words of the Study Description."""
    if document.order.procedure is not None:
        return _coded(document.order.procedure)
    return (*_concept("imaging_report"), "", document.study.description)


def _coded(code: Code) -> Repetition:
    return (code.value, code.meaning, code.scheme)


def _interpreter(signer: Signer) -> Repetition:
    """Return a person as NDL: in v2.5.1 its first component is a CNN (identifier, family, given)."""
    return ((signer.staff_id, signer.family or signer.printed_name, signer.given),)


def _notes(document: ReportDocument) -> list[hl7.Segment]:
    """Return NTE segments: what nobody verified, the part that models had, and why it was corrected."""
    said = [
        document.notice,
        _share_of_models(document),
        f"Not assessed by AI: {', '.join(document.not_assessed)}." if document.not_assessed else "",
        f"Corrected: {document.correction}" if document.correction else "",
    ]
    texts = [text for text in said if plain(text)]
    return [segment("NTE", str(number), "L", Formatted(text)) for number, text in enumerate(texts, 1)]


def _share_of_models(document: ReportDocument) -> str:
    """Return which models a signed report was drafted with; a draft says so in its notice."""
    if not document.algorithms or not document.signatures:
        return ""
    models = ", ".join(f"{one.name} {one.version}" for one in distinct(document.algorithms))
    use = f" ({use_notice(document.algorithms)})" if use_notice(document.algorithms) else ""
    who = document.signatures[-1].signer.printed_name
    return f"Drafted with {models}{use}; reviewed and signed by {who}."


def _observations(document: ReportDocument, status: str, pdf: bytes | None) -> Iterator[hl7.Segment]:
    at, last = timestamp(document.written_at), document.signatures[-1] if document.signatures else None
    person = _responsible(last.signer) if last else ""
    devices = [_device(one) for one in distinct(document.algorithms)]
    rows = [_obx("ST", _STUDY, document.study.study_instance_uid, "O")]
    for section in document.sections:
        text = f"{document.notice}\n{section.text}" if document.notice else section.text
        rows.append(_obx("FT", _heading(section.key), Formatted(text), status, at=at, person=person, devices=devices))
    for added in document.addenda:
        when, who = timestamp(added.signer.signed_at), _responsible(added.signer)
        rows.append(_obx("FT", _heading("addendum"), Formatted(added.text), status, str(added.number), when, who))
    if pdf is not None:
        # HL7 table 0834 has the type in ED.2 and the subtype in ED.3
        value = ("", "application", "pdf", "Base64", base64.b64encode(pdf).decode())
        rows.append(_obx("ED", _concept("imaging_report"), value, status, at=at, person=person, devices=devices))
    return (segment("OBX", str(number), *row) for number, row in enumerate(rows, 1))


def _obx(
    kind: str,
    name: Repetition,
    value: Value,
    status: str,
    sub_id: str = "1",
    at: str = "",
    person: Repetition = "",
    devices: Sequence[Repetition] = (),
) -> list[Value]:
    """Return OBX-2 to OBX-18."""
    return [kind, name, sub_id, value, *[""] * 5, status, "", "", at, "", person, "", list(devices) or ""]


def _heading(key: SectionKey) -> Repetition:
    if key == "history":
        return _coded(_HISTORY)
    return _concept(f"heading_{key}")


def _concept(key: str) -> tuple[str, ...]:
    concept = code_table().concept(key)
    return (str(concept.value), str(concept.meaning), str(concept.scheme_designator))


def _responsible(signer: Signer) -> Repetition:
    return (signer.staff_id, signer.family or signer.printed_name, signer.given)


def _device(algorithm: AlgorithmIdentity) -> Repetition:
    """Return a model as EI: what people call it, and the Device UID that changes with its weights."""
    return (f"{algorithm.name} {algorithm.version}", "", algorithm.device_uid, "ISO")
