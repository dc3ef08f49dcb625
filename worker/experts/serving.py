"""``firstread experts serve``: the Experts of this machine over HTTP, for the workers of others.

    GET  /v1/health        is it up; needs no token
    GET  /v1/card/NAME     the ModelCard, intended use and budget, as JSON
    POST /v1/run/NAME      one run: arrays in, probabilities or label map out (`wire`)

It keeps nothing: what was sent is gone when the answer is.
"""

import hmac
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

import structlog
from gunicorn.app.base import BaseApplication

from config.errors import (
    AppError,
    ConfigurationError,
    ExpertError,
    InputTooLargeError,
    NotAuthorisedError,
    RefusedInputError,
    TransientError,
)
from config.serving import ForwardedLogs, PoliteWorker, limit_silence, modern_tls
from worker.experts import wire
from worker.experts.packages import Budget
from worker.experts.registry import ExpertRegistry
from worker.experts.sources import ExpertSource, PackageSource, is_loopback

log = structlog.get_logger()

StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], object]

_PATH = re.compile(r"^/v1/(card|run)/([A-Z][A-Z0-9]{0,31})$")
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_CHUNK = 1 << 20
_BODY_S = 300.0  # to send a whole request
_PLUGIN_SECONDS = 300.0
_SHORTEST_TOKEN = 16

