"""Q12: everything that was derived from one Study, or stands here because of it: for its erasure, or its recall.

The list follows the foreign keys of the tables themselves, from ``study`` outwards, and then the references that have
no key (``_LOOSE``); a test compares both with the schema, so that a new table is not forgotten. Every step is a lookup
by an indexed key; a page begins where the one before ended, table by table, by primary key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Column as SqlColumn
from sqlalchemy import ColumnElement, Select, Table, cast, func, literal, or_, select, union_all
from sqlalchemy import String as SqlString
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db import (  # noqa: F401 all fill the metadata, whoever asks
    annotation_models,
    asking_models,
    audit_archive_models,
    audit_draft_models,
    commitment_models,
    critical_models,
    expectation_models,
    identity_models,
    message_models,
    prior_models,
    quality_models,
    report_models,
    running_models,
    signing_models,
    wording_models,
    workitem_models,
    worklist_models,
)
from db.models import Base, Study
from db.queries.audit.named_studies import ONE_STUDY, one_study
from db.queries.audit.questions import Answered, Answers, Cell, Column, Page, Question, Shown

_NOT_DERIVED = frozenset(("user_account", "model_package"))
_LAST = ("audit_event", "audit_private")  # what is said of all the others
_PATHS = ("path", "label_map_path")
_DIGESTS = ("sha256", "text_sha256", "image_set_sha256", "weights_sha256", "instances_sha256")
_UIDS = ("sop_instance_uid", "study_instance_uid", "series_instance_uid", "uid", "tracking_uid", "object_uid")
_TIMES = ("created_at", "received_at", "opened_at", "signed_at", "asked_at", "occurred_at", "first_received_at")
_KINDS = ("kind", "state", "label", "expert", "destination", "tag", "reason", "section", "means", "message_type")
_SHOWN = frozenset((*_PATHS, *_DIGESTS, *_UIDS, *_TIMES, *_KINDS))


@dataclass(frozen=True)
class Source:
    """One table whose rows are about the Study, and which of its rows they are."""

    table: Table
    rows: Callable[[Study], ColumnElement[bool]]

    @property
    def key(self) -> ColumnElement[str]:
        """The primary key as text, which is the order of the page."""
        parts = [cast(one, SqlString) for one in self.table.primary_key.columns]
        joined: ColumnElement[str] = parts[0]
        for part in parts[1:]:
            joined = joined.concat(literal(" ")).concat(part)
        return joined


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return what refers to the Study, table by table from the images to the audit log."""
    study = one_study(session, answers.text("study"))
    counts = _counts(session, study) if page.is_first else None
    start, key = _begin(page)
    rows: list[list[Cell]] = []
    listed = sources()
    for number in range(start, len(listed)):
        source = listed[number]
        if counts is not None and source.table.name not in counts:
            continue
        found = _read(session, source, study, key if number == start else "", page.limit + 1 - len(rows))
        for name, row in found:
            if len(rows) == page.limit:
                return Answered(rows, _last(rows, listed), list((counts or {}).items()), study.id)
            rows.append(_row(source.table.name, name, row))
    return Answered(rows, None, list((counts or {}).items()), study.id)


def _last(rows: Sequence[Sequence[Cell]], listed: Sequence[Source]) -> tuple[str | int, ...]:
    names = [one.table.name for one in listed]
    return names.index(str(rows[-1][0])), str(rows[-1][1])


def _begin(page: Page) -> tuple[int, str]:
    if page.after is None:
        return 0, ""
    match page.after:
        case (int(number), str(key)) if 0 <= number < len(sources()):
            return number, key
    raise RefusedInputError("cursor: it is not of this question")


def _read(session: Session, source: Source, study: Study, after: str, limit: int) -> Sequence[tuple[str, Any]]:
    key = source.key.label("row_key")
    columns = [one for one in source.table.columns if one.name in _SHOWN]
    query: Select[Any] = select(key, *columns).where(source.rows(study)).order_by(key).limit(limit)
    if after:
        query = query.where(source.key > after)
    return [(row[0], row._mapping) for row in session.execute(query)]


def _counts(session: Session, study: Study) -> dict[str, Cell]:
    """Return how many rows each table has of the Study, where there are any; one statement for all."""
    each = [
        select(literal(source.table.name), func.count()).select_from(source.table).where(source.rows(study))
        for source in sources()
    ]
    return {name: number for name, number in session.execute(union_all(*each)) if number}


@cache
def sources() -> Sequence[Source]:
    """Return the tables that hold something of a Study: by their keys and ``_LOOSE``, then what refers to those."""
    tables = Base.metadata.tables
    found = {"study": Source(tables["study"], lambda study: tables["study"].c.id == study.id)}
    found |= {name: Source(tables[name], rows) for name, rows in _LOOSE.items()}
    while new := _next(found):
        found |= new
    return tuple(sorted(found.values(), key=lambda one: one.table.name in _LAST))


