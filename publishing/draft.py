"""Everything that leaves with a draft, in every form that some destination takes, written beside the draft.

SEG, findings SR and narrative SR belong to every draft, and one that cannot be made is an error. Heat maps and key
images belong to a draft that has something to show. All other forms are made because a destination asks for them: a
failure there is a note for people, and nothing made for one destination changes what another one gets.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from pydicom.dataset import Dataset

from config.destination import Destination
from config.errors import RefusedInputError
from config.exchange_settings import Hl7Settings
from config.results import MESSAGES, ResultKind, receivers, wants
from db.lifecycle import NewObject
from db.models import ImagingOrder
from publishing.documents import draft_document
from publishing.store import keep_message, keep_object
from reports.document import ReportDocument, ReportedFinding, SeriesFacts
from reports.encapsulated_pdf import build_encapsulated_pdf
from reports.fhir import build_bundle
from reports.findings_form import build_findings_form
from reports.hl7 import build_oru
from reports.key_images import build_key_images
from reports.narrative_sr import basic_text, build_narrative_sr
from reports.pdf import build_pdf
from reports.pictures import KeyPicture
from reports.presentation_state import build_presentation_state
from reports.secondary_capture import build_secondary_capture
from reports.sr_common import Evidence
from reports.values import AlgorithmIdentity, DraftIdentity, Equipment, InstanceReference, Section

log = structlog.get_logger()
Form = TypeVar("Form")
K = ResultKind
# what a builder raises when its input does not allow the form; a full disk or a lost database is something else
_UNBUILDABLE = (
    RefusedInputError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, ArithmeticError,
)  # fmt: skip
NAMES: Mapping[ResultKind, str] = {
    K.FINDINGS_SR: "findings SR",
    K.SEG_LABELMAP: "label map Segmentation",
    K.HEAT_MAP: "heat map",
    K.KEY_IMAGES: "key images",
    K.PRESENTATION_STATE: "presentation state",
    K.SECONDARY_CAPTURE: "secondary capture",
    K.DRAFT_TEXT_SR: "Basic Text SR",
    K.DRAFT_PDF: "PDF",
    K.DRAFT_ORU: "HL7 message",
    K.DRAFT_FHIR: "FHIR bundle",
}
"""Forms that a draft, or one destination, can do without, as people call them."""


@dataclass(frozen=True)
class Place:
    """Where a draft's files go and what fixes their identity.

    Attributes:
        results_dir: the result store.
        folder: folder of this Reading, relative to it.
        identity: of the DICOM objects and messages.
        equipment: our product.
        destinations: who may get results; those that want drafts get them now.
        order: that the Study answers, if known.
        hl7: who we are in messages.
    """

    results_dir: Path
    folder: str
    identity: DraftIdentity
    equipment: Equipment
    destinations: Sequence[Destination] = ()
    order: ImagingOrder | None = None
    hl7: Hl7Settings = field(default_factory=Hl7Settings)


@dataclass(frozen=True)
class Shown:
    """A picture and the Tracking UIDs of the findings it shows."""

    picture: KeyPicture
    tracking_uids: tuple[str, ...]


@dataclass(frozen=True)
class DraftParts:
    """What a draft is made of, once its numbers and pictures are there.

    Attributes:
        source: any one image of the Study; Patient and Study modules are copied from it.
        series: the Series that were read, with the images used.
        sections: section key → text.
        findings: as the draft reports them.
        algorithms: every model that had a part in it; the language model first.
        not_assessed: words for what failed or did not run.
        segmentations, heat_maps, findings_sr: finished; no findings SR when no finding has a code.
        coded: Tracking UIDs of the findings that have a group in the findings SR.
        label_maps: makes the Segmentations once more as label maps; called only when somebody takes them.
        pictures: of the positive findings.
    """

    source: Dataset
    series: Sequence[SeriesFacts]
    sections: Mapping[str, str]
    findings: Sequence[ReportedFinding]
    algorithms: Sequence[AlgorithmIdentity]
    not_assessed: Sequence[str]
    segmentations: Sequence[Dataset]
    heat_maps: Sequence[Dataset]
    findings_sr: Dataset | None
    coded: Sequence[str]
    label_maps: Callable[[], Sequence[Dataset]]
    pictures: Sequence[Shown]

    @property
    def images(self) -> list[InstanceReference]:
        """Every image that was read."""
        return [image for one in self.series for image in one.instances]


@dataclass
class Results:
    """What was made of a draft, and what could not be, in words for people."""

    objects: list[NewObject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def publish_draft(parts: DraftParts, place: Place) -> Results:
    """Build and write every object and message of a draft, each flushed to disk before this returns.

    Raises:
        RefusedInputError: no valid narrative SR can be made.
        OutOfSpaceError: the result store is full.
    """
    press = _Press(parts, place)
    press.evidence()
    narrative = press.narrative()
    document = press.document()
    press.texts(narrative, document)
    press.messages(document)
    return press.results


def attempt(notes: list[str], kind: ResultKind, build: Callable[[], Form], destination: str = "") -> Form | None:
    """Return what ``build`` makes; when its input does not allow the form, note it for people and return None."""
    try:
        return build()
    except _UNBUILDABLE as exc:
        log.warning("draft.form_not_made", kind=str(kind), error=type(exc).__name__)
        whom = f" for {destination}" if destination else ""
        why = f": {exc}" if isinstance(exc, RefusedInputError) else ""
        notes.append(f"No {NAMES[kind]} was made of this draft{whom}{why}.")
        return None


class _Press:
    """Makes and keeps the forms of one draft, in the order in which they refer to each other."""

    def __init__(self, parts: DraftParts, place: Place) -> None:
        self.results = Results()
        self._parts = parts
        self._place = place
        self._kept: list[InstanceReference] = []
        self._label_maps: Sequence[Dataset] = ()
        self._findings = {one.tracking_uid for one in parts.findings if one.tracking_uid}

    def evidence(self) -> None:
        """Pictures and numbers; what needs no destination first."""
        parts = self._parts
        for number, seg in enumerate(parts.segmentations, 1):
            self._keep(seg, K.SEG, f"seg_{number}", self._shown_by(seg), is_own=True)
        for number, seg in enumerate(parts.heat_maps, 1):
            self._keep(seg, K.HEAT_MAP, f"heat_map_{number}", self._shown_by(seg), is_own=True)
        if self._somebody_takes(K.SEG_LABELMAP):
            # the parts of a brain tumour are no findings, and show the one of the whole that is not among them
            shown = sorted({uid for seg in parts.segmentations for uid in self._shown_by(seg)})
            self._label_maps = self._attempt(K.SEG_LABELMAP, parts.label_maps) or ()
            for number, seg in enumerate(self._label_maps, 1):
                self._keep(seg, K.SEG_LABELMAP, f"seg_labelmap_{number}", shown)
        if parts.findings_sr is not None:
            self._findings_forms(parts.findings_sr)
        self._key_images()
        outlined = [one for one in parts.pictures if one.picture.outlines]
        for number, picture in enumerate(outlined, 1):
            self._fallbacks(number, picture)

    def narrative(self) -> Dataset:
        """The draft's text as Enhanced SR."""
        parts = self._parts
        behind = [*parts.segmentations, *parts.heat_maps, *([parts.findings_sr] if parts.findings_sr else [])]
        narrative = build_narrative_sr(
            [Section(key=key, text=text) for key, text in parts.sections.items()],  # type: ignore[arg-type]
            Evidence(parts.source, [*parts.images, *map(InstanceReference.of, behind)]),
            algorithms=parts.algorithms,
            not_assessed=parts.not_assessed,
            identity=self._place.identity,
            equipment=self._place.equipment,
        )
        self._keep(narrative, K.DRAFT_SR, "draft_sr", is_own=True)
        return narrative

    def document(self) -> ReportDocument:
        """What PDF and messages say; it names the objects that every draft has."""
        parts = self._parts
        return draft_document(
            source=parts.source,
            series=parts.series,
            order=self._place.order,
            sections=parts.sections,
            findings=parts.findings,
            algorithms=parts.algorithms,
            not_assessed=parts.not_assessed,
            organization=self._place.equipment.institution,
            identity=self._place.identity,
            objects=self._kept,
        )

    def texts(self, narrative: Dataset, document: ReportDocument) -> None:
        """Other forms of the text, for those that want drafts."""
        if self._now(K.DRAFT_TEXT_SR):
            text = self._attempt(K.DRAFT_TEXT_SR, partial(basic_text, narrative, identity=self._place.identity))
            self._keep(text, K.DRAFT_TEXT_SR, "draft_text_sr")
        if self._now(K.DRAFT_PDF):
            self._keep(self._attempt(K.DRAFT_PDF, partial(self._encapsulated, document)), K.DRAFT_PDF, "draft_pdf")

    def _encapsulated(self, document: ReportDocument) -> Dataset:
        return build_encapsulated_pdf(
            build_pdf(document),
            self._parts.source,
            identity=self._place.identity,
            equipment=self._place.equipment,
            algorithms=self._parts.algorithms,
            sign_off=None,
        )

    def messages(self, document: ReportDocument) -> None:
        """One ORU for each RIS that wants drafts, one bundle for each server; with the PDF where it is asked for."""
        whom = [one for one in self._place.destinations if one.drafts and not one.takes_objects]
        pdf = None
        if any(one.pdf for one in whom):
            pdf = self._attempt(K.DRAFT_PDF, partial(build_pdf, document))
        for one in whom:
            kind = K.DRAFT_ORU if wants(one, K.DRAFT_ORU) else K.DRAFT_FHIR
            uid = self._place.identity.other_uid(kind, one.name)
            build = partial(self._message, document, one, uid, pdf if one.pdf else None)
            content = attempt(self.results.notes, kind, build, one.name)
            if content is not None:
                self._keep_message(content, kind, uid, one.name)

    def _message(self, document: ReportDocument, one: Destination, uid: str, pdf: bytes | None) -> bytes:
        if one.protocol == "mllp":
            return build_oru(document, one, self._place.hl7, uid=uid, pdf=pdf)
        bundle = build_bundle(document, uid=uid, authority=self._place.hl7.authority, pdf=pdf)
        return json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()

    def _findings_forms(self, document: Dataset) -> None:
        """The findings SR that every draft has, and one more for each set of Segmentations that others get with it."""
        forms: dict[str, tuple[Dataset, list[Destination]]] = {str(document.SOPInstanceUID): (document, [])}
        sources = {one.tracking_uid: one.source for one in self._parts.findings if one.source}
        for one in self._place.destinations:
            if not wants(one, K.FINDINGS_SR):
                continue
            along, identity = self._along(one), self._place.identity
            build = partial(build_findings_form, document, along, sources=sources, identity=identity)
            form = attempt(self.results.notes, K.FINDINGS_SR, build, one.name)
            if form is not None:
                forms.setdefault(str(form.SOPInstanceUID), (form, []))[1].append(one)
        for uid, (form, takers) in forms.items():
            is_own = form is document
            name = "findings_sr" if is_own else f"findings_sr_{uid}"
            self._keep(form, K.FINDINGS_SR, name, self._parts.coded, is_own=is_own, takers=takers)

    def _along(self, one: Destination) -> list[Dataset]:
        """Return the Segmentations that a destination gets with the findings."""
        made = {
            K.SEG: self._parts.segmentations,
            K.HEAT_MAP: self._parts.heat_maps,
            K.SEG_LABELMAP: self._label_maps,
        }
        return [seg for kind, segs in made.items() if wants(one, kind) for seg in segs]

    def _key_images(self) -> None:
        parts = self._parts
        pictures = [one.picture for one in parts.pictures]
        if not pictures:
            return
        selection = self._attempt(
            K.KEY_IMAGES,
            lambda: build_key_images(
                pictures,
                Evidence(parts.source, parts.images),
                identity=self._place.identity,
                equipment=self._place.equipment,
                algorithms=parts.algorithms,
            ),
        )
        shown = [uid for one in parts.pictures for uid in one.tracking_uids]
        self._keep(selection, K.KEY_IMAGES, "key_images", shown, is_own=True)

    def _fallbacks(self, number: int, shown: Shown) -> None:
        """Outlines for viewers without SEG: drawn over the image, and burned into a copy of it."""
        forms = ((K.PRESENTATION_STATE, build_presentation_state), (K.SECONDARY_CAPTURE, build_secondary_capture))
        for kind, build in forms:
            if not self._somebody_takes(kind):
                continue
            made = self._attempt(
                kind,
                partial(
                    build,
                    shown.picture,
                    identity=self._place.identity,
                    equipment=self._place.equipment,
                    algorithms=self._parts.algorithms,
                    instance_number=number,
                ),
            )
            self._keep(made, kind, f"{kind.lower()}_{number}", shown.tracking_uids)

    def _attempt(self, kind: ResultKind, build: Callable[[], Form]) -> Form | None:
        return attempt(self.results.notes, kind, build)

    def _keep(
        self,
        ds: Dataset | None,
        kind: ResultKind,
        name: str,
        shown: Sequence[str] = (),
        *,
        is_own: bool = False,
        takers: Sequence[Destination] | None = None,
    ) -> None:
        if ds is None:
            return
        if is_own:
            self._kept.append(InstanceReference.of(ds))
        self.results.objects.append(
            keep_object(
                ds,
                kind,
                f"{self._place.folder}/{name}.dcm",
                results_dir=self._place.results_dir,
                destinations=self._place.destinations if takers is None else takers,
                tracking_uids=sorted(set(shown)),
            )
        )

    def _keep_message(self, content: bytes, kind: ResultKind, uid: str, name: str) -> None:
        assert kind in MESSAGES
        ending = "hl7" if kind is K.DRAFT_ORU else "json"
        path = f"{self._place.folder}/{kind.lower()}_{name}.{ending}"
        made = keep_message(content, kind, path, results_dir=self._place.results_dir, uid=uid, destinations=[name])
        self.results.objects.append(made)

    def _shown_by(self, seg: Dataset) -> list[str]:
        """Return the findings among the segments; anatomy has Tracking UIDs too, and is nobody's finding."""
        return [uid for item in seg.SegmentSequence if (uid := str(item.get("TrackingUID", ""))) in self._findings]

    def _somebody_takes(self, kind: ResultKind) -> bool:
        """Whether any destination takes this evidence, now or with the signature."""
        return any(wants(one, kind) for one in self._place.destinations)

    def _now(self, kind: ResultKind) -> bool:
        return bool(receivers(self._place.destinations, kind, is_signed=False))
