"""docs/traceability.md is what hazard log, requirements and markers say, and the chain has no gap."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from config.errors import ConfigurationError
from db.audit import AuditTag
from firstread.release import release_app
from firstread.traceability import Matrix, defects, is_there, marked_tests, read_hazards, read_matrix, verdict
from firstread.traceability_page import traceability_page

ROOT = Path(__file__).resolve().parents[2]
# What no test shows yet. A line goes when its test is there; none is added without a decision of the owners.
PLANNED = {"REQ-SIGN-13", "REQ-GATE-10", "REQ-GATE-11", "REQ-TEXT-13", "REQ-MODEL-13", "REQ-ACCESS-11"}
RULES = [f"rule {number}" for number in range(1, 21)]
PARAGRAPHS = [
    *(f"21 CFR 11.10({letter})" for letter in "abcdefgk"),
    *("21 CFR 11.50", "21 CFR 11.70", "21 CFR 11.100", "21 CFR 11.200(a)", "21 CFR 11.300"),
    *(f"45 CFR 164.312({letter})" for letter in "abcde"),
    *("45 CFR 164.308(a)(1)(ii)(D)", "AI Act 12", "AI Act 13", "AI Act 14", "AI Act 26", "AI Act 72"),
    *("MDR Annex I 17", "MDR Annex I 23", "MDR 83", "FDA PCCP", "GMLP", "IEC 82304-1"),
    *("IEC 62304 5.1.1", "IEC 62304 5.2", "IEC 62304 8.1.2", "ISO 14971 7.2", "ISO 14971 10"),
]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return read_matrix(ROOT)


@pytest.mark.requirement("REQ-CONF-7")
def test_the_committed_page_is_the_generated_one(matrix: Matrix) -> None:
    committed = (ROOT / "docs" / "traceability.md").read_text(encoding="utf-8")
    assert committed == traceability_page(matrix), "docs/traceability.md is old: run make traceability and commit it"


@pytest.mark.requirement("REQ-CONF-7")
def test_the_chain_from_hazard_to_test_has_no_gap(matrix: Matrix) -> None:
    assert defects(matrix, ROOT) == []


def test_what_is_planned_is_what_is_listed_here(matrix: Matrix) -> None:
    assert {one.id for one in matrix.requirements.each() if one.planned} == PLANNED


@pytest.mark.parametrize("source", [*RULES, *PARAGRAPHS])
def test_every_rule_and_paragraph_has_a_requirement_that_is_tested(matrix: Matrix, source: str) -> None:
    assert [one.id for one in matrix.requirements.each() if source in one.sources and not one.planned]


def test_what_the_hazard_log_watches_exists() -> None:
    page = (ROOT / "docs" / "hazards.md").read_text(encoding="utf-8")
    metrics = (ROOT / "dashboard" / "running" / "metrics.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+:[a-z_]+)`", page))
    counted = set(re.findall(r"`(firstread_[a-z_]+)`", page))
    assert len(named) > 15
    assert len(counted) > 6
    assert named - {str(tag) for tag in AuditTag} == set()
    assert {name for name in counted if f'"{name}"' not in metrics} == set()


def test_the_hazard_log_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "docs" / "hazards.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize(
    ("severity", "probability", "called"),
    [(1, 4, "acceptable"), (5, 1, "watched"), (4, 3, "watched"), (3, 5, "unacceptable"), (5, 3, "unacceptable")],
)
def test_a_risk_is_called_what_the_log_says(severity: int, probability: int, called: str) -> None:
    assert verdict(severity, probability) == called


# --- a small checkout, whole at first ----------------------------------------------------------------------

HAZARDS = """\
| Hazard | Hazardous situation | Harm | S | P before | Controls | P after | Residual risk | Watched by |
|---|---|---|---|---|---|---|---|---|
| H-1 | a draft is believed | harm | S4 | P4 | RC-1 | P1 | acceptable | lead |

