"""The parts of a finished findings SR: its groups, what each refers to, and what the document lists as evidence."""

from collections.abc import Collection, Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from reports.values import InstanceReference

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
TRACKING_UID, COMMENT, OBSERVER_TYPE, ALGORITHM = "112040", "121106", "121005", "111001"
MEASUREMENTS, GROUP = "126010", "125007"
SEGMENT = frozenset({"121191", "121214"})
"""The segment of a group, or its frame (TID 1411, 1410)."""
SOURCE_IMAGE = "121233"
LOCATION = SEGMENT | {"121232", SOURCE_IMAGE}
"""All that ties a group to a segment: that, and the image or Series that the segment was made on."""


def groups(document: Dataset) -> Iterator[Dataset]:
    """Yield the measurement groups of a findings SR in their order."""
    for container in named(document, {MEASUREMENTS}):
        yield from named(container, {GROUP})


def named(node: Dataset, values: Collection[str]) -> list[Dataset]:
    """Return the content items right below ``node`` whose concept name has one of these Code Values."""
    return [item for item in node.get("ContentSequence", []) if name_of(item) in values]


def name_of(item: Dataset) -> str:
    """Return the Code Value of a content item's concept name."""
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def tracking_uid(group: Dataset) -> str:
    """Return the Tracking UID of a measurement group."""
    return str(named(group, {TRACKING_UID})[0].UID)


def referenced(items: Sequence[Dataset]) -> set[str]:
    """Return every SOP Instance UID that content items and what is below them refer to."""
    found = {str(one.ReferencedSOPInstanceUID) for item in items for one in item.get("ReferencedSOPSequence", [])}
    for item in items:
        found |= referenced(item.get("ContentSequence", []))
    return found


def listed(document: Dataset) -> list[InstanceReference]:
    """Return what the document lists as evidence, current and other."""
    return [
        InstanceReference(
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            str(item.ReferencedSOPClassUID),
            str(item.ReferencedSOPInstanceUID),
        )
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in document.get(name, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


def segmentations(document: Dataset) -> set[str]:
    """Return the SOP Instance UIDs of the Segmentations, of every kind, that the document lists as evidence."""
    kinds = {str(SegmentationStorage), LABEL_MAP_STORAGE}
    return {one.sop_instance_uid for one in listed(document) if one.sop_class_uid in kinds}


def label_maps(document: Dataset) -> set[str]:
    """Return those of them that are label maps; groups are tied to these by Tracking UIDs only."""
    return {one.sop_instance_uid for one in listed(document) if one.sop_class_uid == LABEL_MAP_STORAGE}