def _next(found: Mapping[str, Source]) -> dict[str, Source]:
    return {
        table.name: Source(table, _through(columns, found))
        for table in Base.metadata.sorted_tables
        if table.name not in found and (columns := _references(table, found))
    }


def _references(table: Table, found: Mapping[str, Source]) -> list[SqlColumn[Any]]:
    """Return the columns that refer to a Study; else one that refers to rows found before, which is always filled."""
    if table.name in _NOT_DERIVED:
        return []
    columns = [column for column in table.columns for one in column.foreign_keys if one.column.table.name in found]
    direct = [one for one in columns if any(key.column.table.name == "study" for key in one.foreign_keys)]
    # several conditions joined by OR would make the database read the whole table
    return direct or sorted(columns, key=lambda one: bool(one.nullable))[:1]


def _through(columns: Sequence[SqlColumn[Any]], found: Mapping[str, Source]) -> Callable[[Study], ColumnElement[bool]]:
    parents = [(column, next(iter(column.foreign_keys)).column) for column in columns]

    def rows(study: Study) -> ColumnElement[bool]:
        conditions = [
            column == study.id
            if target.table.name == "study"
            else column.in_(select(target).where(found[target.table.name].rows(study)))
            for column, target in parents
        ]
        return or_(*conditions)

    return rows


def _in(table: str, column: str, value: Callable[[Study], Any]) -> Callable[[Study], ColumnElement[bool]]:
    return lambda study: Base.metadata.tables[table].c[column] == value(study)


def _associations(study: Study) -> ColumnElement[bool]:
    instance, association = Base.metadata.tables["instance"], Base.metadata.tables["association"]
    brought = select(instance.c.association_id).where(instance.c.study_id == study.id).distinct()
    return association.c.id.in_(brought)


def _messages(study: Study) -> ColumnElement[bool]:
    """Return the message that corrected the patient's identity last; no other message is tied to one Study."""
    message, corrected = Base.metadata.tables["hl7_message"], Base.metadata.tables["identity_correction"]
    return message.c.id.in_(select(corrected.c.message_id).where(corrected.c.study_id == study.id))


def _workitem_events(study: Study) -> ColumnElement[bool]:
    event, workitem = Base.metadata.tables["workitem_event"], Base.metadata.tables["workitem"]
    return event.c.uid.in_(select(workitem.c.uid).where(workitem.c.study_instance_uid == study.study_instance_uid))


def _commitments(study: Study) -> ColumnElement[bool]:
    """Return what destinations were asked to commit to of this Study's results."""
    tables = Base.metadata.tables
    order, delivery, made = tables["commitment_order"], tables["delivery"], tables["result_object"]
    asked = select(delivery.c.commitment_uid).join(made, made.c.id == delivery.c.result_object_id)
    return order.c.transaction_uid.in_(asked.where(made.c.study_id == study.id))


def _own(column: str) -> Callable[[Study], Any]:
    return lambda study: getattr(study, column)


# what is about a Study without a foreign key to it
_LOOSE: Mapping[str, Callable[[Study], ColumnElement[bool]]] = {
    "imaging_order": _in("imaging_order", "id", _own("order_id")),
    "expectation": _in("expectation", "study_instance_uid", _own("study_instance_uid")),
    "workitem": _in("workitem", "study_instance_uid", _own("study_instance_uid")),
    "workitem_event": _workitem_events,
    "commitment_order": _commitments,
    "node_task": _in("node_task", "study_instance_uid", _own("study_instance_uid")),
    "hl7_message": _messages,
    "association": _associations,
    "audit_event": _in("audit_event", "study_id", _own("id")),
    "audit_private": _in("audit_private", "study_id", _own("id")),
}


def _row(table: str, key: str, row: Mapping[str, Any]) -> list[Cell]:
    return [
        table,
        key,
        _text(row, _KINDS),
        _text(row, _UIDS),
        _text(row, _DIGESTS),
        _text(row, _PATHS),
        _time(row),
    ]


def _text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of these columns that says something."""
    value = next((row[name] for name in names if row.get(name)), "")
    if isinstance(value, dict):
        return ", ".join(f"{name} {digest}" for name, digest in sorted(value.items()))
    return str(getattr(value, "value", value))


def _time(row: Mapping[str, Any]) -> datetime | None:
    return next((row[name] for name in _TIMES if row.get(name)), None)


QUESTIONS = (
    Question(
        name="Q12",
        slug="derived",
        title="Everything derived from one study",
        asks="Which rows, files, result objects, deliveries, messages and events exist because of this study?",
        source="GDPR Art 17, 19; 21 CFR 806 and EU MDR Art 87 (recall); 21 CFR 11.10(b)(c)",
        parameters=(ONE_STUDY,),
        columns=(
            Column("table", "Table"),
            Column("key", "Key", Shown.CODE),
            Column("kind", "Kind"),
            Column("uid", "UID", Shown.CODE),
            Column("sha256", "SHA-256", Shown.CODE),
            Column("path", "File"),
            Column("made_at", "Made", Shown.INSTANT),
        ),
        run=run,
    ),
)
