"""The report as a file for people: PDF, and what readers made of the AI's findings."""

from flask import Blueprint

bp = Blueprint("report_file", __name__, url_prefix="/studies/<uuid:study_id>")
