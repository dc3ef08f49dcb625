"""Every answer of /fhir as ``application/fhir+json``; every error as an OperationOutcome."""

import json
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Blueprint, Response, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, NotAcceptable

from config.errors import AppError
from dashboard.dicomweb.accept import Offer, choose
from dashboard.errors import status_of

log = structlog.get_logger()
MEDIA_TYPE = "application/fhir+json"
_FORMATS = frozenset({"json", MEDIA_TYPE, "application/fhir json", "application/json", "text/json"})  # + is a blank
_CODES: Mapping[int, str] = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    409: "conflict",
    413: "too-long",
    415: "not-supported",
    503: "transient",
}


def answer(resource: Mapping[str, Any], status: int = 200) -> Response:
    """Return one resource.

    Raises:
        NotAcceptable: the client takes no JSON.
    """
    check_format()
    return _response(resource, status)


def check_format() -> None:
    """Refuse a client that takes no JSON; ``_format`` goes before the header (FHIR R4 3.1.0.1.11).

    Raises:
        NotAcceptable: it does not.
    """
    wanted = request.args.get("_format")
    if wanted is not None:
        if wanted.partition(";")[0].strip() not in _FORMATS:
            raise NotAcceptable(f"Available: {MEDIA_TYPE}.")
        return
    choose(str(request.headers.get("Accept", "")), (Offer(MEDIA_TYPE), Offer("application/json")))


def outcome(status: int, text: str) -> dict[str, Any]:
    """Return an OperationOutcome; ``text`` names no patient."""
    code = _CODES.get(status) or ("exception" if status >= 500 else "processing")
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": text.strip() or "It was refused."}],
    }


def register_outcomes(bp: Blueprint) -> None:
    """Answer every error of ``bp`` with an OperationOutcome, in JSON whatever the client takes."""

    @bp.errorhandler(AppError)
    def refused(error: AppError) -> Response:
        status = status_of(error)
        log.warning("request.refused", error=type(error).__name__, status=status)
        made = _response(outcome(status, str(error) if status != 500 else "It was logged."), status)
        if status == 503:
            made.headers["Retry-After"] = "5"
        return made

    @bp.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        status = error.code or 500
        made = _response(outcome(status, error.description or error.name), status)
        for name, value in error.get_headers():
            if name not in {"Content-Type", "Content-Length"}:
                made.headers[name] = value
        return made

    # the application has pages of its own for these two, which go before a handler for all
    bp.register_error_handler(CSRFError, http)

    @bp.errorhandler(500)
    def defect(error: HTTPException) -> Response:
        cause = getattr(error, "original_exception", None)
        log.error("request.failed", error=type(cause or error).__name__, status=500)
        return _response(outcome(500, "It was logged."), 500)


def _response(resource: Mapping[str, Any], status: int) -> Response:
    return Response(json.dumps(resource, ensure_ascii=False, allow_nan=False), status, content_type=MEDIA_TYPE)
