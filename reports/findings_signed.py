"""The findings a reader stands behind: the draft's Comprehensive 3D SR without what the reader did not accept."""

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from highdicom import sr
from pydicom.dataset import Dataset

from config.errors import RefusedInputError
from reports.equipment import DRAFT_NOTICE, building, equipment_arguments, stamp
from reports.findings_sr import HEAT_MAP
from reports.source import study_header
from reports.sr_common import comment, person_observer, reference_dataset, write_sign_off
from reports.text import one_line, person_name
from reports.values import SERIES_NUMBERS, DraftIdentity, Equipment, InstanceReference, Predecessor, SignOff

ACCEPTED = "Accepted by the reader."
EDITED = "Edited by the reader: the signed report says how. The numbers here are the model's own, unchanged."
WITHOUT_SEGMENT = "The Segmentation these numbers were measured on does not go with this report."
_TRACKING_UID, _COMMENT, _OBSERVER_TYPE, _ALGORITHM = "112040", "121106", "121005", "111001"
_MEASUREMENTS, _GROUP = "126010", "125007"
# what ties a group to a segment: the segment or its frame, and the image or Series it was made on (TID 1410, 1411)
_SEGMENT = frozenset({"121191", "121214", "121232", "121233"})


@dataclass(frozen=True)
class Kept:
    """What goes from the draft's findings into the signed ones.

    Attributes:
        accepted, edited: Tracking UIDs of the findings; every other one is left out.
        standing: SOP Instance UIDs of the Segmentations that go along; a group on any other loses its reference.
    """

    accepted: Collection[str]
    edited: Collection[str] = ()
    standing: Collection[str] = ()


def build_findings_signed(
    draft: Dataset, kept: Kept, *, identity: DraftIdentity, equipment: Equipment, sign_off: SignOff
) -> Dataset | None:
    """Return the findings SR of a signed report: VERIFIED, FINAL, person and device observed; None when empty.

    Groups are copied from the draft, numbers untouched. One on a Segmentation that does not go along becomes a
    TID 1501 group without the reference. Evidence is what the groups left over refer to, and nothing else; the one
    predecessor is the draft's findings SR.

    Args:
        draft: as :func:`reports.findings_sr.build_findings_sr` made it.
        kept: which of its groups.
        identity: of the signature, not of the draft.
        equipment: our product.
        sign_off: who signed; its predecessors are not used here.

    Raises:
        RefusedInputError: a preliminary signature, which verifies nothing; ``draft`` is no findings SR of ours; or
            no valid object can be made.
    """
    if sign_off.preliminary:
        raise RefusedInputError("findings are verified by a final signature only")
    header = study_header(draft)
    with building("signed findings SR"):
        all_groups = list(_groups(draft))
        groups = [made for group in all_groups if (made := _signed(group, kept)) is not None]
        if not groups:
            return None
        signed_off = replace(sign_off, predecessors=(Predecessor(InstanceReference.of(draft)),))
        signer = sign_off.signer
        document = sr.Comprehensive3DSR(
            evidence=_evidence(draft, header, groups),
            content=_content(draft, groups, signed_off),
            series_instance_uid=identity.series_instance_uid("signed_findings_sr"),
            series_number=SERIES_NUMBERS["signed_findings_sr"],
            sop_instance_uid=identity.sop_instance_uid("signed_findings_sr"),
            instance_number=1,
            is_complete=True,
            is_final=True,
            is_verified=True,
            verifying_observer_name=person_name(signer.family, signer.given),
            verifying_organization=one_line(signer.organization, 64),
            previous_versions=[reference_dataset(one.reference) for one in signed_off.predecessors],
            series_description="Findings of the report (signed)",
            **equipment_arguments(equipment),
        )
        write_sign_off(document, signed_off, equipment)
        if header.SOPInstanceUID == draft.SOPInstanceUID:
            # no image of this Study is left; highdicom lists what gave Patient and Study, and nothing refers to it
            del document.CurrentRequestedProcedureEvidenceSequence
        _copy_from(draft, document, groups)
    document.CompletionFlagDescription = f"{len(groups)} of {len(all_groups)} AI findings accepted or edited"
    stamp(document, header, identity=identity, equipment=equipment, algorithms=())
    return document


