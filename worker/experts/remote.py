"""An Expert on another machine: HTTP/1.1 to ``firstread experts serve``, pseudonymous, bounded, never a hang."""

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Self
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

import structlog

from config.errors import (
    ConfigurationError,
    ExpertError,
    InputTooLargeError,
    ModelPackageError,
    PeerUnavailableError,
    RefusedInputError,
)
from worker.experts import wire
from worker.experts.base import ExpertInput, ExpertResult, ModelCard
from worker.experts.contract import check_card
from worker.experts.packages import IntendedUse
from worker.experts.sources import RemoteEntry

log = structlog.get_logger()

_CARD_S = 5.0
_CARD_BYTES = 1 << 20
_MESSAGE_BYTES = 32 << 20  # of an answer, beside its label map
_FAILURES = 3  # connections that may fail in one call; a busy server is asked until the deadline
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0
_PASSING = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
_UNPRINTABLE = re.compile(r"[<>\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Connection:
    """How to reach one server: one TCP connection for each request, no redirects, no proxies of the environment."""

    entry: RemoteEntry
    token: str = field(repr=False)

    @classmethod
    def of(cls, entry: RemoteEntry) -> Self:
        """Take the token from the environment variable the entry names.

        Raises:
            ConfigurationError: the variable is not set.
        """
        token = os.environ.get(entry.token_env, "") if entry.token_env else ""
        if entry.token_env and not token:
            raise ConfigurationError(f"remote {entry.name}: {entry.token_env} is not set")
        if not (token.isascii() and token.isprintable()):
            raise ConfigurationError(f"remote {entry.name}: {entry.token_env} holds more than printable ASCII")
        return cls(entry, token)

    def call(
        self, method: str, path: str, body: bytes = b"", *, seconds: float, max_bytes: int, request: str
    ) -> Answer:
        """Return the server's answer, asking again while it is busy or the connection fails.

        Args:
            method, path, body: of the request; the path is below the entry's URL.
            seconds: the whole call takes no longer, whatever the server does.
            max_bytes: longest answer that is read.
            request: id of this request, for the logs of both machines.

        Raises:
            PeerUnavailableError: no answer in time, or the connection failed too often.
            RefusedInputError: the answer is longer than allowed or not what its digest says.
        """
        end = time.monotonic() + seconds
        failures, pause, why = 0, _FIRST_PAUSE_S, "did not answer in time"
        while (left := end - time.monotonic()) > 0:
            asked_for = 0.0
            try:
                answer = self._once(method, path, body, left, max_bytes, request)
            except (OSError, http.client.HTTPException, UnicodeError) as exc:
                failures += 1
                log.warning("remote.failed", expert=self.entry.name, request_id=request, error=exc, attempt=failures)
                if time.monotonic() >= end:
                    why = "did not answer in time"
                    break
                why = f"cannot be reached: {type(exc).__name__}"
                if failures >= _FAILURES:
                    break
            else:
                if answer.status not in _PASSING:
                    return answer
                why, asked_for = "was busy until the time was up", _number(answer.headers.get("retry-after", ""))
            time.sleep(max(0.0, min(max(pause, asked_for), _LONGEST_PAUSE_S, end - time.monotonic())))
            pause *= 2
        raise PeerUnavailableError(f"{self.entry.url} {why}")

    def _once(self, method: str, path: str, body: bytes, seconds: float, max_bytes: int, request: str) -> Answer:
        parts, end = urlsplit(self.entry.url), time.monotonic() + seconds
        sock = self._open(parts, seconds)
        # a socket's timeout starts anew with every byte: a server that drips would hold us for ever
        alarm = threading.Timer(seconds, _cut, [sock])
        alarm.daemon = True
        alarm.start()
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
            connection.sock = sock
            connection.request(method, parts.path.rstrip("/") + path, body, self._headers(body, request))
            response = connection.getresponse()
            content = response.read(max_bytes + 1)
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, headers, content)
            if time.monotonic() >= end:
                raise TimeoutError  # what was cut off may look like an end
            _check(answer, max_bytes)
            return answer
        finally:
            alarm.cancel()
            sock.close()

    def _headers(self, body: bytes, request: str) -> dict[str, str]:
        headers = {"Connection": "close", "Firstread-Protocol": str(wire.PROTOCOL), "X-Request-Id": request}
        if body:
            headers |= {"Content-Type": wire.CONTENT_TYPE, "Content-Digest": wire.content_digest(body)}
        return headers | ({"Authorization": f"Bearer {self.token}"} if self.token else {})

    def _open(self, parts: SplitResult, seconds: float) -> socket.socket:
        host, encrypted = str(parts.hostname), parts.scheme == "https"
        sock = socket.create_connection((host, parts.port or (443 if encrypted else 80)), timeout=seconds)
        if not encrypted:
            return sock
        return self._tls().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)

    def _tls(self) -> ssl.SSLContext:
        entry = self.entry
        try:
            context = ssl.create_default_context(cafile=entry.ca_file or None)
            if entry.client_certificate:
                context.load_cert_chain(entry.client_certificate, entry.client_key)
        except OSError as exc:
            raise ConfigurationError(f"remote {entry.name}: a certificate or key cannot be read") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def _cut(sock: socket.socket) -> None:
    # shutting down wakes whoever waits for this socket, closing would not; the base's method leaves TLS state alone
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _check(answer: Answer, max_bytes: int) -> None:
    if len(answer.body) > max_bytes:
        raise RefusedInputError(f"the answer is longer than {max_bytes} bytes")
    if len(answer.body) < _number(answer.headers.get("content-length", "")):
        raise http.client.IncompleteRead(answer.body)
    if answer.status == HTTPStatus.OK and answer.headers.get("content-digest") != wire.content_digest(answer.body):
        raise RefusedInputError("the answer is not what its digest says")


