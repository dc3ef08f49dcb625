"""Every kind of object we write, before judges that are not ours: dicom3tools' dciodvfy and DCMTK's dsrdump."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from config.errors import GeometryError
from phantoms.ct import make_ct
from phantoms.dicom import write_ct
from phantoms.patients import make_patient
from reports.codes import code_table
from reports.findings_signed import Kept, build_findings_signed
from reports.findings_sr import build_findings_sr
from reports.narrative_sr import build_narrative_sr
from reports.segmentation import build_segmentation, tumour_regions
from reports.sr_common import Evidence
from reports.values import FindingValue, InstanceReference, MeasurementValue, Predecessor, Section, SignOff
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
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

SECTIONS = [
    Section("history", "Cough."),
    Section("technique", "As acquired."),
    Section("comparison", "No prior study was read."),
    Section("findings", "Liver: 1234.6 ml.\nSpleen – größer als üblich; 肝臓."),
    Section("impression", "No acute finding."),
    Section("recommendation", "None."),
]
BRATS_KEYS = ("mr.whole_tumor", "mr.tumor_core", "mr.enhancing_tumor")
# What TotalSegmentator calls a structure of ct_abdomen, and our row for it.
ABDOMEN = {
    1: "ct.spleen", 5: "ct.liver", 6: "ct.stomach", 7: "ct.pancreas", 8: "ct.right_adrenal_gland", 20: "ct.colon",
    32: "ct.vertebrae_t12", 33: "ct.vertebrae_t11", 52: "ct.aorta", 63: "ct.inferior_vena_cava",
    64: "ct.portal_vein_and_splenic_vein", 69: "ct.left_humerus", 70: "ct.right_humerus", 79: "ct.spinal_cord",
    86: "ct.left_autochthon", 87: "ct.right_autochthon", 97: "ct.left_rib_6", 117: "ct.costal_cartilages",
}  # fmt: skip


def headers(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]


def evidence_of(source: list[Dataset], *segmentations: Dataset) -> Evidence:
    return Evidence(source[0], [InstanceReference.of(ds) for ds in source], segmentations)


def findings_of(seg: Dataset, source: list[Dataset]) -> list[FindingValue]:
    """One finding with a volume per segment of ``seg``, and one that is absent."""
    present = [
        FindingValue(
            str(item.SegmentLabel), code_table().key_for_label("vista3d", str(item.SegmentLabel)), "present", None,
            None, ALGORITHM, str(item.TrackingUID), str(item.TrackingID), (MeasurementValue("volume", 12.5, "cm3"),),
            int(item.SegmentNumber),
        )
        for item in seg.SegmentSequence
    ]  # fmt: skip
    absent = FindingValue(
        "hepatic tumor", "ct.hepatic_tumor", "absent", None, None, ALGORITHM, "1.2.3.4", "ai:hepatic tumor"
    )
    unsure = replace(absent, label="bone lesion", code_key="ct.bone_lesion", presence="undetermined",
                     tracking_uid="1.2.3.5", source_sop_instance_uids=(str(source[0].SOPInstanceUID),))  # fmt: skip
    return [*present, absent, unsure]


def every_report(source: list[Dataset], *segmentations: Dataset) -> dict[str, Dataset]:
    """Return draft, preliminary, signed, attested and addended narrative of one Study."""
    evidence = evidence_of(source, *segmentations)
    common = {"equipment": EQUIPMENT, "algorithms": [ALGORITHM, DEMONSTRATION]}
    draft = build_narrative_sr(SECTIONS, evidence, identity=identity_of(source[0]), not_assessed=["hernia"], **common)
    follows = Predecessor(InstanceReference.of(draft))
    resident = replace(SIGNER, family="Young", given="Res", staff_id="a-staff-number-of-more-than-16-characters")
    sign_offs = {
        "preliminary": SignOff(resident, (follows,), preliminary=True),
        "signed": SignOff(SIGNER, (follows,)),
        "attested": SignOff(SIGNER, (follows,), attested_author=resident),
    }
    reports = {
        name: build_narrative_sr(SECTIONS, evidence, identity=identity_of(source[0], name), sign_off=s, **common)
        for name, s in sign_offs.items()
    }
    addendum = SignOff(SIGNER, (Predecessor(InstanceReference.of(reports["signed"]), "addended"),))
    reports["addendum"] = build_narrative_sr(
        [Section("addendum", "Seen with the late images.")], evidence,
        identity=identity_of(source[0], "addendum"), sign_off=addendum, **common,
    )  # fmt: skip
    return {"draft": draft, **reports}


def assert_conformant(ds: Dataset, folder: Path) -> None:
    assert dciodvfy(ds, folder) == []
    if ds.Modality == "SR":
        assert str(ds.SeriesDescription).encode() in dsrdump(ds, folder).encode()


def assert_reads_back(seg: Dataset, source: list[Dataset], masks: np.ndarray, folder: Path) -> None:
    """Compare with highdicom's reader; ``masks`` is (slices, rows, columns, segments)."""
    path = folder / "seg.dcm"
    path.write_bytes(written(seg))
    read = segread(path).get_pixels_by_source_instance(
        [str(ds.SOPInstanceUID) for ds in source], assert_missing_frames_are_empty=True
    )
    assert np.array_equal(read, masks)


