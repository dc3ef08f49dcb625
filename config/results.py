"""Which results there are, who gets which, and in what order."""

from collections.abc import Sequence
from enum import StrEnum

from config.destination import Destination


class ResultKind(StrEnum):
    """One kind of object or message that we make; the kind of a ``ResultObject`` row."""

    # evidence of a draft: pictures and numbers
    SEG = "SEG"
    SEG_LABELMAP = "SEG_LABELMAP"
    HEAT_MAP = "HEAT_MAP"
    FINDINGS_SR = "FINDINGS_SR"
    KEY_IMAGES = "KEY_IMAGES"
    PRESENTATION_STATE = "PRESENTATION_STATE"
    SECONDARY_CAPTURE = "SECONDARY_CAPTURE"
    # text that nobody verified: withdrawn by a signature
    DRAFT_SR = "DRAFT_SR"
    DRAFT_TEXT_SR = "DRAFT_TEXT_SR"
    DRAFT_PDF = "DRAFT_PDF"
    DRAFT_ORU = "DRAFT_ORU"
    DRAFT_FHIR = "DRAFT_FHIR"
    # a person's report
    PRELIMINARY_SR = "PRELIMINARY_SR"
    SIGNED_SR = "SIGNED_SR"
    SIGNED_FINDINGS_SR = "SIGNED_FINDINGS_SR"
    REPORT_TEXT_SR = "REPORT_TEXT_SR"
    REPORT_PDF = "REPORT_PDF"
    REPORT_ORU = "REPORT_ORU"
    REPORT_FHIR = "REPORT_FHIR"
    # what was sent no longer stands: of messages a message, of objects an IHE IOCM note
    RETRACTION_ORU = "RETRACTION_ORU"
    RETRACTION_FHIR = "RETRACTION_FHIR"
    REJECTION_NOTE = "REJECTION_NOTE"


_K = ResultKind
DRAFT_TEXTS = frozenset({_K.DRAFT_SR, _K.DRAFT_TEXT_SR, _K.DRAFT_PDF, _K.DRAFT_ORU, _K.DRAFT_FHIR})
EVIDENCE = frozenset({_K.SEG, _K.SEG_LABELMAP, _K.HEAT_MAP, _K.KEY_IMAGES, _K.PRESENTATION_STATE, _K.SECONDARY_CAPTURE})
"""What a signature lets leave for destinations without drafts, unless it shows a finding that was rejected."""
RETRACTIONS = {_K.DRAFT_ORU: _K.RETRACTION_ORU, _K.DRAFT_FHIR: _K.RETRACTION_FHIR}
"""Messages of a draft, and what takes each back where it was delivered and no longer stands."""
ORU = frozenset({_K.DRAFT_ORU, _K.REPORT_ORU, _K.RETRACTION_ORU})
MESSAGES = ORU | {_K.DRAFT_FHIR, _K.REPORT_FHIR, _K.RETRACTION_FHIR}
"""No DICOM objects: their UID is the message's identity, and their SOP Class UID is empty."""
SENDING_ORDER: Sequence[ResultKind] = (
    _K.SEG, _K.SEG_LABELMAP, _K.HEAT_MAP, _K.FINDINGS_SR, _K.SIGNED_FINDINGS_SR, _K.KEY_IMAGES, _K.PRESENTATION_STATE,
    _K.SECONDARY_CAPTURE, _K.DRAFT_SR, _K.DRAFT_TEXT_SR, _K.PRELIMINARY_SR, _K.SIGNED_SR, _K.REPORT_TEXT_SR,
    _K.DRAFT_PDF, _K.REPORT_PDF, _K.DRAFT_ORU, _K.RETRACTION_ORU, _K.REPORT_ORU,
    _K.DRAFT_FHIR, _K.RETRACTION_FHIR, _K.REPORT_FHIR, _K.REJECTION_NOTE,
)  # fmt: skip
"""What is referred to goes before what refers to it."""


def wants(destination: Destination, kind: ResultKind) -> bool:
    """Return whether ``destination`` takes objects of ``kind``, signed or not."""
    one = destination
    if kind in MESSAGES:
        return one.protocol == ("mllp" if kind in ORU else "fhir")
    if not one.takes_objects:
        return False
    asked = {
        _K.SEG: one.segmentation == "binary",
        _K.SEG_LABELMAP: one.segmentation == "labelmap",
        _K.HEAT_MAP: one.heat_maps,
        _K.FINDINGS_SR: one.findings,
        _K.SIGNED_FINDINGS_SR: one.findings,
        _K.KEY_IMAGES: one.key_images,
        _K.PRESENTATION_STATE: one.presentation_states,
        _K.SECONDARY_CAPTURE: one.secondary_captures,
        _K.DRAFT_TEXT_SR: one.report == "basic-text",
        _K.REPORT_TEXT_SR: one.report == "basic-text",
        _K.DRAFT_PDF: one.pdf,
        _K.REPORT_PDF: one.pdf,
        _K.REJECTION_NOTE: one.rejection_notes,
    }
    return asked.get(kind, one.report == "enhanced")


def receivers(destinations: Sequence[Destination], kind: ResultKind, *, is_signed: bool) -> tuple[str, ...]:
    """Return the names of those that get an object of ``kind`` now: before a signature only who wants drafts."""
    return tuple(one.name for one in destinations if wants(one, kind) and (is_signed or one.drafts))
