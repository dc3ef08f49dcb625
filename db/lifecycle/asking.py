"""Questions about a Study that its reader puts to the model, and the explicit act of using an answer.

A question and its answer are evidence beside the draft. Nothing here changes a Finding, and the text of a report
changes only by `copy_answer`, which a reader asks for.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select

from config.errors import LifecycleError, RefusedInputError
from db.asking_models import MAX_QUESTION_CHARS, Answer, AnswerCopy, ErrandState, Question
from db.audit import AuditTag
from db.lifecycle.errands import PENDING, ErrandClaim, claimed, end, held_for_asking, send, take
from db.lifecycle.review import held_report, save_sections
from db.lifecycle.worked import answer_work
from db.models import Instance, Study
from db.report_models import ReportRevision
from db.types import utcnow
from db.uow import UnitOfWork

AI_MARK = "[AI answer, not verified]"
"""Stands in front of an answer that was copied into a report, until its reader removes it."""

COPY_SECTIONS = ("findings", "impression", "recommendation", "comparison")


@dataclass(frozen=True)
class NewQuestion:
    """What a reader asks.

    Attributes:
        text: at most 500 characters.
        sop_instance_uid, frame_number: the image on screen that the model is to be shown; ``""`` leaves the choice
            to the rules of drafting. Frames count from 1.
        with_experts: the model may call its Experts.
    """

    text: str
    sop_instance_uid: str = ""
    frame_number: int = 1
    with_experts: bool = False


@dataclass(frozen=True)
class QuestionClaim:
    """A worker's right to answer one question, and the question."""

    held: ErrandClaim
    asked: NewQuestion


@dataclass(frozen=True)
class NewAnswer:
    """What the model answered, with the record of how; the fields are those of `db.asking_models.Answer`."""

    text: str
    models: Sequence[Mapping[str, Any]]
    prompt: str = ""
    pictures: Sequence[Mapping[str, Any]] = ()
    experts: Sequence[Mapping[str, Any]] = ()
    marks: Sequence[Mapping[str, Any]] = ()
    conversation: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0
    demonstration: bool = field(default=False)


def ask(uow: UnitOfWork, report_id: UUID, new: NewQuestion, *, limit: int) -> UUID:
    """Put a question about the Study of a Report that the Actor holds; return the question's id.

    Args:
        uow: of the reader.
        report_id: the Report, in review and locked by the Actor.
        new: the question.
        limit: questions one draft may be asked.

    Raises:
        LifecycleError: not IN_REVIEW, not locked by the Actor, or no draft.
        RefusedInputError: an empty or too long question, an image of another Study, the same question still
            waiting, or more questions than ``limit``.
    """
    text = _plain(new.text)
    reader, report, _ = held_for_asking(uow, report_id)
    _require_image(uow, report.study_id, new)
    of_draft = select(Question).where(Question.report_id == report.id, Question.draft_id == report.draft_id)
    asked = uow.session.scalar(select(func.count()).select_from(of_draft.subquery())) or 0
    if asked >= limit:
        raise RefusedInputError(f"{asked} questions were asked about this draft, and {limit} are allowed")
    same = of_draft.where(Question.state.in_(PENDING), Question.text == text)
    if uow.session.scalars(same).first() is not None:
        raise RefusedInputError("the same question is waiting for its answer")
    row = Question(
        id=uuid4(),
        study_id=report.study_id,
        report_id=report.id,
        draft_id=report.draft_id,
        asked_by=reader.id,
        revision=uow.session.get_one(Study, report.study_id).revision,
        image_set_sha256=report.image_set_sha256,
        text=text,
        sop_instance_uid=new.sop_instance_uid,
        frame_number=new.frame_number,
        with_experts=new.with_experts,
    )
    uow.session.add(row)
    uow.session.flush()
    detail = {"text_sha256": _sha256(text), "characters": len(text), "with_experts": new.with_experts}
    detail["sop_instance_uid"] = new.sop_instance_uid
    _audit(uow, AuditTag.QUESTION_ASKED, row, detail)
    send(uow, row, utcnow())
    return row.id


