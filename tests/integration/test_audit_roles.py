"""PostgreSQL's own rights: the program can add to the record, and can neither change it nor take its guards away."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError, ProgrammingError
from typer.testing import CliRunner

from audit.keys import SealKeys
from audit.reading import source_of
from audit.sealing import Sealer
from audit.verify import Terms, verify
from config.errors import ConfigurationError, RefusedInputError
from config.settings import AuditSettings
from db.audit_models import AuditHead, AuditPending, AuditSeal
from db.engine import make_engine, make_sessions
from db.lifecycle.erasing import Erasing, erase
from db.models import AuditEvent
from db.roles import Roles, apply_roles
from db.types import ReportState
from db.uow import Actor, unit_of_work
from firstread.audit import audit_app
from tests.db_support import Journey, addend, decide_all, open_review, person, received, sign
from tests.postgres import PostgresServer

pytestmark = pytest.mark.postgres
ONCE = ("audit_event", "audit_private", "audit_seal", "audit_node", "audit_head", "audit_erasure", "signature", "draft")


@dataclass
class Installation:
    """A database whose roles have their rights, and an engine as each of them."""

    roles: Roles
    owner: Engine
    app: Engine
    sealer: Engine
    verifier: Engine


@pytest.fixture(scope="module")
def installation(postgres_server: PostgresServer) -> Iterator[Installation]:
    name = f"t_{uuid4().hex}"
    postgres_server.create(name, template="firstread_template")
    url = sa.make_url(postgres_server.url(name))
    tail = uuid4().hex[:8]
    roles = Roles(f"app_{tail}", f"verifier_{tail}", f"owner_{tail}", f"sealer_{tail}")
    superuser = make_engine(postgres_server.url(name))
    apply_roles(superuser, roles)
    apply_roles(superuser, roles)  # again, as after a migration
    superuser.dispose()
    names = (roles.owner, roles.app, roles.sealer, roles.verifier)
    engines = [make_engine(url.set(username=one).render_as_string(hide_password=False)) for one in names]
    yield Installation(roles, *engines)
    for engine in engines:
        engine.dispose()


@pytest.fixture(scope="module")
def journey(installation: Installation) -> Journey:
    """A Study on its whole way to an addendum, done with the rights of the program."""
    sessions = make_sessions(installation.app)
    reader = person(sessions)
    made = received(sessions).queued().running().drafted()
    sign(made, reader, decide_all(made, reader, open_review(made, reader)))
    addend(made, reader)
    return made


@pytest.mark.requirement("REQ-AUDIT-19")
def test_the_programs_role_does_its_whole_work(installation: Installation, journey: Journey) -> None:
    assert journey.report().state is ReportState.ADDENDED
    with installation.app.connect() as connection:
        owned = "SELECT count(*) FROM pg_class WHERE relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)"
        assert connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")) is False
        assert connection.scalar(sa.text(owned)) == 0


@pytest.mark.requirement("REQ-AUDIT-3", "REQ-AUDIT-19")
@pytest.mark.parametrize("table", ONCE)
def test_the_programs_role_cannot_change_what_is_written_once(
    installation: Installation, journey: Journey, table: str
) -> None:
    assert journey
    column = {"audit_seal": "position", "audit_node": "level", "audit_head": "size"}.get(table)
    column = column or ("id" if table in {"signature", "draft"} else "seq")
    for attempt in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(ProgrammingError, match="permission denied"), installation.app.begin() as connection:
            connection.execute(sa.text(attempt))


@pytest.mark.requirement("REQ-AUDIT-3", "REQ-AUDIT-19")
@pytest.mark.parametrize(
    "attempt",
    [
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
        "DROP TRIGGER append_only ON audit_event",
        "DROP TABLE audit_event",
        "ALTER TABLE audit_event ALTER COLUMN body DROP NOT NULL",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP SCHEMA public CASCADE",
        "CREATE TABLE audit_event_mine (seq bigint)",
        "SET session_replication_role = replica",
        "ALTER TABLE audit_event DETACH PARTITION audit_event_other",
        "INSERT INTO audit_seal SELECT * FROM audit_seal",
        "INSERT INTO audit_pending SELECT seq, occurred_at FROM audit_event",
        "DELETE FROM audit_event_other",
        "UPDATE alembic_version SET version_num = '0001'",
    ],
)
def test_the_programs_role_cannot_take_the_guards_away(
    installation: Installation, journey: Journey, attempt: str
) -> None:
    assert journey
    words = "permission denied|must be owner|must be able to"
    with pytest.raises(ProgrammingError, match=words), installation.app.begin() as connection:
        connection.execute(sa.text(attempt))


def test_the_sealer_seals_and_the_program_makes_partitions(
    installation: Installation, journey: Journey, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert journey
    keys = SealKeys(tmp_path_factory.mktemp("seal"), create=True)
    sealing = make_sessions(installation.sealer)
    head = Sealer(sealing, keys, AuditSettings()).head()
    with sealing() as session:
        events = session.scalar(select(sa.func.count()).select_from(AuditEvent))
        assert head is not None
        assert head.size == events == session.scalar(select(sa.func.count()).select_from(AuditSeal))
        assert session.scalars(select(AuditPending)).all() == []
    with pytest.raises(ProgrammingError, match="permission denied"), installation.sealer.begin() as connection:
        connection.execute(sa.text("UPDATE audit_event SET body = body"))
    url = installation.verifier.url.render_as_string(hide_password=False)
    verdict = verify(source_of(url), Terms(keys.public()))
    assert (verdict.found, verdict.size) == ({}, head.size)
    with installation.app.begin() as connection:
        assert connection.scalar(sa.text("SELECT audit_partition('2031-05-17')")) is True
        assert connection.scalar(sa.text("SELECT audit_partition('2031-05-01')")) is False
        owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'audit_event_2031_05'"
        assert connection.scalar(sa.text(owner)) == installation.roles.owner


@pytest.mark.requirement("REQ-AUDIT-19")
def test_the_verifier_reads_the_log_and_nothing_else(installation: Installation, journey: Journey) -> None:
    assert journey
    with make_sessions(installation.verifier)() as session:
        assert session.scalars(select(AuditEvent.tag)).first()
        session.scalars(select(AuditHead)).all()
    for attempt in ("SELECT * FROM study", "SELECT * FROM user_account", "DELETE FROM audit_pending",
                    "INSERT INTO audit_node (level, number, hash) VALUES (1, 1, '')"):  # fmt: skip
        with pytest.raises(ProgrammingError, match="permission denied"), installation.verifier.begin() as connection:
            connection.execute(sa.text(attempt))


def test_only_the_owner_erases_and_even_the_owner_changes_no_event(
    installation: Installation, journey: Journey
) -> None:
    wanted = Erasing("asked", "law", study_instance_uid=journey.study().study_instance_uid)
    operator = Actor("cli:dpo", "person")
    app = make_sessions(installation.app)
    with pytest.raises(ProgrammingError, match="permission denied"), unit_of_work(app, operator) as uow:
        erase(uow, wanted)
    with unit_of_work(make_sessions(installation.owner), operator) as uow:
        assert erase(uow, wanted).events > 0
    with pytest.raises(DBAPIError, match="append-only"), installation.owner.begin() as connection:
        connection.execute(sa.text("UPDATE audit_event SET body = body"))


@pytest.mark.parametrize("names", [("App", "b", "c"), ("a;drop", "b", "c"), ("a", "a", "c"), ("", "b", "c")])
def test_a_role_that_is_no_name_is_refused(names: tuple[str, str, str]) -> None:
    with pytest.raises(RefusedInputError):
        Roles(*names)


def test_the_verb_prints_what_psql_runs(postgres_server: PostgresServer, installation: Installation) -> None:
    roles = installation.roles
    options = ["--app", roles.app, "--verifier", roles.verifier, "--owner", roles.owner]
    printed = CliRunner().invoke(audit_app, ["roles", *options])
    assert printed.exit_code == 0
    psql = shutil.which("psql")
    assert psql is not None
    url = installation.owner.url.set(drivername="postgresql", username="postgres").render_as_string()
    run = subprocess.run(
        [psql, "-v", "ON_ERROR_STOP=1", "-q", url], input=printed.stdout, text=True, capture_output=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_sqlite_has_no_roles(sqlite_url: str) -> None:
    with pytest.raises(ConfigurationError):
        apply_roles(make_engine(sqlite_url), Roles("a", "b", "c"))
