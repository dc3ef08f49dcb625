"""Questions about the earlier Studies that were chosen for comparison; nothing here is changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.results import ResultKind
from db.lifecycle.amending import with_addenda
from db.models import ResultObject, Study
from db.prior_models import Prior, PriorSearch, PriorState, SearchState
from db.queries.amendments import amendments
from db.report_models import Report, Signature
from db.types import ReportState

_NARRATIVES = (ResultKind.PRELIMINARY_SR, ResultKind.SIGNED_SR)
_SIGNED = (ReportState.PRELIMINARY, ReportState.FINAL, ReportState.ADDENDED, ReportState.CORRECTED)


@dataclass(frozen=True)
class PriorRow:
    """One earlier Study as people see it; ``documents`` as in :class:`db.prior_models.Prior`."""

    id: UUID
    study_instance_uid: str
    held_id: UUID | None
    source: str
    study_date: str
    modalities: str
    description: str
    state: PriorState
    reason: str
    note: str
    documents: Sequence[dict[str, Any]]
    attempts: int
    next_attempt_at: datetime
    instances: int
    expected_instances: int | None


@dataclass(frozen=True)
class PriorOverview:
    """What was searched for one Study and what came of it; the first prior is the one to compare with first."""

    state: SearchState
    reason: str
    candidates: int
    priors: Sequence[PriorRow]


@dataclass(frozen=True)
class ComparedPrior:
    """The earlier Study a draft is compared with: it is here, and its identity was checked.

    ``report`` is the document whose text is quoted, None when there is none; ``paper`` one that exists as PDF.
    """

    study_instance_uid: str
    study_date: str
    modalities: str
    description: str
    report: dict[str, Any] | None
    paper: dict[str, Any] | None


@dataclass(frozen=True)
class SignedReport:
    """What a person of ours signed, and the DICOM object that carries it."""

    sections: dict[str, str]
    author: str
    signed_at: datetime
    is_final: bool
    sop_instance_uid: str
    sha256: str


def priors_of(session: Session, study_id: UUID) -> PriorOverview | None:
    """Return what was searched and found for a Study; None when nothing was searched."""
    search = session.scalar(select(PriorSearch).where(PriorSearch.study_id == study_id))
    if search is None:
        return None
    query = (
        select(Prior, Study.instance_count)
        .outerjoin(Study, Study.study_instance_uid == Prior.study_instance_uid)
        .where(Prior.study_id == study_id)
        .order_by(Prior.position, Prior.id)
    )
    rows = [_row(prior, count or 0) for prior, count in session.execute(query)]
    return PriorOverview(search.state, search.reason, search.candidates, rows)


def compared_prior(session: Session, study_id: UUID, *, study_instance_uid: str = "") -> ComparedPrior | None:
    """Return the earlier Study a draft names: of those that may be used the first with a report, else the first.

    A prior that was refused, or has not come, is none.

    Args:
        session: for reading only.
        study_id: the Study that is drafted.
        study_instance_uid: only this earlier Study, to repeat a draft that used it.
    """
    query = select(Prior).where(Prior.study_id == study_id, Prior.state == PriorState.HERE)
    if study_instance_uid:
        query = query.where(Prior.study_instance_uid == study_instance_uid)
    here = session.scalars(query.order_by(Prior.position, Prior.id)).all()
    if not here:
        return None
    chosen = next((one for one in here if _first(one, "sr")), here[0])
    return ComparedPrior(
        chosen.study_instance_uid,
        chosen.study_date,
        chosen.modalities,
        chosen.description,
        report=_first(chosen, "sr"),
        paper=_first(chosen, "pdf"),
    )


def signed_report(session: Session, study_id: UUID) -> SignedReport | None:
    """Return what was signed here over a Study and stands; None when nobody signed, or what was signed is gone."""
    found = session.execute(
        select(Report, Signature, ResultObject)
        .join(Signature, Signature.report_id == Report.id)
        .join(ResultObject, ResultObject.signature_id == Signature.id)
        .where(Report.study_id == study_id, Report.state.in_(_SIGNED), ResultObject.kind.in_(_NARRATIVES))
        .order_by(Signature.signed_at.desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    report, signature, made = found
    addenda = [one.amendment for one in amendments(session, report.id)]
    texts = [one.text for one in addenda if one.state is ReportState.ADDENDED]
    return SignedReport(
        with_addenda(report.sections, texts),
        signature.printed_name,
        signature.signed_at,
        report.state is not ReportState.PRELIMINARY,
        made.sop_instance_uid,
        made.sha256,
    )


def _first(prior: Prior, kind: str) -> dict[str, Any] | None:
    return next((one for one in prior.documents if one["kind"] == kind), None)


def _row(prior: Prior, instances: int) -> PriorRow:
    kept = PriorRow.__dataclass_fields__.keys() - {"instances"}
    return PriorRow(**{name: getattr(prior, name) for name in kept}, instances=instances)
