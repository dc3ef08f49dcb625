"""Q10: does the AI do as well for every group of patients, on every scanner, at every site?

The page is read from ``performance_tally`` (``db.lifecycle.tallies``), counts by day that are raised when a draft is
decided: a year is some hundred thousand rows of one dimension, found by the beginning of the primary key, where the
findings themselves would be millions.
"""

from datetime import date
from math import sqrt
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit_tally_models import DIMENSIONS, PerformanceTally
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

_WORDS = {"all": "nothing: everybody", "age_group": "age", "sex": "sex", "scanner": "scanner", "site": "calling AE"}
_ENOUGH = 10  # below this no conclusion is drawn from a share
_Z = 1.959963984540054  # of 95 %


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return, for each finding label and group, the confusion with the signed reports; days are of UTC."""
    first, last = (date.fromisoformat(answers.given[name][:10]) for name in ("since", "until"))
    named = PerformanceTally.label, PerformanceTally.value
    sums = [func.sum(getattr(PerformanceTally, name)) for name in ("tp", "fp", "fn", "tn")]
    query = (
        select(*named, *sums)
        .where(
            PerformanceTally.dimension == answers.text("by"),
            PerformanceTally.day.between(first, last),
        )
        .group_by(*named)
        .order_by(*named)
    )
    query = _only(query, answers)
    if page.after is not None:
        query = query.where(_after(page.after))
    rows = session.execute(query.limit(page.limit + 1)).all()
    shown = rows[: page.limit]
    after = (shown[-1][0], shown[-1][1]) if len(rows) > page.limit else None
    return Answered([_row(*row) for row in shown], after)


def _only(query: Select[Any], answers: Answers) -> Select[Any]:
    if label := answers.text("label"):
        query = query.where(PerformanceTally.label == label)
    if model := answers.text("model"):
        query = query.where(PerformanceTally.model == model)
    if answers.text("demonstrations") == "no":
        query = query.where(PerformanceTally.demonstration.is_(False))
    return query


def _after(key: tuple[Any, ...]) -> Any:
    match key:
        case (str(label), str(value)):
            same, more = PerformanceTally.label == label, PerformanceTally.value > value
            return (PerformanceTally.label > label) | (same & more)
    raise RefusedInputError("cursor: it is not of this question")


def _row(label: str, value: str, tp: int, fp: int, fn: int, tn: int) -> list[Cell]:
    shares = [cell for part, whole in _shares(tp, fp, fn, tn) for cell in (round_share(part, whole), whole)]
    intervals = [_interval(part, whole) for part, whole in _shares(tp, fp, fn, tn)]
    told = [cell for one in range(4) for cell in (shares[2 * one], intervals[one], shares[2 * one + 1])]
    return [label, value or "not stated", tp, fp, fn, tn, *told, tp + fp + fn + tn >= _ENOUGH]


def _shares(tp: int, fp: int, fn: int, tn: int) -> list[tuple[int, int]]:
    """Return sensitivity, specificity, positive and negative predictive value as part and whole."""
    return [(tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn)]


def round_share(part: int, whole: int) -> float | None:
    """Return a share to four digits; None of nothing."""
    return round(part / whole, 4) if whole else None


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of ``part`` of ``whole`` (Wilson 1927); ``whole`` is not 0."""
    share, square = part / whole, _Z * _Z
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    half = _Z / (1 + square / whole) * sqrt(share * (1 - share) / whole + square / (4 * whole * whole))
    return max(0.0, middle - half), min(1.0, middle + half)


def _interval(part: int, whole: int) -> str:
    if not whole:
        return ""
    low, high = wilson(part, whole)
    return f"{low:.4f} to {high:.4f}"


def _measure(name: str, label: str) -> tuple[Column, ...]:
    return (
        Column(name, label, Shown.NUMBER),
        Column(f"{name}_95", "95 % interval (Wilson)"),
        Column(f"{name}_of", "of", Shown.NUMBER),
    )


QUESTIONS = (
    Question(
        name="Q10",
        slug="subgroups",
        title="Performance by group of patients",
        asks="How does the AI agree with the signed reports by age, sex, scanner and site, finding by finding?",
        source="EU AI Act Art 10, 15; EU MDR Art 83–86; GMLP principle 8",
        parameters=(
            *PERIOD,
            Parameter(
                "by", Kind.CHOICE, "Divided by", default="sex", choices={name: _WORDS[name] for name in DIMENSIONS}
            ),
            Parameter("label", Kind.TEXT, "Finding", longest=64),
            Parameter("model", Kind.TEXT, "Model and version", hint="as in the quality page: name and version"),
            Parameter(
                "demonstrations",
                Kind.CHOICE,
                "Demonstration models",
                default="yes",
                choices={"yes": "counted", "no": "left out"},
            ),
        ),
        columns=(
            Column("label", "Finding"),
            Column("group", "Group"),
            Column("tp", "Both present (TP)", Shown.NUMBER),
            Column("fp", "AI only (FP)", Shown.NUMBER),
            Column("fn", "Report only (FN)", Shown.NUMBER),
            Column("tn", "Both absent (TN)", Shown.NUMBER),
            *_measure("sensitivity", "Sensitivity"),
            *_measure("specificity", "Specificity"),
            *_measure("ppv", "Positive predictive value"),
            *_measure("npv", "Negative predictive value"),
            Column("enough", f"{_ENOUGH} or more", Shown.YES_NO),
        ),
        run=run,
        audience=Audience.QUALITY,
    ),
)
