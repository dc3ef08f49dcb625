"""The order a Study answers, and whether the RIS corrected its patient."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.message_models import IdentityCorrection
from db.models import ImagingOrder, Study


@dataclass(frozen=True)
class RisSide:
    """What the RIS said of a Study; either may be None."""

    order: ImagingOrder | None
    correction: IdentityCorrection | None


def ris_side(session: Session, study: Study) -> RisSide:
    """Return order and correction of a Study."""
    order = session.get(ImagingOrder, study.order_id) if study.order_id else None
    return RisSide(order, session.get(IdentityCorrection, study.id))