# --- self-made sources: these run everywhere ---------------------------------------------------------------


@pytest.mark.requirement("REQ-DELIV-7")
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_volume_gives_conformant_objects_of_every_kind(tmp_path, modality):
    source = cross_sections(modality=modality)
    seg = segmentation(source, spec(1, "ct.liver"), spec(2, "ct.left_kidney"), spec(3, "ct.lung_tumor"))
    findings = build_findings_sr(
        findings_of(seg, source), evidence_of(source, seg), identity=identity_of(source[0]), equipment=EQUIPMENT
    )
    for ds in (seg, findings, *every_report(source, seg).values()):
        assert_conformant(ds, tmp_path)


@pytest.mark.parametrize("presence", ["absent", "present", "undetermined"])
def test_a_radiograph_gives_conformant_objects_of_every_kind(tmp_path, presence):
    source = radiograph()
    findings = build_findings_sr(
        classifier_findings(source, presence),
        evidence_of([source]),
        identity=identity_of(source),
        equipment=EQUIPMENT,
    )
    assert_conformant(findings, tmp_path)
    assert dsrdump(findings, tmp_path).count("Measurement Group") == 18
    for ds in every_report([source]).values():
        assert_conformant(ds, tmp_path)


@pytest.mark.parametrize("missing", [(), ("PatientOrientation",), ("BodyPartExamined", "PatientOrientation")])
def test_a_radiographs_segmentation_is_conformant_even_without_orientation(tmp_path, missing):
    source = radiograph()
    for keyword in missing:
        del source[keyword]
    mask = np.zeros((1, 64, 48), np.uint8)
    mask[0, 5:20, 5:30] = 1
    seg = build_segmentation(
        [source], mask, segments=[spec(1, "ct.heart")], identity=identity_of(source), equipment=EQUIPMENT
    )
    assert dciodvfy(seg, tmp_path) == []


def test_every_row_of_the_code_table_makes_a_conformant_segment(tmp_path):
    source = cross_sections(4, 20, 20)
    rows = [row for row in code_table().labels.values() if row.category != "finding"]
    labels = np.arange(4 * 20 * 20).reshape(4, 20, 20) % (len(rows) + 1)
    specs = [spec(n, row.key) for n, row in enumerate(rows, 1)]
    seg = build_segmentation(
        source, labels.astype(np.uint8), segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT
    )
    assert len(seg.SegmentSequence) == len(rows) > 130
    assert dciodvfy(seg, tmp_path) == []


def test_one_enhanced_multi_frame_image_can_be_segmented(tmp_path):
    source = pydicom.dcmread(get_testdata_file("eCT_Supplemental.dcm"), stop_before_pixels=True)
    assert_multi_frame(source, tmp_path)


def test_a_multi_frame_image_without_geometry_is_refused():
    source = pydicom.dcmread(get_testdata_file("emri_small.dcm"), stop_before_pixels=True)
    mask = np.ones((int(source.NumberOfFrames), source.Rows, source.Columns), np.uint8)
    with pytest.raises(GeometryError, match="has 10 frames but no functional groups"):
        build_segmentation(
            [source], mask, segments=[spec(1, "ct.liver")], identity=identity_of(source), equipment=EQUIPMENT
        )


