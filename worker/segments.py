"""Label maps of a draft as DICOM Segmentations: which structures, from which run, named and tracked how."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from reports.codes import Laterality, code_table
from reports.heat_map import HeatMap, build_heat_map
from reports.masks import relabel, split
from reports.segmentation import Form, build_segmentation, tumour_regions
from reports.values import AlgorithmIdentity, DraftIdentity, Equipment, SegmentSpec, weights_digest
from worker.conversation import Key
from worker.drafting import DraftContent, DraftFinding
from worker.experts.base import Classification, ModelCard, SegmentationResult
from worker.intake import Intake
from worker.measuring import label_counts
from worker.vlm.backends import VlmCard

_NESTED = ("mr.whole_tumor", "mr.tumor_core", "mr.enhancing_tumor")  # the channels of tumour_regions
_PAIRED = ("lung", "kidney")  # a lesion of the liver "on the left" is not in the left lobe


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
    form: Form = "binary",
) -> list[Dataset]:
    """Return the SEG of each segmented Series, nothing where no coded structure has a voxel.

    A Series has one, or several where one would be too large (`reports.masks.split`). A tumour of the brain is there
    twice: as nested regions and as disjoint parts, which overlap; a label map has the disjoint parts only.

    Args:
        content: what was found.
        intake: the source images.
        tracking: finding label → Tracking UID.
        identity, equipment: of the objects.
        form: as `reports.segmentation.build_segmentation` has it.

    Raises:
        RefusedInputError: the source images do not allow a valid object.
    """
    by_series: dict[str, dict[Key, SegmentationResult]] = {}
    for key, result in content.results.items():
        if isinstance(result, SegmentationResult):
            by_series.setdefault(result.volume.series_instance_uid, {})[key] = result
    made: list[Dataset] = []
    for uid, runs in sorted(by_series.items()):
        labels, specs = _stack(runs, content, identity, tracking, form)
        for part in split(labels, specs):
            made.append(
                build_segmentation(
                    intake.headers[uid],
                    part.array,
                    segments=part.segments,
                    identity=identity,
                    equipment=equipment,
                    instance_number=len(made) + 1,
                    frame_numbers=next(iter(runs.values())).volume.frame_numbers,
                    form=form,
                )
            )
    return made


def build_heat_maps(
    content: DraftContent,
    intake: Intake,
    tracking: Mapping[str, str],
    *,
    identity: DraftIdentity,
    equipment: Equipment,
) -> list[Dataset]:
    """Return one FRACTIONAL SEG per radiograph with the heat maps of its positive findings, as far as there are any.

    Args:
        content, intake, tracking, identity, equipment: as for `build_segmentations`.

    Raises:
        RefusedInputError: the source image does not allow a valid object.
    """
    made: list[Dataset] = []
    for key, result in content.results.items():
        if not isinstance(result, Classification):
            continue
        maps = _heat_maps(key, result, content.findings, tracking)
        source = _instance(intake, result.sop_instance_uid)
        if maps and source is not None:
            number = len(made) + 1
            made.append(build_heat_map(source, maps, identity=identity, equipment=equipment, instance_number=number))
    return made


def _heat_maps(
    key: Key, result: Classification, findings: Sequence[DraftFinding], tracking: Mapping[str, str]
) -> list[HeatMap]:
    maps = []
    for finding in findings:
        code_key = code_table().key_for_label(result.card.code_family, finding.label)
        if finding.result_key != key or finding.label not in result.heat_maps or code_key is None:
            continue
        maps.append(
            HeatMap(
                label=finding.label,
                code_key=code_key,
                values=result.heat_maps[finding.label],
                algorithm=algorithm(result.card, f"threshold={result.threshold}"),
                tracking_uid=tracking[finding.label],
                tracking_id=f"firstread:{code_key}",
            )
        )
    return maps


def _instance(intake: Intake, sop_instance_uid: str) -> Dataset | None:
    headers = (ds for series in intake.headers.values() for ds in series)
    return next((ds for ds in headers if str(ds.SOPInstanceUID) == sop_instance_uid), None)


def side_of(finding: DraftFinding, code_key: str) -> Laterality | None:
    """Return the side of a lesion in a paired organ, from where its mask lies; None when that says nothing.

    Args:
        finding: what was found.
        code_key: its row of the code table; a side that the row itself fixes is not repeated here.
    """
    codes, side = code_table().label(code_key), finding.measured.laterality if finding.measured else ""
    organs = [code_table().concepts[key] for key in _PAIRED]
    if codes.category == "anatomy" or codes.side or codes.site not in organs:
        return None
    return "left" if side == "left" else "right" if side == "right" else None


def _stack(
    runs: Mapping[Key, SegmentationResult],
    content: DraftContent,
    identity: DraftIdentity,
    tracking: Mapping[str, str],
    form: Form,
) -> tuple[NDArray[np.uint8], list[SegmentSpec]]:
    """Return label values (or stacked masks where segments overlap) and the segments with a reviewed code.

    The segment of a finding is drawn by the run the finding rests on, and by no other: `VISTA3D(organs)` may draw a
    tumour too, which is another opinion about the same thing.
    """
    tumour = next((result for result in runs.values() if result.card.code_family == "brats"), None)
    if tumour is not None:
        return _tumour_masks(tumour, identity, tracking, form)
    owner = {value: f for f in content.findings if len(f.segments) == 1 for value in f.segments}
    drawn: list[tuple[bool, SegmentationResult, dict[int, str]]] = []
    for key, result in runs.items():
        counts = label_counts(result.labels)
        coded = {
            value: code_key
            for value in result.names
            if counts[value]
            and (code_key := code_table().key_for_index(result.card.code_family, value))
            and (value not in owner or owner[value].result_key == key)
        }
        for is_lesion in (False, True):
            chosen = {v: k for v, k in coded.items() if (code_table().label(k).category != "anatomy") == is_lesion}
            drawn.append((is_lesion, result, chosen))
    merged = np.zeros_like(next(iter(runs.values())).labels)
    specs: dict[int, SegmentSpec] = {}
    # anatomy first, lesions over it: where both claim a voxel the lesion is what matters
    for _, result, chosen in sorted(drawn, key=lambda row: row[0]):
        part = relabel(result.labels, bytes(value if value in chosen else 0 for value in range(256)))
        np.copyto(merged, part, where=part > 0)
        specs |= {
            value: _spec(value, code_key, result, owner, identity, tracking) for value, code_key in chosen.items()
        }
    counts = label_counts(merged)
    return merged, [spec for value, spec in sorted(specs.items()) if counts[value]]


def _spec(
    value: int,
    code_key: str,
    result: SegmentationResult,
    owner: Mapping[int, DraftFinding],
    identity: DraftIdentity,
    tracking: Mapping[str, str],
) -> SegmentSpec:
    return SegmentSpec(
        number=value,
        label=result.names[value],
        code_key=code_key,
        laterality=side_of(owner[value], code_key) if value in owner else None,
        algorithm=algorithm(result.card, f"argument={result.argument}"),
        tracking_uid=tracking[owner[value].label] if value in owner else identity.other_uid("tracking", code_key),
        tracking_id=f"firstread:{code_key}",
    )


def _tumour_masks(
    result: SegmentationResult, identity: DraftIdentity, tracking: Mapping[str, str], form: Form
) -> tuple[NDArray[np.uint8], list[SegmentSpec]]:
    """Return stacked masks: the nested regions, then what is left of the disjoint parts; enhancing tumour is both."""
    parts = {code_table().key_for_index("brats", value): value for value in result.names}
    labels = {key: code_table().label(key).label for key in _NESTED} | {
        key: result.names[value] for key, value in parts.items() if key
    }
    masks = {key: result.labels == value for key, value in parts.items() if key}
    if form == "binary":
        masks = dict(zip(_NESTED, np.moveaxis(tumour_regions(result.labels), -1, 0) > 0, strict=True)) | masks
    kept = {key: mask for key, mask in masks.items() if mask.any()}
    specs = [
        SegmentSpec(
            number=number,
            label=labels[key],
            code_key=key,
            laterality=None,
            algorithm=algorithm(result.card),
            tracking_uid=(tracking.get("brain tumor") if key == _NESTED[0] else None)
            or identity.other_uid("tracking", key),
            tracking_id=f"firstread:{key}",
        )
        for number, key in enumerate(kept, 1)
    ]
    stacked = np.zeros((*result.labels.shape, len(kept)), dtype=np.uint8)
    for channel, mask in enumerate(kept.values()):
        stacked[..., channel] = mask
    return stacked, specs
