"""Acts on a report's text that say more than that it was saved: accepted as it is, restored, filled, settled."""

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import select

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.review import SECTION_KEYS, held_report, save_sections
from db.report_models import Draft, Report, ReportRevision
from db.types import utcnow
from db.uow import UnitOfWork
from db.wording_models import AcceptedText


def accept_text(uow: UnitOfWork, report_id: UUID, section: str, *, seen_version: int) -> int:
    """Record that the Actor takes this section of the draft as it is; return the Report's new version.

    The text stays; it is no longer the AI's alone. A second time nothing happens.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, or not locked by the Actor.
        RefusedInputError: the draft wrote no such section, or it is empty now.
    """
    reader, report = held_report(uow, report_id, seen_version)
    draft = uow.session.get(Draft, report.draft_id) if report.draft_id else None
    text = str(report.sections.get(section) or "")
    if draft is None or not draft.sections.get(section) or not text:
        raise RefusedInputError("the draft has no text in this section")
    known = select(AcceptedText.id).where(
        AcceptedText.report_id == report.id, AcceptedText.draft_id == draft.id, AcceptedText.section == section
    )
    if uow.session.scalar(known) is not None:
        return report.version
    digest = hashlib.sha256(text.encode()).hexdigest()
    uow.session.add(
        AcceptedText(report_id=report.id, draft_id=draft.id, section=section, text_sha256=digest, accepted_by=reader.id)
    )
    uow.audit(
        AuditTag.REPORT_TEXT_ACCEPTED,
        study_id=report.study_id,
        report_id=report.id,
        detail={"section": section, "text_sha256": digest},
    )
    report.updated_at = utcnow()
    uow.session.flush()
    return report.version


def restore(uow: UnitOfWork, report_id: UUID, number: int, *, seen_version: int) -> int:
    """Make what revision ``number`` said the next revision; return the Report's new version.

    Raises:
        LifecycleError: no such revision, stale version, not IN_REVIEW, or not locked by the Actor.
    """
    query = select(ReportRevision.sections).where(
        ReportRevision.report_id == report_id, ReportRevision.number == number
    )
    then: Mapping[str, Any] | None = uow.session.scalar(query)
    if then is None:
        raise LifecycleError(f"report {report_id} has no revision {number}")
    sections = {key: str(then.get(key) or "") for key in SECTION_KEYS if key != "addendum"}
    return rewrite(
        uow, report_id, sections, AuditTag.REPORT_RESTORED, seen_version=seen_version, detail={"from_revision": number}
    )


def rewrite(
    uow: UnitOfWork,
    report_id: UUID,
    sections: Mapping[str, str],
    tag: AuditTag,
    *,
    seen_version: int,
    detail: dict[str, Any],
) -> int:
    """Save ``sections`` and record, in the same transaction, the act they came from; return the new version.

    Nothing is recorded when the text is the same already.

    Raises:
        LifecycleError, RefusedInputError: as :func:`db.lifecycle.review.save_sections`.
    """
    version = save_sections(uow, report_id, sections, seen_version=seen_version)
    if version != seen_version:
        report = uow.session.get_one(Report, report_id)
        uow.audit(tag, study_id=report.study_id, report_id=report_id, detail=detail)
    return version
