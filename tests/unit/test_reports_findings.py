"""The findings SR says what was assessed, by which weights, on which segment, and nothing more."""

from dataclasses import replace

import pytest

from config.errors import RefusedInputError
from reports.findings_sr import build_findings_sr
from reports.sr_common import Evidence
from reports.values import FindingValue, InstanceReference, MeasurementValue
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    classifier_findings,
    cross_sections,
    identity_of,
    items,
    radiograph,
    segmentation,
    spec,
    written,
)

LIVER = spec(1, "ct.liver")
TUMOUR = spec(2, "ct.lung_tumor", laterality="right")


def finding_of(item, presence="present", **changes):
    finding = FindingValue(
        item.label, item.code_key, presence, None, None, ALGORITHM, item.tracking_uid, item.tracking_id
    )
    return replace(finding, **changes)


@pytest.fixture
def source():
    return cross_sections()


@pytest.fixture
def evidence(source):
    references = [InstanceReference.of(ds) for ds in source]
    return Evidence(source[0], references, [segmentation(source, LIVER, TUMOUR)])


def build(findings, evidence, **options):
    return build_findings_sr(findings, evidence, identity=identity_of(evidence.source), equipment=EQUIPMENT, **options)


def cxr_evidence(ds):
    return Evidence(ds, [InstanceReference.of(ds)])


