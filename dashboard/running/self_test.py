"""A synthetic study sent through the whole system on request."""

from flask import Blueprint

bp = Blueprint("self_test", __name__, url_prefix="/self-test")
