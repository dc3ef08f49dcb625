"""What other rooms put on the reading page: one value each, None where there is nothing to show."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from dashboard.asking_panel import asking_panel
from dashboard.assigned_panel import assigned_panel
from dashboard.checks import checking_panel
from dashboard.critical_view import critical_panel
from dashboard.desk import DeskPage
from dashboard.people import person, site
from dashboard.without_ai import without_ai_panel


def reading_panels(db: Session, page: DeskPage) -> Mapping[str, Any]:
    """Return what each room shows of the study: ``critical``, ``asking``, ``checking``, ``wording``, ``assigned``,
    ``without_ai``.
    """
    return {
        "critical": critical_panel(db, page, site().critical),
        "asking": asking_panel(db, page, person(), site()),
        "checking": checking_panel(db, page),
        "wording": None,
        "assigned": assigned_panel(db, page),
        "without_ai": without_ai_panel(db, page),
    }
