"""The findings SR of a signed report: what the reader accepted, verified, numbers unchanged, nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from config.errors import RefusedInputError
from db.types import Decision
from publishing.signed_findings import build_signed_findings
from reports.findings_sr import build_findings_sr
from reports.segmentation import build_segmentation
from reports.sr_common import Evidence
from reports.values import DraftIdentity, FindingValue, InstanceReference, MeasurementValue, SignOff
from tests.reports_sources import (
    ALGORITHM,
    EQUIPMENT,
    NOON,
    SIGNER,
    classifier_findings,
    cross_sections,
    dciodvfy,
    dsrdump,
    identity_of,
    items,
    radiograph,
    segmentation,
    spec,
    written,
)

LIVER, TUMOUR, CYST = spec(1, "ct.liver"), spec(2, "ct.lung_tumor", laterality="right"), spec(3, "ct.left_kidney_cyst")
ABSENT_UID = "1.2.3.4"


def measured(item, volume):
    numbers = (MeasurementValue("volume", volume, "cm3"), MeasurementValue("long_axis", 23.4, "mm"))
    return FindingValue(
        item.label, item.code_key, "present", None, None, ALGORITHM, item.tracking_uid, item.tracking_id, numbers
    )


@pytest.fixture
def ct():
    """Return the draft's findings SR of a CT with three segmented findings and one that is absent, and its SEG."""
    source = cross_sections()
    seg = segmentation(source, LIVER, TUMOUR, CYST)
    absent = FindingValue(
        "hepatic tumor", "ct.hepatic_tumor", "absent", None, None, ALGORITHM, ABSENT_UID, "ai:hepatic tumor",
        source_sop_instance_uids=(str(source[2].SOPInstanceUID),),
    )  # fmt: skip
    draft = build_findings_sr(
        [measured(LIVER, 1500.25), measured(TUMOUR, 7.5), measured(CYST, 3.25), absent],
        Evidence(source[0], [InstanceReference.of(ds) for ds in source], [seg]),
        identity=identity_of(source[0]),
        equipment=EQUIPMENT,
    )
    return draft, seg


def signed(draft: Dataset, decisions, standing=(), sign_off=None) -> Dataset | None:
    identity = DraftIdentity(str(draft.StudyInstanceUID), "signature-1", "00ff", NOON)
    return build_signed_findings(
        draft, decisions, standing, identity=identity, equipment=EQUIPMENT, sign_off=sign_off or SignOff(SIGNER)
    )


def evidence_uids(document: Dataset) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in document.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def tracked(document: Dataset) -> set[str]:
    return {str(item.UID) for item in items(document, "Tracking Unique Identifier")}


ALL = {
    LIVER.tracking_uid: Decision.ACCEPTED,
    TUMOUR.tracking_uid: Decision.EDITED,
    CYST.tracking_uid: Decision.REJECTED,
    ABSENT_UID: Decision.PENDING,
}


def test_only_what_the_reader_accepted_or_edited_is_in_the_signed_findings(ct):
    draft, seg = ct
    document = signed(draft, ALL, [seg.SOPInstanceUID])
    assert tracked(document) == {LIVER.tracking_uid, TUMOUR.tracking_uid}
    assert document.CompletionFlagDescription == "2 of 4 AI findings accepted or edited"
    remarks = [{item.TextValue for item in items(group, "Comment")} for group in items(document, "Measurement Group")]
    assert remarks == [
        {"Accepted by the reader.", "Model label: liver."},
        {
            "Edited by the reader: the signed report says how. The numbers here are the model's own, unchanged.",
            "Model label: lung tumor.",
        },
    ]


def test_signed_findings_are_verified_by_a_person_and_still_name_the_device(ct):
    draft, seg = ct
    document = signed(draft, ALL, [seg.SOPInstanceUID])
    flags = (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag)
    assert flags == ("COMPLETE", "VERIFIED", "FINAL")
    (verifier,) = document.VerifyingObserverSequence
    assert str(verifier.VerifyingObserverName) == "Räd^Iola"
    assert verifier.VerifyingObserverIdentificationCodeSequence[0].CodeValue == "ST-4711"
    assert str(verifier.VerificationDateTime) == "20261122120000+0000"
    observers = [item.ConceptCodeSequence[0].CodeMeaning for item in items(document, "Observer Type")]
    assert observers == ["Person", "Device"]
    (name,) = items(document, "Person Observer Name")
    assert str(name.PersonName) == "Räd^Iola"
    assert [item.ObserverType for item in document.AuthorObserverSequence] == ["PSN"]
    assert [item.ParticipationType for item in document.ParticipantSequence] == ["SOURCE"]
    (before,) = document.PredecessorDocumentsSequence
    reference = before.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == draft.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121362"
    assert (document.SeriesNumber, document.AccessionNumber) == (907, "A-77")
    assert document.SOPInstanceUID != draft.SOPInstanceUID
    assert document.ReferencedRequestSequence[0].AccessionNumber == "A-77"


