"""The traceability matrix: hazard, risk control, requirement, code, test (IEC 62304 5.1.1 and 7.3.3, ISO 14971 7).

Sources are text beside the code: ``docs/requirements.yaml``, the tables of ``docs/hazards.md``, and the marker
``@pytest.mark.requirement("REQ-…")`` on a test function, a test class, or as ``pytestmark`` of a module. Nothing is
imported and no test is run: everything is read from the syntax tree, so the matrix of a release can be made anywhere.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, ValidationError

from config.errors import ConfigurationError

REQUIREMENTS = "docs/requirements.yaml"
HAZARDS = "docs/hazards.md"


class Requirement(BaseModel, frozen=True, extra="forbid"):
    """One thing the software must do, which paragraphs ask for it, and where it is done."""

    id: Annotated[str, Field(pattern=r"^REQ-[A-Z]+-\d+$")]
    text: Annotated[str, Field(min_length=20, max_length=400)]
    sources: Annotated[tuple[str, ...], Field(min_length=1, alias="from")]
    controls: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    planned: bool = False


class Group(BaseModel, frozen=True, extra="forbid"):
    """Requirements under one heading."""

    title: str
    requirements: Annotated[tuple[Requirement, ...], Field(min_length=1)]


class Requirements(BaseModel, frozen=True, extra="forbid"):
    """What ``docs/requirements.yaml`` holds: every paragraph that is cited, and every requirement."""

    sources: dict[str, str]
    groups: Annotated[tuple[Group, ...], Field(min_length=1)]

    def each(self) -> Iterator[Requirement]:
        """Give every requirement, in the order of the file."""
        for group in self.groups:
            yield from group.requirements


@dataclass(frozen=True)
class Hazard:
    """One row of the hazard log: its controls, and its risk before and after them as ``(severity, probability)``."""

    id: str
    situation: str
    controls: tuple[str, ...]
    before: tuple[int, int]
    after: tuple[int, int]
    verdict: str


@dataclass(frozen=True)
class HazardLog:
    """The hazards and the risk controls of ``docs/hazards.md``, in the order of the page."""

    hazards: tuple[Hazard, ...]
    controls: dict[str, str]


@dataclass(frozen=True)
class Matrix:
    """Everything the matrix is made of; ``tests`` maps a requirement to test ids, sorted."""

    requirements: Requirements
    log: HazardLog
    tests: Mapping[str, tuple[str, ...]]
    misplaced: tuple[str, ...]

    def hazards_of(self, requirement: Requirement) -> list[str]:
        """Return the hazards that any control of ``requirement`` stands against."""
        return [hazard.id for hazard in self.log.hazards if set(hazard.controls) & set(requirement.controls)]


def read_matrix(root: Path) -> Matrix:
    """Return the matrix of the checkout at ``root``.

    Raises:
        ConfigurationError: requirements or hazard log have not the shape they should have.
    """
    tests, misplaced = marked_tests(root)
    return Matrix(read_requirements(root / REQUIREMENTS), read_hazards(root / HAZARDS), tests, misplaced)


def read_requirements(path: Path) -> Requirements:
    """Return the requirements that ``path`` lists.

    Raises:
        ConfigurationError: not YAML, or not of the shape of `Requirements`.
    """
    try:
        return Requirements.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as exc:
        raise ConfigurationError(f"{path.name}: {exc}") from exc


# --- the hazard log ----------------------------------------------------------------------------------------


def read_hazards(path: Path) -> HazardLog:
    """Return hazards (rows ``| H-n | …``) and controls (rows ``| RC-n | …``) of the hazard log.

    Raises:
        ConfigurationError: a row has not the cells of its table, or an id stands twice.
    """
    text = path.read_text(encoding="utf-8")
    hazards = [_hazard(path.name, cells) for cells in _rows(text, "H")]
    controls = [(cells[0], cells[1]) for cells in _rows(text, "RC")]
    ids = [hazard.id for hazard in hazards] + [control for control, _ in controls]
    twice = [one for one, count in Counter(ids).items() if count > 1]
    if twice:
        raise ConfigurationError(f"{path.name}: twice in the tables: {', '.join(twice)}")
    return HazardLog(tuple(hazards), dict(controls))


def _rows(text: str, letters: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if re.match(rf"\| {letters}-\d+ \|", line):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def _hazard(name: str, cells: list[str]) -> Hazard:
    """Cells: id, hazardous situation, harm, severity, P before, controls, P after, residual risk, watched by."""
    severity, before, after = (re.fullmatch(r"[SP]([1-5])", cells[n]) if len(cells) == 9 else None for n in (3, 4, 6))
    if severity is None or before is None or after is None or not cells[8]:
        raise ConfigurationError(f"{name}: {cells[0]} needs nine cells, with S1-S5 and P1-P5 in the 4th, 5th and 7th")
    return Hazard(
        id=cells[0],
        situation=cells[1],
        controls=tuple(re.findall(r"RC-\d+", cells[5])),
        before=(int(severity[1]), int(before[1])),
        after=(int(severity[1]), int(after[1])),
        verdict=cells[7],
    )


def verdict(severity: int, probability: int) -> str:
    """Return what ``docs/hazards.md`` calls a risk: ``acceptable``, ``watched`` or ``unacceptable``."""
    risk = severity * probability
    if risk >= 15:
        return "unacceptable"
    return "watched" if risk >= 5 else "acceptable"


# --- markers -----------------------------------------------------------------------------------------------


def marked_tests(root: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return tests by requirement, and markers that stand where none is read (``file:line``).

    A test id is ``tests/…/test_file.py::test_name``, with the class between them where there is one.
    """
    found: dict[str, set[str]] = {}
    misplaced: list[str] = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.requirement" not in text:
            continue
        tree, name = ast.parse(text), path.relative_to(root).as_posix()
        read: set[int] = set()
        for test, marker in _markers(tree):
            read.add(id(marker))
            for argument in marker.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.setdefault(argument.value, set()).add(f"{name}::{test}")
                else:
                    misplaced.append(f"{name}:{marker.lineno}")
        every = (node for node in ast.walk(tree) if _is_marker(node))
        misplaced += [f"{name}:{getattr(node, 'lineno', 0)}" for node in every if id(node) not in read]
    return {one: tuple(sorted(tests)) for one, tests in found.items()}, tuple(misplaced)


