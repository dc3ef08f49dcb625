"""Q3: what radiologists changed, rejected or added against the AI, finding by finding and draft by draft.

``draft_outcome`` has a row for every decided draft, by the index over the time of the decision (of one reader or model:
over that and the time). A page looks at 200 drafts at a time, newest first, each with the findings that were changed or
rejected (index over the draft) and, where the text was changed, the text that was signed (index over the report). 800
drafts at most are looked at for one page; it may be short, and the next one goes on.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.lifecycle.review import text_sha256
from db.quality_models import DraftOutcome
from db.queries.audit.accounts import account_of
from db.queries.audit.changed_words import changed_degrees, changed_sentences, changed_sides
from db.queries.audit.keyset import Key, Keyset
from db.queries.audit.questions import (
    PERIOD,
    Answered,
    Answers,
    Audience,
    Cell,
    Column,
    Kind,
    Page,
    Parameter,
    Question,
    Shown,
)
from db.report_models import Draft, DraftRejection, Finding, ReportRevision, Signature, UserAccount
from db.types import Decision, ReportState, Verdict

_ORDER = Keyset(DraftOutcome.decided_at, DraftOutcome.draft_id)
_AT_ONCE, _MOST_LOOKED_AT, _MOST_COUNTED = 200, 800, 20_000
_WHOLE = -1  # place of the draft's own row before its findings
_WHAT = {
    "draft_rejected": "the whole draft was rejected",
    "text_changed": "the text was changed",
    "side_changed": "the text names another side",
    "finding_rejected": "a finding was rejected",
    "finding_changed": "a finding was changed",
}
_OF_DECISION = {Decision.REJECTED: "finding_rejected", Decision.EDITED: "finding_changed"}
_OVERRIDDEN = tuple(_OF_DECISION)


@dataclass(frozen=True)
class _Decided:
    """One decided draft with its reader."""

    outcome: DraftOutcome
    login: str

    @property
    def key(self) -> tuple[datetime, UUID]:
        """Its place in the order."""
        return self.outcome.decided_at, self.outcome.draft_id


@dataclass(frozen=True)
class _Row:
    """One override and where it stands: after which key the next page begins."""

    key: Key
    what: frozenset[str]
    cells: Sequence[Cell]


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return one row for each rejected draft or changed text, and one for each changed or rejected finding."""
    found: list[_Row] = []
    looked_at, key, more = 0, page.after, True
    while more and len(found) <= page.limit and looked_at < _MOST_LOOKED_AT:
        chunk, more = _chunk(session, answers, key)
        begun = key
        looked_at += len(chunk) - (begun is not None)  # the first one was looked at before
        found += [row for row in _rows(session, chunk, answers) if begun is None or _is_after(row.key, begun)]
        key = _key(chunk[-1], 2**31) if chunk else key
    shown = found[: page.limit]
    if len(found) > page.limit:
        key = shown[-1].key
    after = key if more or len(found) > page.limit else None
    facts: list[tuple[str, Cell]] = [("drafts looked at for this page", looked_at)]
    if page.is_first:
        facts = [*_counts(session, answers), *facts]
    return Answered([row.cells for row in shown], after, facts)


def _key(one: _Decided, position: int) -> Key:
    return one.outcome.decided_at.isoformat(), str(one.outcome.draft_id), position


def _is_after(key: Key, begun: Key) -> bool:
    """Return whether a row comes after the one a page began with: of another draft, or further down in its own."""
    return key[:2] != begun[:2] or int(key[2]) > int(begun[2])


def _chunk(session: Session, answers: Answers, key: Key | None) -> tuple[list[_Decided], bool]:
    """Return some decided drafts, from the one the page begins in, and whether there are more."""
    since, until = answers.period()
    query = (
        select(DraftOutcome, UserAccount.login)
        .join(UserAccount, UserAccount.id == DraftOutcome.reader_id)
        .where(DraftOutcome.decided_at >= since, DraftOutcome.decided_at < until)
    )
    if reader := answers.text("reader"):
        query = query.where(DraftOutcome.reader_id == account_of(session, reader))
    if model := answers.text("model"):
        query = query.where(DraftOutcome.model == model)
    if key is not None:
        at, draft_id, _ = _place(key)
        query = query.where(tuple_(DraftOutcome.decided_at, DraftOutcome.draft_id) <= (at, draft_id))
    query = query.order_by(DraftOutcome.decided_at.desc(), DraftOutcome.draft_id.desc()).limit(_AT_ONCE + 1)
    rows = [_Decided(*row) for row in session.execute(query)]
    return rows[:_AT_ONCE], len(rows) > _AT_ONCE


