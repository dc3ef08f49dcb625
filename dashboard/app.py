"""The dashboard as a Flask application; nothing is opened before ``create_app`` is called."""

from datetime import timedelta
from pathlib import Path

from flask import Flask
from flask_login import current_user
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from dashboard import (
    admin,
    amendments,
    annotations,
    asking,
    assigning,
    audit,
    auth,
    checking,
    critical,
    destinations,
    home,
    images,
    priors,
    problems,
    quality,
    reading,
    report_file,
    signoff,
    trace,
    wording,
    worklist,
)
from dashboard.dicomweb.routes import serve_dicomweb
from dashboard.errors import register_errors
from dashboard.fhir.routes import serve_fhir
from dashboard.identity import api_tokens, breaking, locking, oidc, passkeys
from dashboard.looks import install_looks
from dashboard.people import install
from dashboard.permissions import Permission
from dashboard.presentation import register_filters
from dashboard.running import disk, metrics, models, queue, rules, self_test
from dashboard.security import add_security_headers, session_key
from dashboard.workitems.routes import serve_workitems

_READING_ROOM = (
    worklist,
    assigning,
    reading,
    images,
    annotations,
    priors,
    wording,
    asking,
    checking,
    signoff,
    amendments,
    report_file,
    critical,
)
_PEOPLE = (home, auth, oidc, passkeys, locking, breaking, api_tokens, admin)
_RUNNING = (problems, queue, destinations, models, rules, disk, self_test, metrics)
_MENU = (
    ("worklist.show", "Worklist", Permission.WORKLIST),
    ("critical.show", "Critical", Permission.CRITICAL),
    ("problems.show", "Problems", Permission.PROBLEMS),
    ("queue.show", "Queue", Permission.RUNNING),
    ("destinations.show", "Destinations", Permission.DESTINATIONS),
    ("models.show", "Models", Permission.RUNNING),
    ("models.show", "Models", Permission.MODEL_APPROVE),
    ("rules.show", "Rules", Permission.RUNNING),
    ("disk.show", "Disk", Permission.RUNNING),
    ("self_test.show", "Self-test", Permission.RUNNING),
    ("quality.show", "Quality", Permission.QUALITY),
    ("wording.show", "Wording", Permission.REPORT_EDIT),
    ("trace.index", "Trace", Permission.TRACE),
    ("audit.index", "Audit", Permission.AUDIT_QUALITY),
    ("breaking.index", "Break-glass", Permission.BREAK_GLASS_REVIEW),
    ("admin.users", "Users", Permission.USERS),
    ("api_tokens.show", "Tokens", Permission.USERS),
)


def create_app(settings: Settings, sessions: sessionmaker[Session]) -> Flask:
    """Return the dashboard.

    Args:
        settings: where images and results are, who gets signed reports, session limits, TLS.
        sessions: of a migrated database.

    Raises:
        ConfigurationError: the session secret is too short.
    """
    app = Flask(__name__)
    tls = settings.web.tls_certificate is not None
    app.config.update(
        SECRET_KEY=session_key(settings),
        SESSION_COOKIE_NAME="__Host-firstread" if tls else "firstread",
        SESSION_COOKIE_SECURE=tls,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,  # a page that refreshes itself must not keep a session alive
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=settings.web.idle_timeout_s),
        MAX_CONTENT_LENGTH=1024**2,
        MAX_FORM_MEMORY_SIZE=1024**2,
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.extensions["firstread.settings"] = settings
    app.extensions["firstread.sessions"] = sessions
    app.extensions["firstread.images"] = images.ImageShelf(settings, sessions)
    add_security_headers(app, tls=tls)
    install(app, settings)
    install_looks(app)
    csrf = CSRFProtect(app)
    register_errors(app)
    register_filters(app)
    _register_context(app)
    for module in (*_READING_ROOM, *_PEOPLE, *_RUNNING, quality, trace, audit):
        app.register_blueprint(module.bp)
    app.register_blueprint(auth.account)
    if settings.web.dicomweb:
        serve_dicomweb(app, csrf)
    if settings.web.fhir:
        serve_fhir(app, csrf)
    if settings.web.workitems:
        serve_workitems(app, csrf)
    return app


def _register_context(app: Flask) -> None:
    """Give every template the menu of the role, and whether the script was built."""
    has_build = (Path(str(app.static_folder)) / "build" / "viewer.js").is_file()

    @app.context_processor
    def context() -> dict[str, object]:
        menu: list[tuple[str, str]] = []
        if current_user.is_authenticated:
            menu = [(to, words) for to, words, needs in _MENU if current_user.may(needs) and to in app.view_functions]
        return {"menu": menu, "has_build": has_build}
