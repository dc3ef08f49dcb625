"""Tables of the reading room: drafts, findings, evidence, reports, signatures, people."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Json, JsonList, Key, MaybeInstant, Sha256
from db.types import AccountSource, Decision, Presence, ReportState, Role, choice


class Draft(Base):
    """A Reading's output, until a radiologist decides. Immutable; edits live on the Report."""

    __tablename__ = "draft"
    id: Mapped[Key]
    reading_id: Mapped[UUID] = mapped_column(ForeignKey("reading.id"), unique=True)
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    sections: Mapped[Json]  # section key -> text: technique, comparison, findings, impression
    not_assessed: Mapped[JsonList]  # [{"what", "why"}]
    marks: Mapped[JsonList]  # content checks: [{"kind": "omission"|"contradiction"|"laterality"|…, "text", "finding"}]
    demonstration: Mapped[bool] = mapped_column(default=False)
    image_set_sha256: Mapped[Sha256]  # over the sorted Instance hashes the draft was made from
    provenance: Mapped[Json]  # models with hashes, prompts, triggers, answers, selection, timings
    created_at: Mapped[Instant]


class Finding(Base):
    """One coded observation of a Draft, with its source and what the radiologist made of it."""

    __tablename__ = "finding"
    id: Mapped[Key]
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"), index=True)
    position: Mapped[int]
    label: Mapped[str] = mapped_column(String(64))
    code_value: Mapped[str] = mapped_column(String(32), default="")
    code_scheme: Mapped[str] = mapped_column(String(16), default="")
    code_meaning: Mapped[str] = mapped_column(String(64), default="")
    presence: Mapped[Presence] = mapped_column(choice(Presence))
    laterality: Mapped[str] = mapped_column(String(16), default="")  # only when an Expert localised it
    score: Mapped[float | None]  # uncalibrated model score 0…1
    source: Mapped[str] = mapped_column(String(64))  # expert or model that asserts it
    sentence: Mapped[str] = mapped_column(Text, default="")
    evidence_id: Mapped[UUID | None] = mapped_column(ForeignKey("evidence.id"))
    segment_label: Mapped[int | None]  # label value in the evidence's label map
    measurements: Mapped[JsonList]  # [{"name", "value", "unit"}]
    key_slice: Mapped[Json]  # {"series_instance_uid", "sop_instance_uid", "index"}
    tracking_uid: Mapped[str] = mapped_column(String(64), default="")
    decision: Mapped[Decision] = mapped_column(choice(Decision), default=Decision.PENDING)
    decision_reason: Mapped[str] = mapped_column(Text, default="")
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    decided_at: Mapped[MaybeInstant]


class Evidence(Base):
    """One Expert run behind a Draft: what it was asked, what it answered, with which weights."""

    __tablename__ = "evidence"
    id: Mapped[Key]
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"), index=True)
    expert: Mapped[str] = mapped_column(String(64))
    argument: Mapped[str] = mapped_column(String(64), default="")
    version: Mapped[str] = mapped_column(String(64))
    weights_sha256: Mapped[Json]
    seconds: Mapped[float]
    output: Mapped[Json]  # probabilities, or label names with volumes
    series_instance_uid: Mapped[str] = mapped_column(String(64), default="")
    label_map_path: Mapped[str] = mapped_column(String(400), default="")  # npz in the result store; "" for none
    created_at: Mapped[Instant]


class Report(Base):
    """The report of one Study: its state, its lock and its current text."""

    __tablename__ = "report"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), unique=True)
    draft_id: Mapped[UUID | None] = mapped_column(ForeignKey("draft.id"))
    state: Mapped[ReportState] = mapped_column(choice(ReportState), default=ReportState.UNREAD, index=True)
    sections: Mapped[Json]
    locked_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    locked_at: Mapped[MaybeInstant]
    reason: Mapped[str] = mapped_column(Text, default="")  # of the rejection
    # over every Instance the reader could see when the draft was made or the review opened
    image_set_sha256: Mapped[str] = mapped_column(String(64), default="")
    late_images: Mapped[bool] = mapped_column(default=False)  # arrived after FINAL: a banner, never a change
    # its place on the worklist, kept by the database itself (migrations 0016, 0025); nobody else writes these three
    lane: Mapped[str] = mapped_column(String(16), default="processing", server_default="processing")
    urgency: Mapped[int] = mapped_column(default=3, server_default="3")  # STAT 0, suspected critical 1, URGENT 2
    listed_at: Mapped[Instant] = mapped_column(server_default="1970-01-01 00:00:00")  # first image received
    suspected_critical: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[Instant]
    updated_at: Mapped[Instant]
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (
        Index("ix_report_lane_urgency", "lane", "urgency", "listed_at", "study_id"),
        Index("ix_report_lane_listed", "lane", "listed_at", "study_id"),
        Index("ix_report_urgency", "urgency", "listed_at", "study_id"),
        Index("ix_report_listed", "listed_at", "study_id"),
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale tab loses


class ReportRevision(Base):
    """What a Report said at one save; never changed."""

    __tablename__ = "report_revision"
    id: Mapped[Key]
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    number: Mapped[int]
    sections: Mapped[Json]
    author_id: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))  # None: the pipeline
    created_at: Mapped[Instant]
    __table_args__ = (UniqueConstraint("report_id", "number"),)