def _is_marker(node: ast.AST) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "requirement"
        and isinstance(function.value, ast.Attribute)
        and function.value.attr == "mark"
    )


def _markers(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Give (test, marker) for every test that a marker of its own, its class or its module stands for."""
    whole = [marker for node in tree.body if isinstance(node, ast.Assign) for marker in _module_marks(node)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            of_class = [*whole, *_among(node.decorator_list)]
            yield from _of_tests(node.body, f"{node.name}::", of_class)
    yield from _of_tests(tree.body, "", whole)


def _of_tests(body: Iterable[ast.stmt], prefix: str, outer: list[ast.Call]) -> Iterator[tuple[str, ast.Call]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for marker in [*outer, *_among(node.decorator_list)]:
                yield prefix + node.name, marker


def _module_marks(node: ast.Assign) -> list[ast.Call]:
    if not any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets):
        return []
    return _among(node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value])


def _among(nodes: Iterable[ast.expr]) -> list[ast.Call]:
    return [node for node in nodes if isinstance(node, ast.Call) and _is_marker(node)]


# --- code --------------------------------------------------------------------------------------------------


def is_there(root: Path, name: str) -> bool:
    """Return whether ``name`` is in the checkout: a path with a slash, or dotted, a module or what it defines."""
    if "/" in name:
        return (root / name).exists()
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        folder = root.joinpath(*parts[:length])
        for file in (folder.with_suffix(".py"), folder / "__init__.py"):
            if file.is_file():
                return _defines(file, tuple(parts[length:]))
    return False


def _defines(file: Path, inner: tuple[str, ...]) -> bool:
    body = _body(file)
    for name in inner:
        node = next((node for node in body if name in _names(node)), None)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


@cache
def _body(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


# --- what is wrong -----------------------------------------------------------------------------------------


def defects(matrix: Matrix, root: Path) -> list[str]:
    """Return every gap and every name that leads nowhere, one line each; empty when the matrix is whole."""
    listed = list(matrix.requirements.each())
    ids = Counter(one.id for one in listed)
    found = [f"{one} is there {count} times" for one, count in ids.items() if count > 1]
    found += [f"{test} names {one}, which is no requirement" for one in matrix.tests if one not in ids
              for test in matrix.tests[one]]  # fmt: skip
    found += [f"{place}: a requirement marker where none is read" for place in matrix.misplaced]
    for one in listed:
        found += _defects_of(one, matrix, root)
    return found + _untraced(matrix, listed)


def _defects_of(one: Requirement, matrix: Matrix, root: Path) -> list[str]:
    tested = one.id in matrix.tests
    found = [f"{one.id} cites {name}, which `sources` does not explain" for name in one.sources
             if name not in matrix.requirements.sources]  # fmt: skip
    found += [f"{one.id} serves {name}, which is no risk control" for name in one.controls
              if name not in matrix.log.controls]  # fmt: skip
    found += [f"{one.id} names {name}, which is not in the code" for name in one.code if not is_there(root, name)]
    if one.planned and tested:
        found.append(f"{one.id} is planned and has a test: take `planned` away")
    if not one.planned and not tested:
        found.append(f"{one.id} has no test")
    if not one.planned and not one.code:
        found.append(f"{one.id} names no code")
    return found


def _untraced(matrix: Matrix, listed: list[Requirement]) -> list[str]:
    served = {control for one in listed for control in one.controls}
    cited = {source for one in listed for source in one.sources}
    used = {control for hazard in matrix.log.hazards for control in hazard.controls}
    found = [f"{name} has no requirement" for name in matrix.log.controls if name not in served]
    found += [f"{name} stands against no hazard" for name in matrix.log.controls if name not in used]
    found += [f"{name} is cited by no requirement" for name in matrix.requirements.sources if name not in cited]
    for hazard in matrix.log.hazards:
        found += [] if hazard.controls else [f"{hazard.id} has no control"]
        found += [f"{hazard.id} names {c}, which is no risk control" for c in hazard.controls
                  if c not in matrix.log.controls]  # fmt: skip
        if hazard.verdict != verdict(*hazard.after):
            found.append(f"{hazard.id} is called {hazard.verdict}; by the scale it is {verdict(*hazard.after)}")
    return found
