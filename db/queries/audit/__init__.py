"""Named questions to the audit trail (docs/audit.md): what a regulator asks, answered by one query each."""

from collections.abc import Mapping

from db.queries.audit.questions import Question

_LISTS: tuple[tuple[Question, ...], ...] = ()
ALL: Mapping[str, Question] = {one.name: one for some in _LISTS for one in some}
"""Every question by its name, in the order of the catalogue."""


def named(name: str) -> Question | None:
    """Return the question of this name or slug; None when there is none."""
    return ALL.get(name.upper()) or next((one for one in ALL.values() if one.slug == name.lower()), None)


__all__ = ["ALL", "Question", "named"]
