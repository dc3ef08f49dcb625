"""Named questions to the audit trail (docs/audit.md): what a regulator asks, answered by one query each."""

import re
from collections.abc import Mapping, Sequence

from db.queries.audit import (
    accesses,
    addenda,
    changes,
    critical,
    delivery,
    derived,
    drafts,
    events,
    incidents,
    integrity,
    late_input,
    overrides,
    recall,
    refusals,
    reproduce,
    signing,
    subgroups,
    timeline_model,
    timeline_user,
    timelines,
)
from db.queries.audit.questions import Question

_MODULES = (
    drafts, accesses, overrides, reproduce, integrity, signing, refusals,
    critical, delivery, subgroups, changes, derived, recall, addenda,
    timelines, timeline_user, timeline_model, incidents, late_input, events,
)  # fmt: skip


def _in_order(found: Sequence[Question]) -> list[Question]:
    """Return Q1, Q2 … Q14, then the others as they come."""
    numbers = {one.name: re.fullmatch(r"Q(\d+)", one.name) for one in found}
    return sorted(found, key=lambda one: int(match[1]) if (match := numbers[one.name]) else len(found) + 1)


ALL: Mapping[str, Question] = {one.name: one for one in _in_order([q for m in _MODULES for q in m.QUESTIONS])}
"""Every question by its name, in the order of the catalogue."""


def named(name: str) -> Question | None:
    """Return the question of this name or slug, however it is capitalised; None when there is none."""
    wanted = name.lower()
    return next((one for one in ALL.values() if wanted in {one.name.lower(), one.slug}), None)


__all__ = ["ALL", "Question", "named"]
