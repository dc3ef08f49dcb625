"""Who may do what: one table, and the mark each view carries."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from db.types import Role

View = TypeVar("View", bound=Callable[..., Any])


class Permission(StrEnum):
    """One thing a person may do; a view names exactly one."""

    PUBLIC = "public"  # before logging in
    ACCOUNT = "account"  # anybody logged in, about themselves
    WORKLIST = "worklist"
    STUDY_READ = "study_read"
    STUDY_STORE = "study_store"  # by DICOMweb
    REPORT_EDIT = "report_edit"
    REPORT_SIGN = "report_sign"
    PROBLEMS = "problems"
    PROCESS_AGAIN = "process_again"
    DESTINATIONS = "destinations"
    TRACE = "trace"  # what became of a study; names no patient
    AUDIT = "audit"
    USERS = "users"


_P = Permission
TABLE: Mapping[Role, frozenset[Permission]] = {
    Role.RADIOLOGIST: frozenset(
        {_P.WORKLIST, _P.STUDY_READ, _P.STUDY_STORE, _P.REPORT_EDIT, _P.REPORT_SIGN, _P.PROBLEMS, _P.TRACE}
    ),
    # runs the system; has no business in the reports (minimum necessary)
    Role.ADMIN: frozenset({_P.WORKLIST, _P.PROBLEMS, _P.PROCESS_AGAIN, _P.DESTINATIONS, _P.TRACE, _P.USERS}),
    # answers "what happened": reads everything, changes nothing
    Role.AUDITOR: frozenset({_P.STUDY_READ, _P.TRACE, _P.AUDIT}),
}


def requires(permission: Permission) -> Callable[[View], View]:
    """Mark a view with what it takes; a view without a mark is refused to everybody."""

    def mark(view: View) -> View:
        view.permission = permission  # type: ignore[attr-defined]
        return view

    return mark


def allows(role: Role, permission: Permission) -> bool:
    """Return whether ``role`` may do what ``permission`` names."""
    return permission in {Permission.PUBLIC, Permission.ACCOUNT} or permission in TABLE[role]
