"""docs/audit.md explains every audit tag, and says which are written by no code yet."""

import re
from pathlib import Path

import pytest

from audit.verify import CHECKS
from db.audit import AuditTag
from db.queries.audit import ALL

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
EXPLAINED, _, RESERVED = PAGE.partition("\n## Reserved\n")


@pytest.mark.requirement("REQ-AUDIT-7")
@pytest.mark.parametrize("tag", AuditTag)
def test_every_audit_tag_is_explained(tag: AuditTag) -> None:
    rows = re.findall(rf"^\| `{tag}` \| (\S[^|]*) \|", EXPLAINED, re.MULTILINE)
    assert len(rows) == 1, f"docs/audit.md has {len(rows)} table rows that begin with `{tag}`"


def test_the_page_explains_no_tag_that_does_not_exist() -> None:
    assert set(re.findall(r"^\| `([a-z]+:[a-z_]+)` \|", PAGE, re.MULTILINE)) == {str(tag) for tag in AuditTag}


def test_tags_that_nothing_writes_are_listed_as_reserved() -> None:
    folders = ("audit", "db", "instances", "dicom_node", "worker", "dashboard", "firstread", "training", "migrations")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files if path != ROOT / "db" / "audit.py")
    written = set(re.findall(r"\bAuditTag\.([A-Z_]+)", code))
    reserved = set(re.findall(r"^- `([a-z]+:[a-z_]+)`", RESERVED, re.MULTILINE))
    assert reserved == {str(tag) for tag in AuditTag if tag.name not in written}


def test_every_question_and_every_check_is_on_the_page() -> None:
    asked = [f"| {one.name} `{one.slug}` | {one.asks} | {one.source} |" for one in ALL.values()]
    checked = [f"| `{name}` | {meaning} |" for name, meaning in CHECKS.items()]
    assert [row for row in (*asked, *checked) if row not in PAGE.splitlines()] == []
