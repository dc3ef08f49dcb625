"""Who is to read a study: taken by oneself, or given by a lead."""

from flask import Blueprint

bp = Blueprint("assigning", __name__)
