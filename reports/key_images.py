"""Key Object Selection documents: the images that findings rest on, and notes that reject results of ours."""

from collections.abc import Mapping, Sequence
from typing import Literal

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
)

from config.errors import RefusedInputError
from reports.codes import code_table
from reports.equipment import (
    building,
    contributing_equipment,
    device_observer,
    draft_description,
    draft_notice,
    equipment_arguments,
    local_time,
    stamp,
)
from reports.pictures import KeyPicture
from reports.source import study_header
from reports.sr_common import Evidence, reference_dataset, write_request
from reports.text import one_line, text_block
from reports.values import (
    SERIES_NUMBERS,
    AlgorithmIdentity,
    DraftIdentity,
    Equipment,
    InstanceReference,
    ObjectKind,
)

RejectionReason = Literal["quality", "patient_safety"]

_TITLES: Mapping[RejectionReason, str] = {"quality": "rejected_quality", "patient_safety": "rejected_patient_safety"}
# Of what we write: everything else has pixels, and an IMAGE item must point at an image (PS3.3 C.17.3).
_WITHOUT_PIXELS = frozenset(
    {
        BasicTextSRStorage,
        Comprehensive3DSRStorage,
        ComprehensiveSRStorage,
        EncapsulatedPDFStorage,
        EnhancedSRStorage,
        GrayscaleSoftcopyPresentationStateStorage,
        KeyObjectSelectionDocumentStorage,
    }
)


def build_key_images(
    pictures: Sequence[KeyPicture],
    evidence: Evidence,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
) -> Dataset:
    """Return the Key Object Selection "Of Interest" (TID 2010) over the images that findings rest on.

    Its description says that it is an unverified draft of a machine, then one line per picture: where it is and the
    findings in words. Several frames of one Instance become one reference with frame numbers.

    Args:
        pictures: at least one, all of the Study of ``evidence``; pixels are not needed.
        evidence: what the findings rest on; Patient and Study modules come from its source.
        identity: fixes UIDs and times.
        equipment: our product, the observer.
        algorithms: the models that found something on the pictures.

    Returns:
        A Key Object Selection Document Instance with file meta information, ready to write.

    Raises:
        RefusedInputError: no picture, one of another Study, no algorithm, or no valid object.
    """
    if not algorithms:
        raise RefusedInputError("key images of a draft need the algorithms that chose them")
    header = study_header(evidence.source)
    frames: dict[InstanceReference, set[int]] = {}
    for picture in pictures:
        shown = frames.setdefault(InstanceReference.of(picture.source), set())
        if picture.frame_number is not None:
            shown.add(picture.frame_number)
    document = _selection(
        list(frames),
        header,
        kind="key_images",
        title="of_interest",
        description="\n".join([draft_notice(algorithms), *map(_line, pictures)]),
        identity=identity,
        equipment=equipment,
        algorithms=algorithms,
    )
    for item in document.ContentSequence:
        for reference in item.get("ReferencedSOPSequence", []):
            _name_frames(reference, frames)
    document.SeriesDescription = draft_description(algorithms)
    return document


def build_rejection_note(
    rejected: Sequence[InstanceReference],
    source: Dataset,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    reason: RejectionReason,
    text: str,
) -> Dataset:
    """Return the note that takes back results of ours which an archive already holds (IHE RAD TF, IOCM).

    An archive that follows IOCM then hides them. Never used for ordinary key images.

    Args:
        rejected: at least one, all of the Study of ``source``.
        source: any one image of the Study; Patient and Study modules are copied from it.
        identity: fixes UIDs and times.
        equipment: our product, the observer.
        reason: the coded title; ``"patient_safety"`` asks the archive to hide the objects from everybody.
        text: why, for people.

    Raises:
        RefusedInputError: nothing to reject, an Instance of another Study, or no valid object.
    """
    header = study_header(source)
    title = _TITLES[reason]
    document = _selection(
        list(dict.fromkeys(rejected)),
        header,
        kind="rejection_note",
        title=title,
        description=text,
        identity=identity,
        equipment=equipment,
        algorithms=(),
    )
    document.SeriesDescription = one_line(code_table().concepts[title].meaning, 64)
    return document


def _selection(
    references: Sequence[InstanceReference],
    header: Dataset,
    *,
    kind: ObjectKind,
    title: str,
    description: str,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
) -> Dataset:
    """Return the document; its evidence is exactly what it refers to."""
    _require_one_study(references, header)
    referenced = [_referenced(one) for one in references]
    # highdicom takes the patient from the first piece of evidence and lists all of it as referenced
    header.update(reference_dataset(references[0]))
    with building("key object selection"):
        document = hd.ko.KeyObjectSelectionDocument(
            evidence=[header, *referenced],
            content=hd.ko.KeyObjectSelection(
                document_title=code_table().concept(title),
                referenced_objects=referenced,
                observer_device_context=device_observer(equipment),
                description=text_block(description) or None,
            ),
            series_instance_uid=identity.series_instance_uid(kind),
            series_number=SERIES_NUMBERS[kind],
            sop_instance_uid=identity.sop_instance_uid(kind),
            instance_number=1,
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            **equipment_arguments(equipment),
        )
    write_request(document, header)
    stamp(document, header, identity=identity, equipment=equipment, algorithms=algorithms)
    return document


def _require_one_study(references: Sequence[InstanceReference], header: Dataset) -> None:
    if not references:
        raise RefusedInputError("a key object selection without any object cannot be written")
    strangers = sum(one.study_instance_uid != header.StudyInstanceUID for one in references)
    if strangers:
        raise RefusedInputError(f"{strangers} of {len(references)} objects are of another Study")


def _referenced(reference: InstanceReference) -> Dataset:
    """Return what highdicom takes as referenced object: with Rows and Columns it becomes an IMAGE item."""
    ds = reference_dataset(reference)
    if reference.sop_class_uid not in _WITHOUT_PIXELS:
        ds.Rows = ds.Columns = 1
    return ds


def _name_frames(reference: Dataset, frames: Mapping[InstanceReference, set[int]]) -> None:
    uid = reference.ReferencedSOPInstanceUID
    shown = next(sorted(numbers) for one, numbers in frames.items() if one.sop_instance_uid == uid)
    if shown:
        reference.ReferencedFrameNumber = shown


def _line(picture: KeyPicture) -> str:
    """Return where a picture is and what it shows, without anything that names the patient."""
    number = one_line(str(picture.source.get("InstanceNumber") or ""))
    frame = f", frame {picture.frame_number}" if picture.frame_number is not None else ""
    words = one_line(picture.caption) or "see the findings report"
    return f"Image {number or '(unnumbered)'}{frame}: {words}"
