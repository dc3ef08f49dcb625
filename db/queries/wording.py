"""The words readers start from: which template fits a Study, which macros a reader has."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from db.models import ImagingOrder, Study
from db.report_models import Report, ReportRevision
from db.wording_models import AcceptedText, Macro, ReportTemplate


def templates(session: Session) -> list[ReportTemplate]:
    """Return the templates in use, by name."""
    return list(
        session.scalars(select(ReportTemplate).where(ReportTemplate.retired_at.is_(None)).order_by(ReportTemplate.name))
    )


def macros(session: Session, user_id: UUID) -> list[Macro]:
    """Return the macros a reader can type: the site's and their own, by word; their own comes last and wins."""
    query = select(Macro).where(Macro.retired_at.is_(None), or_(Macro.owner_id.is_(None), Macro.owner_id == user_id))
    return sorted(session.scalars(query), key=lambda one: (one.word, one.owner_id is not None))


def accepted_sections(session: Session, report: Report) -> frozenset[str]:
    """Return the sections of the present draft that a reader took as they were."""
    query = select(AcceptedText.section).where(
        AcceptedText.report_id == report.id, AcceptedText.draft_id == report.draft_id
    )
    return frozenset(session.scalars(query))


def fitting(kept: Sequence[ReportTemplate], study: Study, order: ImagingOrder | None) -> list[ReportTemplate]:
    """Return the templates whose every criterion the study meets, the one with most criteria first.

    A template without a criterion fits by choice only. ``procedure`` is met by the order's code, or when each
    of its words is in the order's or the study's description.
    """
    modalities = set(study.modalities.split(","))
    code = order.procedure_code.upper() if order else ""
    said = set(f"{order.procedure_text if order else ''} {study.study_description}".upper().replace(",", " ").split())

    def fits(one: ReportTemplate) -> bool:
        words = one.procedure.upper()
        return (
            (not one.modality or one.modality in modalities)
            and (not one.body_part or one.body_part == study.body_part.upper())
            and (not words or words == code or set(words.split()) <= said)
        )

    def criteria(one: ReportTemplate) -> int:
        return sum(map(bool, (one.modality, one.body_part, one.procedure)))

    return sorted((one for one in kept if criteria(one) and fits(one)), key=lambda one: (-criteria(one), one.name))


def newest_revision(session: Session, report_id: UUID) -> int:
    """Return the number of a report's newest revision; 0 when nothing was written."""
    query = select(func.max(ReportRevision.number)).where(ReportRevision.report_id == report_id)
    return session.scalar(query) or 0
