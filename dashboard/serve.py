"""The dashboard behind gunicorn: one process, several threads, TLS when certificates are set."""

import os
from typing import Any

import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication

from config.logs import configure_logs
from config.serving import ForwardedLogs, limit_silence, modern_tls, worker_with_places
from config.settings import Settings
from dashboard.app import create_app
from db.engine import make_engine, make_sessions
from db.starting import record_start, record_stop

_SILENCE_S = 60  # in the middle of a request's body, or of reading an answer
_RECEIVING = 64  # threads beside those that answer, for handshakes and headers


class _Web(BaseApplication):  # type: ignore[misc, unused-ignore]
    """Gunicorn, configured from our settings and from nothing else (no file, no command line)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Open the database in the serving process, after the fork; a start that cannot be recorded is none."""
        sessions = make_sessions(make_engine(self._settings.database))
        record_start(sessions, self._settings, "web")
        return create_app(self._settings, sessions)


def options(settings: Settings) -> dict[str, Any]:
    """Return gunicorn's options for ``settings``.

    One process, because slices and ended sessions are remembered in it; its threads share them. There is
    no access log: addresses of pages are ours, but clients may send anything. A request's body has no time
    limit but silence: 2 GB of images take as long as the line needs (STOW-RS gives up senders that crawl).
    """
    web = settings.web
    host = f"[{web.host}]" if ":" in web.host else web.host
    chosen: dict[str, Any] = {
        "bind": f"{host}:{web.port}",
        "workers": 1,
        "worker_class": worker_with_places(web.threads),
        "threads": web.threads + _RECEIVING,
        "timeout": 120,
        "graceful_timeout": 10,
        "keepalive": 15,
        "accesslog": None,
        "logger_class": ForwardedLogs,
        "loglevel": "warning",
        "when_ready": _ready,
        "control_socket_disable": True,
        "proc_name": "firstread-web",
        "forwarded_allow_ips": "",
        "limit_request_line": 8190,  # a list of UIDs is long
    }
    if web.tls_certificate and web.tls_key:
        chosen |= {"certfile": str(web.tls_certificate), "keyfile": str(web.tls_key), "ssl_context": modern_tls}
    return chosen


def _ready(server: Any) -> None:
    limit_silence(server, _SILENCE_S)
    structlog.get_logger().info("web.listening", host=server.cfg.bind[0].rpartition(":")[0], pid=server.pid)


def run_web(settings: Settings) -> None:
    """Serve the dashboard until told to stop (SIGTERM or SIGINT)."""
    configure_logs(level=settings.log_level, json=settings.log_json, process="web")
    parent = os.getpid()
    try:
        _Web(settings).run()
    finally:
        if os.getpid() == parent:  # what serves was forked, and comes by here too
            record_stop(make_sessions(make_engine(settings.database)), "web")
