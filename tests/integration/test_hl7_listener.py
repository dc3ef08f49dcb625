"""What may arrive at the listener, over real sockets, and what it answers."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hl7
import pytest
from hl7apy.parser import parse_message
from sqlalchemy import create_engine, select
from sqlalchemy.orm import sessionmaker

from config.errors import ConfigurationError, PeerUnavailableError
from config.settings import Settings
from db.audit import AuditTag
from db.message_models import Hl7Message
from db.models import AuditEvent, ImagingOrder
from dicom_node.scp import start_node
from dicom_node.tls import server_context
from reports.hl7 import build_oru
from ris.frames import FrameReader, framed
from ris.listener import MAX_CONNECTIONS, start_listener
from ris.mllp import send_message
from ris.receiving import answer
from tests.hl7_support import HL7, RIS, document, line, msh, sent
from tests.tls_support import Authority

ORU = build_oru(document("final"), RIS, HL7, uid="2.25.77", pdf=None)


def orm(control_id: str = "M1", charset: str = "UNICODE UTF-8", codec: str = "utf-8") -> bytes:
    """An order."""
    return sent(
        msh("ORM^O01", control_id, charset),
        line("PID", f1="1", f3="P-1^^^HOSP", f5="Müller^Jörg"),
        line("ORC", f1="NW", f2="PL-1", f7="^^^^^S"),
        line("OBR", f1="1", f2="PL-1", f4="CT^CT Chest", f18="A-1"),
        codec=codec,
    )


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    """Settings of a node with a listener."""
    return Settings(data_dir=tmp_path, hl7={"port": 0, "timeout_s": 1.0, "max_message_bytes": 65536})


@pytest.fixture
def listening(site, sqlite_sessions):
    """A listener on a free port."""
    running = start_listener(site, sqlite_sessions)
    yield running
    running.stop()


def ask(port: int, content: bytes, answers: int = 1) -> list[list[str]]:
    """Send bytes; return MSA-1, MSA-2 and the error code of each answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        caller.sendall(content)
        return read_answers(caller, answers)


def read_answers(caller: socket.socket, answers: int) -> list[list[str]]:
    """Read acknowledgements until there are enough, or the listener hangs up."""
    reader, found = FrameReader(1 << 20), []
    while len(found) < answers and (data := caller.recv(65536)):
        for frame in reader.feed(data):
            message = hl7.parse(frame)
            err = [str(segment[3]).split("^")[0] for segment in message if str(segment[0]) == "ERR"]
            msa = [*map(str, message.segment("MSA")), ""]
            found.append([msa[1], msa[2], *err])
    return found


def test_an_order_is_in_the_database_before_it_is_answered(listening, sqlite_sessions, site):
    assert ask(listening.port, framed(orm())) == [["AA", "M1"]]
    with sqlite_sessions() as session:
        order = session.scalars(select(ImagingOrder)).one()
        kept = session.scalars(select(Hl7Message)).one()
    assert (order.accession_number, order.patient_name) == ("A-1", "Müller^Jörg")
    assert (kept.acknowledgement, kept.sender, kept.message_type) == ("AA", "RIS|HOSP", "ORM^O01")
    assert (site.data_dir / kept.path).read_bytes() == orm()


def test_the_same_message_again_is_answered_and_not_applied_again(listening, sqlite_sessions):
    assert ask(listening.port, framed(orm()) * 3, 3) == [["AA", "M1"]] * 3
    with sqlite_sessions() as session:
        assert session.scalars(select(Hl7Message.times)).all() == [3]
        tags = session.scalars(select(AuditEvent.tag).where(AuditEvent.tag.startswith("order:"))).all()
        seen = [e.detail["repeated"] for e in session.scalars(select(AuditEvent)) if e.tag == "message:received"]
    assert tags == [AuditTag.ORDER_RECEIVED]
    assert seen == [False, True, True]


def test_the_same_message_on_many_connections_at_once_is_applied_once(site, sessions):
    running = start_listener(site, sessions)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(running.port, framed(orm())), range(8)))
    finally:
        running.stop()
    assert answers == [[["AA", "M1"]]] * 8
    with sessions() as session:
        assert session.scalars(select(Hl7Message.times)).all() == [8]
        tags = session.scalars(select(AuditEvent.tag).where(AuditEvent.tag.startswith("order:"))).all()
    assert tags == [AuditTag.ORDER_RECEIVED]


