"""Tables of what readers ask of the models about a report under review: questions, and drafts made anew.

Both are errands: a reader asks, a worker does the work under a lease, and what it made is kept and never changed.
A Report is untouched by either until its reader adopts a draft or copies an answer.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Json, JsonList, Key, MaybeInstant, Sha256
from db.types import UtcDateTime, choice, utcnow

MAX_QUESTION_CHARS = 500
MAX_INSTRUCTION_CHARS = 500


class ErrandState(StrEnum):
    """Where an errand stands; which of these a question or a redraft may have is in ``db.lifecycle.tables``."""

    ASKED = "ASKED"
    RUNNING = "RUNNING"
    ANSWERED = "ANSWERED"  # a question
    OFFERED = "OFFERED"  # a redraft that waits for its reader
    ADOPTED = "ADOPTED"
    DISCARDED = "DISCARDED"
    REFUSED = "REFUSED"  # by a gate, or overtaken by later images; the reason says why
    FAILED = "FAILED"


class Errand:
    """Columns that questions and redrafts share: who asked about what, and the worker's lease."""

    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"))  # that was under review
    asked_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    asked_at: Mapped[Instant]
    revision: Mapped[int]  # of the Study
    image_set_sha256: Mapped[Sha256]  # over the images that the reader saw
    state: Mapped[ErrandState] = mapped_column(choice(ErrandState), default=ErrandState.ASKED, index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str] = mapped_column(String(64), default="")
    lease_until: Mapped[MaybeInstant]
    fencing_token: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=utcnow)  # when it is sent again
    finished_at: Mapped[MaybeInstant]
    version: Mapped[int] = mapped_column(default=1)


class Question(Errand, Base):
    """What a reader asked the model about a Study."""

    __tablename__ = "question"
    text: Mapped[str] = mapped_column(String(MAX_QUESTION_CHARS))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), default="")  # the image on screen; "" for the model's own
    frame_number: Mapped[int] = mapped_column(default=1)
    with_experts: Mapped[bool] = mapped_column(default=False)
    __mapper_args__ = {"version_id_col": Errand.version}  # noqa: RUF012 a stale writer loses


class Answer(Base):
    """What the model answered, and from what; never changed, and no part of a report."""

    __tablename__ = "answer"
    id: Mapped[Key]
    question_id: Mapped[UUID] = mapped_column(ForeignKey("question.id"), unique=True)
    text: Mapped[str] = mapped_column(Text)
    models: Mapped[JsonList]  # as in a draft's provenance: name, version, licence, weights_sha256
    prompt: Mapped[str] = mapped_column(Text)  # as the model read it, fully rendered
    pictures: Mapped[JsonList]  # records of `worker.pictures.Picture`
    experts: Mapped[JsonList]  # [{"expert", "argument", "version", "seconds", "output", "sha256"}]
    marks: Mapped[JsonList]  # lapses of the model: [{"kind", "finding", "text"}]
    conversation: Mapped[JsonList]  # every turn
    seconds: Mapped[float]
    demonstration: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[Instant]


class AnswerCopy(Base):
    """A reader's act of putting an answer into the text of a report; never changed."""

    __tablename__ = "answer_copy"
    id: Mapped[Key]
    answer_id: Mapped[UUID] = mapped_column(ForeignKey("answer.id"), index=True)
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"))
    section: Mapped[str] = mapped_column(String(32))
    revision: Mapped[int]  # number of the ReportRevision that holds it
    copied_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    created_at: Mapped[Instant]


class Redraft(Errand, Base):
    """A wish for another draft of the same images, by a changed prompt or another model.

    Once adopted it is a Reading of the same id.
    """

    __tablename__ = "redraft"
    instruction: Mapped[str] = mapped_column(String(MAX_INSTRUCTION_CHARS), default="")  # before every question
    style: Mapped[str] = mapped_column(String(16), default="")  # of the prompts; "" for the package's own
    package_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_package.id"))  # None: the model in force
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    __mapper_args__ = {"version_id_col": Errand.version}  # noqa: RUF012 a stale writer loses


class RedraftOffer(Base):
    """The draft a redraft made; never changed. It becomes a Draft, with its objects, when a reader adopts it."""

    __tablename__ = "redraft_offer"
    id: Mapped[Key]
    redraft_id: Mapped[UUID] = mapped_column(ForeignKey("redraft.id"), unique=True)
    content: Mapped[Json]  # `db.lifecycle.values.NewDraft`
    created_at: Mapped[Instant]
