"""What every view of workitems shares: the blueprint with its door, errors with their Warning (PS3.18 chapter 11)."""

import re

import structlog
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException, NotAcceptable, UnsupportedMediaType
from werkzeug.http import parse_options_header

from config.errors import AppError
from dashboard.dicomweb.accept import Offer, choose
from dashboard.dicomweb.door import admit
from dashboard.dicomweb.model import MEDIA_TYPE
from dashboard.errors import status_of
from dashboard.people import site
from db.lifecycle.workitems import (
    DeletedWorkitemError,
    EndedError,
    NotClaimedError,
    NoWorkitemError,
    StepStateError,
    TransactionUidError,
)

log = structlog.get_logger()
bp = Blueprint("workitems", __name__, url_prefix="/ups")
UNCLAIMED = "The target URI did not reference a claimed Workitem."
CURRENT = "The submitted request is inconsistent with the current state of the Workitem."
OF_INSTANCE = "The submitted request is inconsistent with the state of the UPS Instance."
MODIFIED = "The Workitem was {} with modifications."
_STATUS: tuple[tuple[type[AppError], int], ...] = (  # first match wins
    (NoWorkitemError, 404),
    (DeletedWorkitemError, 410),
    (TransactionUidError, 400),
    (StepStateError, 409),
)
_OFFERS = (Offer(MEDIA_TYPE), Offer("application/json"))
_PORT = re.compile(r":\d+$")
_USUAL = frozenset({"80", "443"})
_RETRY_S = "30"

bp.before_request(admit)


def root() -> str:
    """Return the address of this site, as the client reached it."""
    if site().web.public_url:
        return site().web.public_url.rstrip("/")
    if not _PORT.search(request.host) and request.environ["SERVER_PORT"] not in _USUAL:
        return f"{_scheme()}://{request.host}:{request.environ['SERVER_PORT']}"
    return f"{_scheme()}://{request.host}"


def _scheme() -> str:
    return {"ws": "http", "wss": "https"}.get(request.scheme, request.scheme)


def base() -> str:
    """Return the address of the worklist service."""
    return f"{root()}{bp.url_prefix}"


def warn(answer: Response, *texts: str) -> Response:
    """Add Warning header fields."""
    for text in texts:
        answer.headers.add("Warning", f'299 {base()} "{text}"')
    return answer


def require_json() -> None:
    """Refuse a payload that is not DICOM JSON.

    Raises:
        UnsupportedMediaType: another Content-Type.
    """
    kind = parse_options_header(request.headers.get("Content-Type", ""))[0].lower()
    if kind not in {MEDIA_TYPE, "application/json"}:
        raise UnsupportedMediaType(f"The payload is {MEDIA_TYPE}.")


def accepted_type() -> str:
    """Return the media type that the client takes.

    Raises:
        NotAcceptable: none of ours.
    """
    given = ",".join(request.args.getlist("accept")).replace("dicom ", "dicom+") or request.headers.get("Accept", "")
    try:
        return choose(given, _OFFERS).media_type
    except NotAcceptable:
        raise NotAcceptable(f"Available: {MEDIA_TYPE}.") from None


@bp.errorhandler(AppError)
def refused(error: AppError) -> Response:
    """Answer an error of ours with its status, and the Warning that its transaction has for it."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None) or status_of(error)
    endpoint = (request.endpoint or "").rpartition(".")[2]
    if endpoint == "update" and isinstance(error, EndedError):
        status = 400  # section 11.6.2
    log.warning("request.refused", error=type(error).__name__, status=status)
    answer = plain(status, str(error) if status != 500 else "It was logged.")
    text = _warning(endpoint, error)
    if text:
        warn(answer, text)
    if status == 503:
        answer.headers["Retry-After"] = _RETRY_S
    return answer


def _warning(endpoint: str, error: AppError) -> str:
    if endpoint == "update":
        if isinstance(error, TransactionUidError | NotClaimedError):
            return UNCLAIMED
        return CURRENT if isinstance(error, StepStateError) else ""
    if isinstance(error, TransactionUidError):
        return f"The Transaction UID is {'missing' if 'missing' in str(error) else 'incorrect'}."
    if isinstance(error, StepStateError):
        return OF_INSTANCE if endpoint == "change_state" else CURRENT
    return ""


@bp.errorhandler(HTTPException)
def http(error: HTTPException) -> Response:
    """Answer what Flask or a view raised, with its own header fields."""
    answer = plain(error.code or 500, error.description or error.name)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            answer.headers[name] = value
    return answer


def plain(status: int, text: str) -> Response:
    """Return an answer of one line of text."""
    return Response(f"{text}\n", status, content_type="text/plain; charset=utf-8")
