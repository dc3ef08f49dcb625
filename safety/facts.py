"""What the linter is given, and what it answers: plain values without a database behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Literal

Side = Literal["left", "right", "bilateral", ""]
Dimension = Literal["length", "volume"]


class Severity(StrEnum):
    """What an issue asks of whoever signs."""

    BLOCKING = "blocking"  # the text, a decision or an alert has to change first
    WARNING = "warning"  # signed with a reason


@dataclass(frozen=True)
class Measure:
    """One measured value: ``value`` in mm for a length, in ml for a volume."""

    dimension: Dimension
    value: float
    name: str = ""


@dataclass(frozen=True)
class FindingFact:
    """One finding of the draft and what the reader made of it.

    Attributes:
        finding_id: as the page names it.
        label: as the model names it.
        presence: present, absent or undetermined, by the model.
        decision: pending, accepted, edited or rejected, by the reader.
        side: where an expert measured it; empty when nothing localised it.
        sentence: the AI's own sentence.
        instead: what an edit says is true.
        measures: of its mask.
    """

    finding_id: str
    label: str
    presence: str = "present"
    decision: str = "pending"
    side: Side = ""
    sentence: str = ""
    instead: str = ""
    measures: Sequence[Measure] = ()

    @property
    def stands(self) -> bool:
        """Whether the reader left it as a finding that is there."""
        return self.presence == "present" and self.decision in {"accepted", "edited"}


@dataclass(frozen=True)
class ReportFacts:
    """One report about to be signed, and everything its text is held against.

    Attributes:
        sections: section key → text.
        today: at the site; no date in the text may be later.
        patient_sex: DICOM Patient's Sex (0010,0040): M, F, O or empty.
        patient_age: years at the study; None when unknown.
        modalities: DICOM Modality (0008,0060) of the series with images.
        body_part: DICOM Body Part Examined (0018,0015) and Study Description, as they came.
        study_side: the side that was examined, of a paired body part.
        findings: of the draft.
        has_prior: an earlier study of the patient is here.
        drawn: what readers measured on the images.
        open_alerts: labels of critical findings that nobody confirmed or dismissed.
        untold_alerts: labels of confirmed ones that nobody was told of.
        has_communication: a record says who was told of the critical result.
        is_addendum: the text only adds to a signed report: what it leaves out is said there.
    """

    sections: Mapping[str, str]
    today: date
    patient_sex: str = ""
    patient_age: float | None = None
    modalities: frozenset[str] = frozenset()
    body_part: str = ""
    study_side: Side = ""
    findings: Sequence[FindingFact] = ()
    has_prior: bool = False
    drawn: Sequence[Measure] = ()
    open_alerts: Sequence[str] = ()
    untold_alerts: Sequence[str] = ()
    has_communication: bool = False
    is_addendum: bool = False


@dataclass(frozen=True)
class Issue:
    """One contradiction.

    Attributes:
        rule: its id in `safety.linter.RULES`.
        words: one or two sentences for the reader.
        section: key of the section it is in; empty when it is in none.
        start, end: characters of the section it speaks of; both 0 when it is about the whole.
        finding_id: the finding concerned, or empty.
        severity: set by the site's list of blocking rules.
    """

    rule: str
    words: str
    section: str = ""
    start: int = 0
    end: int = 0
    finding_id: str = ""
    severity: Severity = Severity.WARNING


@dataclass(frozen=True)
class Place:
    """A stretch of one section."""

    section: str
    start: int
    end: int
    text: str = field(compare=False, default="")
