"""Q9: every result object, to whom it was owed, what the destination answered, and whether it still holds it.

Without a state or destination the page is read from the index (created_at, id) of the objects, each with its
deliveries, so that what was owed to nobody is seen too; with one, from the index of the deliveries that begins with it.
"""

from typing import Any

from sqlalchemy import String, cast, func, select
from sqlalchemy.orm import Session

from db.models import Delivery, ResultObject, Study
from db.queries.audit.keyset import Keyset
from db.queries.audit.named_studies import STUDY, named_studies
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, counted
from db.types import CommitmentState, CountState, DeliveryState

_UNDELIVERED = {DeliveryState.FAILED: "given up", DeliveryState.PENDING: "waiting", DeliveryState.HELD: "held back"}
_STATES = {one.value: one.value.lower() for one in DeliveryState}
_PROMISES = {one.value: one.value.lower().replace("_", " ") for one in CommitmentState}


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the result objects of a period with their deliveries, newest first."""
    by_delivery = any(answers.text(name) for name in ("state", "commitment", "destination"))
    query = (_deliveries if by_delivery else _objects)(answers)
    if study := answers.text("study"):
        query = query.where(ResultObject.study_id.in_(named_studies(session, study)))
    else:
        at = Delivery.created_at if by_delivery else ResultObject.created_at
        query = query.where(*Span(*answers.period()).holds(at))
    order = (
        Keyset(Delivery.created_at, Delivery.id)
        if by_delivery
        else Keyset(ResultObject.created_at, ResultObject.id, func.coalesce(Delivery.destination, "", type_=String))
    )
    rows: Any
    rows, after = order.page(session, query, page)
    return Answered([_row(*row[:3]) for row in rows], after, _facts(session, query) if page.is_first else ())


def _objects(answers: Answers) -> Any:
    del answers
    return (
        select(ResultObject, Delivery, Study.accession_number)
        .join(Study, Study.id == ResultObject.study_id)
        .outerjoin(Delivery, Delivery.result_object_id == ResultObject.id)
    )


def _deliveries(answers: Answers) -> Any:
    query: Any = (
        select(ResultObject, Delivery, Study.accession_number)
        .select_from(Delivery)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .join(Study, Study.id == ResultObject.study_id)
    )
    for name in ("state", "commitment", "destination"):
        if value := answers.text(name):
            query = query.where(getattr(Delivery, name) == value)
    return query


def _facts(session: Session, query: Any) -> list[tuple[str, Cell]]:
    found: list[tuple[str, Cell]] = [("rows", counted(session, _only(query)))]
    for state, words in _UNDELIVERED.items():
        found.append((words, counted(session, _only(query).where(Delivery.state == state))))
    unsure = Delivery.commitment.in_((CommitmentState.REFUSED, CommitmentState.ALARM))
    found.append(("delivered and not committed to", counted(session, _only(query).where(unsure))))
    missed = Delivery.counted == CountState.ALARM
    found.append(("delivered and not found when counted", counted(session, _only(query).where(missed))))
    return found


def _only(query: Any) -> Any:
    return query.with_only_columns(ResultObject.id, cast(Delivery.id, String))


def _row(made: ResultObject, delivery: Delivery | None, accession: str) -> list[Cell]:
    about: list[Cell] = [
        made.created_at, made.study_id, accession, made.kind, made.sop_instance_uid, made.sha256,
        "signature" if made.signature_id else "draft",
    ]  # fmt: skip
    if delivery is None:
        return [*about, "", "OWED TO NOBODY", 0, None, "", "", 0, None, "", 0, ""]
    return [
        *about,
        delivery.destination,
        delivery.state.value,
        delivery.attempts,
        delivery.delivered_at,
        delivery.commitment.value,
        delivery.commitment_uid,
        delivery.commitment_attempts,
        delivery.committed_at,
        delivery.counted.value,
        delivery.count_missed,
        delivery.last_error,
    ]


QUESTIONS = (
    Question(
        name="Q9",
        slug="deliveries",
        title="Deliveries and storage commitment",
        asks="Where did every result object go, how often was it tried, and what did the destination promise?",
        source="21 CFR 11.10(b); IHE storage commitment",
        parameters=(
            *PERIOD,
            Parameter("state", Kind.CHOICE, "State", choices=_STATES),
            Parameter("commitment", Kind.CHOICE, "Commitment", choices=_PROMISES),
            Parameter("destination", Kind.TEXT, "Destination", longest=32),
            STUDY,
        ),
        columns=(
            Column("made_at", "Made", Shown.INSTANT),
            Column("study_id", "Study", Shown.STUDY),
            Column("accession_number", "Accession number"),
            Column("kind", "Kind"),
            Column("sop_instance_uid", "SOP Instance UID", Shown.CODE),
            Column("sha256", "SHA-256", Shown.CODE),
            Column("made_by", "Made by a"),
            Column("destination", "Destination"),
            Column("state", "State"),
            Column("attempts", "Attempts", Shown.NUMBER),
            Column("delivered_at", "Acknowledged", Shown.INSTANT),
            Column("commitment", "Commitment"),
            Column("transaction_uid", "Transaction UID", Shown.CODE),
            Column("commitment_attempts", "Times asked", Shown.NUMBER),
            Column("committed_at", "Committed", Shown.INSTANT),
            Column("counted", "Count check"),
            Column("count_missed", "Times missing", Shown.NUMBER),
            Column("last_error", "Last error"),
        ),
        run=run,
    ),
)
