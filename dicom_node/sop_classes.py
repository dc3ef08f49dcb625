"""The SOP Classes we make: which result is of which, what it is called, and which option helps where it is refused."""

from collections.abc import Mapping

from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from config.destination import Destination
from config.results import MESSAGES, ResultKind, wants

LABEL_MAP_SEGMENTATION_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
NEWER_NAMES = {  # PS3.6 names those newer than the library
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
    "1.2.840.10008.1.2.4.53": "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
    "1.2.840.10008.1.2.4.55": "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
}

_K = ResultKind
SOP_CLASS: Mapping[ResultKind, UID] = {
    _K.SEG: SegmentationStorage,
    _K.SEG_LABELMAP: LABEL_MAP_SEGMENTATION_STORAGE,
    _K.HEAT_MAP: SegmentationStorage,
    _K.FINDINGS_SR: Comprehensive3DSRStorage,
    _K.SIGNED_FINDINGS_SR: Comprehensive3DSRStorage,
    _K.KEY_IMAGES: KeyObjectSelectionDocumentStorage,
    _K.PRESENTATION_STATE: GrayscaleSoftcopyPresentationStateStorage,
    _K.SECONDARY_CAPTURE: SecondaryCaptureImageStorage,
    _K.DRAFT_SR: EnhancedSRStorage,
    _K.PRELIMINARY_SR: EnhancedSRStorage,
    _K.SIGNED_SR: EnhancedSRStorage,
    _K.DRAFT_TEXT_SR: BasicTextSRStorage,
    _K.REPORT_TEXT_SR: BasicTextSRStorage,
    _K.DRAFT_PDF: EncapsulatedPDFStorage,
    _K.REPORT_PDF: EncapsulatedPDFStorage,
    _K.REJECTION_NOTE: KeyObjectSelectionDocumentStorage,
}
"""Every kind of result that is a DICOM object."""
_ADVICE: Mapping[ResultKind, str] = {
    _K.SEG: "segmentation: none",
    _K.SEG_LABELMAP: "segmentation: binary",
    _K.HEAT_MAP: "heat_maps: false",
    _K.FINDINGS_SR: "findings: false",
    _K.SIGNED_FINDINGS_SR: "findings: false",
    _K.KEY_IMAGES: "key_images: false",
    _K.PRESENTATION_STATE: "presentation_states: false",
    _K.SECONDARY_CAPTURE: "secondary_captures: false",
    _K.DRAFT_SR: "report: basic-text",
    _K.PRELIMINARY_SR: "report: basic-text",
    _K.SIGNED_SR: "report: basic-text",
    _K.DRAFT_TEXT_SR: "report: none",
    _K.REPORT_TEXT_SR: "report: none",
    _K.DRAFT_PDF: "pdf: false",
    _K.REPORT_PDF: "pdf: false",
    _K.REJECTION_NOTE: "rejection_notes: false",
}
OPTION: Mapping[ResultKind, str] = {
    _K.SEG: "segmentation: binary",
    _K.SEG_LABELMAP: "segmentation: labelmap",
    _K.HEAT_MAP: "heat_maps: true",
    _K.FINDINGS_SR: "findings: true",
    _K.SIGNED_FINDINGS_SR: "findings: true",
    _K.KEY_IMAGES: "key_images: true",
    _K.PRESENTATION_STATE: "presentation_states: true",
    _K.SECONDARY_CAPTURE: "secondary_captures: true",
    _K.DRAFT_SR: "report: enhanced",
    _K.PRELIMINARY_SR: "report: enhanced",
    _K.SIGNED_SR: "report: enhanced",
    _K.DRAFT_TEXT_SR: "report: basic-text",
    _K.REPORT_TEXT_SR: "report: basic-text",
    _K.DRAFT_PDF: "pdf: true",
    _K.REPORT_PDF: "pdf: true",
    _K.REJECTION_NOTE: "rejection_notes: true",
}
"""With which option a destination takes it; drafts only where ``drafts`` is true as well."""
_DRAFTS_ONLY = frozenset({_K.DRAFT_SR, _K.DRAFT_TEXT_SR, _K.DRAFT_PDF, _K.FINDINGS_SR})


def name_of(uid: str) -> str:
    """Return what PS3.6 calls a UID; the UID itself when neither the library nor we know it."""
    return NEWER_NAMES.get(uid) or str(UID(uid).name)


def advice(kind: str) -> str:
    """Return the option of a destination that helps where it refuses results of this kind; "" when there is none."""
    return _ADVICE.get(ResultKind(kind), "") if kind in _ADVICE else ""


def sent_to(destination: Destination) -> Mapping[UID, tuple[ResultKind, ...]]:
    """Return the SOP Classes a destination has to accept for all it may be sent, with what is of each."""
    classes: dict[UID, tuple[ResultKind, ...]] = {}
    for kind, sop_class in SOP_CLASS.items():
        if wants(destination, kind) and (destination.drafts or kind not in _DRAFTS_ONLY):
            classes[sop_class] = (*classes.get(sop_class, ()), kind)
    return classes


def suits(destination: Destination, kind: str) -> bool:
    """Return whether something of this kind can be sent there at all: an object, or a message of its protocol."""
    if kind in MESSAGES:
        return wants(destination, ResultKind(kind))
    return destination.takes_objects
