"""Critical results: alerts, confirmation, who was told."""

from flask import Blueprint

bp = Blueprint("critical", __name__, url_prefix="/critical")
