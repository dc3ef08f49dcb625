"""Key images name what they show and that nobody verified it; rejection notes carry their own titles."""

from dataclasses import replace

import highdicom as hd
import pydicom
import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SegmentationStorage,
    generate_uid,
)

from config.errors import RefusedInputError
from reports.key_images import build_key_images, build_rejection_note
from reports.pictures import KeyPicture
from reports.sr_common import Evidence
from reports.values import InstanceReference
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    cross_sections,
    dciodvfy,
    dsrdump,
    identity_of,
    items,
    radiograph,
    written,
)


def key_images(pictures, source, algorithms=(ALGORITHM,)):
    evidence = Evidence(source, [InstanceReference.of(source)])
    return build_key_images(
        pictures, evidence, identity=identity_of(source), equipment=EQUIPMENT, algorithms=algorithms
    )


def rejection_note(rejected, source, reason="quality"):
    return build_rejection_note(
        rejected,
        source,
        identity=identity_of(source, "note"),
        equipment=EQUIPMENT,
        reason=reason,
        text="The AI draft was rejected by a radiologist.",
    )


def of_study(source, sop_class):
    return InstanceReference(str(source.StudyInstanceUID), generate_uid(), sop_class, generate_uid())


def title(document):
    code = document.ConceptNameCodeSequence[0]
    return code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning


def evidence_uids(document):
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def test_key_images_are_of_interest_and_say_that_nobody_verified_them(tmp_path):
    source = cross_sections()
    pictures = [KeyPicture(source[k], None, caption=f"lung nodule, {k} mm") for k in (1, 3)]
    document = key_images(pictures, source[0])
    assert title(document) == ("113000", "DCM", "Of Interest")
    (description,) = items(document, "Key Object Description")
    assert description.TextValue.split("\r\n") == [
        "AI-generated draft, not verified",
        "Image 2: lung nodule, 1 mm",
        "Image 4: lung nodule, 3 mm",
    ]
    assert document.SeriesDescription == "AI DRAFT – not verified: VISTA3D 0.5.0"
    assert (document.Modality, document.SeriesNumber) == ("KO", 908)
    assert dciodvfy(document, tmp_path) == []
    assert "lung nodule, 3 mm" in dsrdump(document, tmp_path)


def test_evidence_is_exactly_what_the_selection_refers_to():
    source = cross_sections()
    document = key_images([KeyPicture(source[3], None, caption="cyst")], source[0])
    assert evidence_uids(document) == {str(source[3].SOPInstanceUID)}
    assert document.PatientID == "P-1"
    (request,) = document.ReferencedRequestSequence
    assert request.AccessionNumber == "A-77"


def test_frames_of_one_instance_become_one_reference_with_frame_numbers(tmp_path):
    (source,) = cross_sections(1)
    source.SOPClassUID, source.NumberOfFrames = EnhancedCTImageStorage, 40
    document = key_images([KeyPicture(source, n, caption="c") for n in (31, 7, 31)], source)
    path = tmp_path / "ko.dcm"
    path.write_bytes(written(document))
    read = hd.ko.KeyObjectSelectionDocument.from_dataset(pydicom.dcmread(path))
    (image,) = read.content.get_references(sop_class_uid=EnhancedCTImageStorage)
    assert image.ValueType == "IMAGE"
    assert image.ReferencedSOPSequence[0].ReferencedFrameNumber == [7, 31]
    assert dciodvfy(document, tmp_path) == []
    assert "Image 1, frame 31: c" in dsrdump(document, tmp_path)


def test_our_product_is_the_observer_and_each_model_is_named():
    source = radiograph()
    document = key_images([KeyPicture(source, None, caption="Ödem")], source, [ALGORITHM, DEMONSTRATION])
    (uid,) = items(document, "Device Observer UID")
    assert EQUIPMENT.device_uid == uid.UID
    models = {item.get("ManufacturerModelName") for item in document.ContributingEquipmentSequence}
    assert {"VISTA3D", "CXR"} <= models
    assert "DEMONSTRATION MODEL" in items(document, "Key Object Description")[0].TextValue
    assert document.ContentQualification == "RESEARCH"


@pytest.mark.parametrize(
    ("name", "character_set"),
    [("山田^太郎", "ISO_IR 192"), ("محمد^علي", "ISO_IR 192"), ("Müller^Jürgen", "ISO_IR 192")],
)
def test_names_of_every_script_stay_and_captions_lose_control_characters(tmp_path, name, character_set):
    source = radiograph()
    source.PatientName, source.SpecificCharacterSet = name, character_set
    document = key_images([KeyPicture(source, None, caption="Herz\x1b größer\x00 肝\\臓 " + "x" * 300)], source)
    path = tmp_path / "ko.dcm"
    path.write_bytes(written(document))
    assert str(pydicom.dcmread(path).PatientName) == name
    assert "Herz größer 肝/臓" in items(document, "Key Object Description")[0].TextValue
    assert dciodvfy(document, tmp_path) == []


def test_no_picture_no_model_or_another_patients_picture_is_refused():
    source, other = radiograph(), radiograph()
    with pytest.raises(RefusedInputError, match="without any object"):
        key_images([], source)
    with pytest.raises(RefusedInputError, match="algorithms"):
        key_images([KeyPicture(source, None)], source, [])
    with pytest.raises(RefusedInputError, match="1 of 2 objects are of another Study"):
        key_images([KeyPicture(source, None), KeyPicture(other, None)], source)


def test_the_same_input_gives_the_same_bytes():
    source = radiograph()
    pictures = [KeyPicture(source, None, caption="c")]
    assert written(key_images(pictures, source)) == written(key_images(pictures, source))
    note = [of_study(source, SegmentationStorage)]
    assert written(rejection_note(note, source)) == written(rejection_note(note, source))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("quality", ("113001", "DCM", "Rejected for Quality Reasons")),
        ("patient_safety", ("113037", "DCM", "Rejected for Patient Safety Reasons")),
    ],
)
def test_a_rejection_note_names_what_it_rejects_and_nothing_else(tmp_path, reason, expected):
    source = cross_sections()[0]
    kinds = (SegmentationStorage, Comprehensive3DSRStorage, EncapsulatedPDFStorage,
             GrayscaleSoftcopyPresentationStateStorage)  # fmt: skip
    rejected = [of_study(source, kind) for kind in kinds]
    document = rejection_note([*rejected, rejected[0]], source, reason)
    assert title(document) == expected
    assert evidence_uids(document) == {one.sop_instance_uid for one in rejected}
    references = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPClassUID): item.ValueType
        for item in document.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert references == {SegmentationStorage: "IMAGE", **dict.fromkeys(kinds[1:], "COMPOSITE")}
    assert items(document, "Key Object Description")[0].TextValue == "The AI draft was rejected by a radiologist."
    assert (document.SeriesDescription, document.SeriesNumber) == (expected[2], 913)
    assert dciodvfy(document, tmp_path) == []
    assert "rejected by a radiologist" in dsrdump(document, tmp_path)


def test_a_rejection_note_stays_within_one_study():
    source = radiograph()
    stranger = replace(of_study(source, CTImageStorage), study_instance_uid="1.2.3")
    with pytest.raises(RefusedInputError, match="another Study"):
        rejection_note([stranger], source)
    with pytest.raises(RefusedInputError, match="without any object"):
        rejection_note([], source)
