"""The only path to PRELIMINARY and FINAL: one person's fresh signature over one text and one image set."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from config.destination import Destination
from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from config.results import EVIDENCE, ResultKind, receivers
from db.image_set import image_set_sha256
from db.lifecycle.checking import Checked, keep_check
from db.lifecycle.deliveries import owe, owe_also, withdraw_drafts
from db.lifecycle.holding import begin_hold
from db.lifecycle.moves import locked, move_report
from db.lifecycle.review import drafter, radiologist, text_sha256, undecided
from db.lifecycle.revisions import add_revision
from db.lifecycle.standing import fallen
from db.lifecycle.values import NewObject
from db.lifecycle.without_ai import await_no_longer, awaited_reading
from db.models import ResultObject
from db.report_models import Report, Signature, UserAccount
from db.signing_models import SignatureHold
from db.types import Presence, ReportState, utcnow
from db.uow import UnitOfWork

FRESH_S = 300.0  # a signature needs an authentication not older than this
_CLOCK_SLACK_S = 5.0


def sign(  # noqa: PLR0913 keyword-only; each is part of what a signature is (21 CFR 11.50)
    uow: UnitOfWork,
    report_id: UUID,
    *,
    state: ReportState,
    meaning: str,
    printed_name: str,
    authenticated_at: datetime,
    seen_version: int,
    objects: Sequence[NewObject],
    signed_at: datetime,
    signature_id: UUID,
    checked: Checked,
    destinations: Sequence[Destination] = (),
    hold_s: float = 0.0,
    method: str = "password",
) -> Signature:
    """Sign a Report: state, signature, revision, objects, deliveries and audit event in one transaction.

    The signature binds the account, its printed name, the meaning, the hash of the exact text, the draft
    and the image set and what was checked of it (21 CFR 11.50, 11.70, 11.200). Nothing of it leaves before ``hold_s``
    are over. A FINAL one also lets the draft's evidence go to those of
    ``destinations`` that take it and have not got it, unless it shows a Finding that the reader rejected.

    Raises:
        NotAuthorisedError: no active radiologist, another printed name, or an authentication that is not fresh.
        LifecycleError: stale version, a check of another text or one that blocks, another reader's lock, images that
            changed since the draft or review, a Finding asserted as present that is undecided, or a state that
            cannot be signed.
        RefusedInputError: no meaning, no text, no object, or a state that is no signature's.
    """
    reader = drafter(uow) if state is ReportState.PRELIMINARY else radiologist(uow)
    check_person(reader, printed_name, authenticated_at, signed_at)
    _check_request(state, meaning, objects)
    awaited = awaited_reading(uow, report_id)
    report = locked(uow, Report, report_id)
    _check_report(uow, report, reader, seen_version)
    await_no_longer(uow, report, awaited, reader.id)
    signature = Signature(
        id=signature_id,
        report_id=report.id,
        user_id=reader.id,
        printed_name=printed_name,
        meaning=meaning.strip(),
        state=state,
        authenticated_at=authenticated_at,
        signed_at=signed_at,
        text_sha256=text_sha256(report.sections),
        draft_id=report.draft_id,
        image_set_sha256=report.image_set_sha256,
        objects_sha256=objects_sha256({one.sop_instance_uid: one.sha256 for one in objects}),
        method=method,
    )
    uow.session.add(signature)
    uow.session.flush()  # first: the database itself refuses these states without a signature
    detail = act_detail(signature, objects) | {"checks": keep_check(uow, signature, checked)}
    hold = begin_hold(uow, report, signature, hold_s)
    move_report(uow, report, state, detail=detail)
    add_revision(uow, report, author_id=reader.id)
    for made in objects:
        owe(uow, made, report.study_id, signature_id=signature_id, hold=hold)
    if report.draft_id is not None:
        withdraw_drafts(uow, report.draft_id, only_fallen=True)
        if state is ReportState.FINAL:
            _owe_evidence(uow, report.draft_id, destinations, hold)
    report.locked_by = report.locked_at = None
    report.late_images = False
    uow.session.flush()
    return signature


def act_detail(signature: Signature, objects: Sequence[NewObject]) -> dict[str, object]:
    """Return what the audit event of a signature says."""
    return {
        "signature_id": str(signature.id),
        "meaning": signature.meaning,
        "text_sha256": signature.text_sha256,
        "image_set_sha256": signature.image_set_sha256,
        "objects_sha256": signature.objects_sha256,
        "method": signature.method,
        "authenticated_at": signature.authenticated_at.isoformat(),
        "objects": {o.sop_instance_uid: o.sha256 for o in objects},
    }


def objects_sha256(made: Mapping[str, str]) -> str:
    """Return the hash that binds a signature to its objects: SOP Instance UID → SHA-256, one a line, sorted."""
    return hashlib.sha256("\n".join(f"{uid}:{digest}" for uid, digest in sorted(made.items())).encode()).hexdigest()


def _owe_evidence(
    uow: UnitOfWork, draft_id: UUID, destinations: Sequence[Destination], hold: SignatureHold | None
) -> None:
    for made in uow.session.scalars(select(ResultObject).where(ResultObject.draft_id == draft_id)).all():
        if made.kind in EVIDENCE and fallen(uow.session, made) is None:
            owe_also(uow, made, receivers(destinations, ResultKind(made.kind), is_signed=True), hold)


def check_person(reader: UserAccount, printed_name: str, authenticated_at: datetime, signed_at: datetime) -> None:
    """Require the account's own name, a fresh authentication, and a moment between it and now.

    Raises:
        NotAuthorisedError: one of them is missing.
    """
    now = utcnow()
    slack = timedelta(seconds=_CLOCK_SLACK_S)
    if printed_name != reader.printed_name:
        raise NotAuthorisedError("the printed name is not the one of the signing account")
    if not now - timedelta(seconds=FRESH_S) <= authenticated_at <= now + slack:
        raise NotAuthorisedError("signing needs an authentication not older than five minutes")
    if not authenticated_at - slack <= signed_at <= now + slack:
        raise NotAuthorisedError("the time of signing is not between the authentication and now")


def _check_request(state: ReportState, meaning: str, objects: Sequence[NewObject]) -> None:
    if state not in {ReportState.PRELIMINARY, ReportState.FINAL}:
        raise RefusedInputError(f"a signature makes a report PRELIMINARY or FINAL, not {state.value}")
    if not meaning.strip():
        raise RefusedInputError("a signature needs its meaning")
    if not objects:
        raise RefusedInputError("a signature needs the signed object")


def _check_report(uow: UnitOfWork, report: Report, reader: UserAccount, seen_version: int) -> None:
    if report.version != seen_version:
        raise LifecycleError(f"report {report.id} changed since it was shown")
    # a preliminary report may be made final as it stands; a review belongs to the reader who holds it
    mine = {None, reader.id} if report.state is ReportState.PRELIMINARY else {reader.id}
    if report.state in {ReportState.IN_REVIEW, ReportState.PRELIMINARY} and report.locked_by not in mine:
        raise LifecycleError(f"report {report.id} is not locked by this reader: open it first")
    if not any(str(report.sections.get(key, "")).strip() for key in ("findings", "impression")):
        raise RefusedInputError("a report without findings or impression cannot be signed")
    if report.image_set_sha256 != image_set_sha256(uow.session, report.study_id):
        raise LifecycleError(f"the images of report {report.id} changed since they were read: open it again")
    if any(finding.presence is Presence.PRESENT for finding in undecided(uow, report)):
        raise LifecycleError(f"report {report.id} has findings nobody decided: accept or reject each")
