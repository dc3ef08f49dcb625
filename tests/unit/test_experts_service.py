"""The server's answers to senders that stop and to errors nobody foresaw, without a network."""

import io
from dataclasses import dataclass

import pytest

from tests.experts_fakes import FakeSource, ct_card, ct_study
from worker.experts import wire
from worker.experts.registry import ExpertRegistry
from worker.experts.serving import ExpertService


def service(source=None, **options):
    registry = ExpertRegistry([source or FakeSource()], memory_mb=250, accepted_licences=["Apache-2.0"])
    return ExpertService(registry, **options)


def body() -> bytes:
    message, arrays, _ = wire.encode_run(ct_card(), ct_study(), "")
    return wire.pack(message.model_dump(mode="json"), arrays)


def run_request(content: bytes, **changes):
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/run/BOXES",
        "CONTENT_LENGTH": str(len(content)),
        "CONTENT_TYPE": wire.CONTENT_TYPE,
        "HTTP_FIRSTREAD_PROTOCOL": "1",
        "HTTP_CONTENT_DIGEST": wire.content_digest(content),
        "wsgi.input": io.BytesIO(content),
    } | changes


def ask(app, environ):
    said = {}

    def start_response(status, headers):
        said.update(status=int(status.split()[0]), headers=dict(headers))

    said["body"] = b"".join(app(environ, start_response))
    return said


@dataclass
class StoppingInput:
    """Gives some bytes and then nothing until the socket's patience ends."""

    given: bytes
    reads: int = 0

    def read(self, _size):
        self.reads += 1
        if self.reads == 1:
            return self.given
        raise TimeoutError("timed out")


def test_a_whole_request_is_answered_with_its_digest_and_kept_nowhere():
    answer = ask(service(), run_request(body(), HTTP_X_REQUEST_ID="abc-1"))
    assert answer["status"] == 200
    assert answer["headers"]["Content-Digest"] == wire.content_digest(answer["body"])
    assert answer["headers"]["Content-Length"] == str(len(answer["body"]))
    assert answer["headers"]["X-Request-Id"] == "abc-1"
    assert answer["headers"]["Cache-Control"] == "no-store"


def test_a_sender_that_stops_is_refused_and_the_turn_is_free_again():
    app = service()
    answer = ask(app, run_request(body(), **{"wsgi.input": StoppingInput(body()[:100])}))
    assert (answer["status"], answer["body"]) == (400, b"the request stopped arriving")
    assert ask(app, run_request(body()))["status"] == 200


def test_a_request_that_ends_early_is_refused():
    answer = ask(service(), run_request(body(), **{"wsgi.input": io.BytesIO(body()[:-1])}))
    assert (answer["status"], answer["body"]) == (400, b"the request ended early")


def test_a_request_larger_than_allowed_is_not_kept():
    content = body()
    rest = io.BytesIO(content)
    answer = ask(service(max_request_bytes=len(content) - 1), run_request(content, **{"wsgi.input": rest}))
    assert answer["status"] == 413


@pytest.mark.parametrize("request_id", ["DOE^JANE", "x" * 65, "a b", "\r\nSet-Cookie: x"])
def test_a_request_id_that_is_none_is_not_repeated(request_id):
    answer = ask(service(), run_request(body(), HTTP_X_REQUEST_ID=request_id))
    assert "X-Request-Id" not in answer["headers"]


class Surprising(FakeSource):
    """A source that breaks after it was registered."""

    def load(self, device):
        raise KeyError("DOE^JANE")


def test_what_an_expert_raises_is_not_repeated():
    answer = ask(service(Surprising()), run_request(body()))
    assert (answer["status"], answer["body"]) == (422, b"BOXES failed: KeyError")


def test_an_error_nobody_foresaw_has_no_words():
    class Broken:
        def sources(self):
            raise KeyError("DOE^JANE")

    answer = ask(ExpertService(Broken()), run_request(body()))  # type: ignore[arg-type]
    assert (answer["status"], answer["body"]) == (500, b"the server failed")


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer ", "bearer secret", "Bearer secret ", "Bearer geheim", "Bearer é"]
)
def test_only_the_token_itself_opens(shown):
    app = service(token="secret")
    assert ask(app, run_request(body(), HTTP_AUTHORIZATION=shown))["status"] == 401
    assert ask(app, run_request(body(), HTTP_AUTHORIZATION="Bearer secret"))["status"] == 200
