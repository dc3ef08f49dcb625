"""Tables of the node and the pipeline: what was received, what was read, what was delivered.

Text, people and signatures are in ``db.report_models``. No business logic lives on a model; a Reading,
Report or Delivery changes state only in ``db.lifecycle``.
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    FetchedValue,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from db.audit_record import detail_of
from db.types import (
    CommitmentState,
    CountState,
    DeliveryState,
    Priority,
    ReadingState,
    Use,
    UtcDateTime,
    choice,
    utcnow,
)

Key = Annotated[UUID, mapped_column(primary_key=True, default=uuid4)]
Uid = Annotated[str, mapped_column(String(64))]  # VR UI, PS3.5 6.2
Long = Annotated[str, mapped_column(String(64), default="")]  # VR LO
Sha256 = Annotated[str, mapped_column(String(64))]
Instant = Annotated[datetime, mapped_column(UtcDateTime, default=utcnow)]
MaybeInstant = Annotated[datetime | None, mapped_column(UtcDateTime, default=None)]
Json = Annotated[dict[str, Any], mapped_column(JSON, default=dict)]
JsonList = Annotated[list[Any], mapped_column(JSON, default=list)]
# SQLite numbers rows itself only for a plain INTEGER primary key
_BIG = BigInteger().with_variant(Integer, "sqlite")
Sequence = Annotated[int, mapped_column(_BIG, primary_key=True)]
FAILED = text("outcome <> 'success'")  # as an index says it, and a query has to


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ImagingOrder(Base):
    """One order of an imaging procedure, as the RIS last announced it (ORM^O01, OMI^O23); a Study points at its own."""

    __tablename__ = "imaging_order"
    id: Mapped[Key]
    sender: Mapped[str] = mapped_column(String(200), default="")  # application|facility (MSH-3, MSH-4)
    placer_order_number: Mapped[str] = mapped_column(String(200), default="", index=True)  # ORC-2
    filler_order_number: Mapped[str] = mapped_column(String(200), default="")  # ORC-3
    accession_number: Mapped[str] = mapped_column(String(64), default="", index=True)  # OBR-18 or IPC-1
    study_instance_uid: Mapped[str] = mapped_column(String(64), default="", index=True)  # IPC-3, ZDS-1
    patient_id: Mapped[str] = mapped_column(String(64), default="", index=True)  # PID-3.1
    issuer_of_patient_id: Mapped[str] = mapped_column(String(200), default="")  # PID-3.4
    patient_name: Mapped[str] = mapped_column(String(324), default="")  # PN, from PID-5
    patient_birth_date: Mapped[str] = mapped_column(String(8), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    procedure_code: Mapped[str] = mapped_column(String(64), default="")  # OBR-4
    procedure_scheme: Mapped[str] = mapped_column(String(64), default="")
    procedure_text: Mapped[str] = mapped_column(String(200), default="")
    indication: Mapped[str] = mapped_column(Text, default="")  # OBR-31, or OBR-13, or NTE
    priority: Mapped[Priority] = mapped_column(choice(Priority), default=Priority.ROUTINE)  # TQ1-9, ORC-7.6, OBR-27.6
    ordering_provider: Mapped[str] = mapped_column(String(324), default="")  # PN, from OBR-16
    ordering_provider_id: Mapped[str] = mapped_column(String(64), default="")  # OBR-16.1
    visit_number: Mapped[str] = mapped_column(String(64), default="")  # PV1-19
    patient_class: Mapped[str] = mapped_column(String(16), default="")  # PV1-2
    patient_location: Mapped[str] = mapped_column(String(200), default="")  # PV1-3
    cancelled: Mapped[bool] = mapped_column(default=False)  # ORC-1 CA
    received_at: Mapped[Instant]
    updated_at: Mapped[Instant]
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (UniqueConstraint("sender", "placer_order_number", "accession_number"),)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


class Study(Base):
    """One DICOM Study as received; ``revision`` grows when images arrive after it was complete."""

    __tablename__ = "study"
    id: Mapped[Key]
    study_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    patient_id: Mapped[Long] = mapped_column(index=True)
    issuer_of_patient_id: Mapped[Long]
    patient_name: Mapped[str] = mapped_column(String(324), default="")  # VR PN: 5 x 64 + delimiters
    patient_birth_date: Mapped[str] = mapped_column(String(8), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    accession_number: Mapped[str] = mapped_column(String(16), default="", index=True)
    study_date: Mapped[str] = mapped_column(String(8), default="")
    study_time: Mapped[str] = mapped_column(String(16), default="")
    study_description: Mapped[Long]
    referring_physician: Mapped[str] = mapped_column(String(324), default="")
    modalities: Mapped[str] = mapped_column(String(64), default="")  # comma separated, sorted
    body_part: Mapped[str] = mapped_column(String(64), default="")
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    called_ae: Mapped[str] = mapped_column(String(16), default="")
    revision: Mapped[int] = mapped_column(default=1)
    instance_count: Mapped[int] = mapped_column(default=0)
    identity_conflict: Mapped[bool] = mapped_column(default=False)  # images name more than one Patient ID
    first_received_at: Mapped[Instant]
    last_received_at: Mapped[Instant] = mapped_column(index=True)
    quiet_s: Mapped[float] = mapped_column(default=10.0)
    is_prior: Mapped[bool] = mapped_column(
        default=False, server_default=false()
    )  # fetched for comparison, never drafted
    expected_instances: Mapped[int | None]  # as an archive or a modality said
    expected_by: Mapped[str] = mapped_column(String(16), default="", server_default="")  # c-find, mpps, ian
    complete_now: Mapped[bool] = mapped_column(default=False, server_default=false())  # a person will not wait longer
    legal_hold: Mapped[bool] = mapped_column(default=False, server_default=false())
    pixels_deleted_at: Mapped[MaybeInstant]  # retention took the files; rows and hashes stay
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("imaging_order.id"), index=True)  # that asked for it
    __table_args__ = (Index("ix_study_newest", "study_date", "study_time", "study_instance_uid"),)  # QIDO-RS pages


class Series(Base):
    """One DICOM Series as received."""

    __tablename__ = "series"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    series_instance_uid: Mapped[Uid]
    modality: Mapped[str] = mapped_column(String(16), default="")
    series_number: Mapped[int | None]
    series_description: Mapped[Long]
    body_part: Mapped[str] = mapped_column(String(16), default="")
    manufacturer: Mapped[str] = mapped_column(String(64), default="", server_default="")
    manufacturer_model: Mapped[str] = mapped_column(String(64), default="", server_default="")
    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)


class Instance(Base):
    """One SOP Instance, its bytes kept as received under ``path`` (relative to the instance store)."""

    __tablename__ = "instance"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    series_id: Mapped[UUID] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    sop_class_uid: Mapped[Uid]
    transfer_syntax_uid: Mapped[Uid]
    instance_number: Mapped[int | None]
    sha256: Mapped[Sha256]  # of the Dataset's bytes as received, without file meta
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(String(400))
    revision: Mapped[int] = mapped_column(default=1)
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    association_id: Mapped[UUID | None] = mapped_column(index=True)  # it came on, or in which request of STOW-RS
    deleted_at: Mapped[MaybeInstant]  # retention took the file
    received_at: Mapped[Instant]


class PeerAssociation(Base):
    """One association a peer asked for: who, from where, by which proof, and what became of it."""

    __tablename__ = "association"
    id: Mapped[Key]
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    called_ae: Mapped[str] = mapped_column(String(16), default="")
    address: Mapped[str] = mapped_column(String(64), default="")
    tls_subject: Mapped[str] = mapped_column(String(400), default="")
    user_identity: Mapped[str] = mapped_column(String(64), default="")
    rejected: Mapped[str] = mapped_column(String(200), default="")  # the reason; empty when it was accepted
    opened_at: Mapped[Instant] = mapped_column(index=True)
    ended_at: Mapped[MaybeInstant]
    ended_how: Mapped[str] = mapped_column(String(16), default="")  # released, aborted, lost
    instances: Mapped[int] = mapped_column(default=0)  # acknowledged on it
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class Quarantined(Base):
    """Something that arrived and was refused or doubted, kept with its reason for a person to see."""

    __tablename__ = "quarantined"
    id: Mapped[Key]
    reason: Mapped[str] = mapped_column(String(200))
    error: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]  # DIMSE status answered
    sop_instance_uid: Mapped[str] = mapped_column(String(64), default="", index=True)
    study_id: Mapped[UUID | None] = mapped_column(ForeignKey("study.id"), index=True)
    path: Mapped[str] = mapped_column(String(400), default="")  # empty when the bytes could not be kept
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    received_at: Mapped[Instant] = mapped_column(index=True)


class Reading(Base):
    """One run of the pipeline over one revision of one Study."""

    __tablename__ = "reading"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    revision: Mapped[int] = mapped_column(default=1)
    pipeline_version: Mapped[str] = mapped_column(String(64), default="")
    state: Mapped[ReadingState] = mapped_column(choice(ReadingState), default=ReadingState.RECEIVING, index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    profile: Mapped[str] = mapped_column(String(64), default="")
    priority: Mapped[Priority] = mapped_column(choice(Priority), default=Priority.ROUTINE)
    rule: Mapped[str] = mapped_column(String(64), default="")
    use: Mapped[Use] = mapped_column(choice(Use), default=Use.CLINICAL, server_default=Use.CLINICAL.value)
    rule_trace: Mapped[JsonList]  # [{"rule", "matched", "why"}], in order tried
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str] = mapped_column(String(64), default="")
    lease_until: Mapped[MaybeInstant] = mapped_column(index=True)
    fencing_token: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[MaybeInstant]
    created_at: Mapped[Instant]
    completed_at: Mapped[MaybeInstant]  # study fell quiet
    started_at: Mapped[MaybeInstant]
    finished_at: Mapped[MaybeInstant]
    superseded: Mapped[bool] = mapped_column(default=False)
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (UniqueConstraint("study_id", "revision", "pipeline_version"),)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


class ResultObject(Base):
    """One DICOM object or message we made, kept under ``path`` in the result store.

    A message has an empty SOP Class UID; its ``sop_instance_uid`` is the UID it carries as its identity.
    """

    __tablename__ = "result_object"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    draft_id: Mapped[UUID | None] = mapped_column(ForeignKey("draft.id"), index=True)
    signature_id: Mapped[UUID | None] = mapped_column(ForeignKey("signature.id"))
    kind: Mapped[str] = mapped_column(String(32))  # config.results.ResultKind
    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    sop_class_uid: Mapped[Uid]
    sha256: Mapped[Sha256]
    path: Mapped[str] = mapped_column(String(400))
    tracking_uids: Mapped[JsonList] = mapped_column(JSON, default=list, server_default="[]")  # Findings it shows
    created_at: Mapped[Instant]
    __table_args__ = (Index("ix_result_object_created", "created_at", "id"),)


class Delivery(Base):
    """One result object owed to one destination."""

    __tablename__ = "delivery"
    id: Mapped[Key]
    result_object_id: Mapped[UUID] = mapped_column(ForeignKey("result_object.id"), index=True)
    destination: Mapped[str] = mapped_column(String(32))
    state: Mapped[DeliveryState] = mapped_column(choice(DeliveryState), default=DeliveryState.PENDING, index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Instant] = mapped_column(index=True)
    lease_until: Mapped[MaybeInstant]
    last_error: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[Instant]
    delivered_at: Mapped[MaybeInstant]
    commitment: Mapped[CommitmentState] = mapped_column(
        choice(CommitmentState), default=CommitmentState.NOT_ASKED, server_default=CommitmentState.NOT_ASKED.value
    )
    commitment_uid: Mapped[str] = mapped_column(String(64), default="", server_default="", index=True)  # transaction
    commitment_due_at: Mapped[MaybeInstant]  # ask (again) then
    commitment_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    committed_at: Mapped[MaybeInstant]
    note_id: Mapped[UUID | None] = mapped_column(ForeignKey("result_object.id"), index=True)  # that took it back
    hold_id: Mapped[UUID | None] = mapped_column(ForeignKey("signature_hold.id"), index=True)  # it waits with
    counted: Mapped[CountState] = mapped_column(
        choice(CountState), default=CountState.NOT_ASKED, server_default=CountState.NOT_ASKED.value
    )
    count_due_at: Mapped[MaybeInstant]  # ask (again) then whether it is held
    count_attempts: Mapped[int] = mapped_column(default=0, server_default="0")  # questions without an answer
    count_missed: Mapped[int] = mapped_column(default=0, server_default="0")  # times it was not there
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (
        UniqueConstraint("result_object_id", "destination"),
        Index("ix_delivery_count_due", "destination", "counted", "count_due_at"),
        Index("ix_delivery_created", "created_at", "id"),
        Index("ix_delivery_state_created", "state", "created_at", "id"),
        Index("ix_delivery_commitment_created", "commitment", "created_at", "id"),
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class OutboxMessage(Base):
    """A task message committed with the change that causes it; the relay publishes it afterwards."""

    __tablename__ = "outbox_message"
    id: Mapped[Sequence]
    task: Mapped[str] = mapped_column(String(64))
    arguments: Mapped[Json]  # ids only
    created_at: Mapped[Instant]
    published_at: Mapped[MaybeInstant]
    __table_args__ = (Index("ix_outbox_message_waiting", "published_at", "id"),)


class AuditEvent(Base):
    """Who did what to what, when; append-only by trigger, written in the transaction of the act.

    ``body`` is the event (``db.audit_record``); the columns after ``mark`` are what the database itself reads out of
    it, so that none of them can say something else. ``audit_seal`` holds its place in the chain.
    """

    __tablename__ = "audit_event"
    seq: Mapped[Sequence]
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)  # as in the body; PostgreSQL's partition
    body: Mapped[str] = mapped_column(Text)  # canonical JSON, RFC 8785
    mark: Mapped[str | None] = mapped_column(String(96))  # db.origin; none on rows older than the chain
    actor: Mapped[str] = mapped_column(String(64), FetchedValue())  # login, process name or AE title
    actor_kind: Mapped[str] = mapped_column(String(16), FetchedValue())  # person, process, peer
    user_id: Mapped[UUID | None] = mapped_column(FetchedValue())
    tag: Mapped[str] = mapped_column(String(64), FetchedValue())  # AuditTag, subject:action
    outcome: Mapped[str] = mapped_column(String(16), FetchedValue())
    study_id: Mapped[UUID | None] = mapped_column(FetchedValue())
    reading_id: Mapped[UUID | None] = mapped_column(FetchedValue(), index=True)
    report_id: Mapped[UUID | None] = mapped_column(FetchedValue())
    object_type: Mapped[str] = mapped_column(String(32), FetchedValue())
    object_id: Mapped[str] = mapped_column(String(64), FetchedValue())
    aside: Mapped["AuditPrivate | None"] = relationship(
        primaryjoin="foreign(AuditPrivate.seq) == AuditEvent.seq", lazy="selectin", passive_deletes="all"
    )
    __table_args__ = (
        Index("ix_audit_event_study_id", "study_id", "seq"),
        Index("ix_audit_event_tag", "tag", "seq"),
        Index("ix_audit_event_actor", "actor", "seq"),
        Index("ix_audit_event_object_id", "object_id", "seq"),
        Index("ix_audit_event_failed", "occurred_at", "seq", postgresql_where=FAILED, sqlite_where=FAILED),
    )

    @property
    def detail(self) -> dict[str, Any]:
        """What else is said, the values kept apart included; those that were erased say so."""
        return detail_of(self.body, self.aside.content if self.aside else None)


class AuditPrivate(Base):
    """What an event says that names or describes a patient: beside the chain, so that it can be erased by law."""

    __tablename__ = "audit_private"
    seq: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)  # of the event
    study_id: Mapped[UUID | None] = mapped_column(index=True)  # whose patient it is
    key: Mapped[str] = mapped_column(String(64))  # of the digests in the event's body
    content: Mapped[Json]
