"""Where results go: what is owed to each destination, and whether it answers."""

from flask import Blueprint

bp = Blueprint("destinations", __name__, url_prefix="/destinations")
