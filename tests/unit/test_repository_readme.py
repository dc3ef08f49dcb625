"""README, CHANGELOG and the other pages: what they name exists."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from firstread.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FOR_DEVELOPERS = {"train", "evaluate"}  # one line each; their own help has the rest
NAMED_TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
VERBS = re.findall(r"^\| `firstread ([a-z -]+)` \|", README, re.MULTILINE)


def test_every_feature_names_a_test() -> None:
    section = README.partition("\n## What it does\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "Shown by" not in line]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"\| `tests/[\w/]+\.py::\w+` \|$", row)] == []


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS)
def test_the_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def _verbs() -> set[str]:
    """Return every verb of the command line that does something, groups spelled out."""
    found = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = {} if name in _FOR_DEVELOPERS else getattr(command, "commands", {})
        found |= {f"{name} {verb}" for verb in inner} or {name}
    return found


def test_the_readme_lists_exactly_the_verbs_there_are() -> None:
    assert set(VERBS) == _verbs()


def test_help_lists_the_verbs() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert [verb for verb in VERBS if not re.search(rf"^\W*{verb.split()[0]}\b", shown.output, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]*)\)", text):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, f"{page.name} links to {target}"


def test_the_changelog_has_unreleased_changes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = text.partition("\n## [Unreleased]\n")[2].partition("\n## ")[0]
    assert re.search(r"^### (Added|Changed|Fixed|Removed|Deprecated|Security)$", section, re.MULTILINE)
    assert re.search(r"^- \w", section, re.MULTILINE)


def test_decisions_are_numbered_without_gap_or_double() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [file.name[:4] for file in files] == [f"{number:04d}" for number in range(1, len(files) + 1)]
    for file in files:
        first, *rest = file.read_text(encoding="utf-8").splitlines()
        assert first.startswith(f"# {int(file.name[:4])}. "), file.name
        assert any(re.match(r"Date: \d{4}-\d\d-\d\d\. Status: \w+", line) for line in rest), file.name


def test_make_help_lists_every_target_for_people() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    defined = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):[^#\n]*## \S", makefile, re.MULTILINE))
    assert phony == defined
    # what other targets need first; nobody calls them by themselves
    assert phony - explained <= {"install", "frontend"}
