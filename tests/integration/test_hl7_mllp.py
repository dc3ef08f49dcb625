"""Our messages over real sockets, and what a RIS may answer to them."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from config.errors import PeerUnavailableError
from config.settings import Settings
from reports.hl7 import build_oru
from ris.frames import FrameReader, framed
from ris.mllp import control_id_of, send_message
from tests.hl7_support import HL7, RIS, document

ORU = build_oru(document("final"), RIS, HL7, uid="2.25.77", pdf=None)
ID = control_id_of(ORU)


def ack(code: str, control_id: str = ID, *more: str) -> bytes:
    """An acknowledgement as a RIS would write it."""
    return framed("\r".join(["MSH|^~\\&|RIS||||20260101||ACK|1|P|2.5.1", f"MSA|{code}|{control_id}", *more]).encode())


@contextmanager
def ris(behave: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """A RIS on a free port: reads one whole message of each caller, then does what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as ear:
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    caller, _ = ear.accept()
                except OSError:
                    return
                with caller, contextlib.suppress(OSError):  # a sender that is content hangs up
                    reader, messages = FrameReader(1 << 20), []
                    while not messages and (data := caller.recv(65536)):
                        messages = reader.feed(data)
                    behave(caller, messages[0] if messages else b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield ear.getsockname()[1]
        finally:
            done.set()
            ear.shutdown(socket.SHUT_RDWR)


def _send(port: int, *, timeout_s: float = 5.0):
    settings = Settings(hl7={"timeout_s": timeout_s})
    return send_message(RIS.model_copy(update={"port": port}), settings, ORU)


def _says(*answers: bytes) -> Callable[[socket.socket, bytes], None]:
    def behave(caller: socket.socket, _: bytes) -> None:
        for one in answers:
            caller.sendall(one)
        caller.recv(1)  # until the sender is content and hangs up

    return behave


# --- what we send ------------------------------------------------------------------------------------------


def test_a_message_arrives_whole_and_is_accepted():
    got = []

    def behave(caller, message):
        got.append(message)
        caller.sendall(ack("AA"))

    with ris(behave) as port:
        answer = _send(port)
    assert answer.accepted
    assert got == [ORU]


@pytest.mark.requirement("REQ-DELIV-1")
@pytest.mark.parametrize(
    ("code", "accepted", "is_final"),
    [
        ("AA", True, False),
        ("CA", True, False),
        ("AE", False, False),
        ("CE", False, False),
        ("AR", False, True),
        ("CR", False, True),
        ("??", False, False),
    ],
)
def test_each_acknowledgement_means_what_the_standard_says(code, accepted, is_final):
    with ris(_says(ack(code))) as port:
        answer = _send(port)
    assert (answer.accepted, answer.is_final) == (accepted, is_final)


def test_the_reason_of_a_refusal_is_a_code_and_never_a_text():
    refusal = framed(
        f"MSH|^~\\&|||||||ACK|1|P|2.5.1\rMSA|AE|{ID}|Patient Jane Doe unknown\r"
        "ERR||PID^1^3|204^Unknown key identifier^HL70357|E||||Jane Doe".encode()
    )
    with ris(_says(refusal)) as port:
        answer = _send(port)
    assert answer.error == "acknowledged AE, error 204"


@pytest.mark.parametrize(
    "before",
    [
        [ack("AR", "ANOTHER")],  # of an earlier message, late
        [ack("AA", "ANOTHER"), ack("AA", "ANOTHER")],  # and twice
        [framed(b"no HL7 at all"), framed(b""), b"noise outside any frame"],
        [b"\x0bMSH|^~\\&|a frame that never ended"],
    ],
)
def test_what_does_not_acknowledge_this_message_is_passed_over(before):
    with ris(_says(*before, ack("AA"))) as port:
        assert _send(port).accepted


def test_two_acknowledgements_of_one_message_are_one():
    with ris(_says(ack("AA"), ack("AA"))) as port:
        assert _send(port).accepted
        assert _send(port).accepted


def test_an_acknowledgement_may_come_byte_by_byte():
    def behave(caller, _):
        for byte in ack("AA"):
            caller.sendall(bytes([byte]))

    with ris(behave) as port:
        assert _send(port).accepted


@pytest.mark.parametrize(
    "said",
    [b"", ack("AA")[:20], ack("AA", "ANOTHER"), framed(b"garbage")],
    ids=["nothing", "half", "another's", "garbage"],
)
def test_a_peer_that_takes_the_message_and_never_answers_it_is_unavailable(said):
    with ris(_says(said) if said else lambda caller, _: caller.recv(1)) as port, pytest.raises(PeerUnavailableError):
        _send(port, timeout_s=0.3)


@pytest.mark.parametrize("said", [b"", ack("AA")[:30]])
def test_a_peer_that_hangs_up_before_the_end_of_its_answer_is_unavailable(said):
    with ris(lambda caller, _: caller.sendall(said)) as port, pytest.raises(PeerUnavailableError, match="closed"):
        _send(port)


def test_an_acknowledgement_without_end_is_not_waited_for():
    def behave(caller, _):
        while True:  # until it is hung up on
            caller.sendall(b"\x0b" + b"x" * 100_000)

    with ris(behave) as port, pytest.raises(PeerUnavailableError, match="no end"):
        _send(port)


def test_nobody_there_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as ear:
        port = ear.getsockname()[1]
    with pytest.raises(PeerUnavailableError, match="ConnectionRefusedError"):
        _send(port)
