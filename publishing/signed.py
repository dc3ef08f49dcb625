"""What a signature makes: every form of the signed report that some destination takes, durable before it is committed.

All of it is made or nothing: a form that cannot be built refuses the signature, with the reason.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from sqlalchemy.orm import Session

from config.destination import Destination
from config.errors import RefusedInputError
from config.results import ResultKind, receivers, wants
from config.settings import Settings
from db.lifecycle import NewObject
from db.queries import ReportDetail
from db.types import ReportState
from publishing.act import BASIC_TEXTS, NARRATIVES, PDFS, Ground, Signing
from publishing.signed_findings import build_signed_findings
from publishing.store import keep_message, keep_object
from reports.document import ReportDocument
from reports.encapsulated_pdf import build_encapsulated_pdf
from reports.fhir import build_bundle
from reports.findings_tree import segmentations
from reports.hl7 import build_oru
from reports.key_images import build_key_images
from reports.narrative_sr import basic_text, build_narrative_sr
from reports.pdf import build_pdf
from reports.sr_common import Evidence
from reports.values import DraftIdentity, InstanceReference

__all__ = ["Signing", "discard", "write_signed_documents"]

K = ResultKind
_UNBUILDABLE = (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, ArithmeticError)


def write_signed_documents(db: Session, detail: ReportDetail, signing: Signing, settings: Settings) -> list[NewObject]:
    """Build what the signature makes and write it under the result store; return the rows, the Enhanced SR first.

    The file names hold the signature's id, so an act that fails later leaves files nobody refers to (see
    `discard`), and never replaces another.

    Raises:
        RefusedInputError: no text, no readable image, or a form that cannot be built.
        OutOfSpaceError: the result store is full.
    """
    forms = _Forms(Ground(db, detail, signing, settings), f"{detail.study.id}/signed/{signing.signature_id}")
    try:
        forms.write()
    except BaseException as exc:
        discard(forms.made, settings)
        if not isinstance(exc, _UNBUILDABLE):
            raise
        raise RefusedInputError(f"not signed: {forms.doing} cannot be made ({type(exc).__name__})") from exc
    return forms.made


def discard(made: Sequence[NewObject], settings: Settings) -> None:
    """Remove the files of an act of signing that did not come to pass."""
    for one in made:
        (settings.results_dir / one.path).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Findings:
    """One form of the signed findings, the ending of its file name, and who gets it."""

    document: Dataset
    ending: str
    takers: Sequence[Destination]


class _Forms:
    """The forms of one act; ``made`` grows, and ``doing`` says in words what is being made."""

    def __init__(self, ground: Ground, path: str) -> None:
        self.made: list[NewObject] = []
        self.doing = "the report"
        self._ground = ground
        self._path = path
        self._destinations = ground.settings.destinations

    def write(self) -> None:
        """Make everything, what is referred to before what refers to it."""
        ground = self._ground
        forms = self._signed_findings()
        findings = forms[0].document if forms else None
        narrative = self._narrative(findings)
        preliminary = ground.signing.state is ReportState.PRELIMINARY
        self._keep(narrative, K.PRELIMINARY_SR if preliminary else K.SIGNED_SR, "")
        for form in forms:
            self._keep(form.document, K.SIGNED_FINDINGS_SR, form.ending, form.takers)
        self._key_images()
        if self._wanted(K.REPORT_TEXT_SR):
            self.doing = "the Basic Text SR"
            follows = ground.predecessors(BASIC_TEXTS)
            self._keep(basic_text(narrative, identity=ground.identity, predecessors=follows), K.REPORT_TEXT_SR, "_text")
        self.doing = "the report's document"
        document = ground.document([InstanceReference.of(ds) for ds in (narrative, findings) if ds is not None])
        pdf = self._pdf(document)
        for one in self._destinations:
            if not one.takes_objects:
                self._message(document, one, pdf if one.pdf else None)

    def _signed_findings(self) -> list[_Findings]:
        """Return the VERIFIED findings SR of a final report in every form that goes somewhere, the usual one first.

        Each follows the form of the draft's that its destinations got. None when nobody takes it, or nothing was
        accepted.
        """
        ground = self._ground
        usual = ground.findings_for(None)
        if ground.signing.state is not ReportState.FINAL or usual is None:
            return []
        self.doing = "the coded findings"
        takers: dict[tuple[str, frozenset[str]], list[Destination]] = {}
        drafted = {}
        for one in self._destinations:
            if wants(one, K.SIGNED_FINDINGS_SR) and (form := ground.findings_for(one)) is not None:
                drafted[str(form.SOPInstanceUID)] = form
                shown = segmentations(form) & ground.standing & ground.held_by(one)
                takers.setdefault((str(form.SOPInstanceUID), frozenset(shown)), []).append(one)
        whole = (str(usual.SOPInstanceUID), frozenset(segmentations(usual) & ground.standing))
        made = []
        for key in sorted(takers, key=lambda key: key != whole):
            identity = ground.identity if key == whole else ground.identity.of_form([key[0], *sorted(key[1])])
            document = self._signed_form(drafted[key[0]], key[1], identity)
            if document is not None:
                ending = "_findings" if key == whole else f"_findings_{document.SOPInstanceUID}"
                made.append(_Findings(document, ending, takers[key]))
        return made

    def _signed_form(self, drafted: Dataset, standing: Collection[str], identity: DraftIdentity) -> Dataset | None:
        ground = self._ground
        return build_signed_findings(
            drafted,
            ground.decisions,
            standing,
            identity=identity,
            equipment=ground.equipment,
            sign_off=ground.sign_off(),
        )

    def _key_images(self) -> None:
        """Choose the key images anew where the draft's own cannot go along, because it shows a rejected finding."""
        ground = self._ground
        final = ground.signing.state is ReportState.FINAL
        pictures = ground.pictures if final and self._wanted(K.KEY_IMAGES) else []
        if not pictures:
            return
        self.doing = "the key images"
        selection = build_key_images(
            pictures,
            Evidence(ground.source, ()),
            identity=ground.identity,
            equipment=ground.equipment,
            algorithms=ground.algorithms,
        )
        self._keep(selection, K.KEY_IMAGES, "_key_images")

    def _narrative(self, findings: Dataset | None) -> Dataset:
        self.doing = "the structured report"
        ground = self._ground
        return build_narrative_sr(
            ground.sections,
            ground.evidence(findings),
            identity=ground.identity,
            equipment=ground.equipment,
            algorithms=ground.algorithms,
            sign_off=ground.sign_off(ground.predecessors(NARRATIVES)),
            addenda=ground.addenda,
        )

    def _pdf(self, document: ReportDocument) -> bytes | None:
        """Return the report as PDF if anybody takes it, and keep it as an object for archives that do."""
        if not any(one.pdf for one in self._destinations):
            return None
        self.doing = "the PDF"
        ground = self._ground
        pdf = build_pdf(document)
        if self._wanted(K.REPORT_PDF):
            encapsulated = build_encapsulated_pdf(
                pdf,
                ground.source,
                identity=ground.identity,
                equipment=ground.equipment,
                algorithms=ground.algorithms,
                sign_off=ground.sign_off(ground.predecessors(PDFS)),
            )
            self._keep(encapsulated, K.REPORT_PDF, "_pdf")
        return pdf

    def _message(self, document: ReportDocument, one: Destination, pdf: bytes | None) -> None:
        ground = self._ground
        hl7 = ground.settings.hl7
        kind = K.REPORT_ORU if wants(one, K.REPORT_ORU) else K.REPORT_FHIR
        uid = ground.identity.other_uid(kind, one.name)
        if kind is K.REPORT_ORU:
            self.doing = f"the HL7 message for {one.name}"
            content = build_oru(document, one, hl7, uid=uid, pdf=pdf)
        else:
            self.doing = f"the FHIR bundle for {one.name}"
            bundle = build_bundle(document, uid=uid, authority=hl7.authority, pdf=pdf, retract=one.drafts)
            content = json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()
        ending = "hl7" if kind is K.REPORT_ORU else "json"
        self.made.append(
            keep_message(
                content,
                kind,
                f"{self._path}_{one.name}.{ending}",
                results_dir=ground.settings.results_dir,
                uid=uid,
                destinations=[one.name],
            )
        )

    def _wanted(self, kind: ResultKind) -> bool:
        return bool(receivers(self._destinations, kind, is_signed=True))

    def _keep(self, ds: Dataset, kind: ResultKind, ending: str, takers: Sequence[Destination] | None = None) -> None:
        settings = self._ground.settings
        path = f"{self._path}{ending}.dcm"
        whom = self._destinations if takers is None else takers
        self.made.append(
            keep_object(ds, kind, path, results_dir=settings.results_dir, destinations=whom, is_signed=True)
        )
