"""Servers of Experts for tests: real ones as their own process, recorders and strangers, and clients for them."""

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tests.experts_fakes import ct_card, ct_study
from worker.experts import wire
from worker.experts.registry import ExpertRegistry
from worker.experts.sources import RemoteEntry

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "correct-horse-battery"
SERVE = "from firstread.experts import experts_app; experts_app()"


@contextlib.contextmanager
def process(*command, **environment):
    """Run a server and give the port it says it listens on."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "FIRSTREAD_LOG_JSON": "true"} | environment
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield listening(server)
        finally:
            server.terminate()
            server.communicate(timeout=30)


def listening(server) -> int:
    said = []
    for line in server.stderr:
        said.append(line)
        if "experts.listening" in line:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return int(json.loads(line)["port"])
    pytest.fail("the server did not start: " + "".join(said)[-2000:])


@contextlib.contextmanager
def scripted(version="1", port=0, token=TOKEN):
    with process("-m", "tests.experts_server", version, str(port), TEST_TOKEN=token) as taken:
        yield taken


def entry(port, name="BOXES", **changes) -> RemoteEntry:
    content = {"name": name, "url": f"http://127.0.0.1:{port}", "timeout_s": 10, "token_env": "EXPERTS_TOKEN"}
    return RemoteEntry(**(content | changes))


def registry(*entries, sources=()):
    return ExpertRegistry(sources, memory_mb=100, accepted_licences=["Apache-2.0"], remotes=entries)


def run(port, name="BOXES", study=None, argument="", **changes):
    return registry(entry(port, name, **changes)).get(name).run(study or ct_study(), argument)


@contextlib.contextmanager
def recorder(port):
    """Pass every byte on, and keep a copy of both directions."""
    kept = [bytearray(), bytearray()]
    door = socket.create_server(("127.0.0.1", 0))

    def carry(source, target, copy):
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                copy += block
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                caller, _ = door.accept()
                callee = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=carry, args=(caller, callee, kept[0]), daemon=True).start()
                threading.Thread(target=carry, args=(callee, caller, kept[1]), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield door.getsockname()[1], kept
    door.close()


def unfolded(raw: bytes) -> bytes:
    """Return every archive's members in a recorded stream."""
    start = raw.index(b"PK\x03\x04")
    with zipfile.ZipFile(io.BytesIO(raw[start:])) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


def good_body(name="BOXES", **changes) -> bytes:
    message, arrays, _ = wire.encode_run(ct_card(name), ct_study(), "")
    return wire.pack(message.model_dump(mode="json") | changes, arrays)


def ask(port, method, path, body=None, **headers):
    """One request as a stranger would send it; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    usual = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": wire.CONTENT_TYPE,
        "Firstread-Protocol": "1",
        "Content-Digest": wire.content_digest(body if isinstance(body, bytes) else b""),
    }
    merged = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, {name: value for name, value in merged.items() if value is not None})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), dict(answer.getheaders())
    finally:
        connection.close()


@contextlib.contextmanager
def stranger(answer, port=0):
    """A server that hands every connection to ``answer``."""
    door = socket.create_server(("127.0.0.1", port))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                caller, _ = door.accept()
                threading.Thread(target=attend, args=(caller,), daemon=True).start()

    def attend(caller):
        with contextlib.suppress(OSError), caller:
            answer(caller)

    threading.Thread(target=serve, daemon=True).start()
    yield door.getsockname()[1]
    door.close()


def head(body: bytes, status="200 OK", **headers) -> bytes:
    lines = {"Content-Length": len(body), "Content-Digest": wire.content_digest(body)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{k}: {v}\r\n" for k, v in lines.items()).encode() + b"\r\n"


def heard(caller) -> bytes:
    """Read one whole request."""
    with caller.makefile("rb") as stream:
        lines = list(iter(stream.readline, b"\r\n"))
        length = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")]
        stream.read(*length or [0])
    return lines[0] if lines else b""


def says(body: bytes, **options):
    def answer(caller):
        heard(caller)
        caller.sendall(head(body, **options) + body)

    return answer


def drips(start: bytes):
    def answer(caller):
        heard(caller)
        caller.sendall(start)
        while True:
            time.sleep(0.05)
            caller.sendall(b"x")

    return answer


def stays_silent(caller):
    time.sleep(5)
