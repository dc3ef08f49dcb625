"""Which signed reports there are, by what FHIR clients know of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db.models import Study
from db.report_models import Draft, Report, Signature, UserAccount
from db.types import ReportState

_UNSPOKEN = (ReportState.REJECTED, ReportState.CANCELLED)


@dataclass(frozen=True)
class SignedReport:
    """A report that somebody signed, and when last."""

    report_id: UUID
    study_id: UUID
    signed_at: datetime


@dataclass(frozen=True)
class Wanted:
    """What a search asks for; None asks nothing, an empty collection matches nothing.

    ``since`` and ``until`` bound the moment of the last signature: from, and up to but without.
    """

    report_ids: Collection[UUID] | None = None
    study_ids: Collection[UUID] | None = None
    accession: str | None = None
    patient_id: str | None = None
    issuers: Collection[str] | None = None
    since: Sequence[datetime] = field(default=())
    until: Sequence[datetime] = field(default=())


def signed_reports(session: Session, wanted: Wanted, *, limit: int, offset: int = 0) -> tuple[list[SignedReport], int]:
    """Return signed reports, the last signed first, and how many match in all."""
    signed = _signed()
    chosen = _chosen(wanted, signed.c.signed_at)
    query = (
        select(Report.id, Report.study_id, signed.c.signed_at)
        .join(signed, signed.c.report_id == Report.id)
        .join(Study, Study.id == Report.study_id)
        .where(Report.state.not_in(_UNSPOKEN), *chosen)
    )
    total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    page = query.order_by(signed.c.signed_at.desc(), Report.id).limit(limit).offset(offset)
    return [SignedReport(*row) for row in session.execute(page)], total


def _signed() -> Any:
    last = func.max(Signature.signed_at, type_=Signature.signed_at.type).label("signed_at")
    return select(Signature.report_id, last).group_by(Signature.report_id).subquery()


def _chosen(wanted: Wanted, signed_at: Any) -> list[ColumnElement[bool]]:
    among = (
        (wanted.report_ids, Report.id),
        (wanted.study_ids, Study.id),
        (wanted.issuers, Study.issuer_of_patient_id),
    )
    equal = ((wanted.accession, Study.accession_number), (wanted.patient_id, Study.patient_id))
    return [
        *(column.in_(list(values)) for values, column in among if values is not None),
        *(column == value for value, column in equal if value is not None),
        *(signed_at >= moment for moment in wanted.since),
        *(signed_at < moment for moment in wanted.until),
    ]


def issuers_of(session: Session, patient_id: str) -> list[str]:
    """Return the issuers under which a Patient ID came."""
    query = select(Study.issuer_of_patient_id).where(Study.patient_id == patient_id).distinct()
    return list(session.scalars(query))


def first_study_of(session: Session, study: Study) -> UUID:
    """Return the first Study of the same patient: its id stands for the patient, who has no row of their own."""
    if not study.patient_id:
        return study.id
    query = (
        select(Study.id)
        .where(Study.patient_id == study.patient_id, Study.issuer_of_patient_id == study.issuer_of_patient_id)
        .order_by(Study.first_received_at, Study.id)
        .limit(1)
    )
    return session.scalars(query).one()


def signed_study_uids(session: Session) -> list[tuple[UUID, str]]:
    """Return every signed report with its Study Instance UID."""
    query = (
        select(Report.id, Study.study_instance_uid)
        .join(Study, Study.id == Report.study_id)
        .where(Report.id.in_(select(Signature.report_id)))
    )
    return [(row.id, row.study_instance_uid) for row in session.execute(query)]


def signers(session: Session) -> list[UserAccount]:
    """Return everybody who ever signed."""
    return list(session.scalars(select(UserAccount).where(UserAccount.id.in_(select(Signature.user_id)))))


def reports_signed_by(session: Session, user_id: UUID) -> list[UUID]:
    """Return the reports that somebody signed."""
    return list(session.scalars(select(Signature.report_id).where(Signature.user_id == user_id).distinct()))


def model_sets(session: Session) -> list[tuple[str, UUID]]:
    """Return each set of models behind a signed report as JSON, with one report that rests on it."""
    models = Draft.provenance["models"].as_string()
    query = (
        select(models, func.min(Signature.signed_at))
        .join(Draft, Draft.id == Signature.draft_id)
        .where(models.is_not(None))
        .group_by(models)
    )
    found = []
    for text, signed_at in session.execute(query).all():
        one = select(Signature.report_id).join(Draft, Draft.id == Signature.draft_id)
        report_id = session.scalars(one.where(models == text, Signature.signed_at == signed_at).limit(1)).first()
        if report_id is not None:
            found.append((str(text), report_id))
    return found
