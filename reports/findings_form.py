"""A findings SR for who gets other Segmentations than those it was made on: it refers to nothing they do not hold.

The numbers, the Tracking UIDs and all other content are the same in every form.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

from highdicom import sr
from pydicom.dataset import Dataset

from reports.equipment import building
from reports.findings_sr import HEAT_MAP
from reports.findings_tree import (
    COMMENT,
    LOCATION,
    SEGMENT,
    SOURCE_IMAGE,
    groups,
    name_of,
    named,
    referenced,
    segmentations,
    tracking_uid,
)
from reports.segmentation import segment_numbers
from reports.sr_common import comment
from reports.values import DraftIdentity, InstanceReference

WITHOUT_SEGMENT = "The Segmentation these numbers were measured on does not go with this report."
TRACKED = "Measured on the segment with this Tracking Unique Identifier."


def build_findings_form(
    document: Dataset, along: Sequence[Dataset], *, sources: Mapping[str, InstanceReference], identity: DraftIdentity
) -> Dataset:
    """Return ``document`` as it goes with exactly the Segmentations ``along``; itself when it lists just these.

    A group on a segment that is missing there becomes a TID 1501 group that names the image. That is so too where a
    label map has a segment with its Tracking UID: the label map is in the evidence, and the two are tied by that UID,
    for readers older than Label Map Segmentation (Supplement 243) refuse a whole document in which an IMAGE item has
    a segment number and another SOP Class than Segmentation. The form is a document and a Series of its own, with
    UIDs that follow from what goes along.

    Args:
        document: as :func:`reports.findings_sr.build_findings_sr` made it.
        along: finished Segmentations and label maps of the same Study.
        sources: Tracking UID → the image that shows the finding best; one that the document lists as evidence.
        identity: of the draft.

    Raises:
        RefusedInputError: ``document`` is no findings SR of ours.
    """
    going = {str(seg.SOPInstanceUID) for seg in along}
    if going == segmentations(document):
        return document
    with building("findings SR"):
        outlined = {uid for seg in along for uid in segment_numbers(seg)}
        form = deepcopy(document)
        own = identity.of_form(sorted(going))
        form.SeriesInstanceUID = own.series_instance_uid("findings_sr")
        form.SOPInstanceUID = form.file_meta.MediaStorageSOPInstanceUID = own.sop_instance_uid("findings_sr")
        for group in groups(form):
            if not referenced(named(group, SEGMENT)) <= going:
                uid = tracking_uid(group)
                without_segment(group, sources.get(uid), TRACKED if uid in outlined else WITHOUT_SEGMENT)
        _write_evidence(form, along)
    return form


def without_segment(group: Dataset, source: InstanceReference | None = None, remark: str = WITHOUT_SEGMENT) -> None:
    """Make a TID 1501 group of one that refers to a segment, with the image in its place; changes it in place.

    Args:
        group: of TID 1411 or 1410; the latter names its image itself.
        source: the image that shows the finding, if known.
        remark: added where the numbers were measured on the segment; a heat map is measured by nothing.
    """
    image = None
    if shown := named(group, {SOURCE_IMAGE}):
        one = shown[0].ReferencedSOPSequence[0]
        frame = one.get("ReferencedFrameNumber")
        image = sr.SourceImageForMeasurementGroup(
            one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID, [int(frame)] if frame else None
        )
    elif source is not None:
        image = sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)
    is_heat_map = any(str(item.TextValue) == HEAT_MAP for item in named(group, {COMMENT}))
    group.ContentTemplateSequence[0].TemplateIdentifier = "1501"
    group.ContentSequence = [
        *(item for item in group.ContentSequence if name_of(item) not in LOCATION | {COMMENT}),
        *([image] if image is not None else []),
        *(item for item in named(group, {COMMENT}) if str(item.TextValue) != HEAT_MAP),
        *([] if is_heat_map else [comment(remark)]),
    ]


def _write_evidence(form: Dataset, along: Sequence[Dataset]) -> None:
    """List the Segmentations that go along in the place of those that do not; the images stay."""
    gone = segmentations(form)
    study = next(
        one for one in form.CurrentRequestedProcedureEvidenceSequence if one.StudyInstanceUID == form.StudyInstanceUID
    )
    kept = []
    for series in study.ReferencedSeriesSequence:
        items = [one for one in series.ReferencedSOPSequence if str(one.ReferencedSOPInstanceUID) not in gone]
        if items:
            series.ReferencedSOPSequence = items
            kept.append(series)
    study.ReferencedSeriesSequence = [*kept, *_as_series(along)]


def _as_series(along: Sequence[Dataset]) -> list[Dataset]:
    of_series: dict[str, list[Dataset]] = {}
    for seg in along:
        item = Dataset()
        item.ReferencedSOPClassUID = seg.SOPClassUID
        item.ReferencedSOPInstanceUID = seg.SOPInstanceUID
        of_series.setdefault(str(seg.SeriesInstanceUID), []).append(item)
    made = []
    for uid, items in of_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedSOPSequence = items
        made.append(series)
    return made
