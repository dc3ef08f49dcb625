"""Passkeys (WebAuthn): registered by their owner, used to log in and to sign."""

from flask import Blueprint

bp = Blueprint("passkeys", __name__, url_prefix="/passkeys")