def test_numbers_are_the_drafts_own(ct, tmp_path):
    draft, seg = ct
    text = dsrdump(signed(draft, ALL, [seg.SOPInstanceUID]), tmp_path)  # DCMTK reads them
    assert '"1500.25" (cm3,UCUM' in text
    assert '"7.5" (cm3,UCUM' in text
    assert '"3.25"' not in text
    assert text.count('"23.4" (mm,UCUM') == 2


def test_a_group_whose_segmentation_does_not_go_along_keeps_its_numbers_without_the_reference(ct, tmp_path):
    draft, seg = ct
    document = signed(draft, ALL, standing=())
    assert [group.ContentTemplateSequence[0].TemplateIdentifier for group in items(document, "Measurement Group")] == [
        "1501", "1501",
    ]  # fmt: skip
    assert items(document, "Referenced Segment") == items(document, "Source Series for Segmentation") == []
    volumes = [float(item.MeasuredValueSequence[0].NumericValue) for item in items(document, "Volume")]
    assert volumes == [1500.25, 7.5]
    assert evidence_uids(document) == set()
    assert str(seg.SOPInstanceUID) not in dsrdump(document, tmp_path)
    assert dciodvfy(document, tmp_path) == []


def test_evidence_is_what_is_still_referred_to(ct):
    draft, seg = ct
    assert evidence_uids(signed(draft, ALL, [seg.SOPInstanceUID])) == {str(seg.SOPInstanceUID)}
    absent_too = signed(draft, ALL | {ABSENT_UID: Decision.ACCEPTED}, [seg.SOPInstanceUID])
    assert len(evidence_uids(absent_too)) == 2  # the image the negative statement names


@pytest.mark.parametrize("decisions", [{}, dict.fromkeys(ALL, Decision.REJECTED), dict.fromkeys(ALL, Decision.PENDING)])
def test_nothing_accepted_makes_no_document(ct, decisions):
    assert signed(ct[0], decisions) is None


def test_a_radiographs_signed_findings_say_no_more_draft_but_still_demonstration(tmp_path):
    source = radiograph()
    findings = classifier_findings(source, "present")[:2]
    draft = build_findings_sr(
        findings, Evidence(source, [InstanceReference.of(source)]), identity=identity_of(source), equipment=EQUIPMENT
    )
    document = signed(draft, {findings[0].tracking_uid: Decision.ACCEPTED})
    remarks = [item.TextValue for item in items(document, "Comment")]
    assert "DEMONSTRATION MODEL, not for clinical use." in remarks
    assert not [text for text in remarks if "not verified" in text]
    assert [text for text in remarks if "uncalibrated model score" in text]
    assert document.ContentQualification == "RESEARCH"
    assert evidence_uids(document) == {str(source.SOPInstanceUID)}
    assert dciodvfy(document, tmp_path) == []


def test_a_radiographs_located_finding_is_planar_and_falls_back_to_its_image(tmp_path):
    source = radiograph()
    mask = np.zeros((1, 64, 48), np.uint8)
    mask[0, 5:20, 5:30] = 1
    heart = spec(1, "ct.heart")
    seg = build_segmentation([source], mask, segments=[heart], identity=identity_of(source), equipment=EQUIPMENT)
    draft = build_findings_sr(
        [replace(measured(heart, 1.0), measurements=())],
        Evidence(source, [InstanceReference.of(source)], [seg]),
        identity=identity_of(source),
        equipment=EQUIPMENT,
    )
    (group,) = items(draft, "Measurement Group")
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1410"
    (frame,) = items(group, "Referenced Segmentation Frame")
    assert frame.ReferencedSOPSequence[0].ReferencedFrameNumber == 1
    (image,) = items(group, "Source Image for Segmentation")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert dciodvfy(draft, tmp_path) == []
    document = signed(draft, {heart.tracking_uid: Decision.ACCEPTED})
    assert items(document, "Referenced Segmentation Frame") == []
    (image,) = items(document, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    kept = signed(draft, {heart.tracking_uid: Decision.ACCEPTED}, [seg.SOPInstanceUID])
    assert len(items(kept, "Referenced Segmentation Frame")) == 1  # it goes along: its image need not be among ours
    assert dciodvfy(kept, tmp_path) == []
    assert dciodvfy(document, tmp_path) == []
    assert "E: " not in dsrdump(document, tmp_path)


def test_an_attested_report_names_both_people(ct):
    draft, seg = ct
    resident = replace(SIGNER, family="Young", given="Res", staff_id="ST-2")
    document = signed(draft, ALL, [seg.SOPInstanceUID], SignOff(SIGNER, attested_author=resident))
    assert [str(one.PersonName) for one in document.AuthorObserverSequence] == ["Young^Res", "Räd^Iola"]
    assert [one.ParticipationType for one in document.ParticipantSequence] == ["SOURCE", "ATTEST"]


def test_a_preliminary_signature_verifies_no_findings(ct):
    with pytest.raises(RefusedInputError, match="final signature only"):
        signed(ct[0], ALL, sign_off=SignOff(SIGNER, preliminary=True))


def test_the_same_signature_writes_the_same_bytes(ct):
    draft, seg = ct
    first, second = (signed(draft, ALL, [seg.SOPInstanceUID]) for _ in range(2))
    assert written(first) == written(second)