def assert_multi_frame(source: Dataset, tmp_path: Path) -> None:
    mask = np.zeros((int(source.NumberOfFrames), source.Rows, source.Columns), np.uint8)
    mask[1, 3:9, 4:7] = 1
    options = {"segments": [spec(1, "ct.liver")], "identity": identity_of(source), "equipment": EQUIPMENT}
    frames = list(range(1, len(mask) + 1))
    seg = build_segmentation([source], mask, frame_numbers=frames, **options)
    assert [line for line in dciodvfy(seg, tmp_path) if "Segment" in line or "Frame" in line] == []
    path = tmp_path / "seg.dcm"
    path.write_bytes(written(seg))
    read = segread(path).get_pixels_by_source_frame(
        str(source.SOPInstanceUID), frames, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(read[..., 0], mask)
    with pytest.raises(GeometryError, match="mask is"):
        build_segmentation([source], mask[:-1], frame_numbers=frames, **options)
    with pytest.raises(GeometryError, match="no frame numbers were given"):
        build_segmentation([source], mask, **options)


# --- hostile text ------------------------------------------------------------------------------------------

NASTY = "\x00\x1b$B\\x^=\u202e" + "ä漢🫁" * 400 + "\ud800\r\n\x0c"


@pytest.mark.requirement("REQ-TEXT-11")
def test_hostile_text_anywhere_still_gives_conformant_objects(tmp_path):
    source = cross_sections()
    for ds in source:
        ds.StudyDescription, ds.PatientAge, ds.PatientSex = "x" * 200 + "\x07", "45", "unknown"
        ds.StudyID, ds.PatientBirthDate, ds.PatientWeight = "0123456789abcdefXYZ", "1960-01-02", "70"
        ds.PatientName, ds.StationName = "Name\x1b^Bad\x00", "Station\\Two"
        ds.InstitutionName = "\x00\x1b$B\\x^=\u202eä漢🫁\r\n\x0c"
    algorithm = replace(ALGORITHM, name=NASTY, version=NASTY, manufacturer=NASTY, parameters=(NASTY, NASTY))
    equipment = replace(EQUIPMENT, institution=NASTY, serial_number=NASTY, station_name=NASTY)
    segment = replace(spec(1, "ct.liver"), label=NASTY, tracking_id=NASTY, algorithm=algorithm)
    common = {"identity": identity_of(source[0]), "equipment": equipment}
    labels = np.ones((5, 12, 10), np.uint8)
    seg = build_segmentation(source, labels, segments=[segment], **common)
    finding = FindingValue(
        NASTY, "ct.liver", "present", 0.5, None, algorithm, segment.tracking_uid, NASTY, segment_number=1
    )
    evidence = evidence_of(source, seg)
    findings = build_findings_sr([finding], evidence, not_assessed=[NASTY], **common)
    signer = replace(SIGNER, printed_name=NASTY, family=NASTY[:40], given="\x00", staff_id=NASTY, organization=NASTY)
    narrative = build_narrative_sr(
        [Section("findings", NASTY), Section("impression", "ok")],
        evidence,
        algorithms=[algorithm],
        sign_off=SignOff(signer),
        **common,
    )
    signed = build_findings_signed(
        findings, Kept((), edited={segment.tracking_uid}), sign_off=SignOff(signer), **common
    )
    for ds in (seg, findings, signed, narrative):
        assert_conformant(ds, tmp_path)
        again = pydicom.dcmread(tmp_path / "object.dcm")
        assert (again.PatientID, str(again.PatientName)) == ("P-1", "Name ^Bad")
        assert (again.PatientSex, again.PatientBirthDate) == ("", "")
    text = narrative.ContentSequence[-2].ContentSequence[0].TextValue
    assert text.count("ä漢🫁") == 400


@pytest.mark.requirement("REQ-DELIV-9")
@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Åström^Éva"),
        ("ISO_IR 144", "Иванов^Пётр"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 127", "قباني^لنزار"),
        ("ISO_IR 192", "Müller-Lüdenscheidt^Weiß"),
    ],
)
def test_names_survive_whatever_character_set_the_sender_used(tmp_path, charset, name):
    source = radiograph()
    source.SpecificCharacterSet, source.PatientName = charset, name
    path = tmp_path / "source.dcm"
    source.file_meta = pydicom.dataset.FileMetaDataset()
    source.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.write_bytes(written(source))
    received = pydicom.dcmread(path)
    common = {"identity": identity_of(received), "equipment": EQUIPMENT}
    findings = build_findings_sr(classifier_findings(received, "present"), evidence_of([received]), **common)
    accepted = {str(item.UID) for item in items(findings, "Tracking Unique Identifier")}
    signed = build_findings_signed(findings, Kept(accepted), sign_off=SignOff(SIGNER), **common)
    for document in (every_report([received])["draft"], findings, signed):
        assert_conformant(document, tmp_path)
        again = pydicom.dcmread(tmp_path / "object.dcm")
        assert (again.SpecificCharacterSet, str(again.PatientName)) == ("ISO_IR 192", name)


# --- phantoms and real data --------------------------------------------------------------------------------


def test_a_phantoms_truth_comes_back_voxel_for_voxel(tmp_path):
    phantom = make_ct(7, voxel_mm=(8.0, 8.0, 8.0))
    paths = write_ct(phantom.hu, phantom.affine, make_patient(7, sex=phantom.sex), tmp_path / "ct")
    source = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]  # highest slice first
    values = [int(v) for v in np.unique(phantom.labels) if v]
    specs = [spec(value, code_table().key_for_index("vista3d", value)) for value in values]
    labels = np.ascontiguousarray(phantom.labels[::-1])
    seg = build_segmentation(source, labels, segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT)
    assert_conformant(seg, tmp_path)
    masks = np.stack([labels == value for value in values], axis=-1)
    assert_reads_back(seg, source, masks, tmp_path)


