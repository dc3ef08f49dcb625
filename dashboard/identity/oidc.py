"""Single sign-on with an OpenID Connect provider."""

from flask import Blueprint

bp = Blueprint("oidc", __name__, url_prefix="/oidc")