# what is answered to which error; the first match wins
STATUS: Mapping[type[AppError], HTTPStatus] = {
    NotAuthorisedError: HTTPStatus.UNAUTHORIZED,
    InputTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RefusedInputError: HTTPStatus.BAD_REQUEST,
    ExpertError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TransientError: HTTPStatus.SERVICE_UNAVAILABLE,
    AppError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class ServeOptions:
    """How the server listens.

    Attributes:
        host, port: address; off loopback only with TLS and a token or client certificates.
        token: bearer token every client must show; ``""`` for none.
        certificate, key: PEM files of this server.
        client_ca: PEM of the authorities whose clients are let in; ``""`` lets all in.
        max_request_bytes: largest request that is read.
        silence_s: a client that stops in the middle of anything is let go after this.
    """

    host: str
    port: int
    token: str = field(default="", repr=False)
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    max_request_bytes: int = 2 << 30
    silence_s: int = 30

    def require_safe(self) -> None:
        """Refuse to listen where others could read or ask.

        Raises:
            ConfigurationError: off loopback without TLS or without a way to know the clients.
        """
        if bool(self.certificate) != bool(self.key):
            raise ConfigurationError("certificate and key belong together")
        if self.client_ca and not self.certificate:
            raise ConfigurationError("client certificates need TLS: give certificate and key")
        if is_loopback(self.host):
            return
        if not self.certificate:
            raise ConfigurationError(f"{self.host} is not loopback: give certificate and key")
        if not (self.client_ca or len(self.token) >= _SHORTEST_TOKEN):
            raise ConfigurationError(
                f"{self.host} is not loopback: give the clients' authority or a token of {_SHORTEST_TOKEN} characters"
            )


@dataclass(frozen=True)
class Reply:
    """One answer of the server."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpertService:
    """WSGI application over a registry; one run at a time, because there is one device."""

    registry: ExpertRegistry
    token: str = field(default="", repr=False)
    max_request_bytes: int = 2 << 30
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; an error of ours by the table, any other with 500 and no words."""
        started = time.monotonic()
        request = str(environ.get("HTTP_X_REQUEST_ID", ""))
        request = request if _REQUEST_ID.fullmatch(request) else ""
        try:
            reply = self._answer(environ)
        except AppError as exc:
            reply = Reply(next(code for kind, code in STATUS.items() if isinstance(exc, kind)), str(exc).encode())
        # the edge of this process: the peer is answered
        except Exception as exc:
            log.exception("request.failed", error=exc, request_id=request)
            reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"the server failed")
        _drain(environ, self.max_request_bytes)
        headers = {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.body)),
            "Content-Digest": wire.content_digest(reply.body),
            "Cache-Control": "no-store",
            **({"X-Request-Id": request} if request else {}),
            **({"Retry-After": "2"} if reply.status is HTTPStatus.SERVICE_UNAVAILABLE else {}),
            **reply.headers,
        }
        start_response(f"{reply.status.value} {reply.status.phrase}", list(headers.items()))
        seconds = round(time.monotonic() - started, 3)
        match = _PATH.match(environ.get("PATH_INFO", ""))
        expert = match.group(2) if match else ""
        log.info("request.answered", expert=expert, request_id=request, status=int(reply.status), seconds=seconds)
        return [reply.body]

    def _answer(self, environ: Mapping[str, Any]) -> Reply:
        method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
        if path == "/v1/health":
            return _json({"status": "ok", "busy": self._turn.locked()})
        self._authorise(environ)
        match = _PATH.match(path)
        source = self._offered(match.group(2)) if match else None
        if match is None or source is None:
            return Reply(HTTPStatus.NOT_FOUND, b"no such expert here")
        allowed = "GET" if match.group(1) == "card" else "POST"
        if method != allowed:
            return Reply(HTTPStatus.METHOD_NOT_ALLOWED, b"wrong method", headers={"Allow": allowed})
        return self._card(source) if allowed == "GET" else self._run(source, environ)

    def _authorise(self, environ: Mapping[str, Any]) -> None:
        shown = str(environ.get("HTTP_AUTHORIZATION", ""))
        if self.token and not hmac.compare_digest(shown.encode(), f"Bearer {self.token}".encode()):
            raise NotAuthorisedError("the token is missing or wrong")

    def _offered(self, name: str) -> ExpertSource | None:
        return next((source for source in self.registry.sources() if source.card.name == name), None)

    def _card(self, source: ExpertSource) -> Reply:
        seconds = source.package.manifest.budget.seconds if isinstance(source, PackageSource) else _PLUGIN_SECONDS
        message = wire.CardMessage(
            protocol=wire.PROTOCOL,
            card=source.card,
            intended_use=source.intended_use,
            budget=Budget(memory_mb=max(source.memory_mb, 1.0), seconds=seconds),
            max_request_bytes=self.max_request_bytes,
        )
        return Reply(HTTPStatus.OK, message.model_dump_json().encode(), "application/json")

    def _run(self, source: ExpertSource, environ: Mapping[str, Any]) -> Reply:
        length = str(environ.get("CONTENT_LENGTH", ""))
        if not length.isdigit():
            return Reply(HTTPStatus.LENGTH_REQUIRED, b"a request says how long it is")
        if int(length) > self.max_request_bytes:
            raise InputTooLargeError(f"the request has {length} bytes, {self.max_request_bytes} are read")
        if environ.get("CONTENT_TYPE") != wire.CONTENT_TYPE:
            return Reply(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, wire.CONTENT_TYPE.encode())
        if environ.get("HTTP_FIRSTREAD_PROTOCOL") != str(wire.PROTOCOL):
            raise RefusedInputError(f"this server speaks version {wire.PROTOCOL}")
        # taken before the body is read: no more than one Study is in memory
        if not self._turn.acquire(blocking=False):
            return Reply(HTTPStatus.SERVICE_UNAVAILABLE, b"another study is being read")
        try:
            return self._turn_taken(source, environ, int(length))
        finally:
            self._turn.release()

    def _turn_taken(self, source: ExpertSource, environ: Mapping[str, Any], length: int) -> Reply:
        body = _body(environ, length)
        if not hmac.compare_digest(str(environ.get("HTTP_CONTENT_DIGEST", "")), wire.content_digest(body)):
            raise RefusedInputError("the request is not what its digest says")
        message, study = wire.decode_run(*wire.unpack(body, max_bytes=self.max_request_bytes))
        del body
        card = source.card
        if (message.version, message.weights_sha256) != (card.version, dict(card.weights_sha256)):
            return Reply(HTTPStatus.CONFLICT, b"another model runs here than the one that was opened")
        if message.argument and message.argument not in card.arguments:
            raise RefusedInputError(f"{card.name} has no such argument; valid: {', '.join(card.arguments) or 'none'}")
        result = self.registry.get(card.name).run(study, message.argument)
        answer, arrays = wire.encode_result(study, result)
        return Reply(HTTPStatus.OK, wire.pack(answer.model_dump(mode="json"), arrays), wire.CONTENT_TYPE)


