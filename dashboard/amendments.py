"""Addenda and corrections of a signed report."""

from flask import Blueprint

bp = Blueprint("amendments", __name__, url_prefix="/studies/<uuid:study_id>")