def test_a_normal_radiograph_is_eighteen_groups_that_say_absent():
    ds = radiograph()
    document = build(classifier_findings(ds), cxr_evidence(ds))
    groups = items(document, "Measurement Group")
    assert len(groups) == 18
    for group in groups:
        (presence,) = items(group, "Presence of property")
        assert presence.ConceptCodeSequence[0].CodeValue == "121054"
        assert items(group, "Tracking Unique Identifier")
        assert group.ContentTemplateSequence[0].TemplateIdentifier == "1501"
        assert items(group, "Volume") == []
    flags = (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in document
    assert (document.SeriesNumber, document.Modality) == (902, "SR")


@pytest.mark.requirement("REQ-BIAS-2")
def test_a_score_is_a_percentage_that_is_called_uncalibrated():
    ds = radiograph()
    document = build(classifier_findings(ds, "present", 0.8312)[3:4], cxr_evidence(ds))
    (certainty,) = items(document, "Certainty of Finding")
    value = certainty.MeasuredValueSequence[0]
    assert (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) == (83.1, "%")
    notice, label, remark = (item.TextValue for item in items(document, "Comment"))
    assert notice == "AI-generated draft, not verified – DEMONSTRATION MODEL, not for clinical use."
    assert label == "Model label: Pneumothorax."
    assert "uncalibrated model score" in remark


@pytest.mark.requirement("REQ-TEXT-2")
def test_a_finding_of_a_classifier_names_its_image_but_no_side():
    ds = radiograph()
    document = build(classifier_findings(ds, "present")[3:4], cxr_evidence(ds))
    (site,) = items(document, "Finding Site")
    assert site.ConceptCodeSequence[0].CodeValue == "3120008"
    assert "ContentSequence" not in site
    (image,) = items(document, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID


@pytest.mark.parametrize("side", ["left", "right", "bilateral"])
def test_a_side_without_a_segment_is_refused(side):
    ds = radiograph()
    guessed = replace(classifier_findings(ds, "present")[3], laterality=side)
    with pytest.raises(RefusedInputError, match="no segment localises it"):
        build([guessed], cxr_evidence(ds))


def test_a_segmented_finding_refers_to_its_segment_and_has_its_volume(evidence):
    measured = finding_of(LIVER, measurements=(MeasurementValue("volume", 1234.5678, "cm3"),))
    document = build([measured], evidence)
    (group,) = items(document, "Measurement Group")
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
    (segment,) = items(group, "Referenced Segment")
    reference = segment.ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == evidence.segmentations[0].SOPInstanceUID
    assert reference.ReferencedSegmentNumber == 1
    (series,) = items(group, "Source Series for Segmentation")
    assert evidence.source.SeriesInstanceUID == series.UID
    (volume,) = items(group, "Volume")
    value = volume.MeasuredValueSequence[0]
    assert (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) == (1234.57, "cm3")
    (uid,) = items(group, "Tracking Unique Identifier")
    assert LIVER.tracking_uid == uid.UID


def test_a_segmented_lesion_has_the_side_of_its_segment(evidence):
    document = build([finding_of(TUMOUR, laterality="right")], evidence)
    (laterality,) = items(document, "Laterality")
    assert laterality.ConceptCodeSequence[0].CodeValue == "24028007"


def test_an_organ_whose_label_fixes_its_side_keeps_it_when_absent(evidence):
    absent = finding_of(spec(9, "ct.left_kidney"), "absent")
    (laterality,) = items(build([absent], evidence), "Laterality")
    assert laterality.ConceptCodeSequence[0].CodeValue == "7771000"


def test_the_algorithm_its_weights_and_threshold_stand_in_every_group(evidence):
    document = build([finding_of(LIVER), finding_of(TUMOUR)], evidence)
    for group in items(document, "Measurement Group"):
        assert [item.TextValue for item in items(group, "Algorithm Name")] == ["VISTA3D"]
        assert [item.TextValue for item in items(group, "Algorithm Version")] == ["0.5.0"]
        parameters = [item.TextValue for item in items(group, "Algorithm Parameters")]
        assert parameters == [f"weights_sha256={'ab' * 32}", "threshold=0.5"]
    (observer,) = items(document, "Device Observer UID")
    assert EQUIPMENT.device_uid == observer.UID


@pytest.mark.requirement("REQ-FAIL-2")
def test_what_was_not_assessed_makes_the_document_partial():
    ds = radiograph()
    document = build(classifier_findings(ds)[:2], cxr_evidence(ds), not_assessed=["pneumothorax " * 9, "hernia"])
    assert document.CompletionFlag == "PARTIAL"
    assert document.CompletionFlagDescription.startswith("Not assessed: pneumothorax")
    assert len(document.CompletionFlagDescription) <= 64


def test_every_image_and_segmentation_is_evidence(source, evidence):
    document = build([finding_of(LIVER)], evidence)
    listed = {
        str(item.ReferencedSOPInstanceUID)
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert listed == {str(ds.SOPInstanceUID) for ds in [*source, *evidence.segmentations]}
    (request,) = document.ReferencedRequestSequence
    assert request.AccessionNumber == "A-77"


def test_a_prior_is_other_evidence():
    ds, prior = radiograph(), radiograph()
    evidence = Evidence(ds, [InstanceReference.of(ds), InstanceReference.of(prior)])
    document = build(classifier_findings(ds)[:1], evidence)
    (other,) = document.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == prior.StudyInstanceUID


def test_the_author_of_a_draft_is_the_device():
    ds = radiograph()
    document = build(classifier_findings(ds), cxr_evidence(ds))
    (author,) = document.AuthorObserverSequence
    assert (author.ObserverType, author.DeviceUID) == ("DEV", EQUIPMENT.device_uid)
    (participant,) = document.ParticipantSequence
    assert participant.ParticipationType == "SOURCE"
    assert document.ContentQualification == "RESEARCH"
    assert document.SeriesDescription == "AI DRAFT – not verified: DEMONSTRATION MODEL CXR 0.1.0"


def test_a_retry_writes_the_same_bytes(evidence):
    assert written(build([finding_of(LIVER)], evidence)) == written(build([finding_of(LIVER)], evidence))


REFUSED = {
    "no finding was assessed": [],
    "is not in config/codes": [finding_of(LIVER, code_key="ct.nothing")],
    "no segment has the finding's": [finding_of(LIVER, tracking_uid="1.2.3", segment_number=1)],
    "is segment 1, 2 was given": [finding_of(LIVER, segment_number=2)],
    "a segment shows it": [finding_of(LIVER, "absent")],
    "its segment is right": [finding_of(TUMOUR, laterality="left")],
    "no segment they were made on": [
        finding_of(LIVER, tracking_uid="1.2.3", measurements=(MeasurementValue("volume", 1.0, "cm3"),))
    ],
    "expected a finite number": [finding_of(LIVER, measurements=(MeasurementValue("volume", float("nan"), "cm3"),))],
    "unit 'furlong'": [finding_of(LIVER, measurements=(MeasurementValue("volume", 1.0, "furlong"),))],
    "concept 'weight'": [finding_of(LIVER, measurements=(MeasurementValue("weight", 1.0, "cm3"),))],
    "expected 0…1": [finding_of(LIVER, score=83.0)],
    "not in the evidence": [finding_of(LIVER, tracking_uid="1.2.3", source_sop_instance_uids=("1.2.3.4",))],
    "no site that could carry": [finding_of(TUMOUR, code_key="cxr.fracture", laterality="right")],
}


@pytest.mark.parametrize(("message", "findings"), REFUSED.items(), ids=REFUSED)
def test_a_finding_that_cannot_be_told_truly_is_refused(evidence, message, findings):
    with pytest.raises(RefusedInputError, match=message):
        build(findings, evidence)


@pytest.mark.requirement("REQ-MODEL-2")
def test_device_uid_of_the_model_is_in_contributing_equipment():
    ds = radiograph()
    document = build(classifier_findings(ds), cxr_evidence(ds))
    uids = [item.get("DeviceUID") for item in document.ContributingEquipmentSequence]
    assert uids.count(DEMONSTRATION.device_uid) == 1
