"""Every act there is has its line in db/audit_map.py, and the code of the act can reach the tags of its line."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from celery import Celery
from flask import Flask
from pydicom.uid import UID

from config.broker import TaskName
from config.build import FOLDERS
from config.settings import Settings
from dashboard.app import create_app
from db import audit_map
from db.audit import AuditTag
from db.audit_map import DUTIES, MESSAGES, ROUTES, SERVICES, TASKS, VERBS, Line
from db.engine import make_engine, make_sessions
from dicom_node import duties, handlers, services
from firstread.cli import app as command_line
from ris import receiving
from tests.call_graph import ROOT, Place, moves, place_of, reached
from worker.tasks import register, register_errands

ADVICE = "add its line to db/audit_map.py: the tags it writes in the transaction of the act, or why it needs none"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder = tmp_path_factory.mktemp("site")
    return create_app(Settings(data_dir=folder), make_sessions(make_engine(f"sqlite:///{folder}/none.db")))


def judge(lines: Mapping[str, Line], found: Mapping[str, Place]) -> None:
    """Fail for an act without a line, a line without an act, and tags that the act's code never names."""
    assert set(found) - set(lines) == set(), f"no audit event is named for these: {ADVICE}"
    assert set(lines) - set(found) == set(), "these are no acts any more: take their lines out"
    missing = {}
    for name, line in lines.items():
        if isinstance(line, str):
            assert line.strip(), f"{name}: say why it needs no event"
            continue
        assert line, f"{name}: name a tag"
        absent = {str(tag) for tag in line} - reached(found[name])
        if absent:
            missing[name] = absent
    assert missing == {}, "the code of these acts writes no such tag: write the event, or correct the line"


@pytest.mark.requirement("REQ-AUDIT-13")
def test_every_route_has_a_line_and_writes_what_it_says(app: Flask) -> None:
    found = {
        f"{method} {rule.endpoint}": place_of(app.view_functions[rule.endpoint])
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    for name in found:  # parts of pages are recorded by the hook every answer passes
        if ROUTES.get(name) in {audit_map._WITH_PAGE, audit_map._LIST}:
            found[name] = ("dashboard.looks", "_record")
    judge(ROUTES, found)


STARTS = {
    TaskName.READ_STUDY: ("worker.reader", "Reader"),
    TaskName.ANSWER_QUESTION: ("worker.asking", "answer_questions"),
    TaskName.REDRAFT: ("worker.redrafting", "make_drafts_anew"),
}


@pytest.mark.requirement("REQ-AUDIT-13")
def test_every_task_of_a_worker_has_a_line_and_writes_what_it_says() -> None:
    celery = Celery("ours", set_as_current=False)
    nothing: Any = None  # registering calls nothing
    register(celery, nothing)
    register_errands(celery, questions=nothing, redrafts=nothing)
    ours = {name for name in celery.tasks if not name.startswith("celery.")}
    judge(TASKS, {name: STARTS[TaskName(name)] for name in ours})
    assert ours == set(TaskName)


def test_every_duty_of_the_node_has_a_line_and_writes_what_it_says() -> None:
    judge(DUTIES, {duty.name: place_of(duty.run) for duty in duties.DUTIES})


def _services() -> Iterator[tuple[str, Place]]:
    nothing: Any = None  # binding calls nothing
    tables = {
        "EVT_N_CREATE": services.N_CREATE,
        "EVT_N_SET": services.N_SET,
        "EVT_N_ACTION": services.N_ACTION,
        "EVT_N_EVENT_REPORT": services.N_EVENT_REPORT,
    }
    for event, handler, *_ in handlers.event_handlers(nothing):
        if event.name in tables:
            for uid, service in tables[event.name].items():
                yield f"{event.name} {UID(uid).name}", place_of(service)
        else:
            yield event.name, place_of(handler)


@pytest.mark.requirement("REQ-AUDIT-13")
def test_every_service_of_the_node_has_a_line_and_writes_what_it_says() -> None:
    judge(SERVICES, dict(_services()))


def test_every_message_of_the_ris_has_a_line_and_writes_what_it_says() -> None:
    judge(MESSAGES, dict.fromkeys(receiving._KINDS, ("ris.receiving", "answer")))


def _verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Place]]:
    inner = getattr(command, "commands", {})
    for name, one in inner.items():
        yield from _verbs(one, (*path, name))
    if not inner or getattr(command, "invoke_without_command", False):
        yield " ".join(path), place_of(command.callback)


def test_every_verb_of_the_command_line_has_a_line_and_writes_what_it_says() -> None:
    judge(VERBS, dict(_verbs(typer.main.get_command(command_line))))


# --- lifecycle moves --------------------------------------------------------------------------------------

_MOVES = (
    "move_reading", "move_report", "move_delivery", "move_hold", "move_request", "move_search", "move_prior",
    "move_step", "move_package", "move_alert", "move_notice", "move_errand",
)  # fmt: skip
MOVERS = {
    *(("db.lifecycle.moves", name) for name in _MOVES),
    ("db.lifecycle.workitem_events", "move_workitem"),
    ("db.lifecycle.model_switching", "_decide"),
    ("db.lifecycle.expectations", "asked"),
}


def _sets_state(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        parts = [part for target in node.targets for part in getattr(target, "elts", [target])]
        return any(isinstance(one, ast.Attribute) and one.attr == "state" for one in parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "values" and any(one.arg == "state" for one in node.keywords)
    return False


def _functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted(one for name in FOLDERS for one in (ROOT / name).rglob("*.py")):
        if "node_modules" in path.parts or "versions" in path.parts:
            continue
        module = ".".join(Path(path).relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield module, node


def test_nothing_else_than_a_move_changes_a_state_and_each_move_writes_its_event() -> None:
    movers, silent = set(), set()
    for module, function in _functions():
        if any(_sets_state(node) for node in ast.walk(function)):
            movers.add((module, function.name))
            calls = {node.func.attr for node in ast.walk(function)
                     if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
            if "audit" not in calls:
                silent.add(function.name)
    assert movers == MOVERS, "a state is changed by moves only: use one of them, or write the event and name it here"
    # three have a function for their events; that of a step says what was said of it, so its callers write it
    assert silent == {"move_step", "move_workitem", "_decide", "asked"}
    for module, name in {place for place in MOVERS if place[1] in silent}:
        assert reached((module, name)), f"{name} reaches no tag"


@pytest.mark.requirement("REQ-AUDIT-13")
@pytest.mark.parametrize("table", sorted(moves()))
def test_every_pair_of_every_table_of_moves_has_a_tag(table: str) -> None:
    pairs = moves()[table]
    assert pairs
    for (before, after), tag in pairs.items():
        assert isinstance(tag, AuditTag), f"{table}: {before} to {after} has no event"
        assert type(before) is type(after)


# --- the judge itself --------------------------------------------------------------------------------------


def test_an_act_without_a_line_and_a_line_without_its_event_are_seen() -> None:
    place = ("dashboard.home", "alive")
    with pytest.raises(AssertionError, match=r"db/audit_map\.py"):
        judge({}, {"GET home.alive": place})
    with pytest.raises(AssertionError, match="no acts any more"):
        judge({"GET home.alive": "a monitor"}, {})
    with pytest.raises(AssertionError, match="writes no such tag"):
        judge({"GET home.alive": (AuditTag.REPORT_SIGNED_FINAL,)}, {"GET home.alive": place})
