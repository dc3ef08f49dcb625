"""The reading page of one study, assembled: what is said, by whom, on what evidence, and what may be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from config.settings import Settings
from dashboard.desk_views import (
    EvidenceView,
    FindingView,
    MarkView,
    SectionView,
    evidence_view,
    finding_views,
    flat_facts,
    mark_views,
    section_views,
)
from dashboard.history import RevisionView, revision_views
from dashboard.library import StudyImages, study_images
from dashboard.model_cards import ModelAbout, about
from dashboard.people import Person
from dashboard.permissions import Permission
from dashboard.presentation import status_pill
from dashboard.slices import SliceServer
from dashboard.viewing import Lightbox, ViewerPage
from dashboard.words import Words, words_of
from db.lifecycle import AMENDABLE
from db.lifecycle.expectations import announcement
from db.models import Reading, ResultObject, Study
from db.queries import DeliveryRow, ReportDetail, StudyDetail, image_set_sha256, report_detail, study_detail
from db.queries.amendments import SignedAmendment, amendments
from db.queries.orders import RisSide, ris_side
from db.queries.wording import accepted_sections
from db.report_models import Draft, Report, Signature
from db.types import Decision, Presence, ReportState
from db.users import list_users

SIGNED = frozenset({ReportState.PRELIMINARY, ReportState.FINAL, ReportState.ADDENDED, ReportState.CORRECTED})
OPENABLE = frozenset({ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY, ReportState.REJECTED})


@dataclass(frozen=True)
class DeskPage:
    """Everything the reading, sign, reject and report pages print."""

    study: Study
    reading: Reading
    report: Report
    draft: Draft | None
    draft_is_stale: bool
    short_of: Sequence[str]  # what the study lacked when it was read, or lacks since more was announced
    sections: Sequence[SectionView]
    findings: Sequence[FindingView]
    absent: Sequence[FindingView]
    marks: Sequence[MarkView]
    evidence: Sequence[EvidenceView]
    revisions: Sequence[RevisionView]
    signatures: Sequence[Signature]
    delivered: Sequence[DeliveryRow]
    made: Sequence[ResultObject]  # results of every kind, delivered or not
    amended: Sequence[SignedAmendment]  # newest first
    images_seen: str  # hash of the images that are here now
    images: StudyImages
    viewer: ViewerPage | None
    lock_holder: str
    can_edit: bool
    can_open: bool
    ris: RisSide  # the order it answers, and whether its patient was corrected
    about: Sequence[ModelAbout]  # the models behind the draft, as their packages describe them
    words: Words  # templates and macros at hand; empty for who cannot edit
    autosave_s: float

    @property
    def series(self) -> Sequence[Any]:
        """The series of the rail."""
        return self.images.series

    @property
    def is_signed(self) -> bool:
        """Whether a person stands behind the text now."""
        return self.report.state in SIGNED and bool(self.signatures)

    @property
    def can_amend(self) -> bool:
        """Whether an addendum or a correction may follow."""
        return self.report.state in AMENDABLE

    @property
    def pill(self) -> tuple[str, str]:
        """Words and colour of the state."""
        return status_pill(self.report.state, self.reading.state)

    @property
    def undecided(self) -> int:
        """How many findings nobody decided."""
        return sum(one.row.decision is Decision.PENDING for one in self.findings)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many findings were decided which way."""
        return {kind.value: sum(one.row.decision is kind for one in self.findings) for kind in Decision}

    @property
    def has_ai_text(self) -> bool:
        """Whether some sentence is shown as the AI's: untouched, not accepted, and nobody has signed."""
        return not self.is_signed and any(one.has_ai for one in self.sections)

    @property
    def revision(self) -> int:
        """Number of the newest revision; 0 when nothing was written."""
        return self.revisions[0].number if self.revisions else 0

    @property
    def not_assessed(self) -> Sequence[Mapping[str, str]]:
        """What no expert assessed, and why."""
        return list(self.draft.not_assessed) if self.draft else []

    @property
    def models(self) -> Sequence[Mapping[str, Any]]:
        """The models behind the draft."""
        return list(self.draft.provenance.get("models", [])) if self.draft else []

    @property
    def is_research_only(self) -> bool:
        """Whether the licence of a model behind the draft forbids clinical use."""
        return any(one.get("research_only") for one in self.models)

    @property
    def model_line(self) -> str:
        """Models with their versions, in one line."""
        return ", ".join(f"{one.get('name', '')} {one.get('version', '')}".strip() for one in self.models)

    @property
    def pipeline_version(self) -> str:
        """Version of the pipeline that drafted."""
        return str(self.draft.provenance.get("pipeline_version", "")) if self.draft else ""

    @property
    def provenance(self) -> Sequence[tuple[str, str]]:
        """Flat facts of the provenance record; the whole record is the auditor's."""
        return flat_facts(self.draft.provenance) if self.draft else []

    @property
    def no_draft_reason(self) -> str:
        """Why there is no draft."""
        return self.reading.reason or f"{status_pill(None, self.reading.state)[0]}."

    @property
    def why_read_only(self) -> str:
        """Why nothing can be edited here now."""
        if self.report.state in SIGNED - {ReportState.PRELIMINARY}:
            return "A signed report does not change."
        if self.report.state is ReportState.UNREAD:
            return "There is no report yet."
        if self.lock_holder:
            return f"{self.lock_holder} is reading it; you are viewing only."
        return "Your role reads only."


