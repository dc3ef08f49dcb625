"""Counts of agreement by group of patients, raised in the transaction that notes what became of a draft."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from db.audit_tally_models import PerformanceTally
from db.models import Study
from db.quality_models import DraftOutcome
from db.report_models import Finding
from db.types import Decision, Presence
from db.uow import UnitOfWork

WHOLE_DRAFT = "draft rejected"  # reason of findings that fell with their draft; nobody judged them one by one
_CELLS = ("tp", "fp", "fn", "tn")
_KEY = ("dimension", "day", "value", "model", "label", "demonstration")


def tally(uow: UnitOfWork, decided: Iterable[DraftOutcome]) -> None:
    """Add the findings of drafts that were just decided to the counts of their groups and their day."""
    outcomes = {one.draft_id: one for one in decided}
    if not outcomes:
        return
    sites = uow.session.execute(
        select(Study.id, Study.calling_ae).where(Study.id.in_([one.study_id for one in outcomes.values()]))
    )
    site = {key: name for key, name in sites}  # noqa: C416 rows are no pairs to the type checker
    counts: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(_CELLS, 0))
    findings = select(Finding).where(Finding.draft_id.in_(outcomes), Finding.decision_reason != WHOLE_DRAFT)
    for finding in uow.session.scalars(findings):
        cell = cell_of(finding.presence, finding.decision)
        outcome = outcomes[finding.draft_id]
        groups = _groups(outcome, site.get(outcome.study_id, ""))
        for dimension, value in groups.items() if cell else ():
            day = outcome.decided_at.date()
            key = (dimension, day, value, outcome.model, finding.label, outcome.demonstration)
            counts[key][cell] += 1
    rows = [dict(zip(_KEY, key, strict=True)) | found for key, found in sorted(counts.items())]
    if rows:
        _raise(uow, rows)


def cell_of(presence: Presence, decision: Decision) -> str:
    """Return what one finding counts as: ``tp``, ``fp``, ``fn`` or ``tn``; empty when it does not count."""
    if presence is Presence.UNDETERMINED or (presence is Presence.PRESENT and decision is Decision.PENDING):
        return ""
    refused = decision is Decision.REJECTED
    if presence is Presence.PRESENT:
        return "fp" if refused else "tp"
    return "fn" if refused else "tn"


def _groups(outcome: DraftOutcome, site: str) -> Mapping[str, str]:
    return {
        "all": "",
        "age_group": outcome.age_group or "",
        "sex": outcome.sex or "",
        "scanner": outcome.scanner or "",
        "site": site,
    }


def _raise(uow: UnitOfWork, rows: list[dict[str, Any]]) -> None:
    """Add to the counts there are; rows in the order of their keys, so that two sweepers cannot wait for each other."""
    insert = insert_sqlite if uow.session.get_bind().dialect.name == "sqlite" else insert_postgresql
    statement = insert(PerformanceTally)
    table = PerformanceTally.__table__.c
    added = {name: table[name] + statement.excluded[name] for name in _CELLS}
    uow.session.execute(statement.on_conflict_do_update(index_elements=list(_KEY), set_=added), rows)
