"""Drafts made anew at a reader's wish: by a changed prompt, or by another model, over the same images.

What a worker made is offered beside the draft under review. Only when the reader adopts it does it become a Reading
with its Draft, its objects and their deliveries; the draft before is refused then, and what was sent of it is taken
back. Until then, and when the reader keeps what is there, the Report is untouched.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import exists, func, select

from config.errors import LifecycleError, RefusedInputError
from db.asking_models import MAX_INSTRUCTION_CHARS, ErrandState, Redraft, RedraftOffer
from db.audit import AuditTag
from db.image_set import image_set_sha256
from db.lifecycle.critical import open_suspected
from db.lifecycle.deliveries import owe, withdraw_drafts
from db.lifecycle.errands import OVERTAKEN, ErrandClaim, claimed, end, held_for_asking, send, take
from db.lifecycle.moves import locked
from db.lifecycle.priority import raise_priority
from db.lifecycle.review import held_report, text_change, text_sha256
from db.lifecycle.revisions import add_revision
from db.lifecycle.values import NewDraft, NewEvidence, NewFinding, NewObject
from db.lifecycle.work import keep_draft
from db.lifecycle.worked import draft_work
from db.lifecycle.workitem_events import reading_created, reading_superseded
from db.models import Reading, Study
from db.package_models import Package
from db.report_models import Draft, DraftRejection, Report, Signature
from db.types import PackageKind, PackageState, Presence, Priority, ReadingState, utcnow
from db.uow import UnitOfWork

STYLES = ("", "trained", "demo")
REPLACED = "the reader adopted a draft made anew in its place"


@dataclass(frozen=True)
class NewRedraft:
    """How the new draft is to differ.

    Attributes:
        instruction: what the model reads before every question, at most 500 characters.
        style: wording of the prompts: ``"trained"``, ``"demo"``, or ``""`` for the model's own.
        package_id: the vision-language model package that drafts; None for the one in force.
    """

    instruction: str = ""
    style: str = ""
    package_id: UUID | None = None


@dataclass(frozen=True)
class RedraftClaim:
    """A worker's right to one redraft, and how it is to differ; ``folder`` is the package's in the model store."""

    held: ErrandClaim
    wanted: NewRedraft
    folder: str = ""


def ask_redraft(uow: UnitOfWork, report_id: UUID, new: NewRedraft, *, limit: int) -> UUID:
    """Ask for another draft of a Report that the Actor holds and nobody signed; return the redraft's id.

    Raises:
        LifecycleError: not IN_REVIEW, not locked by the Actor, no draft, a signature, images that came since, or
            another redraft that waits.
        RefusedInputError: nothing changed, an instruction that is too long, an unknown style, a package that cannot
            draft, or more redrafts than ``limit``.
    """
    wanted = NewRedraft(_instruction(new.instruction), new.style, new.package_id)
    if wanted == NewRedraft():
        raise RefusedInputError("say what is to be different: an instruction, another wording or another model")
    if wanted.style not in STYLES:
        raise RefusedInputError("there is no such wording of the prompts")
    _require_package(uow, wanted.package_id)
    reader, report, reading = held_for_asking(uow, report_id)
    _require_unsigned(uow, report)
    _require_same_images(uow, report.study_id, report.image_set_sha256)
    asked = select(Redraft).where(Redraft.report_id == report.id, Redraft.revision == reading.revision)
    if uow.session.scalars(asked.where(Redraft.state.in_(OVERTAKEN))).first() is not None:
        raise LifecycleError("another draft was asked for already: decide on that one first")
    if (uow.session.scalar(select(func.count()).select_from(asked.subquery())) or 0) >= limit:
        raise RefusedInputError(f"{limit} new drafts of one study are allowed, and were asked for")
    row = Redraft(
        id=uuid4(),
        study_id=report.study_id,
        report_id=report.id,
        draft_id=report.draft_id,
        asked_by=reader.id,
        revision=uow.session.get_one(Study, report.study_id).revision,
        image_set_sha256=report.image_set_sha256,
        **vars(wanted),
    )
    uow.session.add(row)
    uow.session.flush()
    uow.audit(
        AuditTag.REDRAFT_ASKED,
        study_id=row.study_id,
        report_id=row.report_id,
        object_type="redraft",
        object_id=str(row.id),
        detail={
            "instruction_characters": len(wanted.instruction),
            "style": wanted.style,
            "package": str(wanted.package_id or ""),
        },
    )
    send(uow, row, utcnow())
    return row.id


def claim_redraft(uow: UnitOfWork, redraft_id: UUID, *, owner: str, lease_s: float) -> RedraftClaim | None:
    """Take an ASKED redraft until the lease ends; None when there is nothing to do."""
    taken = take(uow, Redraft, redraft_id, owner=owner, lease_s=lease_s)
    if taken is None:
        return None
    row, held = taken
    package = uow.session.get_one(Package, row.package_id) if row.package_id else None
    wanted = NewRedraft(row.instruction, row.style, row.package_id)
    return RedraftClaim(held, wanted, package.folder if package else "")


def offered(uow: UnitOfWork, claim: RedraftClaim, new: NewDraft) -> None:
    """Keep a new draft and offer it to the reader; the Report and its draft stay as they are.

    Raises:
        LifecycleError: the claim is void, or the draft speaks of other images than the claim.
    """
    row = claimed(uow, Redraft, claim.held)
    if new.image_set_sha256 != row.image_set_sha256:
        raise LifecycleError("the new draft was made from other images than its reader saw")
    uow.session.add(RedraftOffer(redraft_id=row.id, content=asdict(new)))
    uow.session.flush()
    objects = {one.sop_instance_uid: one.sha256 for one in new.objects}
    made = {"objects": objects, "image_set_sha256": new.image_set_sha256, **draft_work(new.provenance)}
    end(uow, row, ErrandState.OFFERED, **made)


def adopt(uow: UnitOfWork, report_id: UUID, redraft_id: UUID, *, seen_version: int) -> int:
    """Make an offered draft the Report's: its text, its findings, undecided; return the Report's new version.

    The text before stays in its revision. The draft before is refused with its findings and evidence kept: what is
    owed of it is withdrawn, and what was delivered is taken back as of any refused draft. Sections that the AI does
    not write stay.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, not locked by the Actor, not offered for this Report, a
            signature, or images that came since.
    """
    row = locked(uow, Redraft, redraft_id)
    before = uow.session.get_one(Draft, row.draft_id)
    locked(uow, Study, row.study_id)
    old = locked(uow, Reading, before.reading_id)  # before the Report, as everybody does
    reader, report = held_report(uow, report_id, seen_version)
    if row.report_id != report.id or row.state is not ErrandState.OFFERED or row.draft_id != report.draft_id:
        raise LifecycleError("this draft is not offered for the report as it is now")
    _require_unsigned(uow, report)
    _require_same_images(uow, report.study_id, row.image_set_sha256)
    new = offer(uow, row.id)
    _refuse(uow, before.id, reader.id)
    withdraw_drafts(uow, before.id)
    reading = _as_reading(uow, row, old, new)
    draft_id = keep_draft(uow, reading, new)
    for made in new.objects:
        owe(uow, made, reading.study_id, draft_id=draft_id)
    raise_priority(uow, reading, new.priority)
    open_suspected(uow, reading, draft_id, new.critical)
    text_before = dict(report.sections)
    report.draft_id = draft_id
    report.sections = text_before | dict(new.sections)
    report.image_set_sha256 = new.image_set_sha256
    report.updated_at = utcnow()
    number = add_revision(uow, report, author_id=None)
    row.decided_by = reader.id
    end(
        uow,
        row,
        ErrandState.ADOPTED,
        draft_id=str(draft_id),
        replaced_draft_id=str(before.id),
        revision=number,
        before_sha256=text_sha256(text_before),
        after_sha256=text_sha256(report.sections),
        **text_change(text_before, report.sections),
    )
    uow.session.flush()
    return report.version


def discard(uow: UnitOfWork, report_id: UUID, redraft_id: UUID) -> None:
    """Keep the Report as it is; what was offered stays on the record.

    Raises:
        LifecycleError: not IN_REVIEW, not locked by the Actor, or not offered for this Report.
    """
    row = locked(uow, Redraft, redraft_id)
    reader, report, _ = held_for_asking(uow, report_id)
    if row.report_id != report.id:
        raise LifecycleError("this draft is not offered for this report")
    row.decided_by = reader.id
    end(uow, row, ErrandState.DISCARDED)


def offer(uow: UnitOfWork, redraft_id: UUID) -> NewDraft:
    """Return the draft that a redraft made."""
    kept = uow.session.scalars(select(RedraftOffer).where(RedraftOffer.redraft_id == redraft_id)).one()
    return draft_of(kept.content)


def draft_of(content: Mapping[str, Any]) -> NewDraft:
    """Return the draft that was kept as JSON."""
    values = dict(content)
    values["findings"] = [
        NewFinding(**(dict(one) | {"presence": Presence(one["presence"])})) for one in values["findings"]
    ]
    values["evidence"] = [NewEvidence(**one) for one in values["evidence"]]
    values["objects"] = [NewObject(**one) for one in values["objects"]]
    values["priority"] = Priority(values["priority"]) if values["priority"] else None
    return NewDraft(**values)


def _as_reading(uow: UnitOfWork, row: Redraft, old: Reading, new: NewDraft) -> Reading:
    """Add the Reading that a redraft was, in place of ``old``: one Reading stands for a Study."""
    old.superseded = True
    uow.audit(AuditTag.READING_SUPERSEDED, study_id=old.study_id, reading_id=old.id, detail={"by_redraft": str(row.id)})
    reading_superseded(uow, old)
    reading = Reading(
        id=row.id,
        study_id=old.study_id,
        revision=old.revision,
        # one Reading a revision and pipeline; this one is beside it
        pipeline_version=f"{new.pipeline_version[:24]} redraft {row.id.hex[:12]}",
        state=ReadingState.DRAFTED,
        profile=old.profile,
        priority=old.priority,
        rule=old.rule,
        use=old.use,
        rule_trace=list(old.rule_trace),
        attempts=row.attempts,
        fencing_token=row.fencing_token,
        created_at=row.asked_at,
        completed_at=row.asked_at,
        started_at=row.asked_at,
        finished_at=row.finished_at,
    )
    uow.session.add(reading)
    uow.session.flush()
    reading_created(uow, reading)
    return reading


def _refuse(uow: UnitOfWork, draft_id: UUID, reader_id: UUID) -> None:
    if uow.session.scalar(select(DraftRejection.id).where(DraftRejection.draft_id == draft_id)) is None:
        uow.session.add(DraftRejection(draft_id=draft_id, rejected_by=reader_id, reason=REPLACED))
        uow.session.flush()


def _require_unsigned(uow: UnitOfWork, report: Report) -> None:
    if uow.session.scalar(select(exists().where(Signature.report_id == report.id))):
        raise LifecycleError(f"report {report.id} is signed: its draft is what the signature names")


def _require_same_images(uow: UnitOfWork, study_id: UUID, seen: str) -> None:
    if image_set_sha256(uow.session, study_id) != seen:
        raise LifecycleError("images arrived since: open the report again")


def _require_package(uow: UnitOfWork, package_id: UUID | None) -> None:
    if package_id is None:
        return
    package = uow.session.get(Package, package_id)
    if package is None or package.kind is not PackageKind.VLM or package.state is PackageState.RETIRED:
        raise RefusedInputError("there is no such model to draft with")


def _instruction(text: str) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(plain) > MAX_INSTRUCTION_CHARS:
        raise RefusedInputError(f"an instruction holds {MAX_INSTRUCTION_CHARS} characters at most")
    return plain