def load_desk(
    db: Session, study_id: UUID, *, reader: Person, settings: Settings, server: SliceServer, asked: Any = None
) -> DeskPage | None:
    """Return the page of a study; None when there is none.

    Args:
        db: for reading only.
        study_id: the study.
        reader: who looks; decides what may be done.
        settings: where files are.
        server: the slice renderer.
        asked: query of the viewer; None leaves the viewer out.

    Raises:
        RefusedInputError: the viewer's query is malformed.
    """
    study = study_detail(db, study_id)
    detail = report_detail(db, study.report.id) if study else None
    if study is None or detail is None:
        return None
    images = study_images(db, study, detail, settings.instances_dir, settings.results_dir)
    light = Lightbox(images, server, detail.findings, detail.evidence)
    authors = {one.id: one.printed_name for one in list_users(db)}
    mine = detail.report.locked_by == reader.id
    edits = reader.may(Permission.REPORT_EDIT)
    can_edit = edits and mine and detail.report.state is ReportState.IN_REVIEW
    ris = ris_side(db, detail.study)
    views = finding_views(detail, {one.id: light.jump(one) for one in detail.findings})
    return DeskPage(
        study=detail.study,
        reading=detail.reading,
        report=detail.report,
        draft=detail.draft,
        draft_is_stale=_is_stale(detail),
        short_of=_short_of(db, detail),
        sections=section_views(detail, views, accepted_sections(db, detail.report)),
        findings=[one for one in views if one.row.presence is Presence.PRESENT],
        absent=[one for one in views if one.row.presence is not Presence.PRESENT],
        marks=mark_views(detail.draft),
        evidence=[evidence_view(one) for one in detail.evidence],
        revisions=revision_views(detail, authors),
        signatures=sorted(detail.signatures, key=lambda one: one.signed_at, reverse=True),
        delivered=study.deliveries,
        made=detail.objects,
        amended=amendments(db, detail.report.id)[::-1],
        images_seen=image_set_sha256(db, study_id),
        images=images,
        viewer=light.page(asked) if asked is not None else None,
        lock_holder=detail.locked_by.printed_name if detail.locked_by and not mine else "",
        can_edit=can_edit,
        can_open=edits and detail.report.state in OPENABLE and detail.locked_by is None,
        ris=ris,
        about=about(list(detail.draft.provenance.get("models", [])) if detail.draft else [], settings),
        words=words_of(db, reader.id, detail.study, ris.order) if can_edit else Words(),
        autosave_s=settings.review.autosave_s,
    )


def report_id_of(db: Session, study_id: UUID) -> UUID | None:
    """Return the Report of a study; None when there is no such study."""
    found: StudyDetail | None = study_detail(db, study_id)
    return found.report.id if found else None


def _short_of(db: Session, detail: ReportDetail) -> list[str]:
    said = [words for one in detail.reading.rule_trace for words in one.get("short_of", ())]
    announced = announcement(db, detail.study.id)
    if said or not announced.missing:
        return said
    return [announced.words]


def _is_stale(detail: ReportDetail) -> bool:
    return detail.draft is not None and detail.draft.reading_id != detail.reading.id
