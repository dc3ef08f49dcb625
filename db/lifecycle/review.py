"""A radiologist's work on a Report before signing: open, edit, decide, reject. One reader at a time."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db.audit import AuditTag
from db.image_set import image_set_sha256
from db.lifecycle.deliveries import withdraw_drafts
from db.lifecycle.moves import locked, move_report
from db.lifecycle.revisions import add_revision
from db.lifecycle.self_tests import is_self_test
from db.models import Reading
from db.report_models import Draft, DraftRejection, Finding, Report, UserAccount
from db.types import Decision, ReportState, Role, utcnow
from db.uow import UnitOfWork

SECTION_KEYS = ("history", "technique", "comparison", "findings", "impression", "recommendation", "addendum")
MAX_SECTION_CHARS = 65_536
REJECTIONS: Mapping[str, str] = {  # why a draft is refused: code, never changed once used -> words
    "FINDINGS_WRONG": "Findings wrong",
    "FINDINGS_MISSED": "Findings missed",
    "WRONG_SIDE": "Wrong side or location",
    "TEXT_UNUSABLE": "Text unusable",
    "IMAGE_QUALITY": "Image quality",
    "WRONG_PROTOCOL": "Wrong protocol or body part",
    "OTHER": "Other",
}


def open_review(uow: UnitOfWork, report_id: UUID, *, take_over: bool = False) -> int:
    """Lock a Report for the Actor and put it IN_REVIEW; return the version to edit.

    The reader sees every image there is now, so the review is bound to that image set; a newer draft of
    exactly these images replaces the one a signed preliminary report was made from. A REJECTED report is
    opened empty: a person reads from scratch.

    Raises:
        LifecycleError: another reader has it and ``take_over`` is False, its state cannot be reviewed, or it is of a
            self-test.
        NotAuthorisedError: the Actor is no active resident or radiologist.
    """
    reader = drafter(uow)
    report = locked(uow, Report, report_id)
    if is_self_test(uow.session, report.study_id):
        raise LifecycleError("this is the system's self-test: there is nobody to report on")
    holder = report.locked_by
    if holder is not None and holder != reader.id and not take_over:
        raise LifecycleError(f"report {report_id} is being read by somebody else")
    if report.state is ReportState.IN_REVIEW:
        tag = AuditTag.REPORT_TAKEN_OVER if holder not in {None, reader.id} else AuditTag.REPORT_LOCKED
        detail = {"from_user": str(holder)} if tag is AuditTag.REPORT_TAKEN_OVER else None
        uow.audit(tag, study_id=report.study_id, report_id=report.id, detail=detail)
    elif report.state is ReportState.UNREAD:
        raise LifecycleError(f"report {report_id} has no draft: from UNREAD to IN_REVIEW it is opened without AI")
    else:
        if report.state is ReportState.REJECTED:
            report.sections = {}
        move_report(uow, report, ReportState.IN_REVIEW)
    _bind_to_present_images(uow, report)
    report.locked_by = reader.id
    report.locked_at = utcnow()
    uow.session.flush()
    return report.version


def release(uow: UnitOfWork, report_id: UUID) -> None:
    """Give up the lock; the Report stays IN_REVIEW with its edits. Nothing happens without a lock of one's own."""
    reader = drafter(uow)
    report = locked(uow, Report, report_id)
    if report.locked_by != reader.id:
        return
    report.locked_by = report.locked_at = None
    uow.audit(AuditTag.REPORT_RELEASED, study_id=report.study_id, report_id=report.id)


def save_sections(uow: UnitOfWork, report_id: UUID, sections: Mapping[str, str], *, seen_version: int) -> int:
    """Keep edited text as a new revision; return the Report's new version.

    Sections that are not named stay. Text that did not change makes no revision.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, or not locked by the Actor.
        RefusedInputError: an unknown section, or more than 65 536 characters.
    """
    reader, report = held_report(uow, report_id, seen_version)
    unknown = sorted(set(sections) - set(SECTION_KEYS))
    if unknown:
        raise RefusedInputError(f"unknown report sections {unknown}; known: {', '.join(SECTION_KEYS)}")
    if any(len(text) > MAX_SECTION_CHARS for text in sections.values()):
        raise RefusedInputError(f"a report section holds {MAX_SECTION_CHARS} characters at most")
    before = dict(report.sections)
    after = before | {key: text.replace("\x00", "") for key, text in sections.items()}
    changed = sorted(key for key in after if after[key] != before.get(key, ""))
    if not changed:
        return report.version
    report.sections = after
    report.updated_at = utcnow()
    number = add_revision(uow, report, author_id=reader.id)
    detail = {
        "revision": number,
        "sections": changed,
        "before_sha256": text_sha256(before),
        "after_sha256": text_sha256(after),
    } | text_change(before, after)
    uow.audit(AuditTag.REPORT_EDITED, study_id=report.study_id, report_id=report.id, detail=detail)
    uow.session.flush()
    return report.version


def decide_finding(
    uow: UnitOfWork, report_id: UUID, finding_id: UUID, decision: Decision, *, reason: str = "", seen_version: int
) -> int:
    """Record what the radiologist made of one Finding; return the Report's new version.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, not locked by the Actor, or another report's Finding.
    """
    reader, report = held_report(uow, report_id, seen_version)
    finding = locked(uow, Finding, finding_id)
    if finding.draft_id != report.draft_id:
        raise LifecycleError(f"finding {finding_id} is not of report {report_id}")
    _decide(uow, report, finding, decision, reader.id, reason)
    report.updated_at = utcnow()
    uow.session.flush()
    return report.version


