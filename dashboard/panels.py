"""What other rooms put on the reading page: one value each, None where there is nothing to show."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from dashboard.critical_view import critical_panel
from dashboard.desk import DeskPage
from dashboard.people import site


def reading_panels(db: Session, page: DeskPage) -> Mapping[str, Any]:
    """Return what each room shows of the study: ``critical``, ``asking``, ``checking``, ``wording``, ``assigned``."""
    return {
        "critical": critical_panel(db, page, site().critical),
        "asking": None,
        "checking": None,
        "wording": None,
        "assigned": None,
    }
