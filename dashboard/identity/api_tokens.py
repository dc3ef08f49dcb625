"""Tokens of machines: scoped, expiring, shown once."""

from flask import Blueprint

bp = Blueprint("api_tokens", __name__, url_prefix="/tokens")
