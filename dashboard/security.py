"""What the browser is told to refuse, and the key that signs sessions."""

import os
import secrets
from pathlib import Path

from flask import Flask, Response, request

from config.errors import ConfigurationError
from config.settings import Settings

CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
))  # fmt: skip

_HASHED = ("chunk-", "asset-")  # files of the build whose name changes with their content


def session_key(settings: Settings) -> bytes:
    """Return the key that signs sessions: the configured one, else one made once in the data folder.

    Raises:
        ConfigurationError: a configured secret is shorter than 32 characters.
    """
    if settings.session_secret is not None:
        secret = settings.session_secret.get_secret_value()
        if len(secret) < 32:
            raise ConfigurationError("session_secret needs at least 32 characters")
        return secret.encode()
    path = settings.data_dir.resolve() / "session_secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    _make_once(path)
    return path.read_bytes()


def _make_once(path: Path) -> None:
    """Write a fresh key readable by us alone, unless another process was first."""
    if path.exists():
        return
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(48))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # fails if it exists: every process reads the same key
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def add_security_headers(app: Flask, *, tls: bool) -> None:
    """Put the headers on every answer; nothing but static files may be stored by the browser."""

    @app.after_request
    def headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
        if tls:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        if request.endpoint != "static":
            response.headers["Cache-Control"] = "no-store"
        elif request.path.rpartition("/")[2].startswith(_HASHED) and response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response
