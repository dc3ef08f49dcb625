"""Templates of report sections per procedure, and macros: the site's and one's own."""

from flask import Blueprint

bp = Blueprint("wording", __name__, url_prefix="/wording")
