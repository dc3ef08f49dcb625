"""One HTTP client for destinations that are reached by URL: TLS that is verified, a bearer token, short answers."""

import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from config.errors import PeerUnavailableError
from config.settings import Destination, Settings
from db.types import utcnow
from ris.tls import client_context

CONNECT_S, ANSWER_S = 10.0, 120.0
_MAX_ANSWER_BYTES = 4 * 1024**2
_LONGEST_WAIT_S = 3600.0
_WHOLE_ANSWER_S = 180.0
_TOKEN = re.compile(r"[!-~]+")
WORDS = {
    401: "it does not accept our bearer token",
    403: "our bearer token may not do this",
    404: "it has no such service: is the URL right?",
    405: "it does not offer this",
    408: "it did not get our request in time",
    413: "the object is too large for it",
    415: "it does not take this media type",
    429: "it wants fewer requests",
    501: "it does not offer this",
    503: "it cannot do this now",
    507: "its storage is full",
}


@contextmanager
def opened(destination: Destination, settings: Settings) -> Iterator[httpx2.Client]:
    """Open a client whose addresses are relative to the destination's URL.

    Its certificate has to be of an authority in ``dicom.tls.authorities`` where that is set, else of one the system
    trusts; with ``tls`` our own is shown too. Proxies and password files of the environment are not used; redirects
    are not followed.

    Raises:
        PeerUnavailableError: the token or the authorities cannot be read.
    """
    headers = {"Accept": "application/dicom+json, application/json", "Accept-Encoding": "identity"}
    if destination.token_file:
        try:
            token = destination.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise PeerUnavailableError(f"the token file of {destination.name} cannot be read") from exc
        if not _TOKEN.fullmatch(token):
            raise PeerUnavailableError(f"the token file of {destination.name} holds no bearer token")
        headers["Authorization"] = f"Bearer {token}"
    with named():
        client = httpx2.Client(
            base_url=destination.url.rstrip("/") + "/",
            headers=headers,
            verify=_trusted(destination, settings),
            trust_env=False,
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
        )
    with client:
        yield client


def _trusted(destination: Destination, settings: Settings) -> ssl.SSLContext:
    if destination.tls:
        return client_context(settings.dicom.tls)
    try:
        context = ssl.create_default_context(cafile=settings.dicom.tls.authorities)
    except OSError as exc:
        raise PeerUnavailableError("TLS cannot be used: dicom.tls.authorities cannot be read") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextmanager
def named() -> Iterator[None]:
    """Turn the library's errors into ours, in words that hold no address and no UID.

    Raises:
        PeerUnavailableError: no connection, no TLS, no answer in time, or none that is HTTP.
    """
    try:
        yield
    except httpx2.ConnectTimeout as exc:
        raise PeerUnavailableError("no connection in time") from exc
    except httpx2.TimeoutException as exc:
        raise PeerUnavailableError("it did not answer in time") from exc
    except httpx2.ConnectError as exc:
        raise PeerUnavailableError(f"no connection{_tls_words(exc)}") from exc
    except httpx2.RequestError as exc:
        raise PeerUnavailableError("the connection was lost, or what it answered is no HTTP") from exc
    except httpx2.InvalidURL as exc:
        raise PeerUnavailableError("its URL cannot be used") from exc


def _tls_words(exc: BaseException) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f": its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f": no TLS with it ({cause.reason or 'broken off'})"
        cause = cause.__cause__ or cause.__context__
    return ""


def body_of(response: httpx2.Response) -> bytes:
    """Return the body of a streamed answer; only the first 4 MiB are read.

    Raises:
        PeerUnavailableError: it comes drop by drop.
    """
    deadline, content = time.monotonic() + _WHOLE_ANSWER_S, b""
    for piece in response.iter_raw():
        content += piece
        if len(content) > _MAX_ANSWER_BYTES:
            break
        if time.monotonic() > deadline:
            raise PeerUnavailableError("its answer has no end")
    return content


def in_words(status: int) -> str:
    """Return what an HTTP status other than 2xx means for an administrator."""
    if 300 <= status < 400:
        return f"it answered {status}: it redirects, and redirects are not followed; is the URL right?"
    return f"it answered {status}: {WORDS.get(status) or ('it failed' if status >= 500 else 'it refused')}"


def wait_of(response: httpx2.Response) -> float:
    """Return the seconds of Retry-After (RFC 9110 10.2.3), an hour at most; 0 without it."""
    asked = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(asked) if asked.isdigit() else (parsedate_to_datetime(asked) - utcnow()).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def dicom_json(body: bytes) -> list[dict[str, Any]]:
    """Return the objects of an answer in the DICOM JSON Model; an empty body is none of them.

    Raises:
        PeerUnavailableError: it is something else.
    """
    try:
        found = json.loads(body) if body.strip() else []
    except (ValueError, RecursionError) as exc:
        raise PeerUnavailableError("what it answered is no DICOMweb") from exc
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise PeerUnavailableError("what it answered is no DICOMweb")
    return found
