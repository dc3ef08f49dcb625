"""What is kept from a person who asks by DICOMweb or FHIR in a session, where the site hides the AI's impression.

The pages hide it by `dashboard.checks.conceal`. A token is a machine's, whose operator answers for whom it shows what.
"""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.results import DRAFT_TEXTS, ResultKind
from dashboard.dicomweb.door import client
from dashboard.people import site
from db.lifecycle.tables import SIGNED_REPORTS
from db.lifecycle.viewing import has_seen_images
from db.models import ResultObject
from db.queries.dicomweb import shown_results
from db.report_models import Draft, Report

_K = ResultKind
_TEXTS = DRAFT_TEXTS | {_K.PRELIMINARY_SR, _K.SIGNED_SR, _K.REPORT_TEXT_SR, _K.REPORT_PDF}


def withheld_studies(db: Session, study_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return the Studies whose impression is still the AI's and hidden from who asks; none for a token."""
    reader_id = client().actor.user_id
    if reader_id is None or not site().review.hide_impression:
        return frozenset()
    query = (
        select(Report.study_id, Report.sections, Draft.sections)
        .join(Draft, Draft.id == Report.draft_id)
        .where(Report.study_id.in_(study_ids), Report.state.not_in(SIGNED_REPORTS))
    )
    return frozenset(
        study_id
        for study_id, now, ai in db.execute(query)
        if ai.get("impression")
        and now.get("impression") == ai["impression"]
        and not has_seen_images(db, study_id, reader_id)
    )


def results_to_show(db: Session, study_ids: Collection[UUID]) -> dict[UUID, list[ResultObject]]:
    """Return our DICOM objects that who asks may have: without reports' texts where the impression is hidden."""
    shown = shown_results(db, list(study_ids))
    for study_id in withheld_studies(db, shown):
        shown[study_id] = [one for one in shown[study_id] if one.kind not in _TEXTS]
    return shown
