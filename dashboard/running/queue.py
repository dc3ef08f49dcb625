"""The queue of Readings: why each waits, and what may be done."""

from flask import Blueprint

bp = Blueprint("queue", __name__, url_prefix="/queue")