class Signature(Base):
    """A radiologist's signature: who, when, meaning, and what exactly was signed (21 CFR 11.50, 11.70)."""

    __tablename__ = "signature"
    id: Mapped[Key]
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    printed_name: Mapped[str] = mapped_column(String(128))
    meaning: Mapped[str] = mapped_column(String(200))
    state: Mapped[ReportState] = mapped_column(choice(ReportState))  # PRELIMINARY, FINAL, ADDENDED, CORRECTED
    authenticated_at: Mapped[Instant]
    signed_at: Mapped[Instant] = mapped_column(index=True)
    text_sha256: Mapped[Sha256]  # canonical JSON of the sections
    draft_id: Mapped[UUID | None] = mapped_column(ForeignKey("draft.id"), index=True)
    image_set_sha256: Mapped[str] = mapped_column(String(64), default="")
    # over the sorted "SOP Instance UID:SHA-256" of the objects that the signature made
    objects_sha256: Mapped[str] = mapped_column(String(64), default="", server_default="")
    method: Mapped[str] = mapped_column(String(16), default="password", server_default="password")  # of the proof
    __table_args__ = (Index("ix_signature_user_signed", "user_id", "signed_at"),)


class Amendment(Base):
    """What a radiologist added to a signed report, or why it was corrected; one signature each, never changed."""

    __tablename__ = "amendment"
    id: Mapped[Key]
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    signature_id: Mapped[UUID] = mapped_column(ForeignKey("signature.id"), unique=True)
    state: Mapped[ReportState] = mapped_column(choice(ReportState))  # ADDENDED or CORRECTED
    number: Mapped[int]  # of the addenda, or of the corrections, of this report
    text: Mapped[str] = mapped_column(Text)  # of the addendum; of a correction, its reason
    created_at: Mapped[Instant]
    __table_args__ = (
        UniqueConstraint("report_id", "state", "number"),
        Index("ix_amendment_created", "created_at", "id"),
    )


SET_ASIDE = "SET_ASIDE"  # code of a Draft that nobody judged: the report was written without it


class DraftRejection(Base):
    """A reader's refusal of a whole Draft, or its use in no report, and why; it never stands again."""

    __tablename__ = "draft_rejection"
    id: Mapped[Key]
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"), unique=True)
    rejected_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    reason: Mapped[str] = mapped_column(Text)
    # of db.lifecycle.review.REJECTIONS, or SET_ASIDE
    code: Mapped[str] = mapped_column(String(32), default="", server_default="")
    created_at: Mapped[Instant]


class UserAccount(Base):
    """A person who may log in; never reused, never deleted (21 CFR 11.100)."""

    __tablename__ = "user_account"
    id: Mapped[Key]
    login: Mapped[str] = mapped_column(String(64), unique=True)
    printed_name: Mapped[str] = mapped_column(String(128))
    role: Mapped[Role] = mapped_column(choice(Role))
    password_hash: Mapped[str] = mapped_column(String(200))  # "" where somebody else checks passwords
    source: Mapped[AccountSource] = mapped_column(
        choice(AccountSource), default=AccountSource.LOCAL, server_default=AccountSource.LOCAL.value
    )
    external_id: Mapped[str | None] = mapped_column(String(64), unique=True)  # SHA-256 of issuer and subject
    active: Mapped[bool] = mapped_column(default=True)
    failed_logins: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[MaybeInstant]
    created_at: Mapped[Instant]
    last_login_at: Mapped[MaybeInstant]
