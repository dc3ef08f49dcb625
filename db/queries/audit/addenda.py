"""Q14: what was added to, or corrected in, a report after it was signed as final over an AI draft.

The page is read from the index (created_at, id) of the amendments, each joined by key to its report; the last FINAL
signature before it is looked up by report.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from db.models import Study
from db.queries.audit.keyset import Keyset
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, counted
from db.report_models import Amendment, Draft, Finding, Report, Signature
from db.types import Decision, Presence, ReportState

_KINDS = {ReportState.ADDENDED.value: "addenda", ReportState.CORRECTED.value: "corrections"}
_DAY_S = 86400


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the amendments of a period to reports that were signed over a draft, newest first."""
    query = _asked(answers)
    rows: Any
    rows, after = Keyset(Amendment.created_at, Amendment.id).page(session, query, page)
    drafts = _drafts(session, [row[2].draft_id for row in rows])
    facts: list[tuple[str, Cell]] = []
    if page.is_first:
        facts.append(("amendments of AI-assisted reports", counted(session, query.with_only_columns(Amendment.id))))
    return Answered([_row(row[0], row[1], row[2], row[3], row[4], drafts) for row in rows], after, facts)


def _asked(answers: Answers) -> Any:
    """Select amendment, its signature, the first FINAL signature of its report, study and accession number."""
    final, amending, earlier = aliased(Signature), aliased(Signature), aliased(Signature)
    first = select(func.min(earlier.signed_at)).where(
        earlier.report_id == Amendment.report_id, earlier.state == ReportState.FINAL
    )
    query = (
        select(Amendment, amending, final, Study.id.label("study_id"), Study.accession_number)
        .join(amending, amending.id == Amendment.signature_id)
        .join(Report, Report.id == Amendment.report_id)
        .join(Study, Study.id == Report.study_id)
        .join(final, final.report_id == Amendment.report_id)
        .where(
            final.state == ReportState.FINAL,
            final.draft_id.is_not(None),
            final.signed_at == first.scalar_subquery(),
            *Span(*answers.period()).holds(Amendment.created_at),
        )
    )
    kind = answers.text("kind")
    return query.where(Amendment.state == ReportState(kind)) if kind else query


def _drafts(session: Session, ids: Sequence[UUID]) -> Mapping[UUID, tuple[str, Sequence[Finding]]]:
    """Return, of each draft, its language model and its findings."""
    if not ids:
        return {}
    findings: dict[UUID, list[Finding]] = defaultdict(list)
    query = select(Finding).where(Finding.draft_id.in_(ids)).order_by(Finding.draft_id, Finding.position)
    for one in session.scalars(query):
        findings[one.draft_id].append(one)
    model: Any = Draft.provenance["models"][0]
    named = select(Draft.id, model["name"].as_string(), model["version"].as_string()).where(Draft.id.in_(ids))
    return {
        key: (" ".join(part for part in (name, version) if part), findings[key])
        for key, name, version in session.execute(named)
    }


def _row(
    one: Amendment,
    amending: Signature,
    final: Signature,
    study_id: UUID,
    accession: str,
    drafts: Mapping[UUID, tuple[str, Sequence[Finding]]],
) -> list[Cell]:
    assert final.draft_id is not None
    model, findings = drafts.get(final.draft_id, ("", ()))
    return [
        one.created_at,
        study_id,
        accession,
        one.state.value,
        one.number,
        amending.printed_name,
        one.text,
        final.signed_at,
        final.printed_name,
        round((amending.signed_at - final.signed_at).total_seconds() / _DAY_S, 2),
        final.draft_id,
        model,
        _labels(findings, Presence.PRESENT, refused=False),
        _labels(findings, Presence.PRESENT, refused=True),
        _labels(findings, Presence.ABSENT, refused=False),
        _labels(findings, Presence.ABSENT, refused=True),
    ]


def _labels(findings: Sequence[Finding], presence: Presence, *, refused: bool) -> str:
    """Return the labels the draft said so of, and the signer refused or left standing."""
    chosen = (one for one in findings if one.presence is presence)
    return ", ".join(one.label for one in chosen if (one.decision is Decision.REJECTED) is refused)


QUESTIONS = (
    Question(
        name="Q14",
        slug="addenda",
        title="Addenda and corrections after an AI-assisted signature",
        asks="What was added or corrected after a final signature over a draft, and what had the draft said?",
        source="EU MDR Art 83, 88 (trend of missed findings); EU AI Act Art 72",
        parameters=(*PERIOD, Parameter("kind", Kind.CHOICE, "Kind", choices=_KINDS)),
        columns=(
            Column("amended_at", "Amended", Shown.INSTANT),
            Column("study_id", "Study", Shown.STUDY),
            Column("accession_number", "Accession number"),
            Column("kind", "Kind"),
            Column("number", "Number", Shown.NUMBER),
            Column("amended_by", "By"),
            Column("text", "Addendum, or reason of the correction"),
            Column("final_at", "Signed as final", Shown.INSTANT),
            Column("final_by", "By"),
            Column("days_between", "Days between", Shown.NUMBER),
            Column("draft_id", "Draft", Shown.CODE),
            Column("model", "Model"),
            Column("present_kept", "AI present, kept"),
            Column("present_refused", "AI present, refused"),
            Column("absent_kept", "AI absent, not contradicted"),
            Column("absent_refused", "AI absent, refused"),
        ),
        run=run,
    ),
)
