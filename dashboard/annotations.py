"""What readers draw and measure on images, kept with the study."""

from flask import Blueprint

bp = Blueprint("annotations", __name__, url_prefix="/studies/<uuid:study_id>/annotations")
