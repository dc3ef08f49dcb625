"""The server of Experts: refuses by status what it cannot trust, one Study at a time, and TLS with both names known."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from config.errors import ConfigurationError, PeerUnavailableError
from tests.experts_fakes import ct_card, ct_study
from tests.experts_remote_support import SERVE, TOKEN, ask, entry, good_body, process, run, scripted
from worker.experts import wire
from worker.experts.remote import RemoteSource
from worker.experts.serving import ServeOptions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server():
    with scripted() as port:
        yield port


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    monkeypatch.setenv("EXPERTS_TOKEN", TOKEN)


# --- what the server refuses -------------------------------------------------------------------------------


def test_health_needs_no_token(server):
    status, text, _ = ask(server, "GET", "/v1/health", Authorization=None)
    assert (status, json.loads(text)) == (200, {"status": "ok", "busy": False})


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "headers"),
    [
        (401, "GET", "/v1/card/BOXES", None, {"Authorization": None}),
        (401, "GET", "/v1/card/BOXES", None, {"Authorization": "Bearer wrong"}),
        (401, "GET", "/v1/card/BOXES", None, {"Authorization": f"Basic {TOKEN}"}),
        (401, "POST", "/v1/run/BOXES", good_body(), {"Authorization": f"Bearer {TOKEN}x"}),
        (404, "GET", "/v1/card/NOBODY", None, {}),
        (404, "GET", "/v1/card/../../etc/passwd", None, {}),
        (404, "GET", "/", None, {}),
        (405, "POST", "/v1/card/BOXES", b"x", {}),
        (405, "GET", "/v1/run/BOXES", None, {}),
        (415, "POST", "/v1/run/BOXES", good_body(), {"Content_Type": "application/octet-stream"}),
        (400, "POST", "/v1/run/BOXES", good_body(), {"Firstread_Protocol": "2"}),
        (400, "POST", "/v1/run/BOXES", good_body(), {"Firstread_Protocol": None}),
        (400, "POST", "/v1/run/BOXES", good_body(), {"Content_Digest": wire.content_digest(b"other")}),
        (400, "POST", "/v1/run/BOXES", good_body(), {"Content_Digest": None}),
        (400, "POST", "/v1/run/BOXES", b"no archive", {}),
        (400, "POST", "/v1/run/BOXES", good_body(argument="brain tumor"), {}),
        (400, "POST", "/v1/run/BOXES", good_body(patient="x"), {}),
        (409, "POST", "/v1/run/BOXES", good_body(version="0"), {}),
        (409, "POST", "/v1/run/BOXES", good_body(weights_sha256={"w": "0" * 64}), {}),
        (413, "POST", "/v1/run/BOXES", b"x" * ((1 << 20) + 1), {}),
        (422, "POST", "/v1/run/BROKEN", good_body("BROKEN"), {}),
    ],
)
def test_a_wrong_request_is_refused_with_its_status(server, status, method, path, body, headers):
    assert ask(server, method, path, body, **headers)[0] == status


def test_a_request_without_a_length_is_refused(server):
    assert ask(server, "POST", "/v1/run/BOXES", iter([good_body()]), Content_Digest=None)[0] == 411


@pytest.mark.parametrize(
    "start",
    [
        b"POST /v1/run/BOXES HT",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-Slow:",
        f"POST /v1/run/BOXES HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nFirstread-Protocol: 1\r\n"
        f"Content-Type: {wire.CONTENT_TYPE}\r\nContent-Length: 5000\r\n\r\nhalf".encode(),
    ],
    ids=["in the first line", "in a header", "in the body"],
)
def test_clients_that_stop_in_the_middle_hold_nobody(server, start):
    with contextlib.ExitStack() as held:
        for _ in range(20):  # more than the server has threads
            client = held.enter_context(socket.create_connection(("127.0.0.1", server)))
            client.sendall(start)
        assert run(server, timeout_s=10).labels[0].all()


def test_a_bomb_is_refused(server):
    message, _, _ = wire.encode_run(ct_card("BOXES"), ct_study(), "")
    body = wire.pack(message.model_dump(mode="json"), {"volume_CT": np.zeros(8 << 20, np.uint8)})
    assert len(body) < 1 << 17
    status, text, _ = ask(server, "POST", "/v1/run/BOXES", body)
    assert (status, "unfolds to more" in text) == (400, True)


def test_one_study_at_a_time_and_the_next_one_is_told_to_wait(server):
    first = threading.Thread(target=run, args=(server, "SLOW"))
    first.start()
    while not json.loads(ask(server, "GET", "/v1/health")[1])["busy"]:
        time.sleep(0.02)
    status, _, headers = ask(server, "POST", "/v1/run/BOXES", good_body())
    assert (status, headers["Retry-After"]) == (503, "2")
    assert run(server).labels[0].all()  # a client of ours waits for its turn
    first.join(10)


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", f"{name}.pem",
                "-days", "2", "-extfile", "san")  # fmt: skip
    return folder


@pytest.mark.models
def test_both_sides_show_certificates(certificates, tmp_path):
    models = yaml.safe_load((ROOT / "config" / "models.yaml").read_text())
    models["experts"] = [str(ROOT / "worker" / "models" / "demo-cxr")]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    at = {name: str(certificates / name) for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
    options = ("--certificate", at["server.pem"], "--key", at["server.key"], "--client-ca", at["ca.pem"])
    with process(
        "-c", SERVE, "serve", "--port", "0", *options, FIRSTREAD_MODELS__REGISTRY=str(tmp_path / "models.yaml")
    ) as port:
        known = {"ca_file": at["ca.pem"], "client_certificate": at["client.pem"], "client_key": at["client.key"]}
        secure = {"url": f"https://127.0.0.1:{port}", "token_env": ""}
        assert RemoteSource.open(entry(port, "CXR", **secure, **known)).card.name == "CXR"
        for lacking in ("ca_file", "client"):
            some = {name: path for name, path in known.items() if not name.startswith(lacking)}
            with pytest.raises(PeerUnavailableError, match="cannot be reached"):
                RemoteSource.open(entry(port, "CXR", **secure, **some))
        with pytest.raises(PeerUnavailableError, match="cannot be reached"):
            RemoteSource.open(entry(port, "CXR", token_env=""))
        with pytest.raises(ConfigurationError, match="a certificate or key cannot be read"):
            RemoteSource.open(entry(port, "CXR", **secure, ca_file="/nowhere.pem"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "is not loopback: give certificate and key"),
        ({"host": "gpu.example.org", "token": "x"}, "is not loopback: give certificate and key"),
        ({"host": "0.0.0.0", "certificate": "c", "key": "k"}, "give the clients' authority or a token of 16"),
        ({"host": "0.0.0.0", "certificate": "c", "key": "k", "token": "hospital"}, "or a token of 16 characters"),
        ({"host": "127.0.0.1", "certificate": "c"}, "belong together"),
        ({"host": "127.0.0.1", "client_ca": "c"}, "need TLS"),
    ],
)
def test_a_server_others_could_read_or_ask_does_not_start(options, said):
    with pytest.raises(ConfigurationError, match=said):
        ServeOptions(**({"port": 0} | options)).require_safe()


@pytest.mark.parametrize("options", [{"token": "x" * 16}, {"client_ca": "c"}])
def test_a_server_that_knows_its_clients_may_listen_anywhere(options):
    ServeOptions(host="0.0.0.0", port=0, certificate="c", key="k", **options).require_safe()
