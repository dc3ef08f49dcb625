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
    STUDY_ASSIGN = "study_assign"  # to others; to oneself is part of REPORT_EDIT
    REPORT_EDIT = "report_edit"
    REPORT_SIGN = "report_sign"  # preliminary
    REPORT_FINAL = "report_final"  # final, addendum, correction
    CRITICAL = "critical"  # alerts of critical results: confirm, dismiss, record who was told
    WORDING = "wording"  # the site's templates and macros; one's own macros are part of REPORT_EDIT
    QUALITY = "quality"  # figures over many studies; names no patient
    PROBLEMS = "problems"
    PROCESS_AGAIN = "process_again"
    DESTINATIONS = "destinations"
    RUNNING = "running"  # queue, models, rules, disk, self-test
    MODEL_APPROVE = "model_approve"  # the second person of a model switch
    TRACE = "trace"  # what became of a study; names no patient
    BREAK_GLASS = "break_glass"  # read one study that the role does not allow, for a reason, on the record
    BREAK_GLASS_REVIEW = "break_glass_review"  # who did that, and why
    AUDIT = "audit"
    AUDIT_QUALITY = "audit_quality"  # the audit's questions about drafts and readers; the others are part of AUDIT
    USERS = "users"


_P = Permission
_READS = frozenset({_P.WORKLIST, _P.STUDY_READ})
_DRAFTS = _READS | {_P.STUDY_STORE, _P.REPORT_EDIT, _P.REPORT_SIGN, _P.PROBLEMS, _P.TRACE}
_SIGNS = _DRAFTS | {_P.REPORT_FINAL, _P.CRITICAL}
TABLE: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _READS,
    Role.RESIDENT: _DRAFTS,
    Role.RADIOLOGIST: _SIGNS,
    Role.LEAD: _SIGNS
    | {_P.STUDY_ASSIGN, _P.WORDING, _P.QUALITY, _P.MODEL_APPROVE, _P.BREAK_GLASS_REVIEW, _P.AUDIT_QUALITY},
    # runs the system; has no business in the reports (minimum necessary)
    Role.ADMIN: frozenset(
        {
            _P.WORKLIST,
            _P.PROBLEMS,
            _P.PROCESS_AGAIN,
            _P.DESTINATIONS,
            _P.RUNNING,
            _P.QUALITY,
            _P.TRACE,
            _P.BREAK_GLASS,
            _P.USERS,
        }
    ),
    # answers "what happened": reads everything, changes nothing
    Role.AUDITOR: frozenset({_P.STUDY_READ, _P.TRACE, _P.QUALITY, _P.BREAK_GLASS_REVIEW, _P.AUDIT, _P.AUDIT_QUALITY}),
    # a machine has no session: what its token may do is in its scopes
    Role.SERVICE: frozenset(),
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
