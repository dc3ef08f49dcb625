"""A Study under review, and what its reader asks of the models."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select

from db import lifecycle
from db.asking_models import Question, Redraft
from db.lifecycle import NewDraft, asking, redrafting
from db.lifecycle.asking import NewAnswer, NewQuestion
from db.lifecycle.redrafting import NewRedraft
from db.uow import Actor, unit_of_work
from tests.db_support import WORKER, Journey, new_draft, open_review, person, received

ANSWER = NewAnswer(
    "No pleural effusion is seen.",
    models=[{"role": "VLM", "name": "demo-vlm", "version": "1", "weights_sha256": {"w": "0" * 64}}],
    prompt="<image>This is a CT image. Is there an effusion?",
    pictures=[{"kind": "plain", "slice_number": 3}],
    conversation=[{"wrote": "No pleural effusion is seen."}],
    seconds=1.5,
    demonstration=True,
)


@dataclass
class Review:
    """A drafted Study that one reader holds."""

    journey: Journey
    reader: Actor
    version: int

    @property
    def report_id(self) -> UUID:
        """The Report's id."""
        return self.journey.report().id

    def ask(self, text: str = "Is there an effusion?", *, actor: Actor | None = None, limit: int = 20, **what: Any):
        """Ask; return the question's id."""
        with unit_of_work(self.journey.sessions, actor or self.reader) as uow:
            return asking.ask(uow, self.report_id, NewQuestion(text, **what), limit=limit)

    def ask_redraft(self, instruction: str = "Compare the left apex.", *, actor: Actor | None = None, **what: Any):
        """Ask for another draft; return its id."""
        limit = what.pop("limit", 5)
        with unit_of_work(self.journey.sessions, actor or self.reader) as uow:
            return redrafting.ask_redraft(uow, self.report_id, NewRedraft(instruction, **what), limit=limit)

    def take_question(self, question_id: UUID, *, owner: str = "w1", lease_s: float = 60.0):
        """Take a question as a worker does; None when there is nothing to do."""
        with unit_of_work(self.journey.sessions, WORKER) as uow:
            return asking.claim_question(uow, question_id, owner=owner, lease_s=lease_s)

    def take_redraft(self, redraft_id: UUID, *, lease_s: float = 60.0):
        """Take a redraft as a worker does."""
        with unit_of_work(self.journey.sessions, WORKER) as uow:
            return redrafting.claim_redraft(uow, redraft_id, owner="w1", lease_s=lease_s)

    def answered(self, question_id: UUID, answer: NewAnswer = ANSWER) -> UUID:
        """Take a question and answer it; return the answer's id."""
        claim = self.take_question(question_id)
        with unit_of_work(self.journey.sessions, WORKER) as uow:
            return asking.answered(uow, claim, answer)

    def offered(self, redraft_id: UUID, **changes: Any) -> NewDraft:
        """Take a redraft and offer a draft; return it."""
        claim = self.take_redraft(redraft_id)
        made = new_draft(claim.held, **(CHANGED | changes))
        with unit_of_work(self.journey.sessions, WORKER) as uow:
            redrafting.offered(uow, claim, made)
        return made

    def adopt(self, redraft_id: UUID, *, actor: Actor | None = None, version: int | None = None) -> int:
        """Adopt what is offered; return the Report's new version."""
        seen = self.journey.report().version if version is None else version
        with unit_of_work(self.journey.sessions, actor or self.reader) as uow:
            return redrafting.adopt(uow, self.report_id, redraft_id, seen_version=seen)

    def question(self, question_id: UUID) -> Question:
        """The row as it is now."""
        with self.journey.sessions() as session:
            return session.get_one(Question, question_id)

    def redraft(self, redraft_id: UUID) -> Redraft:
        """The row as it is now."""
        with self.journey.sessions() as session:
            return session.get_one(Redraft, redraft_id)

    def rows(self, model: Any, **columns: Any) -> list[Any]:
        """All rows with these values."""
        with self.journey.sessions() as session:
            return list(session.scalars(select(model).filter_by(**columns)))


CHANGED: dict[str, Any] = {
    "sections": {"findings": "Two nodules.", "impression": "Nodules."},
    "pipeline_version": "1.0",
}


def under_review(sessions: Any, study: str = "1.2.826.0.1") -> Review:
    """A drafted Study that a radiologist opened."""
    journey = received(sessions, study).queued().running().drafted()
    reader = person(sessions, f"reader{study[-1]}")
    return Review(journey, reader, open_review(journey, reader))


def edit(review: Review, **sections: str) -> int:
    """Save text; return the Report's new version."""
    with unit_of_work(review.journey.sessions, review.reader) as uow:
        return lifecycle.save_sections(uow, review.report_id, sections, seen_version=review.journey.report().version)
