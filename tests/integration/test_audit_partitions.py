"""Events by month on PostgreSQL: partitions before their month, and what falls beside them is found and sealed."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from audit.keys import SealKeys
from audit.partitions import AHEAD, make_partitions
from audit.process import duties
from audit.sealing import Sealer
from audit.tree import leaf_hash, root_of
from config.settings import AuditSettings, Settings
from db.audit_models import AuditSeal
from db.audit_record import instant, sheet
from db.engine import make_engine, make_sessions
from db.models import AuditEvent
from db.origin import mark
from db.partitions import months, strays
from db.queries import audit_events
from db.recording import record, write_recorded
from db.types import utcnow
from firstread.doctor import examine
from tests.db_support import Sessions
from tests.postgres import PostgresServer

FAR = datetime(2191, 7, 4, 12, 30, 0, 5, tzinfo=UTC)
LATE = datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    name = f"t_{uuid4().hex}"
    postgres_server.create(name, template="firstread_template")
    return postgres_server.url(name)


@pytest.fixture(scope="module")
def sessions(url: str) -> Iterator[Sessions]:
    engine = make_engine(url)
    yield make_sessions(engine)
    engine.dispose()


def _record(sessions: Sessions, *instants: datetime) -> UUID:
    """Record one event at each instant, as a process whose clock says so."""
    study = uuid4()
    about = {"actor": "worker", "kind": "process", "tag": "reading:started", "study_id": study, "outcome": "success"}
    with sessions() as session:
        for at in instants:
            made = sheet(about, {"patient_id": "P-1"}, occurred_at=at)
            record(session, made, mark(made.body), study)
        write_recorded(session)
        session.commit()
    return study


def _where(sessions: Sessions, study: UUID) -> list[str]:
    with sessions() as session:
        query = sa.text("SELECT tableoid::regclass::text FROM audit_event WHERE study_id = :study ORDER BY occurred_at")
        return list(session.scalars(query, {"study": study}))


def _partitions(sessions: Sessions) -> set[str]:
    with sessions() as session:
        return set(session.scalars(sa.text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = "
                                           "'audit_event'::regclass")))  # fmt: skip


def test_months_follow_each_other_over_the_turn_of_a_year() -> None:
    assert list(months(date(2026, 11, 23), 3)) == [
        date(2026, 11, 1),
        date(2026, 12, 1),
        date(2027, 1, 1),
        date(2027, 2, 1),
    ]


@pytest.mark.postgres
@pytest.mark.requirement("REQ-AUDIT-3")
def test_a_row_of_a_far_month_is_found_sealed_and_guarded(
    sessions: Sessions, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert strays_line(url, tmp_path_factory)[1] is True
    now = utcnow()
    study = _record(sessions, LATE, now, FAR)
    assert _where(sessions, study) == ["audit_event_other", f"audit_event_{now:%Y_%m}", "audit_event_other"]
    with sessions() as session:
        found = audit_events(session, study_id=study)
        assert [one.occurred_at for one in found] == [LATE, now, FAR]
        assert [one.detail for one in found] == [{"patient_id": "P-1"}] * 3
        assert [one.occurred_at for one in audit_events(session, study_id=study, since=FAR)] == [FAR]
        assert strays(session) == {"1999-12": 1, "2191-07": 1}
    for attempt in (
        "DELETE FROM audit_event",
        "UPDATE audit_event_other SET body = '{}'",
        "TRUNCATE audit_event_other",
    ):
        with pytest.raises(IntegrityError, match="append-only"), sessions.begin() as session:
            session.execute(sa.text(attempt))

    # one tree over all partitions
    head = Sealer(sessions, SealKeys(tmp_path_factory.mktemp("seal"), create=True), AuditSettings()).head()
    with sessions() as session:
        order = select(AuditEvent).join(AuditSeal, AuditSeal.seq == AuditEvent.seq).order_by(AuditSeal.position)
        events = session.scalars(order).all()
        leaves = [leaf_hash(f"{one.seq} {instant(one.occurred_at)}\n{one.body}".encode()) for one in events]
    assert head is not None
    assert (head.size, head.root) == (len(leaves), root_of(leaves))
    assert {one.study_id for one in events} >= {study}

    name, is_well, note = strays_line(url, tmp_path_factory)
    assert (name, is_well) == ("audit partitions", False)
    assert "2 events of 1999-12, 2191-07" in note


def strays_line(url: str, folder: pytest.TempPathFactory) -> tuple[str, bool, str]:
    """What the doctor says of the partitions."""
    settings = Settings(data_dir=folder.mktemp("data"), database_url=url)
    return next(one for one in examine(settings) if one[0] == "audit partitions")


@pytest.mark.postgres
def test_the_months_to_come_have_their_partitions_and_one_that_cannot_is_said(
    sessions: Sessions, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    coming = list(months(utcnow().date(), AHEAD))
    names = [f"audit_event_{month:%Y_%m}" for month in coming]
    with sessions.begin() as session:  # as if nobody had made any for two months
        for name in names[-2:]:
            session.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
    study = _record(sessions, datetime(coming[-1].year, coming[-1].month, 9, tzinfo=UTC))
    assert _where(sessions, study) == ["audit_event_other"]
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), database_url=url)
    duty = next(one for one in duties(settings, sessions) if one.name == "partitions")
    with capture_logs() as logs:
        duty.attempt()
    assert [(one["event"], one["key"], one["error"]) for one in logs] == [
        ("audit.partition_not_made", f"{coming[-1]:%Y-%m}", "23514")
    ]
    assert set(names[:-1]) <= _partitions(sessions)
    assert names[-1] not in _partitions(sessions)
    assert make_partitions(sessions) == 0
    # a new partition is guarded like the rest
    with sessions() as session:
        triggers = sa.text("SELECT tgname FROM pg_trigger WHERE tgrelid = CAST(:name AS regclass)")
        guards = set(session.scalars(triggers, {"name": names[-2]}))
    assert {"append_only", "append_only_whole", "archived_only"} <= guards


def test_sqlite_has_no_months(sqlite_sessions: Sessions) -> None:
    assert make_partitions(sqlite_sessions) == 0
    with sqlite_sessions() as session:
        assert strays(session) == {}