def _place(key: Key) -> tuple[datetime, UUID, int]:
    try:
        match key:
            case (str(at), str(draft_id), int(position)) if (moment := datetime.fromisoformat(at)).tzinfo:
                return moment, UUID(draft_id), position
    except ValueError:
        pass
    raise RefusedInputError("cursor: it is not of this question")


def _rows(session: Session, chunk: Sequence[_Decided], answers: Answers) -> Iterator[_Row]:
    """Yield the overrides of these drafts in their order."""
    ids = [one.outcome.draft_id for one in chunk]
    findings = _findings(session, ids)
    rejections = _rejections(session, ids)
    texts = _texts(session, [one.outcome.draft_id for one in chunk if one.outcome.verdict is Verdict.EDITED])
    wanted, label = answers.text("what"), answers.text("finding").lower()
    for one in chunk:
        for row in _of_draft(one, findings[one.outcome.draft_id], rejections, texts):
            if (not wanted or wanted in row.what) and (not label or label == str(row.cells[7]).lower()):
                yield row


def _of_draft(
    one: _Decided,
    findings: Sequence[Finding],
    rejections: Mapping[UUID, DraftRejection],
    texts: Mapping[UUID, tuple[Mapping[str, str], Mapping[str, str]]],
) -> Iterator[_Row]:
    outcome = one.outcome
    if outcome.verdict is Verdict.REJECTED:
        refused = rejections.get(outcome.draft_id)
        reason = (
            f"{refused.code}: {refused.reason}" if refused and refused.code else (refused.reason if refused else "")
        )
        yield _Row(_key(one, _WHOLE), frozenset({"draft_rejected"}), _cells(one, "draft_rejected", reason=reason))
    elif outcome.verdict is Verdict.EDITED:
        yield _text_row(one, *texts.get(outcome.draft_id, ({}, {})))
    for finding in findings:
        what = _OF_DECISION[finding.decision]
        yield _Row(_key(one, finding.position), frozenset({what}), _cells(one, what, finding=finding))


def _text_row(one: _Decided, drafted: Mapping[str, str], signed: Mapping[str, str]) -> _Row:
    sides, degrees = changed_sides(drafted, signed), changed_degrees(drafted, signed)
    added, removed = changed_sentences(drafted, signed)
    what = {"text_changed"} | ({"side_changed"} if sides else set())
    cells = _cells(one, "text_changed", text=(added, removed, sides, degrees))
    return _Row(_key(one, _WHOLE), frozenset(what), cells)


def _cells(
    one: _Decided,
    what: str,
    *,
    reason: str = "",
    finding: Finding | None = None,
    text: tuple[int | None, int | None, str, str] = (None, None, "", ""),
) -> Sequence[Cell]:
    outcome = one.outcome
    is_text = what == "text_changed"
    said: tuple[Cell, ...] = ("", "", "", None)
    if finding is not None:
        said = (finding.label, finding.presence.value, finding.laterality, finding.score)
        reason = finding.decision_reason
    return (
        outcome.decided_at,
        one.login,
        outcome.study_id,
        outcome.draft_id,
        outcome.model,
        outcome.modality,
        _WHAT[what],
        *said,
        reason,
        *text,
        ", ".join(outcome.changed_sections) if is_text else "",
        outcome.edits if is_text else None,
        outcome.words_drafted if is_text else None,
    )


def _findings(session: Session, ids: Sequence[UUID]) -> Mapping[UUID, list[Finding]]:
    found: dict[UUID, list[Finding]] = defaultdict(list)
    query = select(Finding).where(Finding.draft_id.in_(ids), Finding.decision.in_(_OVERRIDDEN))
    for one in session.scalars(query.order_by(Finding.draft_id, Finding.position)):
        found[one.draft_id].append(one)
    return found


def _rejections(session: Session, ids: Sequence[UUID]) -> Mapping[UUID, DraftRejection]:
    query = select(DraftRejection).where(DraftRejection.draft_id.in_(ids))
    return {one.draft_id: one for one in session.scalars(query)}


