"""What a report said, save by save: who wrote it, and any two texts of it side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from config.errors import RefusedInputError
from dashboard.presentation import SECTION_TITLES, instant
from db.lifecycle import text_sha256
from db.queries import ReportDetail
from db.report_models import ReportRevision, Signature

AI, SIGNED, NOW = "ai", "signed", "now"


@dataclass(frozen=True)
class RevisionView:
    """One save: who, when, and which sections changed in it."""

    number: int
    author: str  # "" for the pipeline
    created_at: datetime
    changes: Sequence[str]


@dataclass(frozen=True)
class Side:
    """One text of a report: the draft's, what was signed, what it says now, or one of its revisions."""

    key: str
    title: str
    sections: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One section in every text that is compared, in their order."""

    title: str
    texts: Sequence[str]

    @property
    def is_same(self) -> bool:
        """Whether all texts are the same."""
        return len(set(self.texts)) == 1


@dataclass(frozen=True)
class Comparison:
    """Two or three texts of one report, section by section; empty sections are left out."""

    sides: Sequence[Side]
    rows: Sequence[Row]


def revision_views(detail: ReportDetail, authors: Mapping[UUID, str]) -> list[RevisionView]:
    """Return every save, newest first, each with the titles of the sections that differ from the one before."""
    views: list[RevisionView] = []
    before: Mapping[str, Any] = {}
    for one in detail.revisions:
        after: Mapping[str, Any] = one.sections
        changes = [
            title for key, title in SECTION_TITLES.items() if str(before.get(key) or "") != str(after.get(key) or "")
        ]
        author = authors.get(one.author_id, "") if one.author_id else ""
        views.append(RevisionView(one.number, author, one.created_at, changes if views else []))
        before = after
    return views[::-1]


def compare(detail: ReportDetail, keys: Sequence[str]) -> Comparison:
    """Return the texts named by ``keys`` beside each other.

    Args:
        detail: the report.
        keys: ``ai``, ``signed``, ``now`` or a revision's number; none for all of the first three that there are.

    Raises:
        RefusedInputError: a key that names no text of this report, or more than three.
    """
    known = sides(detail)
    chosen = list(dict.fromkeys(keys)) or [key for key in (AI, SIGNED, NOW) if key in known]
    wrong = [key for key in chosen if key not in known]
    if wrong or len(chosen) > 3:
        raise RefusedInputError("two or three of this report's texts are compared: ai, signed, now, or a revision")
    picked = [known[key] for key in chosen]
    rows = [
        Row(title, [one.sections.get(key, "") for one in picked])
        for key, title in SECTION_TITLES.items()
        if any(one.sections.get(key) for one in picked)
    ]
    return Comparison(picked, rows)


def sides(detail: ReportDetail) -> dict[str, Side]:
    """Return every text of a report that can be compared, by key."""
    found: dict[str, Side] = {}
    if detail.draft:
        found[AI] = Side(AI, "AI draft", _text(detail.draft.sections))
    signed = signed_text(detail.revisions, detail.signatures)
    if signed:
        signature, revision = signed
        title = f"Signed {signature.state.value.lower()} by {signature.printed_name}, {instant(signature.signed_at)}"
        found[SIGNED] = Side(SIGNED, title, _text(revision.sections))
    found[NOW] = Side(NOW, "Now", _text(detail.report.sections))
    found |= {
        str(one.number): Side(str(one.number), f"Revision {one.number}", _text(one.sections))
        for one in detail.revisions
    }
    return found


def signed_text(
    revisions: Sequence[ReportRevision], signatures: Sequence[Signature]
) -> tuple[Signature, ReportRevision] | None:
    """Return the newest signature and the revision it was put under; None without a signature."""
    newest = max(signatures, key=lambda one: one.signed_at, default=None)
    if newest is None:
        return None
    before = [one for one in revisions if text_sha256(one.sections) == newest.text_sha256]
    return (newest, before[-1]) if before else None


def _text(sections: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in sections.items() if value}
