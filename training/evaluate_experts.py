"""Measure the Experts on held-out phantoms, through the same ``run`` the drafting uses."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from phantoms.brain_mr import make_brain_mr
from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.labels import LABEL_NAMES, LESION_LABELS
from training.expert_radiographs import as_radiograph
from training.expert_volumes import as_volume, brain_volumes
from training.experts import dice
from worker.experts.base import Classification, Expert, ExpertInput, SegmentationResult
from worker.experts.registry import ExpertRegistry

EVALUATION_SEED = 2_000_000  # training draws its seeds below 100,000: no anatomy is shared
CT_VOXELS_MM = (3.0, 1.6, 1.6)
CT_SIZE_MM = (360.0, 409.6, 409.6)
MR_VOXELS_MM = (3.0, 1.0, 1.0)
FILM_PX = 1024
ORGANS = (
    "liver", "spleen", "pancreas", "right kidney", "left kidney", "aorta", "inferior vena cava", "heart", "stomach",
    "gallbladder", "trachea", "left lung upper lobe", "left lung lower lobe", "right lung upper lobe",
    "right lung middle lobe", "right lung lower lobe",
)  # fmt: skip


def evaluate_experts(
    registry: ExpertRegistry, *, films: int = 200, patients: int = 30, heads: int = 30
) -> dict[str, Any]:
    """Return every Expert's figures on phantoms it has never seen; Experts that are not there are left out.

    Args:
        registry: what would be used for drafting.
        films, patients, heads: how many chest radiographs, CT and brain MR.

    Returns:
        Expert name → figures: per-label F1 and macro-F1, Dice per structure, lesions found and false
        alarms, median and longest seconds of a run, version and weights.
    """
    measures = {"CXR": (measure_cxr, films), "VISTA3D": (measure_vista3d, patients), "BRATS": (measure_brats, heads)}
    figures: dict[str, Any] = {}
    for card in registry.cards():
        if card.name in measures:
            measure, count = measures[card.name]
            identity = {"version": card.version, "demonstration": card.demonstration}
            figures[card.name] = identity | measure(registry.get(card.name), count)
    return figures


def measure_cxr(expert: Expert, films: int) -> dict[str, Any]:
    """Return F1, sensitivity, specificity and examples per label, and macro-F1 over labels with examples."""
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])  # hit, false alarm, miss, correctly absent
    seconds = []
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + films):
        phantom = make_chest_xray(seed, size=FILM_PX)
        result = expert.run(ExpertInput(radiograph=as_radiograph(phantom)), "")
        assert isinstance(result, Classification)
        seconds.append(result.seconds)
        for label, probability in result.probabilities.items():
            if probability is not None:
                found, there = probability >= result.threshold, label in phantom.findings
                tally[label][(0 if there else 1) if found else (2 if there else 3)] += 1
    labels = {label: _rates(*counts) for label, counts in tally.items()}
    scored = [rates["f1"] for rates in labels.values() if rates["examples"]]
    return {"films": films, "macro_f1": _mean(scored), "labels": labels, "seconds": _seconds(seconds)}


def measure_vista3d(expert: Expert, patients: int) -> dict[str, Any]:
    """Return Dice per structure under ``everything``, and lesions found under each lesion's own argument.

    A lesion is found when any of its voxels is marked; a marked component that touches no lesion is
    a false alarm.
    """
    overlaps: dict[str, list[float]] = defaultdict(list)
    lesions = {name: _Lesions() for name in LESION_LABELS}
    seconds = []
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + patients):
        phantom = make_ct(seed, voxel_mm=CT_VOXELS_MM, size_mm=CT_SIZE_MM)
        study = ExpertInput(volume=as_volume(phantom.hu, phantom.affine, "CT"))
        whole = _segmentation(expert, study, "everything")
        seconds.append(whole.seconds)
        for label in whole.names:
            if (phantom.labels == label).any():
                overlaps[LABEL_NAMES[label]].append(dice(whole.labels == label, phantom.labels == label))
        for name, label in LESION_LABELS.items():
            if name in expert.card.arguments:
                found = _segmentation(expert, study, name).labels == label
                lesions[name].count(found, phantom.labels == label)
    structures = {name: round(statistics.fmean(values), 4) for name, values in sorted(overlaps.items())}
    return {
        "patients": patients,
        "mean_dice_all": _mean(list(structures.values())),
        "mean_dice_organs": _mean([structures[name] for name in ORGANS if name in structures]),
        "dice": structures,
        "lesions": {name: counter.figures(patients) for name, counter in lesions.items()},
        "seconds": _seconds(seconds),
    }


def measure_brats(expert: Expert, heads: int) -> dict[str, Any]:
    """Return Dice of whole tumour, core and enhancing tumour, and how heads with and without were told apart."""
    overlaps: dict[str, list[float]] = defaultdict(list)
    seconds = []
    hits, misses, alarms, quiet = 0, 0, 0, 0
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + heads):
        phantom = make_brain_mr(seed, voxel_mm=MR_VOXELS_MM)
        result = _segmentation(expert, ExpertInput(brain_mr=brain_volumes(phantom)), "")
        seconds.append(result.seconds)
        found = result.labels
        if not phantom.has_tumour:
            alarms, quiet = alarms + bool(found.any()), quiet + (not found.any())
            continue
        hits, misses = hits + bool(found.any()), misses + (not found.any())
        for region, values in (("WT", (1, 2, 4)), ("TC", (1, 4)), ("ET", (4,))):
            overlaps[region].append(dice(np.isin(found, values), np.isin(phantom.labels, values)))
    return {
        "heads": heads,
        "dice": {region: _mean(values) for region, values in overlaps.items()},
        "detection": _rates(hits, alarms, misses, quiet),
        "seconds": _seconds(seconds),
    }


class _Lesions:
    """Counts of one kind of lesion over patients."""

    def __init__(self) -> None:
        self.present = self.found = self.false_alarms = 0
        self.hits = self.misses = self.alarms = self.quiet = 0
        self.overlaps: list[float] = []

    def count(self, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        true_parts, present = ndimage.label(truth)
        marked_parts, marked = ndimage.label(found)
        touched = set(np.unique(true_parts[found]).tolist()) - {0}
        right = set(np.unique(marked_parts[truth]).tolist()) - {0}
        self.present += present
        self.found += len(touched)
        self.false_alarms += marked - len(right)
        self.hits += bool(present and marked)
        self.misses += bool(present and not marked)
        self.alarms += bool(marked and not present)
        self.quiet += not present and not marked
        if present:
            self.overlaps.append(dice(found, truth))

    def figures(self, patients: int) -> dict[str, Any]:
        return {
            "lesions": self.present,
            "sensitivity": round(self.found / self.present, 3) if self.present else None,
            "false_alarms_per_patient": round(self.false_alarms / patients, 3),
            "dice": _mean(self.overlaps),
            "patients": _rates(self.hits, self.alarms, self.misses, self.quiet),
        }


def _segmentation(expert: Expert, study: ExpertInput, argument: str) -> SegmentationResult:
    result = expert.run(study, argument)
    assert isinstance(result, SegmentationResult)
    return result


def _rates(hits: int, alarms: int, misses: int, quiet: int) -> dict[str, Any]:
    """Return examples, F1, sensitivity and specificity of a 2 × 2 table; None where undefined."""
    positives, negatives = hits + misses, alarms + quiet
    marked = 2 * hits + alarms + misses
    return {
        "examples": positives,
        "f1": round(2 * hits / marked, 3) if marked else None,
        "sensitivity": round(hits / positives, 3) if positives else None,
        "specificity": round(quiet / negatives, 3) if negatives else None,
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def _seconds(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "longest": round(max(values), 2)}
