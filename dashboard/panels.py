"""What other rooms put on the reading page: one value each, None where there is nothing to show."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from dashboard.desk import DeskPage


def reading_panels(db: Session, page: DeskPage) -> Mapping[str, Any]:
    """Return what each room shows of the study: ``critical``, ``asking``, ``checking``, ``wording``, ``assigned``."""
    del db, page
    return {"critical": None, "asking": None, "checking": None, "wording": None, "assigned": None}
