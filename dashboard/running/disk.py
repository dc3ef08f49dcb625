"""Disk and retention: what is there, what goes when, how long it lasts."""

from flask import Blueprint

bp = Blueprint("disk", __name__, url_prefix="/disk")
