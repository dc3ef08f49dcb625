"""What goes in and out of the lifecycle: plain frozen values, no rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from db.types import Presence, Priority, Use

IDENTITY_REASON = "images of this study name more than one Patient ID"


@dataclass(frozen=True)
class InstanceHeader:
    """The attributes of one Instance that are indexed; names are the DICOM keywords in snake case."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician: str = ""
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part: str = ""
    manufacturer: str = ""
    manufacturer_model: str = ""
    instance_number: int | None = None


@dataclass(frozen=True)
class NewInstance:
    """One Instance to index; its bytes are on the disk, ``path`` is relative to the instance store."""

    header: InstanceHeader
    path: str
    sha256: str
    size_bytes: int
    calling_ae: str
    called_ae: str
    quiet_s: float
    association_id: UUID | None = None
    retrieval: int = 0  # Message ID of the retrieval of ours that brought it; 0 when others sent it


@dataclass(frozen=True)
class Received:
    """What became of one Instance; ``is_new`` is False when it was held already."""

    study_id: UUID
    instance_id: UUID
    is_new: bool
    revision: int


@dataclass(frozen=True)
class Claim:
    """The right to work on one Reading until the lease ends; a newer ``fencing_token`` voids it.

    ``image_set_sha256`` covers every Instance of the Study up to ``revision``; a draft must carry it. ``use`` is
    what the routing rule said the draft is for.
    """

    reading_id: UUID
    study_id: UUID
    revision: int
    profile: str
    fencing_token: int
    attempts: int
    owner: str
    priority: Priority
    image_set_sha256: str
    use: Use = Use.CLINICAL


@dataclass(frozen=True)
class NewEvidence:
    """One Expert run, as kept beside a draft."""

    expert: str
    argument: str = ""
    version: str = ""
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    output: Mapping[str, Any] = field(default_factory=dict)
    series_instance_uid: str = ""
    label_map_path: str = ""


@dataclass(frozen=True)
class NewFinding:
    """One observation of a draft; ``evidence_index`` points into the draft's evidence."""

    label: str
    presence: Presence
    source: str
    code_value: str = ""
    code_scheme: str = ""
    code_meaning: str = ""
    laterality: str = ""
    score: float | None = None
    sentence: str = ""
    evidence_index: int | None = None
    segment_label: int | None = None
    measurements: Sequence[Mapping[str, Any]] = ()
    key_slice: Mapping[str, Any] = field(default_factory=dict)
    tracking_uid: str = ""


@dataclass(frozen=True)
class NewObject:
    """One object or message that was written into the result store, at ``path`` relative to it.

    Attributes:
        kind: a `config.results.ResultKind`.
        sop_instance_uid: its SOP Instance UID; for a message the UID that it carries as its identity.
        sop_class_uid: empty for a message.
        sha256, path: of the file.
        destinations: names of those it is owed to now.
        tracking_uids: Tracking UIDs of the Findings it shows.
    """

    kind: str
    sop_instance_uid: str
    sop_class_uid: str
    sha256: str
    path: str
    destinations: Sequence[str] = ()
    tracking_uids: Sequence[str] = ()


@dataclass(frozen=True)
class NewDraft:
    """Everything one run of the pipeline produced.

    ``priority`` may only raise; None leaves it. A present Finding with one of the ``critical`` labels opens an alert.
    """

    sections: Mapping[str, str]
    image_set_sha256: str
    pipeline_version: str
    findings: Sequence[NewFinding] = ()
    evidence: Sequence[NewEvidence] = ()
    objects: Sequence[NewObject] = ()
    not_assessed: Sequence[Mapping[str, Any]] = ()
    marks: Sequence[Mapping[str, Any]] = ()
    demonstration: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority | None = None
    critical: Sequence[str] = ()


@dataclass(frozen=True)
class DeliveryJob:
    """One object to send to one destination; ``path`` is relative to the result store."""

    delivery_id: UUID
    destination: str
    kind: str
    path: str
    sop_class_uid: str
    sop_instance_uid: str
    study_id: UUID
    attempts: int
    lease_until: datetime
