"""Audit messages reach a real rsyslog over TLS: all, in order, whatever becomes of the connection."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from audit.forwarding import Forwarder, require_told
from audit.process import duties
from audit.sealing import seal_all
from audit.syslog import framed, send_head, syslog_message
from config.errors import ConfigurationError, LifecycleError, PeerUnavailableError
from config.settings import Settings
from db.audit import AuditTag
from db.audit_forwarding_models import AuditForwarding
from db.audit_models import AuditSeal
from db.models import AuditEvent
from db.queries.audit_telling import Backlog, forwarding_backlog
from db.types import utcnow
from db.uow import Actor, unit_of_work
from firstread.doctor import examine
from tests.dashboard_support import make_site
from tests.db_support import received
from tests.rsyslog import Rsyslog, needs_rsyslog, texts, wait_for
from tests.tls_support import Authority, Issued
from tests.unit.test_audit_message import SCHEMA

Sessions = sessionmaker[Session]
PERSON = Actor("rad", "person", role="radiologist", address="10.0.0.7")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def ours(authority: Authority) -> Issued:
    return authority.issue("client", subject="CN=firstread,O=Hospital", host="firstread")


@pytest.fixture
def repository(tmp_path: Path, authority: Authority) -> Iterator[Rsyslog]:
    needs_rsyslog()
    made = Rsyslog(tmp_path / "rsyslog", authority, authority.issue("repository")).start()
    yield made
    made.kill()


def settings_for(
    tmp_path: Path, repository: Rsyslog, authority: Authority, shown: Issued | None, **changes: object
) -> Settings:
    files = {} if shown is None else {"certificate": shown.certificate, "key": shown.key}
    syslog = {"host": "localhost", "port": repository.port, "authorities": authority.file, **files, **changes}
    return Settings(data_dir=tmp_path, audit={"syslog": syslog})


def record(sessions: Sessions, tmp_path: Path, count: int, study_id: object = None) -> None:
    """Record and seal some events."""
    with unit_of_work(sessions, PERSON) as uow:
        for number in range(count):
            uow.audit(AuditTag.REPORT_VIEWED, study_id=study_id, detail={"n": number, "words": "Größe ]]> \x0b"})
    seal_all(sessions, tmp_path / "seal")


def in_order(sessions: Sessions) -> list[str]:
    """The ids of all events in the order of the chain."""
    with sessions() as session:
        query = select(AuditEvent.body).join(AuditSeal, AuditSeal.seq == AuditEvent.seq).order_by(AuditSeal.position)
        return [body.split('"id":"')[1][:32] for body in session.scalars(query)]


def came(repository: Rsyslog) -> list[str]:
    """The event ids of what came, copies included, each message judged by the schema."""
    found = []
    for text in texts(repository.messages(), "DICOM+RFC3881"):
        tree = etree.fromstring(text.encode())
        SCHEMA.assertValid(tree)
        found.append(tree.findall("ParticipantObjectIdentification")[-1].get("ParticipantObjectID"))
    return found


def cursor(sessions: Sessions) -> AuditForwarding:
    with sessions() as session:
        return session.scalars(select(AuditForwarding)).one()


def arrived(sessions: Sessions, repository: Rsyslog) -> None:
    """Wait until every event came, and look that the first copies came in order."""
    wanted = in_order(sessions)
    wait_for(lambda: len(set(came(repository))) >= len(wanted), "not every event came")
    assert list(dict.fromkeys(came(repository))) == wanted


@pytest.mark.requirement("REQ-AUDIT-22")
def test_no_event_is_lost_when_the_repository_is_killed_and_comes_back(
    tmp_path: Path, sessions: Sessions, repository: Rsyslog, authority: Authority, ours: Issued
) -> None:
    settings = settings_for(tmp_path, repository, authority, ours)
    journey = received(sessions)
    record(sessions, tmp_path, 30, journey.study_id)
    forwarder = Forwarder(sessions, settings)
    assert forwarder.round() == len(in_order(sessions))
    arrived(sessions, repository)
    assert forwarder.round() == 0

    repository.kill()
    record(sessions, tmp_path, 20)
    with pytest.raises(PeerUnavailableError):
        forwarder.round()
    with pytest.raises(PeerUnavailableError):
        forwarder.patiently()
    assert forwarder.patiently() == 0  # not again at once
    with sessions() as session:
        behind = forwarding_backlog(session, settings.audit.syslog.sink)[0]
    assert behind.waiting >= 20
    assert behind.since is not None
    assert behind.last_error

    repository.start()
    again = Forwarder(sessions, settings)  # as after a restart of ours
    again.round()
    arrived(sessions, repository)
    assert cursor(sessions).last_error == ""
    with sessions() as session:
        assert [one.waiting for one in forwarding_backlog(session, settings.audit.syslog.sink)] == [0]
    again.close()


@pytest.mark.requirement("REQ-AUDIT-22")
def test_a_repository_that_dies_in_the_middle_is_told_again_what_it_may_have_lost(
    tmp_path: Path,
    sqlite_sessions: Sessions,
    repository: Rsyslog,
    authority: Authority,
    ours: Issued,
) -> None:
    sessions = sqlite_sessions
    forwarder = Forwarder(sessions, settings_for(tmp_path, repository, authority, ours))
    for _ in range(2):
        record(sessions, tmp_path, 5)
        forwarder.round()
        arrived(sessions, repository)
        repository.freeze()
        record(sessions, tmp_path, 40)
        assert forwarder.round() >= 40  # written without an error, and read by nobody
        repository.kill()
        with pytest.raises(PeerUnavailableError):
            forwarder.round()
        assert len(set(came(repository))) <= len(in_order(sessions)) - 40
        repository.start()
        forwarder.round()
        arrived(sessions, repository)
    forwarder.close()


def test_what_is_old_enough_and_acknowledged_is_not_sent_again(
    tmp_path: Path, sessions: Sessions, repository: Rsyslog, authority: Authority, ours: Issued
) -> None:
    settings = settings_for(tmp_path, repository, authority, ours, resend_s=0)
    record(sessions, tmp_path, 5)
    forwarder = Forwarder(sessions, settings)
    end = len(in_order(sessions))
    with sessions() as session:
        require_told(session, Settings(data_dir=tmp_path), end)  # nobody has to be told
        with pytest.raises(LifecycleError):
            require_told(session, settings, end)
    forwarder.round()
    wait_for(lambda: forwarder.round() == 0 and cursor(sessions).position == end, "never counted as received")
    forwarder.close()
    with sessions() as session:
        require_told(session, settings, end)
        with pytest.raises(LifecycleError):
            require_told(session, settings, end + 1)
    record(sessions, tmp_path, 3)
    again = Forwarder(sessions, settings)
    again.round()
    arrived(sessions, repository)
    assert len(came(repository)) == len(in_order(sessions))  # no copies
    again.close()


def test_only_a_repository_that_proves_its_name_is_told(
    tmp_path: Path, sqlite_sessions: Sessions, repository: Rsyslog, authority: Authority, ours: Issued
) -> None:
    record(sqlite_sessions, tmp_path, 1)
    stranger = Authority(tmp_path / "stranger", "Other CA")
    for terms in (
        settings_for(tmp_path, repository, stranger, ours),
        settings_for(tmp_path, repository, authority, ours, server_name="another.example"),
    ):
        with pytest.raises(PeerUnavailableError, match="not trusted"):
            Forwarder(sqlite_sessions, terms).round()
    missing = settings_for(tmp_path, repository, authority, ours, key=tmp_path / "none")
    with pytest.raises(ConfigurationError):
        Forwarder(sqlite_sessions, missing).round()
    assert repository.messages() == []


def test_a_repository_that_does_not_know_us_is_noticed_and_nothing_counts_as_received(
    tmp_path: Path, sqlite_sessions: Sessions, repository: Rsyslog, authority: Authority
) -> None:
    record(sqlite_sessions, tmp_path, 3)
    forwarder = Forwarder(sqlite_sessions, settings_for(tmp_path, repository, authority, None))

    def refused() -> bool:
        try:
            forwarder.round()
        except PeerUnavailableError:
            return True
        return False

    wait_for(refused, "rsyslog took messages of a stranger")
    assert cursor(sqlite_sessions).position == 0
    assert repository.messages() == []


def test_a_signed_head_goes_as_a_message_of_its_own(
    tmp_path: Path, sqlite_sessions: Sessions, repository: Rsyslog, authority: Authority, ours: Issued
) -> None:
    record(sqlite_sessions, tmp_path, 1)
    head = seal_all(sqlite_sessions, tmp_path / "seal")
    assert head is not None
    terms = settings_for(tmp_path, repository, authority, ours).audit.syslog
    send_head(terms, head.note, utcnow())
    wait_for(lambda: len(repository.messages()) > 0, "the head did not come")
    said = repository.file.read_text(encoding="utf-8").partition("\ufeff")[2]
    assert said.rstrip("\n") == head.note.rstrip("\n")
    with pytest.raises(ConfigurationError):
        send_head(Settings(data_dir=tmp_path).audit.syslog, "x", utcnow())


def test_the_frame_counts_octets_and_not_characters() -> None:
    one = syslog_message("Größe".encode(), at=utcnow(), host="a host")
    assert one.startswith(b"<85>1 20")
    assert b" ahost firstread - DICOM+RFC3881 - \xef\xbb\xbfGr\xc3\xb6" in one
    count, _, rest = framed([one, b"x"]).partition(b" ")
    assert rest == one + b"1 x"
    assert int(count) == len(one)


def test_the_sealer_forwards_when_a_repository_is_named(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    def names(**audit: object) -> set[str]:
        settings = Settings(data_dir=tmp_path, audit={"key_dir": None, **audit})
        return {duty.name for duty in duties(settings, sqlite_sessions)}

    assert "forward" not in names()
    assert "forward" in names(syslog={"host": "audit.hospital.example"})


def test_the_backlog_is_of_what_is_sealed(sqlite_sessions: Sessions, tmp_path: Path) -> None:
    with sqlite_sessions() as session, session.begin():
        session.add(AuditForwarding(sink="syslog://a:1", position=1, sent=1, updated_at=utcnow(), last_error="away"))
    with sqlite_sessions() as session:
        assert forwarding_backlog(session, "syslog://a:1") == [Backlog("syslog://a:1", 0, None, "away")]
        assert forwarding_backlog(session, "") == []
    record(sqlite_sessions, tmp_path, 4)
    with sqlite_sessions() as session:
        behind, never_told = (forwarding_backlog(session, f"syslog://{name}:1")[0] for name in "ab")
        second = session.scalar(select(AuditSeal.occurred_at).where(AuditSeal.position == 1))
    assert (behind.waiting, behind.since) == (len(in_order(sqlite_sessions)) - 1, second)
    assert never_told.waiting == len(in_order(sqlite_sessions))
    assert never_told.waits_s(utcnow()) > 0


def test_who_runs_the_system_sees_a_repository_that_was_not_told(tmp_path: Path, sqlite_url: str) -> None:
    syslog = {"host": "audit.hospital.example", "alarm_s": 60}
    site = make_site(tmp_path, sqlite_url, audit={"syslog": syslog}, web={"dicomweb": False})
    record(site.sessions, tmp_path, 4)
    sink, away = "syslog://audit.hospital.example:6514", "the audit repository cannot be reached"
    with site.sessions() as session, session.begin():
        session.add(AuditForwarding(sink=sink, position=1, sent=1, updated_at=utcnow(), last_error=away))

    def looked(alarm_s: float) -> tuple[str, tuple[bool, str]]:
        settings = site.app.extensions["firstread.settings"]
        terms = settings.audit.syslog.model_copy(update={"alarm_s": alarm_s})
        audit = settings.audit.model_copy(update={"syslog": terms})
        changed = settings.model_copy(update={"audit": audit, "database_url": sqlite_url})
        site.app.extensions["firstread.settings"] = changed
        page = site.client("admin").get("/problems").text
        found = {name: (ok, note) for name, ok, note in examine(changed)}
        return page, found["audit repository"]

    page, (ok, note) = looked(3600)
    assert away not in page
    assert (ok, "events wait" in note) == (True, True)
    page, (ok, note) = looked(0.001)
    assert away in page
    assert (ok, away in note) == (False, True)
    figures = site.client("admin").get("/metrics").text
    waiting = [line for line in figures.splitlines() if line.startswith("firstread_audit_waiting{")]
    assert len(waiting) == 1
    assert float(waiting[0].rpartition(" ")[2]) >= 3
