"""Readings as UPS-RS workitems (PS3.18 section 11)."""

from flask import Blueprint, Flask
from flask_wtf.csrf import CSRFProtect

bp = Blueprint("workitems", __name__, url_prefix="/ups")


def serve_workitems(app: Flask, csrf: CSRFProtect) -> None:
    """Add them to the dashboard; its own door asks a session's POST for the mark that forms carry."""
    csrf.exempt(bp)
    app.register_blueprint(bp)
