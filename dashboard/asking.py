"""Questions to the model about a study, and drafts made anew."""

from flask import Blueprint

bp = Blueprint("asking", __name__, url_prefix="/studies/<uuid:study_id>")