@pytest.mark.parametrize("content", [orm(), orm().replace(b"ORM^O01", b"ADT^A99")])
def test_an_acknowledgement_is_valid_by_the_tables_of_v2_5_1(site, sqlite_sessions, content):
    said = parse_message(answer(content, site, sqlite_sessions).decode(), find_groups=True)
    assert said.version == "2.5.1"
    assert said.validate()


def test_a_control_id_with_other_bytes_is_another_message_and_marked(listening, sqlite_sessions):
    other = orm().replace(b"CT Chest", b"CT Torso")
    assert ask(listening.port, framed(orm()) + framed(other), 2) == [["AA", "M1"]] * 2
    with sqlite_sessions() as session:
        assert session.scalars(select(Hl7Message.is_reuse).order_by(Hl7Message.received_at)).all() == [False, True]
        assert session.scalars(select(ImagingOrder.procedure_text)).one() == "CT Torso"


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"hello", ["AR", "", "101"]),
        (orm().replace(b"ORM^O01", b"ORM^O99"), ["AR", "M1", "201"]),
        (orm().replace(b"ORM^O01", b"SIU^S12"), ["AR", "M1", "200"]),
        (orm().replace(b"|P|2.5.1", b"|T|2.5.1"), ["AR", "M1", "202"]),
        (orm().replace(b"|P|2.5.1", b"|P|3.0"), ["AR", "M1", "203"]),
        (orm().replace(b"ORC|NW", b"ORC|ZZ"), ["AR", "M1", "103"]),
        (orm(charset="ISO IR87"), ["AR", "M1", "103"]),
        (orm(charset="ASCII~ISO IR87"), ["AR", "M1", "103"]),
        (orm(codec="latin-1"), ["AR", "M1", "102"]),
        (orm().split(b"ORC")[0], ["AR", "M1", "101"]),
        (orm().replace(b"^~\\&", b"@~\\&"), ["AR", "M1", "102"]),
    ],
)
def test_what_is_not_understood_is_refused_and_kept(listening, sqlite_sessions, site, content, answer):
    assert ask(listening.port, framed(content)) == [answer]
    with sqlite_sessions() as session:
        kept = session.scalars(select(Hl7Message)).one()
        events = session.scalars(select(AuditEvent)).all()
        assert session.scalars(select(ImagingOrder)).all() == []
    assert (kept.acknowledgement, kept.error[:3]) == ("AR", answer[2])
    assert (site.data_dir / kept.path).read_bytes() == content
    assert [(e.tag, e.outcome) for e in events] == [("message:refused", "failure")]


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("", "latin-1"), ("8859/1", "latin-1"), ("8859/15", "iso8859-15"), ("UNICODE UTF-8", "utf-8")],
)
def test_a_name_is_read_in_the_characters_it_was_written_in(listening, sqlite_sessions, charset, codec):
    assert ask(listening.port, framed(orm(charset=charset, codec=codec))) == [["AA", "M1"]]
    with sqlite_sessions() as session:
        assert session.scalars(select(ImagingOrder.patient_name)).one() == "Müller^Jörg"


def test_noise_between_frames_and_a_lost_end_cost_nothing_but_themselves(listening):
    noise = b"\r\n\x00noise" + b"\x0bMSH|^~\\&|lost" + framed(orm()) + b"\x1c\r\r" + framed(orm("M2"))
    assert ask(listening.port, noise, 2) == [["AA", "M1"], ["AA", "M2"]]


def test_a_message_may_come_byte_by_byte(listening):
    with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as caller:
        for byte in framed(orm()):
            caller.sendall(bytes([byte]))
        assert read_answers(caller, 1) == [["AA", "M1"]]


def test_a_message_that_is_too_long_ends_its_connection(listening):
    with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as caller:
        caller.sendall(b"\x0b" + b"x" * 70_000)
        assert read_answers(caller, 1) == [["AR", "", "102"]]
        assert caller.recv(1) == b""
    assert ask(listening.port, framed(orm())) == [["AA", "M1"]]


