"""Signed reports as FHIR R4 resources."""

from flask import Blueprint, Flask
from flask_wtf.csrf import CSRFProtect

from dashboard.dicomweb.door import admit, install_door

bp = Blueprint("fhir", __name__, url_prefix="/fhir")
bp.before_request(admit)


def serve_fhir(app: Flask, csrf: CSRFProtect) -> None:
    """Add them to the dashboard; its own door asks a session's POST for the mark that forms carry."""
    install_door(app)
    csrf.exempt(bp)
    app.register_blueprint(bp)
