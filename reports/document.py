"""One report with everything that PDF, HL7 and FHIR say about it: plain values, gathered by ``publishing``."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reports.equipment import draft_notice
from reports.values import AlgorithmIdentity, InstanceReference, MeasurementValue, Presence, Section, Signer

DocumentState = Literal["draft", "preliminary", "final", "addended", "corrected"]


@dataclass(frozen=True)
class Code:
    """A code as sent: value, Coding Scheme Designator (``SCT``, ``LN``, ``DCM`` …), meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class PatientFacts:
    """Who it is about, in DICOM terms: ``name`` is a PN, ``birth_date`` a DA, ``sex`` M, F, O or empty."""

    patient_id: str
    issuer_of_patient_id: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True)
class OrderFacts:
    """What was asked for; everything may be empty, for many studies come without an order that we know.

    ``ordering_provider`` is a PN. ``procedure`` is None when nobody coded it.
    """

    accession_number: str = ""
    placer_order_number: str = ""
    filler_order_number: str = ""
    procedure: Code | None = None
    indication: str = ""
    priority: Literal["STAT", "URGENT", "ROUTINE"] = "ROUTINE"
    ordering_provider: str = ""
    ordering_provider_id: str = ""
    visit_number: str = ""
    patient_class: str = ""
    patient_location: str = ""


@dataclass(frozen=True)
class SeriesFacts:
    """One Series of the Study that was read."""

    series_instance_uid: str
    modality: str
    number: int | None = None
    description: str = ""
    body_part: str = ""
    instances: Sequence[InstanceReference] = ()


@dataclass(frozen=True)
class StudyFacts:
    """The Study that was read; ``date`` is a DA, ``time`` a TM, ``timezone`` like ``+0100`` or empty."""

    study_instance_uid: str
    date: str = ""
    time: str = ""
    timezone: str = ""
    description: str = ""
    referring_physician: str = ""
    series: Sequence[SeriesFacts] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Each Modality once, sorted."""
        return tuple(sorted({one.modality for one in self.series if one.modality}))


@dataclass(frozen=True)
class ReportedFinding:
    """One finding as it stands in the report.

    Attributes:
        label: the model's own word.
        concept: None for a label without a reviewed code.
        decision: what the reader made of it; ``"pending"`` in a draft.
        reason: why, in the reader's words.
        algorithm: who said so; None when a person did.
        source: the image it rests on, if one is known.
    """

    label: str
    concept: Code | None
    presence: Presence
    laterality: str = ""
    score: float | None = None
    sentence: str = ""
    measurements: Sequence[MeasurementValue] = ()
    decision: Literal["pending", "accepted", "edited", "rejected"] = "pending"
    reason: str = ""
    tracking_uid: str = ""
    algorithm: AlgorithmIdentity | None = None
    source: InstanceReference | None = None


@dataclass(frozen=True)
class SignatureFacts:
    """One signature under the report, oldest first in a document: who, when, and what it meant."""

    signer: Signer
    state: DocumentState
    meaning: str
    text_sha256: str = ""


@dataclass(frozen=True)
class Addendum:
    """One addendum: text added after the report was final, by whom, when."""

    number: int
    text: str
    signer: Signer


@dataclass(frozen=True)
class ReportDocument:
    """A report at one moment.

    Attributes:
        state: what stands behind it: nobody yet (``draft``), a resident, or a radiologist.
        uid: identity of this version, a UID; the same for a resend.
        report_uid: identity of the report through all its versions, a UID.
        written_at: moment of the draft or of the last signature, with time zone.
        sections: in reading order, blank ones left out; without addenda.
        addenda: oldest first.
        signatures: oldest first; none for a draft.
        correction: why it was corrected; empty unless ``state`` is ``corrected``.
        algorithms: every model that had a part in it.
        findings: in order.
        not_assessed: words for what failed or did not run.
        organization: of the readers.
        objects: DICOM objects of ours that belong to it (SEG, SR, KOS …).
        language: RFC 5646.
    """

    state: DocumentState
    uid: str
    report_uid: str
    written_at: datetime
    patient: PatientFacts
    study: StudyFacts
    order: OrderFacts
    sections: Sequence[Section]
    addenda: Sequence[Addendum] = ()
    signatures: Sequence[SignatureFacts] = ()
    correction: str = ""
    algorithms: Sequence[AlgorithmIdentity] = ()
    findings: Sequence[ReportedFinding] = ()
    not_assessed: Sequence[str] = ()
    organization: str = ""
    objects: Sequence[InstanceReference] = ()
    language: str = "en-US"

    @property
    def is_verified(self) -> bool:
        """Whether a radiologist signed it."""
        return self.state in {"final", "addended", "corrected"}

    @property
    def notice(self) -> str:
        """What must stand on every page while nobody verified it; empty for a verified report."""
        if self.state == "draft":
            return draft_notice(self.algorithms) if self.algorithms else "Unsigned report, not verified"
        return "Preliminary report, not verified" if self.state == "preliminary" else ""
