"""The dashboard's server: clients that stop in a handshake or a header hold nobody, and are cut off."""

import contextlib
import socket
import ssl
import time
from pathlib import Path

import pytest
import requests

from tests.dicomweb_support import Served, serving
from tests.tls_support import Authority

STALLS = 40  # five times the threads that answer
CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")  # a record of 512 bytes announced, 6 of them sent


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority):
    issued = authority.issue("dashboard")
    shorter = "import config.serving\nconfig.serving.PoliteWorker.request_s = 4.0"
    with serving(
        tmp_path_factory.mktemp("web"),
        before=shorter,
        FIRSTREAD_WEB__TLS_CERTIFICATE=str(issued.certificate),
        FIRSTREAD_WEB__TLS_KEY=str(issued.key),
        FIRSTREAD_DICOM__SLOW_BYTES_PER_S="65536",
    ) as one:
        yield one


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def in_the_handshake(served: Served, authority: Authority) -> socket.socket:
    stalled = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    stalled.sendall(CLIENT_HELLO)
    return stalled


def in_the_header(served: Served, authority: Authority) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    stalled = trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1")
    stalled.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow:")
    return stalled


@pytest.mark.parametrize("stall", [in_the_handshake, in_the_header])
def test_clients_that_stop_hold_nobody_and_are_cut_off(secured: Served, authority: Authority, stall) -> None:
    with contextlib.ExitStack() as held:
        stalled = [held.enter_context(stall(secured, authority)) for _ in range(STALLS)]
        began = time.monotonic()
        answer = requests.get(
            f"https://127.0.0.1:{secured.port}/livez",
            verify=str(authority.file),
            timeout=10,
            headers={"Connection": "close"},
        )
        assert answer.status_code == 200
        assert time.monotonic() - began < 3.8  # not because the others were cut off meanwhile
        for one in stalled:
            one.settimeout(10)
            with contextlib.suppress(OSError):
                while one.recv(4096):
                    pass
        assert time.monotonic() - began < 12


def test_tls_is_1_2_or_newer(secured: Served, authority: Authority) -> None:
    context = trusting(authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.version() in {"TLSv1.2", "TLSv1.3"}


def test_a_client_that_trickles_its_header_is_cut_off(secured: Served, authority: Authority) -> None:
    with in_the_header(secured, authority) as trickling:
        began = time.monotonic()
        with contextlib.suppress(OSError):  # reset, broken pipe or the end of TLS
            while time.monotonic() - began < 12:
                trickling.sendall(b"x")
                time.sleep(0.2)
        assert time.monotonic() - began < 10


def test_a_sender_that_crawls_through_its_body_is_cut_off(secured: Served, authority: Authority) -> None:
    head = (
        "POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Type: application/dicom\r\nContent-Length: 500000\r\n"
        f"Authorization: Bearer {secured.token}\r\n\r\n"
    )
    plain = socket.create_connection(("127.0.0.1", secured.port), timeout=10)
    with trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as crawling:
        crawling.sendall(head.encode() + bytes(128) + b"DICM")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 15:
                crawling.sendall(b"x" * 100)
                time.sleep(0.1)
        assert 0.9 < time.monotonic() - began < 8


def test_addresses_in_answers_are_https(secured: Served, authority: Authority, tmp_path: Path) -> None:
    assert secured.url.startswith("https://")
    answer = requests.get(
        f"{secured.url}/studies?limit=0&fuzzymatching=true",
        headers=secured.headers,
        verify=str(authority.file),
        timeout=10,
    )
    assert answer.status_code == 204
    assert answer.headers["Warning"].startswith(f"299 {secured.url} ")