def test_a_message_that_never_ends_is_hung_up_on(listening):
    with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as caller:
        caller.sendall(framed(orm())[:50])
        assert caller.recv(1) == b""
    assert ask(listening.port, framed(orm())) == [["AA", "M1"]]


def test_callers_beyond_the_limit_are_turned_away_and_the_others_served(listening):
    callers = [socket.create_connection(("127.0.0.1", listening.port), timeout=10) for _ in range(MAX_CONNECTIONS)]
    try:
        for one in callers:  # each has its place
            one.sendall(framed(orm()))
            assert read_answers(one, 1) == [["AA", "M1"]]
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as surplus:
            assert surplus.recv(1) == b""
        callers[0].sendall(framed(orm("M2")))
        assert read_answers(callers[0], 1) == [["AA", "M2"]]
    finally:
        for one in callers:
            one.close()


def test_a_database_that_is_away_is_no_acceptance(site, tmp_path):
    away = sessionmaker(create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}"))
    running = start_listener(site, away)
    try:
        assert ask(running.port, framed(orm())) == [["AE", "M1", "207"]]
    finally:
        running.stop()


def test_without_a_port_there_is_no_listener(sqlite_sessions):
    assert start_listener(Settings(), sqlite_sessions) is None


def test_a_port_that_is_taken_is_said_so(listening, sqlite_sessions, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot listen"):
        start_listener(Settings(data_dir=tmp_path, hl7={"port": listening.port}), sqlite_sessions)


def test_the_node_listens_and_stops_listening(tmp_path, sqlite_sessions):
    settings = Settings(data_dir=tmp_path, hl7={"port": 0}, dicom={"port": 0, "receivers": 0})
    node = start_node(settings, sqlite_sessions, deliver=False)
    try:
        assert node.messages is not None
        assert ask(node.messages.port, framed(orm())) == [["AA", "M1"]]
    finally:
        node.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.messages.port), timeout=1)


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs the certificates of both sides."""
    return Authority(tmp_path / "ca")


def secured(tmp_path: Path, authority: Authority, name: str, **hl7_settings: object) -> Settings:
    """Settings of one side, with a certificate of its own."""
    tls = authority.settings(authority.issue(name))
    return Settings(data_dir=tmp_path / name, dicom={"tls": tls}, hl7={"timeout_s": 5.0, **hl7_settings})


def test_both_sides_show_a_certificate_and_the_message_arrives(tmp_path, authority, sqlite_sessions):
    taking = secured(tmp_path, authority, "taking", port=0, tls=True)
    running = start_listener(taking, sqlite_sessions, context_of=server_context(taking))
    try:
        to = RIS.model_copy(update={"port": running.port, "tls": True})
        assert send_message(to, secured(tmp_path, authority, "sending"), orm()).accepted
        stranger = secured(tmp_path, Authority(tmp_path / "other"), "stranger")
        with pytest.raises(PeerUnavailableError):
            send_message(to, stranger, orm("M2"))
        plain = to.model_copy(update={"tls": False})
        with pytest.raises(PeerUnavailableError):
            send_message(plain, Settings(hl7={"timeout_s": 2.0}), orm("M3"))
    finally:
        running.stop()
    with sqlite_sessions() as session:
        assert session.scalars(select(Hl7Message.control_id)).all() == ["M1"]


def test_a_tls_destination_without_a_certificate_of_ours_is_not_called(tmp_path):
    with pytest.raises(PeerUnavailableError, match="certificate"):
        send_message(RIS.model_copy(update={"tls": True}), Settings(data_dir=tmp_path), ORU)


@pytest.mark.requirement("REQ-ACCESS-10")
def test_off_this_machine_the_listener_wants_tls(sqlite_sessions, tmp_path, authority):
    with pytest.raises(ValueError, match=r"hl7\.host must be loopback"):
        Settings(hl7={"port": 0, "host": "0.0.0.0"})
    with pytest.raises(ConfigurationError, match="certificate"):
        start_listener(secured(tmp_path, authority, "taking", port=0, tls=True), sqlite_sessions)
