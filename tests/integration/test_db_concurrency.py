"""What happens when many write at once, and when the database is not there."""

import subprocess
import sys
import time
from dataclasses import asdict
from threading import Thread

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm.exc import StaleDataError

from config.errors import LifecycleError, OutOfSpaceError, TransientError
from db import lifecycle
from db.engine import ROOT, make_engine, make_sessions
from db.models import AuditEvent, Instance, Reading, Study
from db.report_models import UserAccount
from db.types import Role
from db.uow import Actor, unit_of_work
from tests.db_support import SCANNER, SWEEPER, header, person, receive, received

_WRITER = """
import os, sys
from pathlib import Path
from db.engine import make_engine, make_sessions
from db.origin import keys_are_in
from tests.db_support import header, receive
keys_are_in(Path(os.environ["FIRSTREAD_AUDIT__KEY_DIR"]))
sessions = make_sessions(make_engine(sys.argv[1]))
for number in range(40):
    # half of the images of one Study that all writers share, half of a Study of their own
    study = "1.2.1" if number % 2 else f"1.2.9{sys.argv[2]}"
    receive(sessions, header(int(sys.argv[2]) * 1000 + number, study))
"""


def test_four_processes_write_at_once_and_none_sees_a_locked_database(database_url):
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, database_url, str(n)], cwd=ROOT, stderr=subprocess.PIPE)
        for n in range(1, 5)
    ]
    errors = [writer.communicate()[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, errors
    engine = make_engine(database_url)
    with make_sessions(engine)() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == 160
        assert sorted(session.scalars(select(Study.instance_count))) == [20, 20, 20, 20, 80]
    engine.dispose()


def test_threads_that_read_then_write_wait_for_each_other(sqlite_sessions):
    """Without BEGIN IMMEDIATE the second reader would fail at its first write, however long it waited."""
    journey = received(sqlite_sessions)
    errors: list[Exception] = []

    def work() -> None:
        for _ in range(10):
            try:
                with unit_of_work(sqlite_sessions, SWEEPER) as uow:
                    study = uow.session.get_one(Study, journey.study_id)
                    time.sleep(0.002)
                    study.instance_count += 1
            except Exception as exc:  # noqa: BLE001 collected for the main thread
                errors.append(exc)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert journey.study().instance_count == 42


def test_a_reader_is_not_held_up_by_a_writer(sqlite_sessions):
    journey = received(sqlite_sessions)
    with unit_of_work(sqlite_sessions, SWEEPER) as uow:
        uow.session.get_one(Study, journey.study_id).instance_count = 99
        uow.session.flush()
        assert journey.study().instance_count == 2
    assert journey.study().instance_count == 99


def test_a_lock_that_is_never_given_back_is_a_passing_error(sqlite_url):
    holder = make_engine(sqlite_url)
    impatient = sa.create_engine(sqlite_url, connect_args={"timeout": 0.05})
    with (
        holder.connect().execution_options(firstread_writing=True) as connection,
        connection.begin(),
        pytest.raises(TransientError),
        unit_of_work(make_sessions(impatient), SWEEPER) as uow,
    ):
        uow.enqueue("x", id="y")
    holder.dispose()
    impatient.dispose()


@pytest.mark.postgres
def test_an_unreachable_database_is_a_passing_error(postgres_url):
    gone = make_engine(sa.make_url(postgres_url).set(port=1).render_as_string())
    with pytest.raises(TransientError), unit_of_work(make_sessions(gone), SWEEPER) as uow:
        uow.enqueue("x", id="y")
    gone.dispose()


@pytest.mark.postgres
def test_a_connection_that_breaks_midway_is_a_passing_error_and_the_next_one_works(postgres_url):
    engine = make_engine(postgres_url)
    sessions = make_sessions(engine)

    def broken() -> None:
        with unit_of_work(sessions, SWEEPER) as uow:
            pid = uow.session.scalar(sa.text("SELECT pg_backend_pid()"))
            with make_engine(postgres_url).begin() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            uow.enqueue("x", id="y")

    with pytest.raises(TransientError):
        broken()
    receive(sessions, header(1))
    engine.dispose()


def test_a_full_disk_is_named(sqlite_url):
    engine = make_engine(sqlite_url)
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    @sa.event.listens_for(engine, "connect")
    def _limit(connection, _record):
        connection.execute(f"PRAGMA max_page_count={pages + 2}")

    engine.dispose()
    sessions = make_sessions(engine)

    def fill() -> None:
        for number in range(1, 200):
            receive(sessions, header(number))

    with pytest.raises(OutOfSpaceError):
        fill()
    engine.dispose()


def test_a_mistake_in_our_sql_is_not_called_passing(sessions):
    with pytest.raises(sa.exc.DBAPIError), unit_of_work(sessions, SWEEPER) as uow:
        uow.session.execute(sa.text("SELECT nonsense FROM nowhere"))


def test_a_stale_row_is_a_lifecycle_error(sessions):
    journey = received(sessions)
    with sessions() as session:
        old = session.get_one(Reading, journey.reading_id)
    journey.queued()
    with pytest.raises(LifecycleError) as caught, unit_of_work(sessions, SWEEPER) as uow:
        uow.session.merge(old, load=False).profile = "other"
    assert isinstance(caught.value.__cause__, StaleDataError)
    assert journey.reading().profile == "chest-ct"


def test_a_key_somebody_else_added_first_is_a_lifecycle_error(sessions):
    person(sessions, "twin")
    with pytest.raises(LifecycleError, match="somebody else added"), unit_of_work(sessions, SWEEPER) as uow:
        uow.session.add(UserAccount(login="twin", printed_name="x", role=Role.ADMIN, password_hash="x"))


@pytest.mark.requirement("REQ-AUDIT-1")
def test_an_audit_event_lives_and_dies_with_its_act(sessions):
    journey = received(sessions)
    with sessions() as session:
        before = session.scalar(select(func.count()).select_from(AuditEvent))

    def doomed() -> None:
        with unit_of_work(sessions, Actor("sweeper", "process")) as uow:
            lifecycle.quarantine(uow, reason="r", error="E", status=1)
            uow.session.flush()
            raise LifecycleError("after the event was written")

    with pytest.raises(LifecycleError):
        doomed()
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(AuditEvent)) == before
    assert journey.reading().state.value == "RECEIVING"


def test_receiving_costs_less_than_two_milliseconds_of_processor(sqlite_sessions):
    """Processor time, not the clock: the rest is the disk's, which the sender must wait for."""
    receive(sqlite_sessions, header(1))
    for number in range(2, 40):  # statements compiled and cached
        receive(sqlite_sessions, header(number))
    best = float("inf")
    for batch in range(5):
        heads = [header(100 + batch * 100 + n) for n in range(40)]
        start = time.process_time()
        for head in heads:
            with unit_of_work(sqlite_sessions, SCANNER) as uow:
                lifecycle.receive_instance(
                    uow,
                    head,
                    path="x",
                    sha256="0" * 64,
                    size_bytes=1,
                    calling_ae="SCANNER",
                    called_ae="FIRSTREAD",
                    quiet_s=1.0,
                )
        best = min(best, (time.process_time() - start) / len(heads))
    assert best < 0.002, asdict(header(1))
