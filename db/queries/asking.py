"""What readers asked of the models about one report, read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.asking_models import Answer, AnswerCopy, Question, Redraft, RedraftOffer
from db.lifecycle.redrafting import draft_of
from db.lifecycle.values import NewDraft
from db.package_models import Package
from db.report_models import UserAccount
from db.types import PackageKind, PackageState


@dataclass(frozen=True)
class AskedRow:
    """One question, its answer once there is one, and where a reader put it."""

    question: Question
    answer: Answer | None
    asked_by: str
    copies: Sequence[AnswerCopy]


@dataclass(frozen=True)
class RedraftRow:
    """One redraft, who asked for it, by which model package, and the draft it made."""

    redraft: Redraft
    asked_by: str
    package: Package | None
    made: NewDraft | None


def questions_of(session: Session, report_id: UUID) -> list[AskedRow]:
    """Return the questions about a Report, newest first."""
    found = session.execute(
        select(Question, Answer, UserAccount.printed_name)
        .join(UserAccount, UserAccount.id == Question.asked_by)
        .outerjoin(Answer, Answer.question_id == Question.id)
        .where(Question.report_id == report_id)
        .order_by(Question.asked_at.desc(), Question.id)
    ).all()
    copies: dict[UUID, list[AnswerCopy]] = {}
    query = select(AnswerCopy).where(AnswerCopy.report_id == report_id).order_by(AnswerCopy.created_at)
    for one in session.scalars(query):
        copies.setdefault(one.answer_id, []).append(one)
    return [
        AskedRow(question, answer, name, copies.get(answer.id, ()) if answer else ())
        for question, answer, name in found
    ]


def redrafts_of(session: Session, report_id: UUID) -> list[RedraftRow]:
    """Return the redrafts of a Report, newest first."""
    found = session.execute(
        select(Redraft, UserAccount.printed_name, Package, RedraftOffer)
        .join(UserAccount, UserAccount.id == Redraft.asked_by)
        .outerjoin(Package, Package.id == Redraft.package_id)
        .outerjoin(RedraftOffer, RedraftOffer.redraft_id == Redraft.id)
        .where(Redraft.report_id == report_id)
        .order_by(Redraft.asked_at.desc(), Redraft.id)
    ).all()
    return [
        RedraftRow(row, name, package, draft_of(kept.content) if kept else None) for row, name, package, kept in found
    ]


def drafting_packages(session: Session) -> list[Package]:
    """Return the vision-language models of the store that may draft, by name."""
    query = select(Package).where(Package.kind == PackageKind.VLM, Package.state != PackageState.RETIRED)
    return list(session.scalars(query.order_by(Package.name, Package.version)))