def _groups(document: Dataset) -> Iterator[Dataset]:
    for container in _items(document, {_MEASUREMENTS}):
        yield from _items(container, {_GROUP})


def _items(node: Dataset, values: Collection[str]) -> list[Dataset]:
    return [item for item in node.get("ContentSequence", []) if _name(item) in values]


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _signed(group: Dataset, kept: Kept) -> Dataset | None:
    """Return a copy of a draft's group as the reader left it; None when the reader did not accept it."""
    uid = str(_items(group, {_TRACKING_UID})[0].UID)
    if uid not in kept.accepted and uid not in kept.edited:
        return None
    made = deepcopy(group)
    said = [EDITED if uid in kept.edited else ACCEPTED]
    gone = {_COMMENT}
    if any(one not in kept.standing for one in _referenced(_items(made, _SEGMENT))):
        gone |= _SEGMENT
        made.ContentTemplateSequence[0].TemplateIdentifier = "1501"
        said.append(WITHOUT_SEGMENT)
    remarks = [_lasting(str(item.TextValue)) for item in _items(group, {_COMMENT})]
    about = [text for text in remarks if text and not (text == HEAT_MAP and WITHOUT_SEGMENT in said)]
    made.ContentSequence = [
        *(item for item in made.ContentSequence if _name(item) not in gone),
        *(comment(text) for text in (*said, *about)),
    ]
    return made


def _lasting(remark: str) -> str:
    """Return what of a draft's remark stays true after the signature; "draft, not verified" does not."""
    return remark.removeprefix(DRAFT_NOTICE).lstrip(" –.")


def _referenced(items: Sequence[Dataset]) -> set[str]:
    """Return every SOP Instance UID that content items and what is below them refer to."""
    found = {str(one.ReferencedSOPInstanceUID) for item in items for one in item.get("ReferencedSOPSequence", [])}
    for item in items:
        found |= _referenced(item.get("ContentSequence", []))
    return found


def _evidence(draft: Dataset, header: Dataset, groups: Sequence[Dataset]) -> list[Dataset]:
    """Return what the groups refer to as highdicom takes it; the first gives the Patient and Study modules."""
    wanted = _referenced(groups)
    listed = [
        reference_dataset(
            InstanceReference(
                str(study.StudyInstanceUID),
                str(series.SeriesInstanceUID),
                str(item.ReferencedSOPClassUID),
                str(item.ReferencedSOPInstanceUID),
            )
        )
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in draft.get(name, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
        if str(item.ReferencedSOPInstanceUID) in wanted
    ]
    own = [one for one in listed if one.StudyInstanceUID == header.StudyInstanceUID]
    if own:
        header.update(own[0])
    return [header, *listed]


def _content(draft: Dataset, groups: Sequence[Dataset], sign_off: SignOff) -> Dataset:
    """Return the draft's content tree with these groups, and the signer before the device as observer (TID 1001)."""
    root = Dataset()
    for keyword in ("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence"):
        root[keyword] = deepcopy(draft[keyword])
    items: list[Dataset] = []
    for item in deepcopy(draft.ContentSequence):
        if _name(item) == _OBSERVER_TYPE:
            items.extend(person_observer(sign_off.signer))
        if _name(item) == _MEASUREMENTS:
            item.ContentSequence = list(groups)
        items.append(item)
    root.ContentSequence = items
    return root


def _copy_from(draft: Dataset, document: Dataset, groups: Sequence[Dataset]) -> None:
    """Write what the signed findings share with the draft: the order, the algorithms still in it, the restriction."""
    names = {one_line(str(item.TextValue), 64) for group in groups for item in _items(group, {_ALGORITHM})}
    document.ContributingEquipmentSequence = [
        deepcopy(item)
        for item in draft.get("ContributingEquipmentSequence", [])
        if "DeviceUID" not in item or str(item.get("ManufacturerModelName")) in names
    ]
    for keyword in ("ReferencedRequestSequence", "ContentQualification"):
        if keyword in draft:
            document[keyword] = deepcopy(draft[keyword])
