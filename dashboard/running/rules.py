"""What the routing rules would do with a DICOM file."""

from flask import Blueprint

bp = Blueprint("rules", __name__, url_prefix="/rules")