| Control | What it does | Kind |
|---|---|---|
| RC-1 | a notice | I |
"""
REQUIREMENTS = """\
sources: {rule 4: labelled}
groups:
  - title: Labels
    requirements:
      - {id: REQ-LABEL-1, text: The page says that it is a draft., from: [rule 4], controls: [RC-1], code: [shop.page.Page.show]}
      - {id: REQ-LABEL-2, text: The file says that it is a draft., from: [rule 4], controls: [RC-1], planned: true}
"""  # noqa: E501
TEST = """\
import pytest

@pytest.mark.requirement("REQ-LABEL-1")
@pytest.mark.parametrize("n", [1])
def test_shown(n): ...
"""
FILES = {
    "docs/hazards.md": HAZARDS,
    "docs/requirements.yaml": REQUIREMENTS,
    "tests/unit/test_page.py": TEST,
    "shop/page.py": "class Page:\n    def show(self): ...\n",
}


def checkout(folder: Path, file: str = "", old: str = "", new: str = "") -> Path:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert name != file or old in text
        path.write_text(text.replace(old, new) if name == file else text, encoding="utf-8")
    return folder


def test_a_whole_chain_has_no_defect_and_its_page_shows_it(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    matrix = read_matrix(root)
    assert defects(matrix, root) == []
    page = traceability_page(matrix)
    assert "1 hazards, 1 risk controls, 1 requirements shown by 1 tests, 1 planned." in page
    assert "| H-1 | a draft is believed | RC-1 | REQ-LABEL-1, REQ-LABEL-2 (planned) |" in page
    shown, planned = page.partition("\n## Planned\n")[::2]
    row = next(line for line in shown.splitlines() if line.startswith("| REQ-LABEL-1"))
    assert row.endswith("| rule 4 | RC-1, H-1 | `shop.page.Page.show` | `unit/test_page.py::test_shown` |")
    assert "| REQ-LABEL-2" not in shown
    assert "| REQ-LABEL-2 | The file says that it is a draft. | rule 4 | RC-1 |" in planned


@pytest.mark.requirement("REQ-CONF-7")
@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("tests/unit/test_page.py", '@pytest.mark.requirement("REQ-LABEL-1")\n', "", "REQ-LABEL-1 has no test"),
        ("tests/unit/test_page.py", 'LABEL-1"', 'LABEL-1", "REQ-X-9"', "names REQ-X-9, which is no requirement"),
        ("tests/unit/test_page.py", 'LABEL-1"', 'LABEL-1", "REQ-LABEL-2"', "planned and has a test"),
        ("tests/unit/test_page.py", "def test_shown", "def shown", "a requirement marker where none is read"),
        ("tests/unit/test_page.py", '"REQ-LABEL-1"', "NAME", "a requirement marker where none is read"),
        ("shop/page.py", "def show(", "def shown(", "names shop.page.Page.show, which is not in the code"),
        ("docs/hazards.md", "| P4 | RC-1 |", "| P4 | none |", "H-1 has no control"),
        ("docs/hazards.md", "| P4 | RC-1 |", "| P4 | RC-1, RC-7 |", "H-1 names RC-7, which is no risk control"),
        ("docs/hazards.md", "| RC-1 | a notice | I |", "| RC-1 | a | I |\n| RC-2 | b | I |", "RC-2 has no requirement"),
        ("docs/hazards.md", "| P1 | acceptable |", "| P3 | acceptable |", "by the scale it is watched"),
        ("docs/requirements.yaml", "controls: [RC-1], code", "controls: [RC-8], code", "serves RC-8, which is no risk"),
        ("docs/requirements.yaml", "from: [rule 4], controls: [RC-1], c", "from: [rule 5], c", "cites rule 5"),
        ("docs/requirements.yaml", "labelled}", "labelled, rule 9: other}", "rule 9 is cited by no requirement"),
        ("docs/requirements.yaml", ", code: [shop.page.Page.show]", "", "REQ-LABEL-1 names no code"),
        ("docs/requirements.yaml", "REQ-LABEL-2", "REQ-LABEL-1", "REQ-LABEL-1 is there 2 times"),
    ],
)
def test_each_gap_is_found_and_named(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    root = checkout(tmp_path, file, old, new)
    assert [line for line in defects(read_matrix(root), root) if said in line]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("docs/requirements.yaml", "sources:", "sources: ["),
        ("docs/requirements.yaml", "REQ-LABEL-1", "LABEL"),
        ("docs/requirements.yaml", "planned: true", "soon: true"),
        ("docs/hazards.md", "| S4 |", "| high |"),
        ("docs/hazards.md", " | lead |", " |"),
        ("docs/hazards.md", "| RC-1 | a notice | I |", "| RC-1 | a | I |\n| RC-1 | b | I |"),
    ],
)
def test_sources_of_another_shape_are_refused(tmp_path: Path, file: str, old: str, new: str) -> None:
    root = checkout(tmp_path, file, old, new)
    with pytest.raises(ConfigurationError, match=Path(file).name):
        read_matrix(root)


def test_markers_of_functions_classes_and_modules_count(tmp_path: Path) -> None:
    file = tmp_path / "tests" / "e2e" / "test_all.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import pytest\n"
        'pytestmark = [pytest.mark.slow, pytest.mark.requirement("REQ-A-1")]\n'
        '@pytest.mark.requirement("REQ-A-2")\n'
        "class TestRoom:\n"
        '    @pytest.mark.requirement("REQ-A-3", "REQ-A-4")\n'
        "    def test_inner(self): ...\n"
        "    def helper(self): ...\n"
        "def test_outer(): ...\n"
        "def helper(): ...\n",
        encoding="utf-8",
    )
    inner, outer = "tests/e2e/test_all.py::TestRoom::test_inner", "tests/e2e/test_all.py::test_outer"
    tests = {"REQ-A-1": (inner, outer), "REQ-A-2": (inner,), "REQ-A-3": (inner,), "REQ-A-4": (inner,)}
    assert marked_tests(tmp_path) == (tests, ())


def test_code_is_found_by_module_member_and_path() -> None:
    for name in ("db.lifecycle", "db.lifecycle.signing", "db.lifecycle.signing.sign", "db.uow.UnitOfWork.audit",
                 "db.lifecycle.tables.REPORT_MOVES", "docs/hazards.md"):  # fmt: skip
        assert is_there(ROOT, name), name
    for name in ("db.lifecycle.nothing", "db.lifecycle.signing.sign.inner", "db.uow.UnitOfWork.nothing", "docs/no.md"):
        assert not is_there(ROOT, name), name


def test_the_markers_are_those_that_pytest_sees(matrix: Matrix) -> None:
    file = "tests/unit/test_repository_traceability.py"
    read = {test for tests in matrix.tests.values() for test in tests if test.startswith(file)}
    marked = {
        name
        for name, function in globals().items()
        if any(mark.name == "requirement" for mark in getattr(function, "pytestmark", []))
    }
    assert len(marked) > 2
    assert read == {f"{file}::{name}" for name in marked}


def test_the_verb_says_what_is_wrong_and_changes_nothing_when_it_checks() -> None:
    before = (ROOT / "docs" / "traceability.md").read_bytes()
    shown = CliRunner().invoke(release_app, ["matrix", "--check"])
    assert (shown.exit_code, shown.output) == (0, "docs/traceability.md is up to date\n")
    assert (ROOT / "docs" / "traceability.md").read_bytes() == before


def test_the_log_lists_each_hazard_with_what_it_was_before() -> None:
    log = read_hazards(ROOT / "docs" / "hazards.md")
    assert len(log.hazards) >= 20
    for hazard in log.hazards:
        severity, probability = hazard.before
        assert severity * probability > hazard.after[0] * hazard.after[1], f"{hazard.id}: its controls change nothing"
        assert verdict(severity, probability) != "acceptable"
        assert hazard.verdict != "unacceptable"
