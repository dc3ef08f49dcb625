"""Every error as a page: each kind has one HTTP status, and no text names a patient or a path."""

import structlog
from flask import Flask, Response, render_template, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from config.errors import (
    AppError,
    LifecycleError,
    NotAuthorisedError,
    PixelsDeletedError,
    RefusedInputError,
    TransientError,
)

log = structlog.get_logger()

STATUS: tuple[tuple[type[AppError], int, str], ...] = (  # first match wins
    (LifecycleError, 409, "That is no longer possible"),
    (NotAuthorisedError, 403, "You may not do this"),
    (PixelsDeletedError, 410, "No longer here"),
    (RefusedInputError, 400, "This cannot be accepted"),
    (TransientError, 503, "Busy; try again in a moment"),
    (AppError, 500, "Something went wrong"),
)
_HEADINGS = {
    400: "This cannot be accepted",
    401: "Log in first",
    403: "You may not do this",
    404: "Not found",
    405: "Not possible this way",
    413: "Too large",
    423: "The screen is locked",
}
_TEXTS = {
    403: "Your role does not allow this page or action. The attempt was recorded.",
    404: "This page does not exist, or no longer does.",
    405: "This address does not take that kind of request.",
    413: "The request is larger than this page takes.",
    423: "Unlock it; your text stays here.",
}


def status_of(error: AppError) -> int:
    """Return the HTTP status of ``error``."""
    return next(status for kind, status, _ in STATUS if isinstance(error, kind))


def register_errors(app: Flask) -> None:
    """Answer every error of ``app`` with a page."""

    @app.errorhandler(AppError)
    def refused(error: AppError) -> Response:
        status, heading = next((s, h) for kind, s, h in STATUS if isinstance(error, kind))
        log.warning("request.refused", error=type(error).__name__, status=status)
        response = page(status, heading, str(error) if status != 500 else "It was logged. Try again, or tell the site.")
        if status == 503:
            response.headers["Retry-After"] = "5"
        return response

    @app.errorhandler(CSRFError)
    def forged(error: CSRFError) -> Response:
        del error
        return page(400, "This form is too old", "Go back, reload the page and send the form again.")

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        status = error.code or 500
        if status < 400:  # a redirect for a missing slash
            return Response(error.get_response().get_data(), status, error.get_headers())
        answer = page(status, _HEADINGS.get(status, "Something went wrong"), _TEXTS.get(status, error.name))
        # a 401 says how to come in (RFC 9110 section 15.5.2)
        answer.headers.extend([one for one in error.get_headers() if one[0] == "WWW-Authenticate"])
        return answer

    @app.errorhandler(500)
    def defect(error: HTTPException) -> Response:
        cause = getattr(error, "original_exception", None)
        log.error("request.failed", error=type(cause or error).__name__, status=500)
        return page(500, "Something went wrong", "It was logged. Try again, or tell the site.")


def page(status: int, heading: str, text: str) -> Response:
    """Return an error page; for a fragment request, the page replaces the body."""
    response = Response(render_template("error.html", status=status, heading=heading, text=text), status)
    if request.headers.get("HX-Request"):
        response.headers["HX-Retarget"] = "body"
    return response