def _texts(session: Session, ids: Sequence[UUID]) -> Mapping[UUID, tuple[Mapping[str, str], Mapping[str, str]]]:
    """Return what each draft said and what was first signed as FINAL over it."""
    if not ids:
        return {}
    drafts = {
        row.id: row.sections for row in session.execute(select(Draft.id, Draft.sections).where(Draft.id.in_(ids)))
    }
    query = select(Signature).where(Signature.draft_id.in_(ids), Signature.state == ReportState.FINAL)
    first: dict[UUID, Signature] = {}
    for one in session.scalars(query.order_by(Signature.signed_at)):
        if one.draft_id is not None:
            first.setdefault(one.draft_id, one)
    revisions: dict[UUID, list[ReportRevision]] = defaultdict(list)
    of_reports = select(ReportRevision).where(ReportRevision.report_id.in_([one.report_id for one in first.values()]))
    for revision in session.scalars(of_reports.order_by(ReportRevision.number.desc())):
        revisions[revision.report_id].append(revision)
    return {
        draft_id: (drafts[draft_id], _signed(signature, revisions[signature.report_id]))
        for draft_id, signature in first.items()
    }


def _signed(signature: Signature, revisions: Sequence[ReportRevision]) -> Mapping[str, str]:
    """Return the newest text with the hash that the signature binds (21 CFR 11.70)."""
    matching = (one.sections for one in revisions if text_sha256(one.sections) == signature.text_sha256)
    return next(matching, {})


def _counts(session: Session, answers: Answers) -> list[tuple[str, Cell]]:
    """Return how the newest decided drafts of the period ended."""
    since, until = answers.period()
    query = select(DraftOutcome.verdict).where(DraftOutcome.decided_at >= since, DraftOutcome.decided_at < until)
    if model := answers.text("model"):
        query = query.where(DraftOutcome.model == model)
    if reader := answers.text("reader"):
        query = query.where(DraftOutcome.reader_id == account_of(session, reader))
    newest = query.order_by(DraftOutcome.decided_at.desc()).limit(_MOST_COUNTED).subquery()
    rows = session.execute(select(newest.c.verdict, func.count()).group_by(newest.c.verdict))
    counts = {verdict: number for verdict, number in rows}  # noqa: C416 rows are no pairs to the type checker
    facts: list[tuple[str, Cell]] = [(f"drafts {verdict.value}", counts.get(verdict, 0)) for verdict in Verdict]
    if sum(counts.values()) == _MOST_COUNTED:
        facts.append(("counted", f"the newest {_MOST_COUNTED}; narrow the days for all"))
    return facts


QUESTIONS = (
    Question(
        name="Q3",
        slug="overrides",
        title="Where radiologists overrode the AI",
        asks="What did radiologists reject, change or add against the drafts, finding by finding, and how far?",
        source="EU AI Act Art. 14(4)(d); EU MDR Art. 83–88",
        parameters=(
            Parameter("what", Kind.CHOICE, "What", choices=_WHAT),
            Parameter("finding", Kind.TEXT, "Finding", longest=64, hint="its label"),
            Parameter("model", Kind.TEXT, "Model and version", longest=200, hint="the language model, as in a row"),
            Parameter("reader", Kind.TEXT, "Reader's login", longest=64),
            *PERIOD,
        ),
        columns=(
            Column("decided_at", "Decided at", Shown.INSTANT),
            Column("reader", "Reader"),
            Column("study", "Study", Shown.STUDY),
            Column("draft", "Draft", Shown.CODE),
            Column("model", "Model"),
            Column("modality", "Modality"),
            Column("what", "What"),
            Column("finding", "Finding"),
            Column("ai_said", "AI said"),
            Column("side", "AI's side"),
            Column("score", "Score", Shown.NUMBER),
            Column("reason", "Reason"),
            Column("added", "Sentences added", Shown.NUMBER),
            Column("removed", "Sentences removed", Shown.NUMBER),
            Column("sides", "Sides"),
            Column("degrees", "Degrees"),
            Column("sections", "Sections"),
            Column("edits", "Words edited", Shown.NUMBER),
            Column("words", "Words drafted", Shown.NUMBER),
        ),
        run=run,
        audience=Audience.QUALITY,
    ),
)
