"""The findings a reader stands behind: the draft's Comprehensive 3D SR without what the reader did not accept."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from highdicom import sr
from pydicom.dataset import Dataset

from config.errors import RefusedInputError
from reports.equipment import DRAFT_NOTICE, building, equipment_arguments, stamp
from reports.findings_form import without_segment
from reports.findings_tree import (
    ALGORITHM,
    COMMENT,
    MEASUREMENTS,
    OBSERVER_TYPE,
    SEGMENT,
    groups,
    label_maps,
    listed,
    name_of,
    named,
    referenced,
    tracking_uid,
)
from reports.source import study_header
from reports.sr_common import comment, person_observer, reference_dataset, write_sign_off
from reports.text import one_line, person_name
from reports.values import SERIES_NUMBERS, DraftIdentity, Equipment, InstanceReference, Predecessor, SignOff

ACCEPTED = "Accepted by the reader."
EDITED = "Edited by the reader: the signed report says how. The numbers here are the model's own, unchanged."


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
    TID 1501 group without the reference (`reports.findings_form.without_segment`). Evidence is what the groups left
    over refer to and label maps that go along, and nothing else; the one predecessor is the draft's findings SR.

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
        all_groups = list(groups(draft))
        stand = [made for group in all_groups if (made := _signed(group, kept)) is not None]
        if not stand:
            return None
        signed_off = replace(sign_off, predecessors=(Predecessor(InstanceReference.of(draft)),))
        signer = sign_off.signer
        document = sr.Comprehensive3DSR(
            evidence=_evidence(draft, header, referenced(stand) | (label_maps(draft) & set(kept.standing))),
            content=_content(draft, stand, signed_off),
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
        _copy_from(draft, document, stand)
    document.CompletionFlagDescription = f"{len(stand)} of {len(all_groups)} AI findings accepted or edited"
    stamp(document, header, identity=identity, equipment=equipment, algorithms=())
    return document


def _signed(group: Dataset, kept: Kept) -> Dataset | None:
    """Return a copy of a draft's group as the reader left it; None when the reader did not accept it."""
    uid = tracking_uid(group)
    if uid not in kept.accepted and uid not in kept.edited:
        return None
    made = deepcopy(group)
    said = EDITED if uid in kept.edited else ACCEPTED
    if any(one not in kept.standing for one in referenced(named(made, SEGMENT))):
        without_segment(made)
    remarks = [_lasting(str(item.TextValue)) for item in named(made, {COMMENT})]
    made.ContentSequence = [
        *(item for item in made.ContentSequence if name_of(item) != COMMENT),
        *(comment(text) for text in (said, *remarks) if text),
    ]
    return made


def _lasting(remark: str) -> str:
    """Return what of a draft's remark stays true after the signature; "draft, not verified" does not."""
    return remark.removeprefix(DRAFT_NOTICE).lstrip(" –.")


def _evidence(draft: Dataset, header: Dataset, wanted: Collection[str]) -> list[Dataset]:
    """Return what is ``wanted`` as highdicom takes it; the first gives the Patient and Study modules."""
    found = [reference_dataset(one) for one in listed(draft) if one.sop_instance_uid in wanted]
    own = [one for one in found if one.StudyInstanceUID == header.StudyInstanceUID]
    if own:
        header.update(own[0])
    return [header, *found]


def _content(draft: Dataset, stand: Sequence[Dataset], sign_off: SignOff) -> Dataset:
    """Return the draft's content tree with these groups, and the signer before the device as observer (TID 1001)."""
    root = Dataset()
    for keyword in ("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence"):
        root[keyword] = deepcopy(draft[keyword])
    items: list[Dataset] = []
    for item in deepcopy(draft.ContentSequence):
        if name_of(item) == OBSERVER_TYPE:
            items.extend(person_observer(sign_off.signer))
        if name_of(item) == MEASUREMENTS:
            item.ContentSequence = list(stand)
        items.append(item)
    root.ContentSequence = items
    return root


def _copy_from(draft: Dataset, document: Dataset, stand: Sequence[Dataset]) -> None:
    """Write what the signed findings share with the draft: the order, the algorithms still in it, the restriction."""
    names = {one_line(str(item.TextValue), 64) for group in stand for item in named(group, {ALGORITHM})}
    document.ContributingEquipmentSequence = [
        deepcopy(item)
        for item in draft.get("ContributingEquipmentSequence", [])
        if "DeviceUID" not in item or str(item.get("ManufacturerModelName")) in names
    ]
    for keyword in ("ReferencedRequestSequence", "ContentQualification"):
        if keyword in draft:
            document[keyword] = deepcopy(draft[keyword])
