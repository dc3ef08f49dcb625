"""What a signature sends where, before it is made: for whoever is about to sign."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from config.destination import Destination
from config.results import EVIDENCE, ResultKind, wants
from db.types import ReportState

K = ResultKind
WORDS: Mapping[ResultKind, str] = {
    K.SIGNED_SR: "report (structured)",
    K.PRELIMINARY_SR: "preliminary report (structured)",
    K.REPORT_TEXT_SR: "report (Basic Text SR)",
    K.REPORT_PDF: "report (PDF)",
    K.REPORT_ORU: "report (HL7 ORU)",
    K.REPORT_FHIR: "report (FHIR)",
    K.SIGNED_FINDINGS_SR: "coded findings that you accepted or edited",
    K.SEG: "segmentations",
    K.SEG_LABELMAP: "segmentations (label map)",
    K.HEAT_MAP: "heat maps",
    K.KEY_IMAGES: "key images",
    K.PRESENTATION_STATE: "presentation states",
    K.SECONDARY_CAPTURE: "key images as pictures",
}
_TEXTS = (K.REPORT_TEXT_SR, K.REPORT_PDF, K.REPORT_ORU, K.REPORT_FHIR)


@dataclass(frozen=True)
class Outgoing:
    """One destination and what it gets, in words; nothing when it takes none of it."""

    destination: str
    protocol: str
    what: Sequence[str]


def outgoing(destinations: Sequence[Destination], state: ReportState, made: Collection[str]) -> list[Outgoing]:
    """Return what each destination gets when a report is signed as ``state``.

    Args:
        destinations: all of them.
        state: PRELIMINARY, FINAL, ADDENDED or CORRECTED.
        made: kinds of the objects that the draft made; evidence leaves with a final signature if there is any.
    """
    kinds = [K.PRELIMINARY_SR if state is ReportState.PRELIMINARY else K.SIGNED_SR, *_TEXTS]
    if state is ReportState.FINAL:
        kinds += [K.SIGNED_FINDINGS_SR] if K.FINDINGS_SR in made else []
        kinds += [kind for kind in WORDS if kind in EVIDENCE and kind in made]
    return [
        Outgoing(one.name, one.protocol, [WORDS[kind] for kind in kinds if wants(one, kind)]) for one in destinations
    ]