def claim_question(uow: UnitOfWork, question_id: UUID, *, owner: str, lease_s: float) -> QuestionClaim | None:
    """Take an ASKED question until the lease ends; None when there is nothing to do."""
    taken = take(uow, Question, question_id, owner=owner, lease_s=lease_s)
    if taken is None:
        return None
    row, held = taken
    return QuestionClaim(held, NewQuestion(row.text, row.sop_instance_uid, row.frame_number, row.with_experts))


def answered(uow: UnitOfWork, claim: QuestionClaim, new: NewAnswer) -> UUID:
    """Keep the answer; return its id.

    Raises:
        LifecycleError: the claim is void.
    """
    row = claimed(uow, Question, claim.held)
    answer = Answer(
        id=uuid4(),
        question_id=row.id,
        text=new.text,
        models=[dict(one) for one in new.models],
        prompt=new.prompt,
        pictures=[dict(one) for one in new.pictures],
        experts=[dict(one) for one in new.experts],
        marks=[dict(one) for one in new.marks],
        conversation=[dict(one) for one in new.conversation],
        seconds=new.seconds,
        demonstration=new.demonstration,
    )
    uow.session.add(answer)
    uow.session.flush()
    told = {"answer_id": str(answer.id), "text_sha256": _sha256(new.text), **answer_work(new)}
    end(uow, row, ErrandState.ANSWERED, **told)
    return answer.id


def copy_answer(uow: UnitOfWork, report_id: UUID, question_id: UUID, section: str, *, seen_version: int) -> int:
    """Put an answer at the end of a section, marked as the AI's, as a new revision; return the Report's new version.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, not locked by the Actor, or not an answered question about
            this Report.
        RefusedInputError: a section that takes no answers, or one that would grow too long.
    """
    if section not in COPY_SECTIONS:
        raise RefusedInputError(f"an answer goes into one of {', '.join(COPY_SECTIONS)}")
    reader, report = held_report(uow, report_id, seen_version)
    answer = uow.session.scalar(
        select(Answer)
        .join(Question, Question.id == Answer.question_id)
        .where(Question.id == question_id, Question.report_id == report.id)
    )
    if answer is None:
        raise LifecycleError("there is no such answer about this report")
    before = str(report.sections.get(section) or "").rstrip()
    text = f"{before}\n{marked(answer.text)}".lstrip()
    version = save_sections(uow, report_id, {section: text}, seen_version=seen_version)
    revision = uow.session.scalars(
        select(func.max(ReportRevision.number)).where(ReportRevision.report_id == report.id)
    ).one()
    uow.session.add(
        AnswerCopy(answer_id=answer.id, report_id=report.id, section=section, revision=revision, copied_by=reader.id)
    )
    uow.audit(
        AuditTag.ANSWER_COPIED,
        study_id=report.study_id,
        report_id=report.id,
        object_type="answer",
        object_id=str(answer.id),
        detail={"question_id": str(question_id), "section": section, "revision": revision},
    )
    uow.session.flush()
    return version


def marked(text: str) -> str:
    """Return an answer as a report may hold it: one paragraph that says whose it is."""
    return f"{AI_MARK} {' '.join(text.split())}"


def _plain(text: str) -> str:
    # no control characters: a question is one line of a prompt
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not plain:
        raise RefusedInputError("a question needs words")
    if len(plain) > MAX_QUESTION_CHARS:
        raise RefusedInputError(f"a question holds {MAX_QUESTION_CHARS} characters at most")
    return plain


def _require_image(uow: UnitOfWork, study_id: UUID, new: NewQuestion) -> None:
    if not new.sop_instance_uid:
        return
    query = select(Instance.id).where(Instance.study_id == study_id, Instance.sop_instance_uid == new.sop_instance_uid)
    if new.frame_number < 1 or uow.session.scalar(query) is None:
        raise RefusedInputError("the image of the question is none of this study")


def _audit(uow: UnitOfWork, tag: AuditTag, row: Question, detail: dict[str, Any]) -> None:
    uow.audit(
        tag,
        study_id=row.study_id,
        report_id=row.report_id,
        object_type="question",
        object_id=str(row.id),
        detail=detail,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
