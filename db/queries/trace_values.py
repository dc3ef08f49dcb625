"""What :func:`db.queries.trace.trace` answers with: plain frozen values, ids instead of names of patients."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True)
class AssociationTrace:
    """One association; ``instances_of_study`` came on it, ``rejected`` is the reason when it was refused."""

    id: UUID
    calling_ae: str
    called_ae: str
    address: str
    tls_subject: str
    user_identity: str
    opened_at: datetime
    ended_at: datetime | None
    ended_how: str
    rejected: str
    instances: int
    size_bytes: int
    instances_of_study: int = 0


@dataclass(frozen=True)
class ReceptionTrace:
    """The Instances one source sent for one revision, by association or otherwise."""

    revision: int
    calling_ae: str
    instances: int
    size_bytes: int
    first_received_at: datetime
    last_received_at: datetime


@dataclass(frozen=True)
class SeriesTrace:
    """One Series: how many Instances are known, how many of their files retention deleted."""

    series_instance_uid: str
    modality: str
    series_number: int | None
    instances: int
    deleted: int
    size_bytes: int
    first_received_at: datetime
    last_received_at: datetime


@dataclass(frozen=True)
class QuarantineTrace:
    """One object that was refused or doubted; ``relation`` says why it is listed here."""

    received_at: datetime
    reason: str
    error: str
    status: str  # DIMSE status answered, four hexadecimal digits
    sop_instance_uid: str
    calling_ae: str
    kept: bool  # whether its bytes could be kept
    relation: str


@dataclass(frozen=True)
class ExpectationTrace:
    """What a modality or an archive said the Study should hold."""

    source: str
    said_by: str
    state: str
    instances: int | None
    object_uid: str
    updated_at: datetime


@dataclass(frozen=True)
class TimerTrace:
    """When reception ends: what it still waits for, and what a Study that ended now would lack, in words."""

    state: str  # running, due, or ended
    last_received_at: datetime
    quiet_s: float
    quiet_until: datetime | None = None
    due_at: datetime | None = None
    latest_at: datetime | None = None
    seconds_left: int | None = None
    waits_for: tuple[str, ...] = ()
    short_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueueTrace:
    """Where a waiting Reading stands: how many are taken before it, and a rough guess when it is its turn."""

    ahead: int
    workers_busy: int
    usual_seconds: float | None  # median of the last drafts
    about_seconds: float | None


@dataclass(frozen=True)
class ExpertTrace:
    """One Expert that ran for a draft."""

    expert: str
    argument: str
    version: str
    weights_sha256: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class ReadingTrace:
    """One run of the pipeline over one revision; models with their hashes once it drafted."""

    id: UUID
    revision: int
    state: str
    reason: str
    superseded: bool
    profile: str
    priority: str
    use: str
    rule: str
    rule_trace: list[dict[str, Any]]
    attempts: int
    lease_owner: str
    lease_until: datetime | None
    next_attempt_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    pipeline_version: str
    queue: QueueTrace | None
    draft_id: UUID | None
    models: list[dict[str, Any]]
    experts: tuple[ExpertTrace, ...]
    seconds: dict[str, float]


@dataclass(frozen=True)
class PriorTrace:
    """One earlier Study that was chosen for comparison."""

    study_instance_uid: str
    source: str
    method: str
    state: str
    reason: str
    attempts: int
    finished_at: datetime | None


@dataclass(frozen=True)
class PriorSearchTrace:
    """The search for earlier Studies."""

    state: str
    reason: str
    candidates: int
    finished_at: datetime | None
    priors: tuple[PriorTrace, ...]


@dataclass(frozen=True)
class ReportTrace:
    """Where the report stands, and who signed it in which role."""

    id: UUID
    state: str
    in_review_by: str
    late_images: bool
    updated_at: datetime
    signatures: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class DeliveryTrace:
    """One result on its way to one destination, with what the destination answered."""

    kind: str
    sop_instance_uid: str
    destination: str
    state: str
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    last_error: str
    commitment: str
    commitment_attempts: int
    committed_at: datetime | None


@dataclass(frozen=True)
class RetentionTrace:
    """Whether the pixel data are there, and what keeps them."""

    legal_hold: bool
    pixels_deleted_at: datetime | None
    kept_because: tuple[str, ...]


@dataclass(frozen=True)
class EventTrace:
    """One event of the audit log."""

    at: datetime
    actor: str
    tag: str
    outcome: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class StudyTrace:
    """Everything that became of one Study, in the order of its journey."""

    id: UUID
    study_instance_uid: str
    accession_number: str
    modalities: str
    body_part: str
    calling_ae: str
    called_ae: str
    revision: int
    is_prior: bool
    first_received_at: datetime
    last_received_at: datetime
    instance_count: int
    duplicates: int
    identity_conflict: bool
    expected_instances: int | None
    expected_by: str
    associations: tuple[AssociationTrace, ...]
    refused_associations: tuple[AssociationTrace, ...]
    receptions: tuple[ReceptionTrace, ...]
    series: tuple[SeriesTrace, ...]
    quarantined: tuple[QuarantineTrace, ...]
    expectations: tuple[ExpectationTrace, ...]
    timer: TimerTrace
    readings: tuple[ReadingTrace, ...]
    prior_search: PriorSearchTrace | None
    report: ReportTrace
    deliveries: tuple[DeliveryTrace, ...]
    retention: RetentionTrace
    timeline: tuple[EventTrace, ...]
    timeline_left_out: int  # older events than those of ``timeline``


@dataclass(frozen=True)
class Trace:
    """The answer to one key; without Studies, what is known anyway of it and of those refused lately."""

    key: str
    asked_at: datetime
    studies: tuple[StudyTrace, ...]
    studies_left_out: int
    quarantined: tuple[QuarantineTrace, ...] = ()
    expectations: tuple[ExpectationTrace, ...] = ()
    refused_associations: tuple[AssociationTrace, ...] = ()

    @property
    def key_to_record(self) -> str:
        """The key, where it is digits and dots; what else somebody typed may be a person's name."""
        return self.key if not self.key.strip("0123456789.") else ""