def _number(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def said(answer: Answer) -> str:
    """Return what a server says about its refusal: one printable line, whatever it sent."""
    text = answer.body[:2000].decode("utf-8", errors="replace")
    return _UNPRINTABLE.sub(" ", text).strip()[:200] or f"status {answer.status}"


@dataclass(frozen=True)
class RemoteSource:
    """An Expert another machine offers, as it was when it was asked."""

    entry: RemoteEntry
    promise: wire.CardMessage
    connection: Connection

    @classmethod
    def open(cls, entry: RemoteEntry) -> Self:
        """Ask the server for the card of its Expert.

        Raises:
            PeerUnavailableError: it does not answer, or not with a card: the Expert cannot be offered now.
            ModelPackageError: the card is of another Expert, or one no Trigger could name.
            ConfigurationError: token or certificates are not there.
        """
        connection = Connection.of(entry)
        seconds = min(_CARD_S, entry.timeout_s)
        path, request = f"/v1/card/{entry.name}", uuid4().hex
        try:
            answer = connection.call("GET", path, seconds=seconds, max_bytes=_CARD_BYTES, request=request)
            if answer.status != HTTPStatus.OK:
                raise PeerUnavailableError(f"{entry.url} offers no {entry.name}: {said(answer)}")
            promise = wire.decode_card(answer.body)
        except RefusedInputError as exc:
            raise PeerUnavailableError(f"{entry.url}: {exc}") from exc
        check_card(promise.card)
        if promise.card.name != entry.name:
            raise ModelPackageError(f"{entry.url} shows the card of {promise.card.name}, not of {entry.name}")
        log.info("remote.opened", expert=entry.name, version=promise.card.version)
        return cls(entry, promise, connection)

    @property
    def card(self) -> ModelCard:
        """The promise the server made."""
        return self.promise.card

    @property
    def intended_use(self) -> IntendedUse:
        """The intended use the server stated."""
        return self.promise.intended_use

    @property
    def memory_mb(self) -> float:
        """Nothing on this machine."""
        return 0.0

    def load(self, device: str) -> "RemoteExpert":  # noqa: ARG002 it runs on the other machine's device
        """Return the client; nothing is loaded."""
        return RemoteExpert(self)


@dataclass(frozen=True)
class RemoteExpert:
    """The client of one Expert on another machine."""

    source: RemoteSource

    @property
    def card(self) -> ModelCard:
        """The promise the server made when it was opened."""
        return self.source.card

    def run(self, study: ExpertInput, argument: str) -> ExpertResult:
        """Send the arrays, without any UID of the Study, and return the answer in the Study's own terms.

        Raises:
            ExpertError: no answer within ``timeout_s``, a refusal, or an answer that is none.
            InputTooLargeError: the Study is larger than the server reads.
            ModelPackageError: the server now runs another model than the one that was opened.
        """
        name, entry, request = self.card.name, self.source.entry, uuid4().hex
        message, arrays, placeholders = wire.encode_run(self.card, study, argument)
        body = wire.pack(message.model_dump(mode="json"), arrays)
        limit = self.source.promise.max_request_bytes
        if len(body) > limit:
            raise InputTooLargeError(f"{name}: the study has {len(body)} bytes, {entry.url} reads {limit}")
        largest = sum(array.size for array in arrays.values()) + _MESSAGE_BYTES
        try:
            answer = self.source.connection.call(
                "POST", f"/v1/run/{name}", body, seconds=entry.timeout_s, max_bytes=largest, request=request
            )
            self._refuse(answer)
            content, labels = wire.unpack(answer.body, max_bytes=largest)
            done, result = wire.decode_result(content, labels, card=self.card, study=study, names=placeholders)
        except (PeerUnavailableError, RefusedInputError) as exc:
            raise ExpertError(f"{name} on another machine: {exc}") from exc
        if (done.version, done.weights_sha256) != (self.card.version, dict(self.card.weights_sha256)):
            raise ModelPackageError(f"{name}: {entry.url} answered with another model than the one that was opened")
        log.info("remote.answered", expert=name, request_id=request, seconds=round(done.seconds, 3))
        details = {**result.details, "remote": {"url": entry.url, "request": request}}
        return replace(result, details=details)

    def _refuse(self, answer: Answer) -> None:
        name, url = self.card.name, self.source.entry.url
        match answer.status:
            case HTTPStatus.OK:
                return
            case HTTPStatus.CONFLICT:
                raise ModelPackageError(f"{name}: {url} runs another model than the one that was opened")
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise InputTooLargeError(f"{name}: {said(answer)}")
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise ExpertError(f"{name}: {url} does not accept this machine's token")
            case _:
                raise ExpertError(f"{name} on another machine: {said(answer)}")