def _json(content: Mapping[str, Any]) -> Reply:
    return Reply(HTTPStatus.OK, json.dumps(content).encode(), "application/json")


def _body(environ: Mapping[str, Any], length: int) -> bytes:
    """Read a request's body.

    Raises:
        RefusedInputError: it ended early, or its sender was too slow.
    """
    end = time.monotonic() + _BODY_S
    body = bytearray()
    try:
        while len(body) < length and (block := environ["wsgi.input"].read(min(_CHUNK, length - len(body)))):
            body += block
            if time.monotonic() > end:
                raise RefusedInputError("the request took too long to arrive")
    except OSError as exc:
        raise RefusedInputError("the request stopped arriving") from exc
    if len(body) != length:
        raise RefusedInputError("the request ended early")
    return bytes(body)


def _drain(environ: Mapping[str, Any], most: int) -> None:
    """Read what is left of a refused request: a sender that is cut off in its body never reads the answer."""
    end = time.monotonic() + _BODY_S
    try:
        while most > 0 and time.monotonic() < end and (block := environ["wsgi.input"].read(_CHUNK)):
            most -= len(block)
    except OSError:
        return


# --- the process -------------------------------------------------------------------------------------------


class _Server(BaseApplication):  # type: ignore[misc, unused-ignore]
    """Gunicorn, configured from our options and from nothing else (no file, no command line)."""

    def __init__(self, service: ExpertService, options: ServeOptions) -> None:
        self._service = service
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_options(self._options).items():
            self.cfg.set(name, value)

    def load(self) -> ExpertService:
        return self._service


def gunicorn_options(options: ServeOptions) -> dict[str, Any]:
    """Return gunicorn's options: one process, because one device; its threads answer while a run is under way."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    chosen: dict[str, Any] = {
        "bind": f"{host}:{options.port}",
        "workers": 1,
        "worker_class": PoliteWorker,
        "threads": 16,
        "timeout": 0,
        "graceful_timeout": 60,
        "keepalive": 2,
        "accesslog": None,
        "logger_class": ForwardedLogs,
        "loglevel": "warning",
        "when_ready": _ready(options),
        "control_socket_disable": True,
        "proc_name": "firstread-experts",
        "forwarded_allow_ips": "",
    }
    if options.certificate:
        chosen |= {"certfile": options.certificate, "keyfile": options.key, "ssl_context": modern_tls}
    if options.client_ca:
        chosen |= {"ca_certs": options.client_ca, "cert_reqs": ssl.CERT_REQUIRED}
    return chosen


def _ready(options: ServeOptions) -> Callable[[Any], None]:
    def ready(server: Any) -> None:
        limit_silence(server, options.silence_s)
        host, port = server.LISTENERS[0].sock.getsockname()[:2]
        log.info("experts.listening", host=host, port=port, pid=server.pid)

    return ready


def serve(registry: ExpertRegistry, options: ServeOptions) -> None:
    """Serve the Experts of ``registry`` until told to stop (SIGTERM or SIGINT).

    Raises:
        ConfigurationError: this address may not be opened in this way.
    """
    options.require_safe()
    service = ExpertService(registry, token=options.token, max_request_bytes=options.max_request_bytes)
    _Server(service, options).run()
