"""The results of a draft as IHE AI Results wants them encoded, read from the files themselves (docs/ihe-air.md)."""

import pydicom
import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import Comprehensive3DSRStorage

from reports.codes import code_table
from reports.values import SERIES_NUMBERS
from tests.draft_support import ct_draft, cxr_draft, publish
from tests.integration.test_draft_results import EVERYTHING
from tests.reports_sources import items

STANDARD_SCHEMES = {"DCM", "SCT", "UCUM", "LN", "NCIt", "RADLEX", "UMLS", "RFC5646"}
OF_DICOM = {(value, scheme) for scheme, names in concepts.items() for values in names.values() for value in values}
CODE_ITEMS = ("CodeValue", "LongCodeValue", "URNCodeValue")
DICOM_ONLY = tuple(one.model_copy(update={"pdf": False}) for one in EVERYTHING[:2])


@pytest.fixture(params=["ct", "cxr"], scope="module")
def published(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    content, intake = (ct_draft if request.param == "ct" else cxr_draft)(folder)
    return folder, intake, publish((content, intake), folder, DICOM_ONLY)


@pytest.fixture
def results(published):
    """Return the images that were read and every DICOM object of the draft, by kind; read anew for each test."""
    folder, intake, made = published
    images = [ds for headers in intake.headers.values() for ds in headers]
    kept = reversed(made.objects)  # of the findings SR the form that every draft has, which is the first
    return images, {one.kind.value: pydicom.dcmread(folder / one.path) for one in kept}


def segmentations(objects):
    return [ds for kind, ds in objects.items() if kind in ("SEG", "HEAT_MAP")]


def every_code(ds):
    """Yield (value, scheme) of every code sequence item anywhere in an object."""
    for element in ds:
        if element.VR != "SQ":
            continue
        for item in element.value:
            value = next((str(item[name].value) for name in CODE_ITEMS if name in item), None)
            if value is not None:
                yield value, str(item.get("CodingSchemeDesignator", ""))
            yield from every_code(item)


def evidence_of(document):
    return {
        str(item.ReferencedSOPInstanceUID)
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in document.get(name, [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def referenced(node):
    found = {str(one.ReferencedSOPInstanceUID) for one in node.get("ReferencedSOPSequence", [])}
    for item in node.get("ContentSequence", []):
        found |= referenced(item)
    return found


def test_the_root_result_ties_the_set_together(results):
    _, objects = results
    root = objects["FINDINGS_SR"]
    assert root.SOPClassUID == Comprehensive3DSRStorage
    assert root.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert root.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert {str(ds.SOPInstanceUID) for ds in segmentations(objects)} <= referenced(root)


def test_whatever_a_document_refers_to_is_in_its_evidence(results):
    images, objects = results
    documents = [ds for ds in objects.values() if ds.Modality in ("SR", "KO")]
    assert len(documents) >= 3
    for document in documents:
        assert referenced(document) <= evidence_of(document)
    read = {str(ds.SOPInstanceUID) for ds in images}
    for kind in ("FINDINGS_SR", "DRAFT_SR"):
        # what was read is evidence too, though no item points at it
        assert read <= evidence_of(objects[kind])


def test_a_finding_has_one_tracking_uid_and_identifier_in_sr_and_segmentation(results):
    _, objects = results
    in_report = {
        str(items(group, "Tracking Unique Identifier")[0].UID): items(group, "Tracking Identifier")[0].TextValue
        for group in items(objects["FINDINGS_SR"], "Measurement Group")
    }
    in_segments = {
        str(item.TrackingUID): str(item.TrackingID) for ds in segmentations(objects) for item in ds.SegmentSequence
    }
    shared = in_report.keys() & in_segments.keys()
    assert shared
    assert {uid: in_report[uid] for uid in shared} == {uid: in_segments[uid] for uid in shared}


def test_a_segmented_finding_has_volume_and_diameter(tmp_path):
    made = publish(ct_draft(tmp_path), tmp_path)
    (path,) = [one.path for one in made.objects if one.kind == "FINDINGS_SR"]
    (group,) = [
        group
        for group in items(pydicom.dcmread(tmp_path / path), "Measurement Group")
        if group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
    ]
    numbers = {
        name: (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue)
        for name in ("Volume", "Long axis")
        for value in items(group, name)[0].MeasuredValueSequence
    }
    # 4 x 6 x 5 voxels of 7 x 5 x 5 mm: 21 ml; the diagonal of 6 x 5 voxels of 5 mm, and the pixel it ends in
    assert numbers["Volume"] == (pytest.approx(21.0, rel=1e-3), "cm3")
    assert numbers["Long axis"][1] == "mm"
    assert 32.0 < numbers["Long axis"][0] < 40.0


@pytest.mark.requirement("REQ-LABEL-5", "REQ-CONF-6")
def test_the_algorithm_stands_in_four_places(results):
    _, objects = results
    expert = objects["FINDINGS_SR"]
    # 1 the product that writes, 2 each algorithm as contributing equipment, with a Device UID of its weights
    for ds in objects.values():
        assert (ds.Manufacturer, ds.ManufacturerModelName) == ("Firstread", "Firstread")
        assert ds.SoftwareVersions
        assert ds.DeviceSerialNumber
        contributing = [item for item in ds.ContributingEquipmentSequence if "DeviceUID" in item]
        assert contributing, ds.SeriesDescription
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in contributing} == {"109102"}
    # 3 TID 4019 in each group
    for group in items(expert, "Measurement Group"):
        assert len(items(group, "Algorithm Name")) == len(items(group, "Algorithm Version")) == 1
        parameters = [item.TextValue for item in items(group, "Algorithm Parameters")]
        assert [text for text in parameters if text.startswith("weights_sha256=") and len(text) == 15 + 64]
    # 4 each segment
    for ds in segmentations(objects):
        for item in ds.SegmentSequence:
            assert item.SegmentAlgorithmType == "AUTOMATIC"
            assert item.SegmentAlgorithmName
            algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
            assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
            assert "weights_sha256=" in algorithm.AlgorithmParameters


def test_the_observer_of_a_draft_is_the_device_and_no_person(results):
    _, objects = results
    for kind in ("FINDINGS_SR", "DRAFT_SR"):
        observers = [item.ConceptCodeSequence[0].CodeMeaning for item in items(objects[kind], "Observer Type")]
        assert observers == ["Device"]
        assert items(objects[kind], "Device Observer UID")


@pytest.mark.requirement("REQ-LABEL-3")
def test_a_draft_says_unverified_wherever_a_reader_looks(results):
    _, objects = results
    for ds in objects.values():
        assert str(ds.SeriesDescription).startswith("AI DRAFT – not verified: ")
        assert len(str(ds.SeriesDescription)) <= 64
    for kind in ("FINDINGS_SR", "DRAFT_SR", "DRAFT_TEXT_SR"):
        document = objects[kind]
        assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
        assert "VerifyingObserverSequence" not in document


def test_each_kind_has_a_series_of_its_own_in_the_study_of_the_images(results):
    images, objects = results
    series = [str(ds.SeriesInstanceUID) for ds in objects.values()]
    assert len(set(series)) == len(series)
    assert {str(ds.SeriesInstanceUID) for ds in images}.isdisjoint(series)
    assert {str(ds.StudyInstanceUID) for ds in objects.values()} == {str(images[0].StudyInstanceUID)}
    for kind, ds in objects.items():
        assert ds.SeriesNumber in SERIES_NUMBERS.values(), kind
        assert ds.SeriesNumber >= 900


def test_patient_and_study_are_those_of_the_images(results):
    images, objects = results
    copied = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
              "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
    for kind, ds in objects.items():
        for keyword in copied:
            assert str(ds.get(keyword) or "") == str(images[0].get(keyword) or ""), (kind, keyword)


@pytest.mark.requirement("REQ-AUDIT-8")
def test_times_have_their_zone(results):
    _, objects = results
    for ds in objects.values():
        assert ds.TimezoneOffsetFromUTC == "+0000"
        assert (ds.SeriesDate, ds.SeriesTime) == ("20260102", "030405")


@pytest.mark.requirement("REQ-MODEL-8")
def test_models_that_are_not_cleared_say_research(results):
    _, objects = results
    assert {str(ds.ContentQualification) for ds in objects.values()} == {"RESEARCH"}


def test_labels_of_segmentations_are_code_strings(results):
    _, objects = results
    for ds in segmentations(objects):
        label = str(ds.ContentLabel)
        assert label == label.upper()
        assert len(label) <= 16


@pytest.mark.requirement("REQ-TEXT-12")
def test_no_code_is_invented(results):
    _, objects = results
    reviewed = {(concept.value, concept.scheme) for concept in code_table().concepts.values()}
    for kind, ds in objects.items():
        used = set(every_code(ds))
        assert used
        assert {scheme for _, scheme in used} <= STANDARD_SCHEMES, kind
        # what is not in the reviewed table is vocabulary of DICOM's own templates (PS3.16, as pydicom lists it)
        assert {one for one in used - reviewed if one[1] != "RFC5646" and one not in OF_DICOM} == set(), kind


@pytest.mark.requirement("REQ-VIEW-4")
def test_the_heat_map_of_a_radiograph_is_no_outline(tmp_path):
    made = publish(cxr_draft(tmp_path), tmp_path)
    objects = {one.kind.value: pydicom.dcmread(tmp_path / one.path) for one in made.objects}
    assert objects["HEAT_MAP"].SegmentationType == "FRACTIONAL"
    located = [
        group for group in items(objects["FINDINGS_SR"], "Measurement Group")
        if group.ContentTemplateSequence[0].TemplateIdentifier == "1410"
    ]  # fmt: skip
    assert len(located) == 2
    for group in located:
        (frame,) = items(group, "Referenced Segmentation Frame")
        assert frame.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == objects["HEAT_MAP"].SOPInstanceUID
        assert items(group, "Image Region") == []
        assert [text for item in items(group, "Comment") if "not an outline" in (text := item.TextValue)]
