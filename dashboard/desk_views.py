"""The parts of the reading page: sections with their sentences, findings with their places, marks, evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dashboard.presentation import EDITABLE_SECTIONS, SECTION_TITLES
from dashboard.sentences import TOLD_IN, of_finding, sentences, told
from dashboard.viewing import Jump
from db.queries import ReportDetail
from db.report_models import Draft, Evidence, Finding
from db.types import Decision, Presence

_TAKEN = frozenset({Decision.ACCEPTED, Decision.EDITED})
_MARK_TITLES: Mapping[str, str] = {
    "omission": "Omission: an expert's finding is missing from the text",
    "contradiction": "Contradiction: the text and an expert disagree",
    "laterality": "Side to check",
    "number": "Number to check",
    "comparison": "Comparison: no earlier images were compared",
    "trigger": "Model lapse",
    "unfounded": "Unfounded: no expert assessed it",
    "not_asked": "Seen by an expert, asked by nobody",
    "result": "Not among what is sent",
    "resources": "Done with less",
}


@dataclass(frozen=True)
class FindingView:
    """One finding, where to see it, and what the text says of it alone."""

    row: Finding
    jump: Jump | None
    told: Mapping[str, Sequence[str]] = field(default_factory=dict)  # section -> sentences

    @property
    def unsettled(self) -> Sequence[str]:
        """Sentences the text still has although the finding was rejected, or was put in other words."""
        if self.row.decision not in {Decision.REJECTED, Decision.EDITED}:
            return ()
        words = {one for found in self.told.values() for one in found}
        return sorted(words - {self.row.decision_reason})


@dataclass(frozen=True)
class Piece:
    """A run of a section's text: one sentence, or the white space before it."""

    text: str
    is_ai: bool = False
    finding: FindingView | None = None


@dataclass(frozen=True)
class SectionView:
    """One section: its text now, what the AI wrote, and which sentence speaks of which finding."""

    key: str
    title: str
    text: str
    ai: str
    is_accepted: bool = False
    pieces: Sequence[Piece] = ()
    links: Mapping[str, str] = field(default_factory=dict)  # sentence -> id of its finding

    @property
    def is_ai(self) -> bool:
        """Whether the text is the AI's, neither touched nor accepted."""
        return bool(self.ai) and self.text == self.ai and not self.is_accepted

    @property
    def has_ai(self) -> bool:
        """Whether some sentence is the AI's, neither touched nor accepted."""
        return any(one.is_ai for one in self.pieces)

    @property
    def rows(self) -> int:
        """Lines to give the editor without a script."""
        return min(14, self.text.count("\n") + 1 + len(self.text) // 70)


@dataclass(frozen=True)
class MarkView:
    """One doubt of the content checks."""

    kind: str
    title: str
    text: str


@dataclass(frozen=True)
class EvidenceView:
    """One expert run, its output split into what is printed how."""

    row: Evidence
    probabilities: Sequence[tuple[str, float | None]]
    threshold: float | None
    volumes: Sequence[tuple[str, str]]
    other: Sequence[tuple[str, str]]


def finding_views(detail: ReportDetail, jumps: Mapping[Any, Jump | None]) -> list[FindingView]:
    """Return every finding of the draft with its sentences in the text as it is now."""
    rows: Sequence[Finding] = detail.findings
    text: Mapping[str, str] = detail.report.sections
    return [
        FindingView(one, jumps[one.id], told(text, one, [other for other in rows if other.id != one.id]))
        for one in rows
    ]


def section_views(detail: ReportDetail, findings: Sequence[FindingView], accepted: frozenset[str]) -> list[SectionView]:
    """Return the sections in their order; an addendum written by an earlier release comes last."""
    now: Mapping[str, Any] = detail.report.sections
    ai: Mapping[str, Any] = detail.draft.sections if detail.draft else {}
    extra = ("addendum",) if now.get("addendum") else ()
    return [
        _section(key, str(now.get(key) or ""), str(ai.get(key) or ""), findings, key in accepted)
        for key in (*EDITABLE_SECTIONS, *extra)
    ]


def _section(key: str, text: str, ai: str, findings: Sequence[FindingView], is_accepted: bool) -> SectionView:
    drafted = {one.group() for one in sentences(ai)}
    said = {one.group() for one in sentences(text)} | drafted
    links = {one: found for one in said if (found := _spoken_of(one, findings))} if key in TOLD_IN else {}
    pieces: list[Piece] = []
    at = 0
    for one in sentences(text):
        finding = links.get(one.group())
        taken = is_accepted or (finding is not None and finding.row.decision in _TAKEN)
        pieces.append(Piece(text[at : one.start()]))
        pieces.append(Piece(one.group(), one.group() in drafted and not taken, finding))
        at = one.end()
    by_id = {sentence: str(found.row.id) for sentence, found in links.items()}
    return SectionView(key, SECTION_TITLES[key], text, ai, is_accepted, pieces, by_id)


def _spoken_of(sentence: str, findings: Sequence[FindingView]) -> FindingView | None:
    """The finding a sentence is about, one that is present before one that is not."""
    rows = [one.row for one in findings]
    present_first = sorted(findings, key=lambda one: one.row.presence is not Presence.PRESENT)
    return next((one for one in present_first if of_finding(sentence, one.row, _but(rows, one.row))), None)


def _but(rows: Sequence[Finding], row: Finding) -> list[Finding]:
    return [one for one in rows if one is not row]


def mark_views(draft: Draft | None) -> list[MarkView]:
    """Return the doubts of a draft, contradictions first."""
    marks = [
        MarkView(kind := str(one.get("kind", "")), _MARK_TITLES.get(kind, "To check"), str(one.get("text", "")))
        for one in (draft.marks if draft else [])
    ]
    return sorted(marks, key=lambda one: one.kind != "contradiction")


def evidence_view(row: Evidence) -> EvidenceView:
    """Return one expert run as the page prints it, the highest score first."""
    output: Mapping[str, Any] = row.output
    scores: Mapping[str, float | None] = output.get("probabilities") or {}
    volumes: Mapping[str, float] = output.get("volumes_ml") or {}
    rest = {key: value for key, value in output.items() if key not in {"probabilities", "threshold", "volumes_ml"}}
    return EvidenceView(
        row=row,
        probabilities=sorted(scores.items(), key=lambda one: -1.0 if one[1] is None else one[1], reverse=True),
        threshold=output.get("threshold"),
        volumes=[(name, f"{value:,.1f} ml") for name, value in sorted(volumes.items(), key=lambda one: -one[1])],
        other=flat_facts(rest),
    )


def flat_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the plain values of a JSON record as (name, text), and of one level below."""
    facts: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, str | int | float | bool):
            facts.append((name.replace("_", " "), str(value)))
        elif isinstance(value, Mapping):
            below = [f"{key}={item}" for key, item in value.items() if isinstance(item, str | int | float | bool)]
            facts += [(name.replace("_", " "), ", ".join(below))] if below else []
    return facts
