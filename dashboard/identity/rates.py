"""How often one may ask: Flask-Limiter, counted in the memory of the one process that serves the dashboard."""

import time

from flask import Flask, Response, current_app, request, session
from flask_limiter import Limiter
from flask_limiter.errors import RateLimitExceeded
from limits import RateLimitItem, parse
from werkzeug.exceptions import TooManyRequests

from config.settings import Settings

_MACHINES = frozenset({"dicomweb", "fhir", "workitems", "metrics"})  # with a token, a client reads whole studies


def install_rates(app: Flask, settings: Settings) -> None:
    """Count every request of a session, or of an address without one; moving window, so no burst at its edge."""
    identity = settings.identity
    limiter = Limiter(
        _who,
        app=app,
        application_limits=[identity.request_rate],
        application_limits_exempt_when=_is_exempt,
        storage_uri="memory://",
        strategy="moving-window",
    )
    app.extensions["firstread.limiter"] = limiter
    app.extensions["firstread.login_rate"] = parse(identity.login_rate)

    @app.errorhandler(RateLimitExceeded)
    def exceeded(error: RateLimitExceeded) -> Response:
        del error
        reached = limiter.current_limit
        return _refuse(max(1, int(reached.reset_at - time.time()) + 1) if reached else 60)

    @app.errorhandler(TooManyRequests)
    def attempts(error: TooManyRequests) -> Response:
        return _refuse(int(str(error.retry_after or 60)))


def count_attempt() -> None:
    """Count one proof of who somebody is, at login, unlocking or signing, from this address.

    Raises:
        TooManyRequests: there were too many; an account's own lock (``web.lockout_failures``) is another thing.
    """
    limiter: Limiter = current_app.extensions["firstread.limiter"]
    rate: RateLimitItem = current_app.extensions["firstread.login_rate"]
    address = request.remote_addr or "unknown"
    if not limiter.limiter.hit(rate, "proof", address):
        reset_at, _ = limiter.limiter.get_window_stats(rate, "proof", address)
        raise TooManyRequests(retry_after=max(1, int(reset_at - time.time()) + 1))


def _who() -> str:
    return str(session.get("key") or request.remote_addr or "unknown")


def _is_exempt() -> bool:
    machine = request.blueprint in _MACHINES and "Authorization" in request.headers
    return request.endpoint in {None, "static", "home.alive", "home.ready"} or machine


def _refuse(seconds: int) -> Response:
    from dashboard.errors import page

    response = page(429, "Too many requests", f"Wait {seconds} s, then try again. Nothing was changed.")
    response.headers["Retry-After"] = str(seconds)
    return response
