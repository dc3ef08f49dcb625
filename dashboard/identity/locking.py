"""The screen lock: a session that waits for its owner and keeps the text."""

from flask import Blueprint

bp = Blueprint("locking", __name__, url_prefix="/lock")
