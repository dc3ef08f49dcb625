"""What goes into our DICOM objects: algorithms, findings, sections, signers, and the identity that fixes their UIDs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydicom.dataset import Dataset

from config.errors import RefusedInputError
from reports.codes import Laterality

Presence = Literal["present", "absent", "undetermined"]
SectionKey = Literal["history", "technique", "comparison", "findings", "impression", "recommendation", "addendum"]
ObjectKind = Literal[
    "seg",
    "findings_sr",
    "draft_sr",
    "preliminary_sr",
    "signed_sr",
    "heat_map",
    "signed_findings_sr",
    "key_images",
    "presentation_state",
    "secondary_capture",
    "text_sr",
    "pdf",
    "rejection_note",
    "seg_labelmap",
]

SERIES_NUMBERS: Mapping[ObjectKind, int] = {
    "seg": 901,
    "findings_sr": 902,
    "draft_sr": 903,
    "preliminary_sr": 904,
    "signed_sr": 905,
    "heat_map": 906,
    "signed_findings_sr": 907,
    "key_images": 908,
    "presentation_state": 909,
    "secondary_capture": 910,
    "text_sr": 911,
    "pdf": 912,
    "rejection_note": 913,
    "seg_labelmap": 914,
}
"""Reserved Series Numbers, far above a scanner's own."""


def stable_uid(*parts: str, root: str | None = None) -> str:
    """Return the one UID that belongs to ``parts``, the same on every machine and every retry.

    Args:
        parts: what the UID stands for; order matters.
        root: the site's UID root without a trailing dot; None for ``2.25`` (PS3.5 Annex B.2).

    Returns:
        A UID of at most 64 characters.

    Raises:
        RefusedInputError: ``root`` leaves fewer than 20 digits for the unique part.
    """
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    if root is None:
        return f"2.25.{UUID(bytes=digest[:16], version=5).int}"
    room = 64 - len(root) - 1
    if room < 20:
        raise RefusedInputError(f"UID root {root!r} leaves {room} digits, at least 20 are needed")
    return f"{root}.{str(int.from_bytes(digest) | 1 << 255)[:room]}"


