"""What an Expert is: a ModelCard that promises, and a run that returns a typed result, never prose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.radiograph import Radiograph
from worker.volume import Volume


@dataclass(frozen=True)
class ModelCard:
    """What a model package promises; printed into the prompt and into every result.

    Attributes:
        name: the Trigger's name: ``"CXR"``, ``"VISTA3D"`` or ``"BRATS"``.
        version: version of the weights; changes whenever they change.
        task: ``"classification"`` or ``"segmentation"``.
        modality: word used in the prompt: ``"CXR"``, ``"CT"``, ``"MRI"``.
        overview, accuracy: the card's sentences, as printed to the model.
        arguments: valid Trigger arguments, in printing order; empty means None.
        labels: label value → name for segmentations; index → name for classifiers.
        weights_sha256: hex digests of the weight files by relative name.
        licence: SPDX id or name of the weights' licence.
        demonstration: True for models trained on phantoms only.
        research_only: the licence of the weights forbids clinical use.
        regulatory: what authorities call this version: ``udi``, ``clearance``, ``change`` (of a predetermined change
            control plan); those that are known.
        code_family: family of ``config/codes.yaml`` in which ``labels`` have their codes; ``""`` for none:
            such labels are shown to people and never coded.
    """

    name: str
    version: str
    task: str
    modality: str
    overview: str
    accuracy: str
    arguments: tuple[str, ...]
    labels: Mapping[int, str]
    weights_sha256: Mapping[str, str]
    licence: str
    demonstration: bool
    research_only: bool = False
    code_family: str = ""
    regulatory: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Classification:
    """Probabilities of one radiograph.

    Attributes:
        card, argument, seconds: who answered, to what, how long it took.
        probabilities: label → 0…1, or None where the model has no output for the label.
        threshold: a label is positive at or above this value.
        sop_instance_uid: the Instance that was classified.
        calibrated: label → calibrated probability, where the package brings a calibration; for people only,
            the model is shown the uncalibrated calls it was trained on.
        calibration: id of the calibration; ``""`` when there is none.
        notes: what had to be done differently (less memory, another device), in words for people.
        details: what the Expert did, for the provenance record: JSON values only, nothing about the patient.
        heat_maps: positive label → ``(rows, columns)`` 0…1 on the radiograph's own pixel grid: where the network
            looked, each map relative to its own maximum. Pictures for people: no part of what the Expert said, so
            they are neither compared nor recorded, and an Expert on another machine gives none.
    """

    card: ModelCard
    argument: str
    seconds: float
    probabilities: Mapping[str, float | None]
    threshold: float
    sop_instance_uid: str
    calibrated: Mapping[str, float] = field(default_factory=dict)
    calibration: str = ""
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    heat_maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class SegmentationResult:
    """A label map in the geometry of the source Volume.

    Attributes:
        card, argument, seconds: who answered, to what, how long it took.
        labels: ``(slices, rows, columns)`` uint8, same grid as ``volume.array``; 0 is background.
        names: label value → name, for every label that was asked for (present or not).
        volume: the Volume the label map lies on (for BRATS: the T1c Series).
        notes, details: as on `Classification`.
    """

    card: ModelCard
    argument: str
    seconds: float
    labels: NDArray[np.uint8]
    names: Mapping[int, str]
    volume: Volume
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


ExpertResult = Classification | SegmentationResult


@dataclass(frozen=True)
class ExpertInput:
    """What a Study offers its Experts after intake; exactly one field is filled.

    Attributes:
        radiograph: the frontal chest radiograph.
        volume: the CT Volume.
        brain_mr: role (``"T1c"``, ``"T1"``, ``"T2"``, ``"FLAIR"``) → Volume.
    """

    radiograph: Radiograph | None = None
    volume: Volume | None = None
    brain_mr: Mapping[str, Volume] | None = None


class Expert(Protocol):
    """A narrow model the vision-language model may trigger."""

    @property
    def card(self) -> ModelCard:
        """What this Expert promises."""
        ...

    def run(self, study: ExpertInput, argument: str) -> ExpertResult:
        """Answer one Trigger.

        Raises:
            ExpertError: the input does not fit this Expert, or its output broke the contract.
        """
        ...
