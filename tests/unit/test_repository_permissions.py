"""docs/permissions.md says who may do what; run this file to write the page anew."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.settings import ROOT, Settings
from dashboard.app import create_app
from dashboard.permissions import TABLE, Permission
from db.engine import make_engine, make_sessions
from db.types import Role

PAGE = ROOT / "docs" / "permissions.md"
PEOPLE = [role for role in Role if role is not Role.SERVICE]
WORDS = {
    Permission.PUBLIC: "before logging in",
    Permission.ACCOUNT: "anybody logged in, about themselves",
    Permission.WORKLIST: "see the worklist",
    Permission.STUDY_READ: "read images, drafts and reports",
    Permission.STUDY_STORE: "store studies by DICOMweb, change workitems",
    Permission.STUDY_ASSIGN: "give studies to others to read",
    Permission.REPORT_EDIT: "work on reports",
    Permission.REPORT_SIGN: "sign, at least preliminary",
    Permission.REPORT_FINAL: "sign final, addenda, corrections",
    Permission.CRITICAL: "confirm and communicate critical results",
    Permission.WORDING: "keep the site's templates and macros",
    Permission.QUALITY: "see figures over many studies",
    Permission.PROBLEMS: "see what went wrong",
    Permission.PROCESS_AGAIN: "have a study read, or a result delivered, again",
    Permission.DESTINATIONS: "see and test destinations",
    Permission.RUNNING: "run the system: queue, models, rules, disk, self-test",
    Permission.MODEL_APPROVE: "be the second person of a model switch",
    Permission.TRACE: "ask what became of a study",
    Permission.BREAK_GLASS: "read one study for a stated reason",
    Permission.BREAK_GLASS_REVIEW: "see who did that, and why",
    Permission.AUDIT: "read the audit log",
    Permission.AUDIT_QUALITY: "ask the audit's questions about drafts and readers",
    Permission.USERS: "keep accounts and tokens",
}
HEAD = """# Who may do what

Seven roles; one table (`dashboard.permissions.TABLE`). A view names one permission, and one that names none is refused
to everybody (`dashboard.people`). A test walks every route as every role and as every kind of token. The database layer
checks again who edits and who signs (`db.lifecycle.review`).

A *service* is a machine: it has no login and comes with a token, whose scopes say what it may do: `read` (DICOMweb,
FHIR, workitems), `write` (store by DICOMweb, change workitems), `metrics` (`/metrics`).

Break-glass: an administrator sees no images and no reports. For a reason of 10 characters or more, one study can be
opened for reading, for `identity.break_glass_s` seconds; every page opened is on record with the grant, a banner says
so on every page, and auditors and leads see the list.
"""


def _page() -> Iterator[str]:
    yield HEAD
    yield "## Roles and permissions\n"
    yield f"| May | {' | '.join(PEOPLE)} |"
    yield f"|---|{'---|' * len(PEOPLE)}"
    for permission in Permission:
        if permission not in {Permission.PUBLIC, Permission.ACCOUNT}:
            cells = " | ".join("yes" if permission in TABLE[role] else "" for role in PEOPLE)
            yield f"| {WORDS[permission]} (`{permission}`) | {cells} |"
    yield "\n## Routes\n"
    yield "| Route | Method | Takes |"
    yield "|---|---|---|"
    yield from sorted(_routes())


def _routes() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)), make_sessions(make_engine(f"sqlite:///{folder}/none.db")))
    for rule in app.url_map.iter_rules():
        permission = getattr(app.view_functions[rule.endpoint], "permission", None)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield f"| `{rule}` | {method} | {permission or 'public (files of the site)'} |"


def test_the_page_is_that_of_the_table_and_the_routes() -> None:
    expected = "\n".join(_page()) + "\n"
    assert PAGE.read_text(encoding="utf-8") == expected, (
        "docs/permissions.md is old: python -m tests.unit.test_repository_permissions writes it anew"
    )


def test_every_permission_has_words_and_somebody_who_has_it() -> None:
    assert set(WORDS) == set(Permission)
    held = frozenset().union(*TABLE.values())
    assert set(Permission) - held == {Permission.PUBLIC, Permission.ACCOUNT}


if __name__ == "__main__":
    PAGE.write_text("\n".join(_page()) + "\n", encoding="utf-8")
