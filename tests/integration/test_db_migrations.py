"""Migrations and the guards the database itself keeps, on both engines."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DatabaseError, IntegrityError

from db import lifecycle, models, report_models
from db.engine import ROOT, alembic_config, make_engine, migrate
from db.lifecycle import asking
from db.lifecycle.breaking import break_glass
from db.lifecycle.report_text import accept_text
from db.packages import accept_licence
from db.uow import unit_of_work
from tests.asking_support import under_review
from tests.critical_support import told_of_a_critical_result
from tests.db_support import SENDER, addend, decide_all, open_review, person, received, sign

WRITTEN_ONCE = [
    "accepted_text",
    "amendment",
    "answer",
    "answer_copy",
    "audit_event",
    "break_glass",
    "critical_communication",
    "draft",
    "draft_model",
    "draft_rejection",
    "licence_acceptance",
    "redraft_offer",
    "report_revision",
    "safety_check",
    "signature",
]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


def _tables(url: str) -> set[str]:
    engine = make_engine(url)
    try:
        names = sa.inspect(engine).get_table_names()
        return {name for name in names if not name.startswith("audit_event_")}  # partitions by month
    finally:
        engine.dispose()


@pytest.mark.requirement("REQ-CONF-3")
def test_up_down_and_up_again_then_models_and_database_agree(empty_url):
    config = alembic_config(empty_url)
    migrate(empty_url)
    assert _tables(empty_url) == {*models.Base.metadata.tables, "alembic_version"}
    assert report_models.Report.__tablename__ in _tables(empty_url)
    command.downgrade(config, "base")
    assert _tables(empty_url) <= {"alembic_version"}
    migrate(empty_url)
    command.check(config)  # raises when autogenerate would add anything
    migrate(empty_url)  # at head: nothing to do


def test_processes_that_start_together_migrate_once(empty_url):
    with ThreadPoolExecutor(3) as pool:
        command_line = [sys.executable, "-c", "import sys; from db.engine import migrate; migrate(sys.argv[1])"]
        runs = [
            pool.submit(subprocess.run, [*command_line, empty_url], cwd=ROOT, capture_output=True, check=False)
            for _ in range(3)
        ]
        results = [run.result() for run in runs]
    assert [r.returncode for r in results] == [0, 0, 0], results[0].stderr + results[1].stderr + results[2].stderr
    assert "reading" in _tables(empty_url)


@pytest.mark.requirement("REQ-CONF-3")
def test_every_migration_says_why_the_previous_release_may_keep_running():
    scripts = ScriptDirectory.from_config(alembic_config("sqlite://"))
    revisions = list(scripts.walk_revisions())
    assert revisions
    for revision in revisions:
        text = revision.module.__doc__ or ""
        assert "Safe while the previous release runs: " in text, revision.revision
        assert "(say why)" not in text, revision.revision


def test_alembic_works_by_hand_with_the_environments_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'hand.db'}"
    alembic = Path(sys.executable).parent / "alembic"
    done = subprocess.run(
        [alembic, "-c", str(ROOT / "alembic.ini"), "upgrade", "head"],
        cwd=tmp_path,
        env={"FIRSTREAD_DATABASE_URL": url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "audit_event" in _tables(url)


@pytest.fixture
def signed(sessions):
    with unit_of_work(sessions, SENDER) as uow:
        accept_licence(uow, package="VISTA3D", licence="NVIDIA", text="for research")
    review = under_review(sessions)
    journey, reader = review.journey, review.reader
    review.answered(question_id := review.ask())
    review.offered(review.ask_redraft())
    with unit_of_work(sessions, reader) as uow:
        asking.copy_answer(uow, review.report_id, question_id, "findings", seen_version=review.version)
    with unit_of_work(sessions, reader) as uow:
        break_glass(uow, journey.report().study_id, reason="to be looked at", lasts_s=60)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    addend(journey, reader)
    refused = received(sessions, "1.2.826.0.2").queued().running().drafted()
    version = open_review(refused, reader)
    with unit_of_work(sessions, reader) as uow:
        version = accept_text(uow, refused.report().id, "findings", seen_version=version)
    with unit_of_work(sessions, reader) as uow:
        lifecycle.reject(uow, refused.report().id, reason="wrong", seen_version=version)
    told_of_a_critical_result(sessions, reader, journey.study_id)
    return journey


def _count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        number: int = connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
        return number


@pytest.mark.requirement("REQ-AUDIT-3")
def test_what_is_written_once_is_neither_changed_nor_removed(engine, signed):
    columns = {
        "accepted_text": "section",
        "amendment": "text",
        "answer": "text",
        "answer_copy": "section",
        "audit_event": "body",
        "break_glass": "reason",
        "critical_communication": "note",
        "draft": "sections",
        "draft_model": "site",
        "draft_rejection": "reason",
        "licence_acceptance": "accepted_by",
        "redraft_offer": "content",
        "report_revision": "sections",
        "safety_check": "rules",
        "signature": "meaning",
    }
    for table in WRITTEN_ONCE:
        before = _count(engine, table)
        assert before > 0
        attempts = [f"UPDATE {table} SET {columns[table]} = {columns[table]}", f"DELETE FROM {table}"]
        if engine.dialect.name == "postgresql":
            attempts.append(f"TRUNCATE {table} CASCADE")
        for attempt in attempts:
            with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
                connection.execute(sa.text(attempt))
        assert _count(engine, table) == before


@pytest.mark.requirement("REQ-SIGN-1")
@pytest.mark.parametrize("state", ["FINAL", "PRELIMINARY", "ADDENDED", "CORRECTED"])
def test_the_database_refuses_a_signed_state_without_a_signature(engine, sessions, state):
    journey = received(sessions).queued().running().drafted()
    open_review(journey, person(sessions))
    with pytest.raises(IntegrityError, match="needs a signature"), engine.begin() as connection:
        connection.execute(sa.text("UPDATE report SET state = :state"), {"state": state})
    assert journey.report().state.value == "IN_REVIEW"


@pytest.mark.requirement("REQ-SIGN-1")
def test_the_database_refuses_a_report_that_is_born_signed(engine, sessions):
    journey = received(sessions)
    copy = (
        "INSERT INTO report (id, study_id, state, sections, reason, image_set_sha256, late_images, created_at,"
        " updated_at, version) SELECT :id, id, 'FINAL', '{}', '', '', :no, first_received_at, first_received_at, 1"
        " FROM study"
    )
    with pytest.raises(IntegrityError, match="starts UNREAD"), engine.begin() as connection:
        connection.execute(
            sa.text(copy).bindparams(sa.bindparam("id", type_=sa.Uuid()), sa.bindparam("no", type_=sa.Boolean())),
            {"id": journey.reading_id, "no": False},
        )


def test_the_database_refuses_a_state_that_is_none(engine, sessions):
    received(sessions)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE reading SET state = 'DONE'"))


@pytest.mark.requirement("REQ-AUDIT-3")
def test_all_guards_are_in_place_at_head(engine):
    names = {
        "sqlite": "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal",
    }
    with engine.connect() as connection:
        guarded = connection.execute(sa.text(names[engine.dialect.name])).scalars().all()
    each = 2 if engine.dialect.name == "sqlite" else 1
    listed = ["report", "report", "reading", "reading", "study"]  # the places on the worklist
    sealed = ["audit_seal", "audit_node", "audit_head", "audit_anchor", "audit_archive", "audit_erasure"]
    # what waits for its seal; on PostgreSQL one against TRUNCATE, and one that lets archived events go
    others = ["audit_private", "audit_private", *["audit_event"] * (1 if engine.dialect.name == "sqlite" else 3)]
    guarded = [name for name in guarded if not name.startswith("audit_event_")]  # partitions: as their table
    assert sorted(guarded) == sorted([*((WRITTEN_ONCE + sealed) * each), *(["report"] * each), *listed, *others])


@pytest.mark.postgres
def test_a_migration_does_not_wait_long_behind_a_lock(empty_postgres_url):
    """A reader that holds a table must not make every later reader queue behind the migration."""
    engine = make_engine(empty_postgres_url)
    migrate(empty_postgres_url)
    with engine.begin() as holder:
        holder.execute(sa.text("LOCK TABLE reading IN ACCESS SHARE MODE"))
        with pytest.raises(DatabaseError, match="lock timeout"):
            command.downgrade(alembic_config(empty_postgres_url), "base")
    assert "reading" in _tables(empty_postgres_url)  # nothing was half done
    engine.dispose()
