"""The words at a reader's hand on the reading page: the site's templates, and macros."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from db.models import ImagingOrder, Study
from db.queries.wording import fitting, macros, templates
from db.wording_models import Macro, ReportTemplate


@dataclass(frozen=True)
class Words:
    """Templates, those that fit the procedure first, and macros by word."""

    fitting: Sequence[ReportTemplate] = ()
    others: Sequence[ReportTemplate] = ()
    macros: Sequence[Macro] = ()

    @property
    def best(self) -> ReportTemplate | None:
        """The template an empty report starts from."""
        return self.fitting[0] if self.fitting else None


def words_of(db: Session, user_id: UUID, study: Study, order: ImagingOrder | None) -> Words:
    """Return what this reader can insert into the report of this study; their own macro hides the site's."""
    kept = templates(db)
    fit = fitting(kept, study, order)
    typed = {one.word: one for one in macros(db, user_id)}
    return Words(fit, [one for one in kept if one not in fit], list(typed.values()))