def test_a_real_abdomen_ct_with_its_31_structures(tmp_path, real_data):
    source = headers(real_data / "ct_abdomen")
    truth = np.load(real_data / "ct_abdomen" / "truth_labels.npz")["labels"]
    voxels = json.loads((real_data / "ct_abdomen" / "truth_labels.json").read_text())["voxels"]
    labels = np.where(np.isin(truth, list(ABDOMEN)), truth, 0).astype(np.uint8)
    specs = [spec(value, key) for value, key in ABDOMEN.items()]
    seg = build_segmentation(source, labels, segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT)
    masks = np.stack([labels == value for value in ABDOMEN], axis=-1)
    assert_reads_back(seg, source, masks, tmp_path)
    assert [int(mask.sum()) for mask in np.moveaxis(masks, -1, 0)] == [voxels[str(value)] for value in ABDOMEN]
    findings = build_findings_sr(
        findings_of(seg, source), evidence_of(source, seg), identity=identity_of(source[0]), equipment=EQUIPMENT
    )
    for ds in (seg, findings, *every_report(source, seg).values()):
        assert_conformant(ds, tmp_path)


def test_a_real_glioma_with_nested_regions(tmp_path, real_data):
    source = headers(real_data / "mr_glioma" / "t1c")
    labels = np.zeros((len(source), source[0].Rows, source[0].Columns), np.uint8)
    labels[15:20, 60:110, 130:170] = 2
    labels[16:19, 70:100, 140:160] = 1
    labels[17, 80:90, 145:150] = 4
    masks = tumour_regions(labels)
    specs = [spec(n, key, laterality="right") for n, key in enumerate(BRATS_KEYS, 1)]
    seg = build_segmentation(source, masks, segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT)
    assert_conformant(seg, tmp_path)
    assert_reads_back(seg, source, masks, tmp_path)


@pytest.mark.parametrize("folder", ["cxr_01", "cxr_02", "cxr_05", "cxr_07", "cxr_10", "cxr_11", "cxr_12_current"])
def test_a_real_chest_radiograph(tmp_path, real_data, folder):
    (source,) = headers(real_data / folder)
    findings = build_findings_sr(
        classifier_findings(source), evidence_of([source]), identity=identity_of(source), equipment=EQUIPMENT
    )
    for ds in (findings, every_report([source])["signed"]):
        assert_conformant(ds, tmp_path)


def test_real_series_that_are_no_volume_are_refused(real_data):
    for name in ("two_orientations", "same_position"):
        source = headers(real_data / "geometry_failures" / name)
        mask = np.ones((len(source), source[0].Rows, source[0].Columns), np.uint8)
        with pytest.raises(GeometryError):
            build_segmentation(
                source, mask, segments=[spec(1, "ct.bone")], identity=identity_of(source[0]), equipment=EQUIPMENT
            )


def test_a_real_multi_frame_mr_that_repeats_its_geometry_per_frame(tmp_path, real_data):
    source = headers(real_data / "mr_multivendor" / "siemens_xa10_enhanced_phantom")[0]
    assert_multi_frame(source, tmp_path)


def test_a_real_multi_frame_mr_without_frame_of_reference_is_refused(real_data):
    (source,) = headers(real_data / "mr_multivendor" / "philips_enhanced_multiframe")
    mask = np.ones((int(source.NumberOfFrames), source.Rows, source.Columns), np.uint8)
    with pytest.raises(GeometryError, match="Frame of Reference"):
        build_segmentation(
            [source],
            mask,
            segments=[spec(1, "ct.bone")],
            identity=identity_of(source),
            equipment=EQUIPMENT,
            frame_numbers=range(1, len(mask) + 1),
        )


def test_thirty_structures_of_a_thorax_ct_take_seconds():
    source = cross_sections(150, 256, 256, spacing=2.0)
    rows = [row for row in code_table().labels.values() if row.category == "anatomy"][:30]
    labels = np.zeros((150, 256, 256), np.uint8)
    for n, row in enumerate(rows, 1):
        labels[3 * n : 3 * n + 58, 5 * n : 5 * n + 60, 4 * n : 4 * n + 60] = row.index
    started = time.process_time()
    seg = build_segmentation(
        source,
        labels,
        segments=[spec(row.index, row.key) for row in rows],
        identity=identity_of(source[0]),
        equipment=EQUIPMENT,
    )
    assert int(seg.NumberOfFrames) > 800
    assert time.process_time() - started < 30.0  # CPU seconds; about 2 on one core
