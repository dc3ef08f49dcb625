"""Label maps of a draft as DICOM Segmentations: which structures, from which run, named and tracked how."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from reports.codes import code_table
from reports.segmentation import build_segmentation
from reports.values import AlgorithmIdentity, DraftIdentity, Equipment, SegmentSpec, weights_digest
from worker.conversation import Key
from worker.drafting import DraftContent
from worker.experts.base import ModelCard, SegmentationResult
from worker.intake import Intake
from worker.vlm.backends import VlmCard

WHOLE_TUMOUR = 250  # a label value no BraTS label map uses, for the union of its labels


def algorithm(card: ModelCard | VlmCard, *parameters: str) -> AlgorithmIdentity:
    """Return how a model is named in DICOM objects."""
    return AlgorithmIdentity(
        name=card.name,
        version=card.version,
        manufacturer="Firstread" if card.demonstration else "see model licence",
        weights_sha256=weights_digest(card.weights_sha256),
        parameters=parameters,
        demonstration=card.demonstration,
        research_only=card.research_only,
    )


def build_segmentations(
    content: DraftContent,
    intake: Intake,
    tracking: Mapping[str, str],
    *,
    identity: DraftIdentity,
    equipment: Equipment,
) -> list[Dataset]:
    """Return one SEG per segmented Series, nothing where no coded structure has a voxel.

    Args:
        content: what was found.
        intake: the source images.
        tracking: finding label → Tracking UID.
        identity, equipment: of the objects.

    Raises:
        RefusedInputError: the source images do not allow a valid object.
    """
    by_series: dict[str, dict[Key, SegmentationResult]] = {}
    for key, result in content.results.items():
        if isinstance(result, SegmentationResult):
            by_series.setdefault(result.volume.series_instance_uid, {})[key] = result
    made: list[Dataset] = []
    for number, (uid, runs) in enumerate(sorted(by_series.items()), 1):
        labels, specs = _stack(runs, content, identity, tracking)
        if specs:
            made.append(
                build_segmentation(
                    intake.headers[uid],
                    labels,
                    segments=specs,
                    identity=identity,
                    equipment=equipment,
                    instance_number=number,
                    frame_numbers=next(iter(runs.values())).volume.frame_numbers,
                )
            )
    return made


def _stack(
    runs: Mapping[Key, SegmentationResult], content: DraftContent, identity: DraftIdentity, tracking: Mapping[str, str]
) -> tuple[NDArray[np.uint8], list[SegmentSpec]]:
    """Return label values (or stacked masks where segments overlap) and the segments with a reviewed code.

    The segment of a finding is drawn by the run the finding rests on, and by no other: `VISTA3D(organs)` may draw a
    tumour too, which is another opinion about the same thing.
    """
    tumour = next((result for result in runs.values() if result.card.code_family == "brats"), None)
    if tumour is not None:
        return _tumour_masks(tumour, identity, tracking)
    owner = {value: f for f in content.findings if len(f.segments) == 1 for value in f.segments}
    coded = [
        (code_table().label(code_key).category != "anatomy", value, code_key, result)
        for key, result in runs.items()
        for value in result.names
        if (code_key := code_table().key_for_index(result.card.code_family, value))
        and (value not in owner or owner[value].result_key == key)
    ]
    merged = np.zeros_like(next(iter(runs.values())).labels)
    specs: dict[int, SegmentSpec] = {}
    # anatomy first, lesions over it: where both claim a voxel the lesion is what matters
    for _, value, code_key, result in sorted(coded, key=lambda row: row[0]):
        mask = result.labels == value
        if not mask.any():
            continue
        merged[mask] = value
        specs[value] = SegmentSpec(
            number=value,
            label=result.names[value],
            code_key=code_key,
            laterality=None,
            algorithm=algorithm(result.card, f"argument={result.argument}"),
            tracking_uid=tracking[owner[value].label] if value in owner else identity.other_uid("tracking", code_key),
            tracking_id=f"firstread:{code_key}",
        )
    present = set(np.unique(merged).tolist())
    return merged, [spec for value, spec in sorted(specs.items()) if value in present]


def _tumour_masks(
    result: SegmentationResult, identity: DraftIdentity, tracking: Mapping[str, str]
) -> tuple[NDArray[np.uint8], list[SegmentSpec]]:
    """Return the whole tumour and its disjoint parts as stacked masks, which overlap."""
    rows = [(WHOLE_TUMOUR, "whole tumor", "mr.whole_tumor")]
    rows += [(v, n, k) for v, n in result.names.items() if (k := code_table().key_for_index("brats", v))]
    masks, specs = [], []
    for value, name, code_key in rows:
        mask = result.labels > 0 if value == WHOLE_TUMOUR else result.labels == value
        if not mask.any():
            continue
        masks.append(mask)
        whole = tracking.get("brain tumor", "") if value == WHOLE_TUMOUR else ""
        specs.append(
            SegmentSpec(
                number=len(masks),
                label=name,
                code_key=code_key,
                laterality=None,
                algorithm=algorithm(result.card),
                tracking_uid=whole or identity.other_uid("tracking", code_key),
                tracking_id=f"firstread:{code_key}",
            )
        )
    empty = np.zeros((*result.labels.shape, 0), dtype=np.uint8)
    return (np.stack(masks, axis=-1).astype(np.uint8) if masks else empty), specs
