"""Questions to the model and drafts made anew, as the reading page shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from config.settings import Settings
from dashboard.desk import DeskPage
from dashboard.people import Person
from dashboard.permissions import Permission
from dashboard.presentation import EDITABLE_SECTIONS, SECTION_TITLES
from db.asking_models import MAX_INSTRUCTION_CHARS, MAX_QUESTION_CHARS, ErrandState
from db.lifecycle.asking import COPY_SECTIONS
from db.lifecycle.errands import OVERTAKEN, PENDING
from db.lifecycle.redrafting import STYLES
from db.package_models import Package
from db.queries.asking import AskedRow, RedraftRow, drafting_packages, questions_of, redrafts_of
from db.report_models import Draft, Finding
from db.types import Presence, Use

STATE_PILLS: Mapping[ErrandState, tuple[str, str]] = {
    ErrandState.ASKED: ("Waiting", "info"),
    ErrandState.RUNNING: ("Working", "info"),
    ErrandState.ANSWERED: ("Answered", "ai"),
    ErrandState.OFFERED: ("New draft", "ai"),
    ErrandState.ADOPTED: ("Adopted", "ok"),
    ErrandState.DISCARDED: ("Not adopted", ""),
    ErrandState.REFUSED: ("Refused", "warn"),
    ErrandState.FAILED: ("Failed", "bad"),
}
STYLE_WORDS: Mapping[str, str] = {
    "": "As now",
    "trained": "As in the model's training",
    "demo": "As in its published demo",
}
PRESENCE_WORDS: Mapping[Presence | None, str] = {
    Presence.PRESENT: "present",
    Presence.ABSENT: "absent",
    Presence.UNDETERMINED: "undetermined",
    None: "not assessed",
}


@dataclass(frozen=True)
class FindingChange:
    """One finding in the draft under review and in the one that is offered."""

    label: str
    before: str
    after: str
    score: float | None

    @property
    def is_change(self) -> bool:
        """Whether the two drafts disagree."""
        return self.before != self.after


@dataclass(frozen=True)
class Offer:
    """A new draft beside the one under review.

    Attributes:
        row: the redraft.
        texts: (title, AI text under review, new AI text) of each section that either has.
        findings: what both say, those that changed first.
    """

    row: RedraftRow
    texts: Sequence[tuple[str, str, str]]
    findings: Sequence[FindingChange]

    @property
    def same_texts(self) -> Sequence[str]:
        """Titles of the sections that did not change."""
        return [title for title, now, new in self.texts if now == new]

    @property
    def model_line(self) -> str:
        """The models behind it, in one line."""
        made = self.row.made
        models: Sequence[Mapping[str, Any]] = made.provenance.get("models", ()) if made else ()
        return ", ".join(f"{one.get('name', '')} {one.get('version', '')}".strip() for one in models)


@dataclass(frozen=True)
class AskingPanel:
    """What readers asked about one report, and what this one may ask now."""

    questions: Sequence[AskedRow]
    redrafts: Sequence[RedraftRow]
    offer: Offer | None
    packages: Sequence[Package]
    asks: bool  # whether this person may ask here, now
    redraws: bool  # the same of new drafts
    questions_left: int
    redrafts_left: int
    version: int

    question_chars: int = MAX_QUESTION_CHARS
    instruction_chars: int = MAX_INSTRUCTION_CHARS
    sections: Sequence[tuple[str, str]] = tuple((key, SECTION_TITLES[key]) for key in COPY_SECTIONS)
    styles: Sequence[tuple[str, str]] = tuple((key, STYLE_WORDS[key]) for key in STYLES)

    @property
    def is_answering(self) -> bool:
        """Whether an answer is still to come."""
        return any(one.question.state in PENDING for one in self.questions)

    @property
    def pending(self) -> RedraftRow | None:
        """The redraft that a worker has to do."""
        return next((one for one in self.redrafts if one.redraft.state in PENDING), None)

    @property
    def settled(self) -> Sequence[RedraftRow]:
        """Redrafts that wait for nothing."""
        return [one for one in self.redrafts if one.redraft.state not in OVERTAKEN]

    def pill(self, state: ErrandState) -> tuple[str, str]:
        """Return words and colour of a state."""
        return STATE_PILLS[state]


def asking_panel(
    db: Session, page: DeskPage, reader: Person, settings: Settings, *, version: int | None = None
) -> AskingPanel | None:
    """Return what is shown of a report; None to who neither works on reports nor audits them.

    Args:
        db: for reading only.
        page: the reading page as this person sees it.
        reader: who looks.
        settings: limits, and whether demonstration models may draft.
        version: of the report that the page on screen was made from; None for the one now.
    """
    if not (reader.may(Permission.REPORT_EDIT) or reader.may(Permission.AUDIT)):
        return None
    questions, redrafts = questions_of(db, page.report.id), redrafts_of(db, page.report.id)
    draft = page.draft
    asked = sum(draft is not None and one.question.draft_id == draft.id for one in questions)
    again = sum(one.redraft.revision == page.reading.revision for one in redrafts)
    waits = any(one.redraft.state in OVERTAKEN for one in redrafts)
    left = max(0, settings.review.max_questions - asked)
    redrafts_left = max(0, settings.review.max_redrafts - again)
    works = page.can_edit and draft is not None
    return AskingPanel(
        questions=questions,
        redrafts=redrafts,
        offer=_offer(page, redrafts),
        packages=[one for one in drafting_packages(db) if _may_draft(one, page, settings)],
        asks=works and left > 0,
        redraws=works and redrafts_left > 0 and not waits and not page.signatures,
        questions_left=left,
        redrafts_left=redrafts_left,
        version=page.report.version if version is None else version,
    )


def _may_draft(package: Package, page: DeskPage, settings: Settings) -> bool:
    """Whether the gates of drafting would let this model draft this Study."""
    if package.research_only and page.reading.use is not Use.RESEARCH:
        return False
    return settings.models.allow_demonstration or not package.demonstration


def _offer(page: DeskPage, redrafts: Sequence[RedraftRow]) -> Offer | None:
    row = next((one for one in redrafts if one.redraft.state is ErrandState.OFFERED), None)
    if row is None or row.made is None or page.draft is None or not page.can_edit:
        return None
    shown = {one.key for one in page.sections}  # an impression that is hidden stays hidden here too
    now, new = page.draft.sections, row.made.sections
    texts = [
        (SECTION_TITLES[key], str(now.get(key) or ""), str(new.get(key) or ""))
        for key in EDITABLE_SECTIONS
        if key in shown and (now.get(key) or new.get(key))
    ]
    rows = [one.row for one in (*page.findings, *page.absent)]
    return Offer(row, texts, _changes(page.draft, rows, row))


def _changes(draft: Draft, rows: Sequence[Finding], row: RedraftRow) -> list[FindingChange]:
    assert row.made is not None
    before = {one.label: one.presence for one in rows if one.draft_id == draft.id}
    after = {one.label: one for one in row.made.findings}
    changes = [
        FindingChange(
            label,
            PRESENCE_WORDS[before.get(label)],
            PRESENCE_WORDS[after[label].presence if label in after else None],
            after[label].score if label in after else None,
        )
        for label in dict.fromkeys([*before, *after])
    ]
    return sorted(changes, key=lambda one: (not one.is_change, one.after != "present"))
