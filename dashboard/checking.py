"""What the safety linter says of a report, and what a reader answered."""

from flask import Blueprint

bp = Blueprint("checking", __name__, url_prefix="/studies/<uuid:study_id>")
