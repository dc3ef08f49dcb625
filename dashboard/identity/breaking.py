"""Break-glass: access to one study for a stated reason."""

from flask import Blueprint

bp = Blueprint("breaking", __name__, url_prefix="/break-glass")
