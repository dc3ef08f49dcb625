"""docs/architecture.md says what the code does: the state tables, and names that exist."""

import ast
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path

import pytest

from db.audit import AuditTag
from db.lifecycle.tables import DELIVERY_MOVES, READING_MOVES, REPORT_MOVES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = "config|db|dicom_node|worker|reports|dashboard|training|phantoms|firstread"
NAMED = sorted(
    {
        (page.name, name)
        for page in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
        for name in re.findall(rf"`((?:{PACKAGES})(?:\.\w+)+)`", page.read_text(encoding="utf-8"))
        # "dicom.quiet_s" and "worker.lease_s" are settings; files are looked for elsewhere
        if not re.search(r"\.(?:py|ya?ml|md|db)$", name)
    }
)
SETTINGS_GROUPS = ("worker", "web", "models", "dicom", "identity", "review", "critical")


def _moves(heading: str) -> set[tuple[str, str, str]]:
    section = PAGE.partition(f"\n### {heading}\n")[2].partition("\n##")[0]
    return set(re.findall(r"^\| ([A-Z_]+) \| ([A-Z_]+) \| `([a-z_:]+)` \| \S", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "table"),
    [("The Reading", READING_MOVES), ("The Report", REPORT_MOVES), ("The Delivery", DELIVERY_MOVES)],
)
def test_the_state_tables_are_those_of_the_code(
    heading: str, table: Mapping[tuple[StrEnum, StrEnum], AuditTag]
) -> None:
    assert _moves(heading) == {(str(a), str(b), str(tag)) for (a, b), tag in table.items()}


@cache
def _top_level(path: Path) -> dict[str, ast.AST]:
    names: dict[str, ast.AST] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
        elif isinstance(node, ast.Assign):
            names |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return names


def _members(node: ast.AST) -> set[str]:
    found = set()
    for item in getattr(node, "body", []):
        if isinstance(item, ast.FunctionDef):
            found.add(item.name)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found.add(item.target.id)
    return found


def _exists(dotted: str) -> bool:
    """Return whether a module, a name at its top, or a member of a class there has this name."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:cut])
        rest = parts[cut:]
        if not rest and base.is_dir():
            return True
        module = base.with_suffix(".py")
        if module.is_file():
            names = _top_level(module)
            if len(rest) < 2:
                return not rest or rest[0] in names
            return len(rest) == 2 and rest[0] in names and rest[1] in _members(names[rest[0]])
    return False


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_every_function_the_documents_name_exists(page: str, name: str) -> None:
    group, _, field = name.partition(".")
    if group in SETTINGS_GROUPS and f"__{field}`".upper() in (ROOT / "docs" / "settings.md").read_text("utf-8").upper():
        return
    assert _exists(name), f"{page} names {name}, which is not in the code"