def reject(uow: UnitOfWork, report_id: UUID, *, reason: str, seen_version: int, code: str = "") -> None:
    """Refuse the draft for a reason, with a ``code`` of REJECTIONS if there is one.

    Its undecided Findings are rejected with it, and what is owed of it is withdrawn.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, not locked by the Actor, or no draft.
        RefusedInputError: no reason, or an unknown code.
    """
    reader, report = held_report(uow, report_id, seen_version)
    if report.draft_id is None:
        raise LifecycleError(f"report {report_id} has no draft to reject")
    if not reason.strip():
        raise RefusedInputError("a rejection needs a reason")
    if code and code not in REJECTIONS:
        raise RefusedInputError(f"unknown code of a rejection; known: {', '.join(REJECTIONS)}")
    for finding in undecided(uow, report):
        _decide(uow, report, finding, Decision.REJECTED, reader.id, "draft rejected")
    _refuse(uow, report.draft_id, reader.id, reason.strip(), code)
    withdraw_drafts(uow, report.draft_id)
    move_report(uow, report, ReportState.REJECTED, reason=reason.strip(), detail={"code": code})
    report.locked_by = report.locked_at = None


def _refuse(uow: UnitOfWork, draft_id: UUID, reader_id: UUID, reason: str, code: str) -> None:
    """Keep that this draft was refused; one that is read again and refused again was refused already."""
    if uow.session.scalar(select(DraftRejection.id).where(DraftRejection.draft_id == draft_id)) is None:
        uow.session.add(DraftRejection(draft_id=draft_id, rejected_by=reader_id, reason=reason, code=code))


DRAFTERS = frozenset({Role.RESIDENT, Role.RADIOLOGIST, Role.LEAD})  # may work on a report
FINALISERS = frozenset({Role.RADIOLOGIST, Role.LEAD})  # may make it final, and amend it


def drafter(uow: UnitOfWork) -> UserAccount:
    """Return the Actor's account.

    Raises:
        NotAuthorisedError: the Actor is no person with an active account that drafts.
    """
    return _account(uow, DRAFTERS, "only an active resident or radiologist may work on a report")


def radiologist(uow: UnitOfWork) -> UserAccount:
    """Return the Actor's account.

    Raises:
        NotAuthorisedError: the Actor is no person with an active radiologist's account.
    """
    return _account(uow, FINALISERS, "only an active radiologist may do this")


def _account(uow: UnitOfWork, roles: frozenset[Role], refusal: str) -> UserAccount:
    actor = uow.actor
    account = uow.session.get(UserAccount, actor.user_id) if actor.kind == "person" and actor.user_id else None
    if account is None or not account.active or account.role not in roles:
        raise NotAuthorisedError(refusal)
    return account


def held_report(uow: UnitOfWork, report_id: UUID, seen_version: int) -> tuple[UserAccount, Report]:
    """Return the Actor's account and the Report in review, as the Actor saw it and locked by the Actor.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, or not locked by the Actor.
        NotAuthorisedError: the Actor is no active resident or radiologist.
    """
    reader = drafter(uow)
    report = locked(uow, Report, report_id)
    if report.version != seen_version:
        raise LifecycleError(f"report {report_id} changed since it was shown")
    if report.state is not ReportState.IN_REVIEW:
        raise LifecycleError(f"report {report_id} is {report.state.value}, not IN_REVIEW: open it first")
    if report.locked_by != reader.id:
        raise LifecycleError(f"report {report_id} is not locked by this reader: open it first")
    return reader, report


def undecided(uow: UnitOfWork, report: Report) -> list[Finding]:
    """Return the Findings of the Report's draft that nobody decided, in their order."""
    query = (
        select(Finding)
        .where(Finding.draft_id == report.draft_id, Finding.decision == Decision.PENDING)
        .order_by(Finding.position)
    )
    return list(uow.session.scalars(query))


def text_sha256(sections: Mapping[str, str]) -> str:
    """Return the SHA-256 of a report's text: canonical JSON of its non-empty sections (RFC 8785 for strings)."""
    kept = {key: text for key, text in sections.items() if text}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def text_change(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections that differ, as an event has them: old text and new (21 CFR 11.10(e)), kept apart."""
    texts = {key: (before.get(key) or "", after.get(key) or "") for key in sorted({*before, *after})}
    changed = {key: pair for key, pair in texts.items() if pair[0] != pair[1]}
    if not changed:
        return {}
    return {name: {key: pair[n] for key, pair in changed.items()} for n, name in enumerate(("before", "after"))}


def _bind_to_present_images(uow: UnitOfWork, report: Report) -> None:
    present = image_set_sha256(uow.session, report.study_id)
    if report.image_set_sha256 == present:
        return
    report.image_set_sha256 = present
    if report.draft_id is None:
        return  # written without AI: a draft has no part in it until its reader takes it
    newest = uow.session.scalar(
        select(Draft.id)
        .join(Reading, Reading.id == Draft.reading_id)
        .where(Draft.study_id == report.study_id, Draft.image_set_sha256 == present, Reading.superseded.is_(False))
        .order_by(Draft.created_at.desc())
        .limit(1)
    )
    if newest is not None:
        report.draft_id = newest


def _decide(uow: UnitOfWork, report: Report, finding: Finding, decision: Decision, user_id: UUID, reason: str) -> None:
    detail = {"from": finding.decision.value, "to": decision.value, "label": finding.label, "reason": reason}
    finding.decision = decision
    finding.decision_reason = reason
    finding.decided_by = user_id
    finding.decided_at = utcnow()
    uow.audit(
        AuditTag.FINDING_DECIDED,
        study_id=report.study_id,
        report_id=report.id,
        object_type="finding",
        object_id=str(finding.id),
        detail=detail,
    )
