"""One act of signing before it is committed: who, over which text, on what evidence, after which documents."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from typing import cast
from uuid import UUID

from pydicom import Dataset, dcmread
from sqlalchemy.orm import Session

from config.destination import Destination
from config.errors import RefusedInputError
from config.results import EVIDENCE, ResultKind, wants
from config.settings import Settings
from db.lifecycle import text_sha256, with_addenda
from db.models import ResultObject
from db.queries import InstancePath, ReportDetail, instance_paths
from db.queries.amendments import amendments, is_refused
from db.report_models import Signature, UserAccount
from db.types import Decision, ReportState
from publishing.documents import Act, report_document
from publishing.facts import UNREADABLE, algorithms_of, first_readable, reference, signer, standing
from publishing.identity import corrected_patient, restate_patient
from publishing.standing_pictures import standing_pictures
from reports.document import Addendum, ReportDocument
from reports.findings_tree import segmentations
from reports.pictures import KeyPicture
from reports.sr_common import Evidence
from reports.values import (
    AlgorithmIdentity,
    DraftIdentity,
    Equipment,
    InstanceReference,
    Predecessor,
    Section,
    SectionKey,
    Signer,
    SignOff,
)

K = ResultKind
NARRATIVES = frozenset({K.DRAFT_SR, K.PRELIMINARY_SR, K.SIGNED_SR})
BASIC_TEXTS = frozenset({K.DRAFT_TEXT_SR, K.REPORT_TEXT_SR})
PDFS = frozenset({K.DRAFT_PDF, K.REPORT_PDF})
_REFERENCED = frozenset({K.SEG, K.HEAT_MAP})  # evidence that a signed report names
_SEGMENTATIONS = _REFERENCED | {K.SEG_LABELMAP}
_CODED = frozenset({K.FINDINGS_SR, K.SIGNED_FINDINGS_SR})
_READ = NARRATIVES | BASIC_TEXTS | PDFS | _REFERENCED | _CODED


@dataclass(frozen=True)
class Signing:
    """One act of signing, before it is committed.

    Attributes:
        signature_id: of the Signature to be made.
        state: PRELIMINARY, FINAL, ADDENDED or CORRECTED.
        login, printed_name: of the signer; the login is the staff number of this site.
        signed_at: the moment, with time zone.
        meaning: what the signature means.
        addendum: text that is added; only for ADDENDED.
        correction, sections: why, and the whole text as corrected; only for CORRECTED.
    """

    signature_id: UUID
    state: ReportState
    login: str
    printed_name: str
    signed_at: datetime
    meaning: str = ""
    addendum: str = ""
    correction: str = ""
    sections: Mapping[str, str] | None = None

    @property
    def amends(self) -> bool:
        """Whether it adds to, or replaces, a report that was signed as final before."""
        return self.state in {ReportState.ADDENDED, ReportState.CORRECTED}


class Ground:
    """What the documents of one act rest on, read from rows and files; nothing is written here.

    A draft that a reader rejected has no part in the report: neither its models nor its objects are named.

    Raises:
        RefusedInputError: on use: no readable image, or an object of ours that cannot be read.
    """

    def __init__(self, db: Session, detail: ReportDetail, signing: Signing, settings: Settings) -> None:
        self.signing = signing
        self.settings = settings
        self._db = db
        self._detail = detail
        self._refused = is_refused(db, detail.report.draft_id)
        self.signer = signer(signing.printed_name, signing.login, settings.organization, signing.signed_at)
        self.equipment = Equipment(software_versions=(version("firstread"),), institution=settings.organization)

    @cached_property
    def text(self) -> Mapping[str, str]:
        """The text that is signed, without addenda."""
        sections: Mapping[str, str] = self._detail.report.sections
        return sections if self.signing.sections is None else self.signing.sections

    @property
    def sections(self) -> list[Section]:
        """The text that is signed, as sections."""
        return [Section(cast("SectionKey", key), str(text)) for key, text in self.text.items() if text]

    @cached_property
    def addenda(self) -> list[Addendum]:
        """Every addendum, the new one last."""
        kept = [
            Addendum(one.amendment.number, one.amendment.text, self._signer_of(one.signature))
            for one in amendments(self._db, self._detail.report.id)
            if one.amendment.state is ReportState.ADDENDED
        ]
        new = self.signing.addendum
        return [*kept, Addendum(len(kept) + 1, new, self.signer)] if new else kept

    @cached_property
    def identity(self) -> DraftIdentity:
        """Fixes UIDs and times of everything this signature makes."""
        digest = text_sha256(with_addenda(self.text, [one.text for one in self.addenda]))
        study_uid = self._detail.study.study_instance_uid
        return DraftIdentity(study_uid, str(self.signing.signature_id), digest, self.signing.signed_at)

    @cached_property
    def algorithms(self) -> Sequence[AlgorithmIdentity]:
        """The models that had a part in the report."""
        draft = None if self._refused else self._detail.draft
        return algorithms_of(draft.provenance.get("models", []) if draft else [])

    @cached_property
    def source(self) -> Dataset:
        """Header of an image, to copy Patient and Study from; of an earlier report when retention took the images."""
        images = (self.settings.instances_dir / one.path for one in self._used)
        earlier = (
            self.settings.results_dir / one.path for kind, one, _ in reversed(self._earlier) if kind in NARRATIVES
        )
        header = first_readable([*images, *earlier])
        restate_patient([header], corrected_patient(self._db, self._detail.study))
        return header

    def evidence(self, findings: Dataset | None) -> Evidence:
        """Return the images, the pictures of findings that stand, and the coded findings."""
        images = [reference(self._detail.study, one) for one in self._used]
        shown = self._references(_REFERENCED)
        if findings is not None:
            coded = [InstanceReference.of(findings)]
        else:
            preliminary = self.signing.state is ReportState.PRELIMINARY
            kind = K.FINDINGS_SR if preliminary else K.SIGNED_FINDINGS_SR
            form = self.findings_for(None, kind)
            uid = str(form.SOPInstanceUID) if form is not None else ""
            coded = [one for one in self._references({kind}) if one.sop_instance_uid == uid]
        return Evidence(self.source, [*images, *shown, *coded])

    def findings_for(self, one: Destination | None, kind: ResultKind = K.FINDINGS_SR) -> Dataset | None:
        """Return the form of a findings SR that a destination got, or the one that every draft has (``None``).

        It is the one that refers to least of what the destination does not hold, and then to most of what it does.
        None when there is none, or the draft was rejected.
        """
        held = self.held_by(one)
        forms = [(ds, segmentations(ds)) for made, _, ds in self._earlier if made is kind]
        best = min(forms, key=lambda form: (len(form[1] - held), -len(form[1] & held)), default=None)
        return best[0] if best else None

    def held_by(self, one: Destination | None) -> set[str]:
        """Return the SOP Instance UIDs of the draft's Segmentations that a destination takes."""
        kinds = {kind for kind in _SEGMENTATIONS if (wants(one, kind) if one else kind in _REFERENCED)}
        return {made.sop_instance_uid for made in self._own if made.draft_id and K(made.kind) in kinds}

    @property
    def decisions(self) -> dict[str, Decision]:
        """Tracking UID → what the reader made of the Finding."""
        return {one.tracking_uid: one.decision for one in self._detail.findings if one.tracking_uid}

    @property
    def standing(self) -> set[str]:
        """SOP Instance UIDs of the draft's evidence that goes along: it shows nothing that the reader rejected."""
        ours = [one for one in self._own if one.draft_id and K(one.kind) in EVIDENCE]
        return {one.sop_instance_uid for one in ours if standing(one, self._detail.findings)}

    @property
    def pictures(self) -> list[KeyPicture]:
        """The images that standing findings rest on, when the draft's own choice shows one that was rejected."""
        chosen = [one for one in self._own if one.draft_id and one.kind == K.KEY_IMAGES]
        if all(standing(one, self._detail.findings) for one in chosen):
            return []
        images = {one.sop_instance_uid: self.settings.instances_dir / one.path for one in self._used}
        return standing_pictures(self._detail.findings, images)

    def predecessors(self, kinds: Collection[ResultKind]) -> list[Predecessor]:
        """Return the earlier documents of these kinds that this one follows: an amendment follows the last one."""
        found = [InstanceReference.of(ds) for kind, _, ds in self._earlier if kind in kinds]
        if not self.signing.amends:
            return [Predecessor(one) for one in found]
        added = self.signing.state is ReportState.ADDENDED
        return [Predecessor(one, "addended" if added else "replaced") for one in found[-1:]]

    def sign_off(self, predecessors: Sequence[Predecessor] = ()) -> SignOff:
        """Return the act as documents name it."""
        states = {
            ReportState.FINAL: {ReportState.PRELIMINARY},
            ReportState.ADDENDED: {ReportState.FINAL, ReportState.CORRECTED},
        }
        before = self._other_signer(states.get(self.signing.state, set()))
        added = self.signing.state is ReportState.ADDENDED
        return SignOff(
            signer=self.signer,
            predecessors=tuple(predecessors),
            preliminary=self.signing.state is ReportState.PRELIMINARY,
            attested_author=None if added else before,
            report_author=before if added else None,
            correction=self.signing.correction,
        )

    def document(self, objects: Sequence[InstanceReference]) -> ReportDocument:
        """Return the report as it will be signed; ``objects`` are made with it."""
        signing = self.signing
        signature = Signature(
            id=signing.signature_id,
            printed_name=signing.printed_name,
            meaning=signing.meaning,
            state=signing.state,
            signed_at=signing.signed_at,
            text_sha256=self.identity.result_sha256,
        )
        act = Act(signature, self.signer, self.text, signing.addendum, signing.correction, objects)
        return report_document(self._db, self._detail, self.settings, act=act)

    @cached_property
    def _own(self) -> list[ResultObject]:
        draft_id = None if self._refused else self._detail.report.draft_id
        made = self._detail.objects
        return [one for one in made if one.signature_id is not None or (draft_id and one.draft_id == draft_id)]

    @cached_property
    def _earlier(self) -> list[tuple[ResultKind, ResultObject, Dataset]]:
        return [(K(one.kind), one, self._header(one)) for one in self._own if K(one.kind) in _READ]

    def _header(self, made: ResultObject) -> Dataset:
        whole = made.kind == K.FINDINGS_SR  # what is signed is made of it
        try:
            return dcmread(self.settings.results_dir / made.path, stop_before_pixels=not whole)
        except UNREADABLE as exc:
            raise RefusedInputError(f"the {made.kind} that was made before cannot be read") from exc

    def _references(self, kinds: Collection[ResultKind]) -> list[InstanceReference]:
        shown = [(one, ds) for kind, one, ds in self._earlier if kind in kinds]
        return [InstanceReference.of(ds) for one, ds in shown if standing(one, self._detail.findings)]

    @cached_property
    def _used(self) -> list[InstancePath]:
        """The images the draft was made from; all of the study when there is none, and for an amendment."""
        held = instance_paths(self._db, self._detail.study.id)
        draft = None if self._refused or self.signing.amends else self._detail.draft
        record: Mapping[str, Sequence[str]] = draft.provenance.get("instances_used", {}) if draft else {}
        used = {uid for uids in record.values() for uid in uids}
        return [one for one in held if one.sop_instance_uid in used] or held

    def _other_signer(self, states: Collection[ReportState]) -> Signer | None:
        last = next((one for one in reversed(self._detail.signatures) if one.state in states), None)
        found = self._signer_of(last) if last else None
        return None if found is None or found.staff_id == self.signing.login else found

    def _signer_of(self, signature: Signature) -> Signer:
        account = self._db.get_one(UserAccount, signature.user_id)
        return signer(signature.printed_name, account.login, self.settings.organization, signature.signed_at)
