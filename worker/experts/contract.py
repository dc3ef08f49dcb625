"""What every Expert must keep, wherever it comes from: a card the grammar can name, a result the draft can rest on."""

import json
import math
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from config.errors import ExpertError, ModelPackageError
from worker.experts.base import Classification, ExpertInput, ExpertResult, ModelCard, SegmentationResult
from worker.volume import Volume

TASKS = ("classification", "segmentation")
# Cards are printed into the prompt and arguments are read back by the Trigger grammar: no markup, one line.
_NAME = re.compile(r"[A-Z][A-Z0-9]{0,31}")
_ARGUMENT = re.compile(r"[^()<>\x00-\x1f\x7f]{1,64}")
_SENTENCE = re.compile(r"[^<>\x00-\x1f\x7f]{0,1000}")


def check_card(card: ModelCard) -> None:
    """Refuse a ModelCard that a Trigger could not name or that would break the prompt it is printed into.

    Raises:
        ModelPackageError: the message says which field, of which Expert.
    """
    if not isinstance(card, ModelCard):
        raise ModelPackageError(f"an expert must show a ModelCard, not {type(card).__name__}")
    if not _NAME.fullmatch(str(card.name)):
        raise ModelPackageError(f"expert {str(card.name)[:40]!r}: a name is capital letters and digits")
    printed = {"version": card.version, "modality": card.modality, "overview": card.overview, "accuracy": card.accuracy}
    for field, text in printed.items():
        if not isinstance(text, str) or not _SENTENCE.fullmatch(text):
            raise ModelPackageError(f"expert {card.name}: {field} must be one line of text without angle brackets")
    wrong = [argument for argument in card.arguments if not _ARGUMENT.fullmatch(argument)]
    if wrong:
        raise ModelPackageError(f"expert {card.name}: {wrong[0][:40]!r} cannot be an argument of a trigger")
    if card.task not in TASKS:
        raise ModelPackageError(f"expert {card.name}: task is {str(card.task)[:40]!r}, not one of {', '.join(TASKS)}")
    if card.task == "segmentation" and not all(0 < value < 256 for value in card.labels):
        raise ModelPackageError(f"expert {card.name}: label values of a segmentation lie in 1…255")


def check_result(card: ModelCard, study: ExpertInput, result: ExpertResult) -> None:
    """Refuse a result that is not what the card promises about the Study that was given.

    Args:
        card: of the Expert that ran.
        study: what it was given.
        result: what it returned.

    Raises:
        ExpertError: another type, shape or dtype, values outside the labels or outside 0…1, numbers that are
            none, or an Instance or Volume that is not of this Study. The message says what.
    """
    if card.task == "classification":
        _check_classification(card, study, result)
    else:
        _check_segmentation(card, study, result)
    _check_common(card, result)


def _broken(card: ModelCard, why: str) -> ExpertError:
    return ExpertError(f"{card.name} broke its contract: {why}")


def _check_common(card: ModelCard, result: ExpertResult) -> None:
    answered = result.card
    if (answered.name, answered.version, dict(answered.weights_sha256)) != (
        card.name,
        card.version,
        dict(card.weights_sha256),
    ):
        raise _broken(card, "the result carries the card of another model")
    if not math.isfinite(result.seconds) or result.seconds < 0:
        raise _broken(card, "its seconds are no duration")
    if not all(isinstance(note, str) for note in result.notes):
        raise _broken(card, "its notes are no sentences")
    try:
        json.dumps(dict(result.details), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise _broken(card, "its details are no JSON") from exc


def _check_classification(card: ModelCard, study: ExpertInput, result: ExpertResult) -> None:
    if not isinstance(result, Classification):
        raise _broken(card, f"a classification was promised, not {type(result).__name__}")
    if study.radiograph is None or result.sop_instance_uid != study.radiograph.sop_instance_uid:
        raise _broken(card, "it answers about an instance that is not of this study")
    _check_probabilities(card, {label: p for label, p in result.probabilities.items() if p is not None})
    _check_probabilities(card, result.calibrated)
    _check_probabilities(card, {"the threshold": result.threshold})
    unknown = sorted((set(result.probabilities) | set(result.calibrated)) - set(card.labels.values()))
    if unknown:
        raise _broken(card, f"{unknown[0]!r} is not a label of its card")


def _check_probabilities(card: ModelCard, probabilities: Mapping[str, float]) -> None:
    for label, value in probabilities.items():
        # bool is an int to Python and no probability to a reader
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            raise _broken(card, f"{label} is {value}, no number in 0…1")


def _check_segmentation(card: ModelCard, study: ExpertInput, result: ExpertResult) -> None:
    if not isinstance(result, SegmentationResult):
        raise _broken(card, f"a segmentation was promised, not {type(result).__name__}")
    if not any(is_same_grid(result.volume, given) for given in volumes_of(study).values()):
        raise _broken(card, "its label map lies on a volume that is not of this study")
    labels, shape = result.labels, result.volume.array.shape
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8:
        raise _broken(card, f"labels are {getattr(labels, 'dtype', type(labels).__name__)}, not uint8")
    if labels.shape != shape:
        raise _broken(card, f"labels are {labels.shape}, the source is {shape}")
    for value, name in result.names.items():
        if card.labels.get(value) != name:
            raise _broken(card, f"label {value} is called {name!r}, its card says {card.labels.get(value)!r}")
    unnamed = sorted(_values(labels) - set(result.names) - {0})
    if unnamed:
        raise _broken(card, f"label value {unnamed[0]} has no name")


def volumes_of(study: ExpertInput) -> dict[str, Volume]:
    """Return the Volumes a Study offers, by role; a CT Volume has the role ``"CT"``."""
    offered = dict(study.brain_mr or {})
    return offered if study.volume is None else {"CT": study.volume, **offered}


def is_same_grid(one: Volume, other: Volume) -> bool:
    """Return whether two Volumes are the same slices of the same Series, at the same place."""
    return one is other or (
        one.series_instance_uid == other.series_instance_uid
        and one.sop_instance_uids == other.sop_instance_uids
        and one.frame_numbers == other.frame_numbers
        and one.array.shape == other.array.shape
        and np.array_equal(one.affine, other.affine)
    )


def _values(labels: NDArray[np.uint8]) -> set[int]:
    # plane by plane: bincount widens to 64 bit, eight times the label map at once
    counts = np.zeros(256, dtype=np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    return set(np.flatnonzero(counts).tolist())
