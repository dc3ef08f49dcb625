"""Model packages: version, hash, licence, warm or not, and switching with approval."""

from flask import Blueprint

bp = Blueprint("models", __name__, url_prefix="/models")
