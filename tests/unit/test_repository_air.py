"""docs/ihe-air.md: every row of its tables names a test, and the tests it names exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ihe-air.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
TABLES = [
    block for block in re.split(r"\n\n", PAGE) if block.startswith("| ") and "Shown by |" in block.partition("\n")[0]
]


def test_every_row_names_the_test_that_shows_it() -> None:
    rows = [row for table in TABLES for row in table.strip().splitlines()[2:]]
    assert len(rows) > 40
    assert [row for row in rows if not re.search(r"\| `tests/[\w/]+\.py::\w+` \|$", row)] == []


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_names_the_schema_of_the_export() -> None:
    source = (ROOT / "publishing" / "assessment.py").read_text(encoding="utf-8")
    (schema,) = re.findall(r'^SCHEMA = "(.+)"$', source, re.MULTILINE)
    assert f"`{schema}`" in PAGE
