"""Q8: critical results, from the moment somebody or something thought of one until somebody responsible knew.

The page is read from the index (opened_at, id); the people, records and notices of its rows in four statements more.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from db.critical_models import OPEN_ALERTS, AlertState, CriticalAlert, CriticalCommunication
from db.queries.audit.keyset import Keyset
from db.queries.audit.named_studies import STUDY, named_studies
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, counted, minutes
from db.queries.critical import AlertDetail, SixFacts, details

_WHICH = {
    "all": "all",
    "open": "open",
    "escalated": "open and escalated",
    "incomplete": "not dismissed, and without the six facts",
    "communicated": "communicated",
    "dismissed": "dismissed",
}


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the critical results of a period, newest first."""
    query = _asked(session, answers)
    order = Keyset(CriticalAlert.opened_at, CriticalAlert.id)
    rows, after = order.page(session, query, page)
    ids = [row[0] for row in rows]
    found = {one.alert.id: (one, six) for one, six in details(session, _alerts(ids))} if ids else {}
    facts: list[tuple[str, Cell]] = []
    if page.is_first:
        facts = [("critical results", counted(session, query))]
        for name in ("open", "escalated", "incomplete"):
            facts.append((_WHICH[name], counted(session, query.where(_condition(name)))))
    return Answered([_row(*found[key]) for key in ids], after, facts)


def _alerts(ids: Sequence[Any]) -> Select[Any]:
    return select(CriticalAlert).where(CriticalAlert.id.in_(ids))


def _asked(session: Session, answers: Answers) -> Select[Any]:
    query = select(CriticalAlert.id)
    if study := answers.text("study"):
        query = query.where(CriticalAlert.study_id.in_(named_studies(session, study)))
    else:
        query = query.where(*Span(*answers.period()).holds(CriticalAlert.opened_at))
    which = answers.text("which")
    return query if which == "all" else query.where(_condition(which))


def _condition(which: str) -> ColumnElement[bool]:
    is_open = CriticalAlert.state.in_(OPEN_ALERTS)
    return {
        "open": is_open,
        "escalated": and_(is_open, CriticalAlert.level > 0),
        "incomplete": and_(CriticalAlert.state != AlertState.DISMISSED, ~_told()),
        "communicated": CriticalAlert.state == AlertState.COMMUNICATED,
        "dismissed": CriticalAlert.state == AlertState.DISMISSED,
    }[which]


def _told() -> ColumnElement[bool]:
    """Return the condition that a record stands that names somebody, and was read back where it has to be."""
    record, later = aliased(CriticalCommunication), aliased(CriticalCommunication)
    heard = or_(record.read_back, record.no_read_back_reason != "", CriticalAlert.category != 1)
    return exists().where(
        record.alert_id == CriticalAlert.id,
        record.reached,
        record.told_name != "",
        heard,
        ~exists().where(later.corrects_id == record.id),
    )


def _row(one: AlertDetail, six: SixFacts) -> list[Cell]:
    alert = one.alert
    answered_at = alert.confirmed_at or (alert.closed_at if alert.state is AlertState.DISMISSED else None)
    sent = Counter(notice.state.value.lower() for notice in one.notices)
    return [
        alert.opened_at,
        alert.study_id,
        six.accession_number,
        alert.label,
        alert.category,
        alert.state.value,
        six.found_by,
        six.confirmed_by or one.closed_by,
        answered_at,
        minutes(alert.opened_at, answered_at),
        six.told,
        six.told_role,
        six.told_by,
        six.told_at,
        minutes(alert.opened_at, six.told_at),
        six.means,
        six.read_back,
        six.no_read_back_reason,
        six.attempts,
        six.escalations,
        ", ".join(f"{number} {state}" for state, number in sorted(sent.items())),
        six.is_complete,
        "" if alert.state is AlertState.DISMISSED else ", ".join(_missing(six)),
    ]


def _missing(six: SixFacts) -> list[str]:
    wanted = {"what": six.what, "found by": six.found_by, "told": six.told, "when": six.told_at, "how": six.means}
    lacking = [name for name, value in wanted.items() if not value]
    heard = six.read_back or six.no_read_back_reason or six.category != 1
    return lacking if heard else [*lacking, "read back"]


QUESTIONS = (
    Question(
        name="Q8",
        slug="critical-results",
        title="Critical results",
        asks="Which critical results were raised, when were they answered and communicated, to whom, and what is open?",
        source="Joint Commission NPSG.02.03.01; ACR practice parameter for communication",
        parameters=(*PERIOD, Parameter("which", Kind.CHOICE, "Which", default="all", choices=_WHICH), STUDY),
        columns=(
            Column("opened_at", "Raised", Shown.INSTANT),
            Column("study_id", "Study", Shown.STUDY),
            Column("accession_number", "Accession number"),
            Column("what", "What"),
            Column("category", "Category", Shown.NUMBER),
            Column("state", "State"),
            Column("found_by", "Found by"),
            Column("answered_by", "Answered by"),
            Column("answered_at", "Answered", Shown.INSTANT),
            Column("minutes_to_answer", "Minutes to the answer", Shown.NUMBER),
            Column("told", "Told"),
            Column("told_role", "Role"),
            Column("told_by", "Told by"),
            Column("told_at", "Told at", Shown.INSTANT),
            Column("minutes_to_told", "Minutes until told", Shown.NUMBER),
            Column("means", "How"),
            Column("read_back", "Read back", Shown.YES_NO),
            Column("no_read_back_reason", "Why not"),
            Column("attempts", "Attempts", Shown.NUMBER),
            Column("escalations", "Escalations", Shown.NUMBER),
            Column("notices", "Notices"),
            Column("complete", "Six facts complete", Shown.YES_NO),
            Column("missing", "Missing"),
        ),
        run=run,
    ),
)
