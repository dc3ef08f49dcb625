"""Tables of running the system: the queue's switch, workers that are alive, what people asked, and disk measures."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Json, JsonList, Key, MaybeInstant, Sequence
from db.types import QueueMode, SwitchState, UtcDateTime, choice


class QueueSwitch(Base):
    """Whether workers take Readings; the row that was written last is in force, none means OPEN."""

    __tablename__ = "queue_switch"
    id: Mapped[Sequence]
    mode: Mapped[QueueMode] = mapped_column(choice(QueueMode))
    reason: Mapped[str] = mapped_column(String(200), default="")
    changed_by: Mapped[str] = mapped_column(String(64))
    changed_at: Mapped[Instant]


class WorkerPresence(Base):
    """One worker process that says again and again that it is there, and which models it holds."""

    __tablename__ = "worker_presence"
    owner: Mapped[str] = mapped_column(String(64), primary_key=True)  # as in reading.lease_owner
    started_at: Mapped[Instant]
    seen_at: Mapped[Instant] = mapped_column(UtcDateTime, index=True)
    models: Mapped[JsonList]  # cards of what it would draft with: {"name", "version", …, "is_warm"}


class NodeTask(Base):
    """Something a person asked the node to do: look at a peer or an archive, or send the self-test study."""

    __tablename__ = "node_task"
    id: Mapped[Key]
    kind: Mapped[str] = mapped_column(String(16))  # peer, source, self_test
    target: Mapped[str] = mapped_column(String(64))  # AE title or name of the source; empty for a self-test
    study_instance_uid: Mapped[str] = mapped_column(String(64), default="", index=True)  # of the self-test study
    asked_by: Mapped[str] = mapped_column(String(64), default="")
    asked_at: Mapped[Instant]
    lease_until: Mapped[MaybeInstant]  # a node is at it
    finished_at: Mapped[MaybeInstant]
    is_good: Mapped[bool] = mapped_column(default=False, server_default=false())
    steps: Mapped[JsonList]  # [{"name", "is_good", "note", "milliseconds"}], in the order they were done
    __table_args__ = (Index("ix_node_task_waiting", "kind", "finished_at", "asked_at"),)


class ModelSwitch(Base):
    """A proposal that a model package drafts, or never again: made by one person, approved by another."""

    __tablename__ = "model_switch"
    id: Mapped[Key]
    package_id: Mapped[UUID] = mapped_column(ForeignKey("model_package.id"), index=True)
    act: Mapped[str] = mapped_column(String(16))  # activate, retire
    reason: Mapped[str] = mapped_column(Text)
    fall_back: Mapped[bool] = mapped_column(default=False)  # what the configuration names may draft instead
    state: Mapped[SwitchState] = mapped_column(choice(SwitchState), default=SwitchState.PROPOSED, index=True)
    proposed_by: Mapped[str] = mapped_column(String(64))
    proposer_id: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    proposed_at: Mapped[Instant]
    expires_at: Mapped[Instant] = mapped_column(UtcDateTime)
    verified_at: Mapped[MaybeInstant]  # a worker compared every file with the manifest
    faults: Mapped[JsonList]  # what differed
    decided_by: Mapped[str] = mapped_column(String(64), default="")
    decided_at: Mapped[MaybeInstant]
    answer: Mapped[str] = mapped_column(Text, default="")  # what the second person said
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale tab loses


class DiskMeasure(Base):
    """What the parts of the data folder hold, as counted at one moment."""

    __tablename__ = "disk_measure"
    id: Mapped[Sequence]
    taken_at: Mapped[Instant]
    seconds: Mapped[float]  # it took
    parts: Mapped[Json]  # {"instances": {"bytes", "files"}, …}
    # {"days_of_data", "per_day_7", "per_day_30", "kept": [{"reason", "studies", "bytes"}], "may_go": …}
    facts: Mapped[Json]
