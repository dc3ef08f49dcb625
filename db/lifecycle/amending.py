"""After FINAL: an addendum adds, a correction replaces, and what was signed before is kept as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select

from config.errors import LifecycleError, RefusedInputError
from db.image_set import image_set_sha256
from db.lifecycle.checking import Checked, keep_check
from db.lifecycle.deliveries import owe
from db.lifecycle.holding import begin_hold
from db.lifecycle.moves import locked, move_report
from db.lifecycle.review import MAX_SECTION_CHARS, SECTION_KEYS, radiologist, text_change, text_sha256
from db.lifecycle.revisions import add_revision
from db.lifecycle.signing import act_detail, check_person, objects_sha256
from db.lifecycle.values import NewObject
from db.report_models import Amendment, Report, Signature, UserAccount
from db.types import ReportState, utcnow
from db.uow import UnitOfWork

AMENDABLE = frozenset({ReportState.FINAL, ReportState.ADDENDED, ReportState.CORRECTED})
_TEXT_KEYS = frozenset(SECTION_KEYS) - {"addendum"}


@dataclass(frozen=True)
class Amending:
    """One act of signing an addendum or a correction.

    Attributes:
        signature_id: of the Signature to be made.
        meaning, printed_name: what is signed with, and by whom (21 CFR 11.50).
        authenticated_at, signed_at: moments, with time zone.
        seen_version: of the Report as it was shown.
        seen_images: `db.image_set.image_set_sha256` of the Study as it was shown; empty when nobody looked.
        objects: that were made of the amended report.
        checked: what the linter said of the signed text, addenda and all.
        hold_s: pause before anything of it is sent.
        method: how the signer proved who it is.
    """

    signature_id: UUID
    meaning: str
    printed_name: str
    authenticated_at: datetime
    signed_at: datetime
    seen_version: int
    seen_images: str
    objects: Sequence[NewObject]
    checked: Checked
    hold_s: float = 0.0
    method: str = "password"


def addend(uow: UnitOfWork, report_id: UUID, text: str, act: Amending) -> Signature:
    """Sign an addendum: its text, signature, revision, objects, deliveries and audit event in one transaction.

    The report's own text stays; the signature is over that text and all addenda.

    Raises:
        NotAuthorisedError: no active radiologist, another printed name, or an authentication that is not fresh.
        LifecycleError: not signed as final yet, or report or images changed since they were shown.
        RefusedInputError: no text, too much of it, no meaning, or no object.
    """
    reader, report = _opened(uow, report_id, act)
    addendum = _text(text, "an addendum")
    return _amend(uow, report, reader, act, state=ReportState.ADDENDED, text=addendum, sections=report.sections)


def correct(uow: UnitOfWork, report_id: UUID, sections: Mapping[str, str], reason: str, act: Amending) -> Signature:
    """Sign a corrected report that replaces the one before; addenda stay. Sections that are not named stay too.

    Raises:
        NotAuthorisedError: no active radiologist, another printed name, or an authentication that is not fresh.
        LifecycleError: not signed as final yet, or report or images changed since they were shown.
        RefusedInputError: no reason, nothing changed, an unknown section, no findings and no impression, too much
            text, no meaning, or no object.
    """
    reader, report = _opened(uow, report_id, act)
    why = _text(reason, "a correction's reason")
    corrected = corrected_sections(report.sections, sections)
    return _amend(uow, report, reader, act, state=ReportState.CORRECTED, text=why, sections=corrected)


def corrected_sections(before: Mapping[str, str], sections: Mapping[str, str]) -> dict[str, str]:
    """Return a report's text with some sections replaced.

    Raises:
        RefusedInputError: nothing changed, an unknown section, no findings and no impression, or too much text.
    """
    unknown = sorted(set(sections) - _TEXT_KEYS)
    if unknown:
        raise RefusedInputError(f"unknown report sections {unknown}; known: {', '.join(sorted(_TEXT_KEYS))}")
    if any(len(text) > MAX_SECTION_CHARS for text in sections.values()):
        raise RefusedInputError(f"a report section holds {MAX_SECTION_CHARS} characters at most")
    after = dict(before) | {key: text.replace("\x00", "") for key, text in sections.items()}
    if text_sha256(after) == text_sha256(before):
        raise RefusedInputError("a correction changes the text; to add to it, write an addendum")
    if not any(after.get(key, "").strip() for key in ("findings", "impression")):
        raise RefusedInputError("a report without findings or impression cannot be signed")
    return after


def with_addenda(sections: Mapping[str, str], addenda: Sequence[str]) -> dict[str, str]:
    """Return what a signature is over: the text, and every addendum in order."""
    numbered = [f"Addendum {number}:\n{text}" for number, text in enumerate(addenda, 1)]
    return {**sections, "addendum": "\n\n".join(numbered)} if numbered else dict(sections)


def _opened(uow: UnitOfWork, report_id: UUID, act: Amending) -> tuple[UserAccount, Report]:
    reader = radiologist(uow)
    check_person(reader, act.printed_name, act.authenticated_at, act.signed_at)
    if not act.meaning.strip():
        raise RefusedInputError("a signature needs its meaning")
    if not act.objects:
        raise RefusedInputError("a signature needs the signed object")
    report = locked(uow, Report, report_id)
    if report.state not in AMENDABLE:
        raise LifecycleError(f"report {report_id} is {report.state.value}: only a final report is amended")
    if report.version != act.seen_version:
        raise LifecycleError(f"report {report_id} changed since it was shown")
    if act.seen_images != image_set_sha256(uow.session, report.study_id):
        raise LifecycleError(f"the images of report {report_id} changed since they were shown")
    return reader, report


def _text(text: str, what: str) -> str:
    clean = text.replace("\x00", "").strip()
    if not clean:
        raise RefusedInputError(f"{what} needs text")
    if len(clean) > MAX_SECTION_CHARS:
        raise RefusedInputError(f"{what} holds {MAX_SECTION_CHARS} characters at most")
    return clean


def _amend(
    uow: UnitOfWork,
    report: Report,
    reader: UserAccount,
    act: Amending,
    *,
    state: ReportState,
    text: str,
    sections: Mapping[str, str],
) -> Signature:
    session = uow.session
    addenda = _addenda(uow, report)
    signed = with_addenda(sections, [*addenda, *([text] if state is ReportState.ADDENDED else [])])
    signature = Signature(
        id=act.signature_id,
        report_id=report.id,
        user_id=reader.id,
        printed_name=act.printed_name,
        meaning=act.meaning.strip(),
        state=state,
        authenticated_at=act.authenticated_at,
        signed_at=act.signed_at,
        text_sha256=text_sha256(signed),
        draft_id=report.draft_id,
        image_set_sha256=act.seen_images,
        objects_sha256=objects_sha256({one.sop_instance_uid: one.sha256 for one in act.objects}),
        method=act.method,
    )
    session.add(signature)
    session.flush()  # first: the database itself refuses these states without a signature
    checks = keep_check(uow, signature, act.checked)
    hold = begin_hold(uow, report, signature, act.hold_s)
    number = _next(uow, report, state)
    session.add(Amendment(report_id=report.id, signature_id=signature.id, state=state, number=number, text=text))
    before, changed = text_sha256(report.sections), text_change(report.sections, sections)
    report.sections = dict(sections)
    report.image_set_sha256 = act.seen_images
    report.late_images = False
    report.locked_by = report.locked_at = None
    detail = act_detail(signature, act.objects) | {"number": number, "before_sha256": before, "checks": checks}
    detail |= changed or {"after": {"addendum": text}}
    why = text if state is ReportState.CORRECTED else ""
    move_report(uow, report, state, reason=why, detail=detail)
    add_revision(uow, report, author_id=reader.id, sections=signed)
    for made in act.objects:
        owe(uow, made, report.study_id, signature_id=signature.id, hold=hold)
    report.updated_at = utcnow()
    session.flush()
    return signature


def _addenda(uow: UnitOfWork, report: Report) -> list[str]:
    query = select(Amendment.text).where(Amendment.report_id == report.id, Amendment.state == ReportState.ADDENDED)
    return list(uow.session.scalars(query.order_by(Amendment.number)))


def _next(uow: UnitOfWork, report: Report, state: ReportState) -> int:
    query = select(func.max(Amendment.number)).where(Amendment.report_id == report.id, Amendment.state == state)
    return (uow.session.scalar(query) or 0) + 1