def weights_digest(weights_sha256: Mapping[str, str]) -> str:
    """Return one SHA-256 for all weight files of a model package: name and digest of each, sorted by name."""
    listing = "\n".join(f"{digest}  {name}" for name, digest in sorted(weights_sha256.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


@dataclass(frozen=True)
class AlgorithmIdentity:
    """Which model spoke, in the four places that IHE AI Results wants it.

    Attributes:
        name, version, manufacturer: as shown to people.
        weights_sha256: hex digest of the weights (:func:`weights_digest` for several files).
        parameters: ``name=value`` texts, for example ``"threshold=0.5"``.
        demonstration: trained on phantoms only; every output says so.
        research_only: its licence forbids clinical use; every output says so.
        device_uid: Device UID; derived from name, version and weights when empty, so that it changes with them.
    """

    name: str
    version: str
    manufacturer: str
    weights_sha256: str
    parameters: tuple[str, ...] = ()
    demonstration: bool = False
    research_only: bool = False
    device_uid: str = ""

    def __post_init__(self) -> None:
        if not self.device_uid:
            uid = stable_uid("device", self.name, self.version, self.weights_sha256)
            object.__setattr__(self, "device_uid", uid)


@dataclass(frozen=True)
class Equipment:
    """The product that writes the objects (General Equipment, PS3.3 C.7.5.1), and where it stands.

    Attributes:
        software_versions: at least one.
        device_uid: of this installation; derived from the serial number and versions when empty.
        institution: Institution Name, ``""`` when unknown.
    """

    manufacturer: str = "Firstread"
    model_name: str = "Firstread"
    software_versions: tuple[str, ...] = ("0.1.0",)
    serial_number: str = "0"
    station_name: str = "FIRSTREAD"
    institution: str = ""
    device_uid: str = ""

    def __post_init__(self) -> None:
        if not self.device_uid:
            parts = (self.manufacturer, self.model_name, self.serial_number, *self.software_versions)
            object.__setattr__(self, "device_uid", stable_uid("device", *parts))


@dataclass(frozen=True)
class DraftIdentity:
    """What an object is a result of: it fixes UIDs and times, so a retry writes the same bytes.

    Attributes:
        study_instance_uid: the Study that was read.
        reading_id: the Reading, or for a signed report the SignOff.
        result_sha256: hash of the result, without the number of the attempt.
        created_at: when the result was made; must have a time zone.
        uid_root: the site's UID root, or None for ``2.25``.
    """

    study_instance_uid: str
    reading_id: str
    result_sha256: str
    created_at: datetime
    uid_root: str | None = None

    def __post_init__(self) -> None:
        if self.created_at.utcoffset() is None:
            raise RefusedInputError("created_at has no time zone; a report's time must not be ambiguous")

    def series_instance_uid(self, kind: ObjectKind) -> str:
        """Return the Series Instance UID for all objects of one kind in this run."""
        return self._uid("series", kind)

    def sop_instance_uid(self, kind: ObjectKind, instance_number: int = 1) -> str:
        """Return the SOP Instance UID of object ``instance_number`` of one kind."""
        return self._uid("instance", kind, str(instance_number))

    def other_uid(self, *what: str) -> str:
        """Return a UID for something inside an object, such as its Dimension Organization."""
        return self._uid("other", *what)

    def of_form(self, going: Sequence[str]) -> Self:
        """Return the identity of another form of the same result, for who gets other objects (``going``) with it."""
        own = hashlib.sha256("\n".join([self.result_sha256, *going]).encode()).hexdigest()
        return replace(self, result_sha256=own)

    def _uid(self, *what: str) -> str:
        own = (self.study_instance_uid, self.reading_id, self.result_sha256)
        return stable_uid(*own, *what, root=self.uid_root)


@dataclass(frozen=True)
class InstanceReference:
    """One Instance as evidence or predecessor, without its Dataset."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str

    @classmethod
    def of(cls, ds: Dataset) -> Self:
        """Return the reference to ``ds``."""
        uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPClassUID, ds.SOPInstanceUID)
        return cls(*(str(uid) for uid in uids))


@dataclass(frozen=True)
class MeasurementValue:
    """One number: ``key`` is a concept of the code table (``"volume"``), ``unit_ucum`` a UCUM unit (``"cm3"``)."""

    key: str
    value: float
    unit_ucum: str


@dataclass(frozen=True)
class FindingValue:
    """One finding of one Expert, as it goes into the findings SR.

    Attributes:
        label: the model's own word.
        code_key: row of the code table, for example ``"cxr.pneumothorax"`` or ``"ct.liver"``.
        presence: what the Expert said; a finding nobody assessed has no FindingValue at all.
        score: 0…1 model score, not calibrated; None when the Expert gives none.
        laterality: only for a finding that a segment localises.
        algorithm: which model said so.
        tracking_uid, tracking_id: the same pair as in the segment, if there is one.
        measurements: numbers measured on the segment.
        segment_number: Segment Number in the *finished* SEG; None looks it up by ``tracking_uid``.
        source_sop_instance_uids: images the statement rests on, for a finding without a segment.
        calibrated: 0…1 probability by a calibration of the Expert's package; None without one.
        calibration: id of that calibration.
    """

    label: str
    code_key: str
    presence: Presence
    score: float | None
    laterality: Laterality | None
    algorithm: AlgorithmIdentity
    tracking_uid: str
    tracking_id: str
    measurements: tuple[MeasurementValue, ...] = ()
    segment_number: int | None = None
    source_sop_instance_uids: tuple[str, ...] = ()
    calibrated: float | None = None
    calibration: str = ""


@dataclass(frozen=True)
class SegmentSpec:
    """One segment to write.

    Attributes:
        number: its value in the label map, or its 1-based channel in a stacked mask. The finished SEG is numbered
            anew, 1…n over non-empty segments, in this order.
        label: Segment Label.
        code_key: row of the code table.
        laterality: side, when the code row fixes none.
        algorithm: which model drew it.
        tracking_uid, tracking_id: the same pair as in the findings SR.
        algorithm_type: ``SEMIAUTOMATIC`` or ``MANUAL`` after a person edited it (PS3.3 C.8.20.2).
    """

    number: int
    label: str
    code_key: str
    laterality: Laterality | None
    algorithm: AlgorithmIdentity
    tracking_uid: str
    tracking_id: str
    algorithm_type: Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"] = "AUTOMATIC"


@dataclass(frozen=True)
class Section:
    """One section of the narrative; a blank text leaves the section out."""

    key: SectionKey
    text: str


@dataclass(frozen=True)
class Signer:
    """The person who signs.

    Attributes:
        printed_name: as shown to people.
        family, given: parts of the DICOM name.
        staff_id: the site's own staff number.
        organization: Verifying Organization.
        signed_at: moment of the signature, with time zone.
    """

    printed_name: str
    family: str
    given: str
    staff_id: str
    organization: str
    signed_at: datetime

    def __post_init__(self) -> None:
        if self.signed_at.utcoffset() is None:
            raise RefusedInputError("signed_at has no time zone; the moment of a signature must not be ambiguous")
        if not self.staff_id.strip() or not self.organization.strip():
            raise RefusedInputError("a signer needs a staff id and an organization")


@dataclass(frozen=True)
class Predecessor:
    """The document that a new one follows, and why (CID 7009).

    ``purpose`` is ``"draft"`` (it was the preliminary report), ``"addended"`` or ``"replaced"``.
    """

    reference: InstanceReference
    purpose: Literal["draft", "addended", "replaced"] = "draft"


@dataclass(frozen=True)
class SignOff:
    """A person's decision that turns sections into a report.

    Attributes:
        signer: who signed, and when.
        predecessors: earlier documents, the AI draft first.
        preliminary: signed by a resident: a person's report, not yet verified.
        attested_author: the resident whose preliminary report ``signer`` attests, if any.
        report_author: who signed the text that ``signer`` adds an addendum to, if another person.
        correction: why a correction replaces the report before it.
    """

    signer: Signer
    predecessors: tuple[Predecessor, ...] = ()
    preliminary: bool = False
    attested_author: Signer | None = None
    report_author: Signer | None = None
    correction: str = ""

    @property
    def amends(self) -> bool:
        """Whether it adds to, or replaces, a report that was signed before."""
        return any(one.purpose != "draft" for one in self.predecessors)
