"""Counts over drafts and what people made of them; nothing here names a patient."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVarTuple

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from db.lifecycle.outcomes import age_group
from db.lifecycle.self_tests import self_tested
from db.models import Reading, Series, Study
from db.quality_models import DraftOutcome
from db.report_models import Draft, Finding, UserAccount
from db.types import Decision, Presence, ReadingState

Columns = TypeVarTuple("Columns")

DIMENSIONS = ("model", "reader", "scanner", "sex", "age_group", "modality", "body_part", "priority")
BINS = 10  # of a model score from 0 to 1
_WHOLE_DRAFT = "draft rejected"  # reason of findings that fell with their draft; nobody judged them one by one


@dataclass(frozen=True)
class Period:
    """From ``start`` up to, not including, ``end``."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Choice:
    """Which drafts count: those decided in a period that have these values."""

    period: Period
    values: Mapping[str, str] = field(default_factory=dict)  # dimension -> value
    with_demonstrations: bool = True


@dataclass(frozen=True)
class FindingCount:
    """How many Findings of one label the AI called so and the reader decided so."""

    label: str
    presence: Presence
    decision: Decision
    count: int


def outcomes(session: Session, chosen: Choice) -> Sequence[tuple[DraftOutcome, str]]:
    """Return the chosen outcomes, oldest decision first, each with its reader's printed name."""
    query = select(DraftOutcome, UserAccount.printed_name).join(UserAccount, UserAccount.id == DraftOutcome.reader_id)
    rows = session.execute(_only(query, chosen).order_by(DraftOutcome.decided_at)).all()
    return [(row[0], row[1]) for row in rows]


def finding_counts(session: Session, chosen: Choice) -> list[FindingCount]:
    """Return the Findings of the chosen outcomes, counted; those that fell with a whole draft are left out."""
    query = (
        select(Finding.label, Finding.presence, Finding.decision, func.count())
        .join(DraftOutcome, DraftOutcome.draft_id == Finding.draft_id)
        .join(UserAccount, UserAccount.id == DraftOutcome.reader_id)
        .where(Finding.decision_reason != _WHOLE_DRAFT)
        .group_by(Finding.label, Finding.presence, Finding.decision)
    )
    return [FindingCount(*row) for row in session.execute(_only(query, chosen)).all()]


def known_values(session: Session, period: Period) -> Mapping[str, Sequence[str]]:
    """Return the values of each dimension among the outcomes of a period."""
    return {
        name: sorted(
            value
            for value in session.scalars(
                select(_column(name))
                .select_from(DraftOutcome)
                .join(UserAccount, UserAccount.id == DraftOutcome.reader_id)
                .where(DraftOutcome.decided_at >= period.start, DraftOutcome.decided_at < period.end)
                .distinct()
            )
            if value
        )
        for name in DIMENSIONS
    }


def _column(name: str) -> Any:
    return UserAccount.printed_name if name == "reader" else getattr(DraftOutcome, name)


def _only(query: Select[*Columns], chosen: Choice) -> Select[*Columns]:
    query = query.where(DraftOutcome.decided_at >= chosen.period.start, DraftOutcome.decided_at < chosen.period.end)
    if not chosen.with_demonstrations:
        query = query.where(DraftOutcome.demonstration.is_(False))
    for name, value in chosen.values.items():
        query = query.where(_column(name) == value)
    return query


def received(session: Session, period: Period) -> Mapping[str, Counter[str]]:
    """Return what came in during a period: Studies by modality, body part, sex, age group, scanner and result."""
    return {
        "modality": _study_counts(session, period, Study.modalities),
        "body_part": _study_counts(session, period, Study.body_part),
        "sex": _study_counts(session, period, Study.patient_sex),
        "age_group": _age_counts(session, period),
        "scanner": _scanner_counts(session, period),
        "result": _result_counts(session, period),
    }


def _in(query: Select[*Columns], period: Period) -> Select[*Columns]:
    return query.where(
        Study.first_received_at >= period.start,
        Study.first_received_at < period.end,
        Study.is_prior.is_(False),
        ~self_tested(),
    )


def _study_counts(session: Session, period: Period, column: Any) -> Counter[str]:
    query = _in(select(column, func.count()).select_from(Study), period).group_by(column)
    return Counter({value or "not stated": count for value, count in session.execute(query).all()})


def _age_counts(session: Session, period: Period) -> Counter[str]:
    columns = Study.patient_birth_date, Study.study_date
    found: Counter[str] = Counter()
    query = _in(select(*columns, func.count()).select_from(Study), period).group_by(*columns)
    for born, taken, count in session.execute(query).all():
        found[age_group(born, taken) or "not stated"] += count
    return found


def _scanner_counts(session: Session, period: Period) -> Counter[str]:
    columns = Series.manufacturer, Series.manufacturer_model
    query = select(*columns, func.count(Study.id.distinct())).join(Study, Study.id == Series.study_id)
    rows = session.execute(_in(query, period).group_by(*columns)).all()
    return Counter({f"{maker} {model}".strip() or "not stated": count for maker, model, count in rows})


def _result_counts(session: Session, period: Period) -> Counter[str]:
    done = (ReadingState.DRAFTED, ReadingState.NO_DRAFT, ReadingState.FAILED, ReadingState.IGNORED, ReadingState.HELD)
    query = select(Reading.state, func.count()).join(Study, Study.id == Reading.study_id)
    query = _in(query, period).where(Reading.state.in_(done), Reading.superseded.is_(False)).group_by(Reading.state)
    return Counter({state.value: count for state, count in session.execute(query).all()})


def asserted(session: Session, period: Period) -> Mapping[str, tuple[int, int]]:
    """Return per label how many drafts of a period assert it, and how many speak of it at all."""
    present = func.sum(case((Finding.presence == Presence.PRESENT, 1), else_=0))
    query = (
        select(Finding.label, present, func.count())
        .join(Draft, Draft.id == Finding.draft_id)
        .where(Draft.created_at >= period.start, Draft.created_at < period.end)
        .group_by(Finding.label)
    )
    return {label: (int(yes), asked) for label, yes, asked in session.execute(query).all()}


def score_counts(session: Session, period: Period) -> Mapping[str, Counter[str]]:
    """Return per label how the model scores of a period fall into ten equal bins from 0 to 1."""
    bins = [func.sum(case((_in_bin(low), 1), else_=0)).label(f"b{low}") for low in range(BINS)]
    query = (
        select(Finding.label, *bins)
        .join(Draft, Draft.id == Finding.draft_id)
        .where(Draft.created_at >= period.start, Draft.created_at < period.end, Finding.score.is_not(None))
        .group_by(Finding.label)
    )
    return {
        row[0]: Counter({f"{low / BINS:.1f}": int(row[low + 1]) for low in range(BINS)})
        for row in session.execute(query).all()
    }


def _in_bin(low: int) -> Any:
    above = Finding.score >= low / BINS
    return above if low == BINS - 1 else above & (Finding.score < (low + 1) / BINS)
