"""Whether an object of a draft still stands, and if not, why: what decides what leaves, and what is taken back."""

from enum import StrEnum

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from config.results import DRAFT_TEXTS, EVIDENCE, ResultKind
from db.models import Reading, ResultObject
from db.report_models import Draft, DraftRejection, Finding, Report, Signature
from db.types import Decision, ReportState


class Fallen(StrEnum):
    """Why an object of a draft no longer stands."""

    REFUSED = "draft rejected"
    SUPERSEDED = "images arrived later"
    REPLACED = "a signed report took its place"
    FINDING = "it shows a finding that the reader rejected"


def fallen(session: Session, made: ResultObject) -> Fallen | None:
    """Return why an object no longer stands; None while it does, and for everything that a person signed.

    =================  ===============  ====================================  =================================
    object             draft refused    images arrived later                  signed
    =================  ===============  ====================================  =================================
    unverified text    ``REFUSED``      ``SUPERSEDED``, unless the draft is   ``REPLACED``
                                        the one a report was signed from
    findings SR        ``REFUSED``      as the text                           FINAL: ``REPLACED`` by a signed one, or
                                                                              ``FINDING`` when it shows a rejected one
    other evidence     ``REFUSED``      as the text                           FINAL: ``FINDING`` when it shows one
    =================  ===============  ====================================  =================================
    """
    if made.draft_id is None:
        return None
    if is_refused(session, made):
        return Fallen.REFUSED
    superseded, report = session.execute(
        select(Reading.superseded, Report)
        .join(Draft, Draft.reading_id == Reading.id)
        .join(Report, Report.study_id == Draft.study_id)
        .where(Draft.id == made.draft_id)
    ).one()
    signed = set(session.scalars(select(Signature.state).where(Signature.report_id == report.id)))
    own = report.draft_id == made.draft_id
    if superseded and not (signed and own):
        return Fallen.SUPERSEDED
    if signed and made.kind in DRAFT_TEXTS:
        return Fallen.REPLACED
    return _after_final(session, made) if own and ReportState.FINAL in signed else None


def is_refused(session: Session, made: ResultObject) -> bool:
    """Return whether a reader rejected the object's draft as a whole, also when the study was read again since."""
    recorded = exists().where(DraftRejection.draft_id == made.draft_id)
    now = exists().where(Report.draft_id == made.draft_id, Report.state == ReportState.REJECTED)
    return bool(session.scalar(select(recorded | now)))


def shows_rejected(session: Session, made: ResultObject) -> bool:
    """Return whether an object shows a Finding that its reader rejected.

    A findings SR that was kept before Tracking UIDs were shows every coded Finding of its draft.
    """
    query = select(Finding).where(Finding.draft_id == made.draft_id, Finding.decision == Decision.REJECTED)
    rejected = session.scalars(query).all()
    if made.kind == ResultKind.FINDINGS_SR and not made.tracking_uids:
        return any(one.code_value for one in rejected)
    return any(one.tracking_uid and one.tracking_uid in made.tracking_uids for one in rejected)


def _after_final(session: Session, made: ResultObject) -> Fallen | None:
    if made.kind == ResultKind.FINDINGS_SR and session.scalar(
        select(
            exists().where(ResultObject.study_id == made.study_id, ResultObject.kind == ResultKind.SIGNED_FINDINGS_SR)
        )
    ):
        return Fallen.REPLACED
    evidence = made.kind in EVIDENCE or made.kind == ResultKind.FINDINGS_SR
    return Fallen.FINDING if evidence and shows_rejected(session, made) else None
