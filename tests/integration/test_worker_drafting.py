"""The pipeline from kept files to a draft: gates, Triggers, Expert failures, checks, outputs."""

import os
import subprocess
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pydicom
import pytest

from config.errors import GeometryError, OutsideIntendedUseError, UndecodablePixelsError
from phantoms.brain_mr import make_brain_mr
from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.dicom import write_brain_mr, write_ct, write_radiograph
from phantoms.patients import make_patient
from reports.values import Equipment
from tests.fakes import BoxSegmenter, BrokenExpert, FixedClassifier, ScriptedVlm, card, reads_feedback
from tests.judges import DCIODVFY
from worker.conversation import Bench
from worker.drafting import draft_study
from worker.intake import gate
from worker.outputs import Place, identity, write_outputs
from worker.profiles import BRAIN_MR, CHEST_XRAY, CT_TORSO

CXR_TRIGGER = "This looks like an chest x-ray. Let me first trigger <CXR()>."
LESIONS = ("hepatic tumor", "pancreatic tumor", "lung tumor", "bone lesion")


@cache
def _phantoms():
    return (
        make_chest_xray(11, findings=frozenset({"Effusion"}), size=256),
        make_ct(12, lesions=frozenset({"hepatic tumor"}), voxel_mm=(7.0, 5.0, 5.0)),
        make_brain_mr(13, tumour=True, voxel_mm=(6.0, 3.0, 3.0)),
    )


@pytest.fixture
def chest(tmp_path):
    xray = _phantoms()[0]
    return write_radiograph(
        xray.pixels, make_patient(1), tmp_path / "cxr", view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm
    )


@pytest.fixture
def torso(tmp_path):
    ct = _phantoms()[1]
    return write_ct(ct.hu, ct.affine, make_patient(2), tmp_path / "ct")


@pytest.fixture
def brain(tmp_path):
    mr = _phantoms()[2]
    return write_brain_mr(mr.channels, mr.affine, make_patient(3), tmp_path / "mr")


def bench(intake, modality, vlm, *experts):
    by_name = {expert.card.name: expert for expert in experts}
    cards = [expert.card for expert in experts]
    return Bench(vlm, cards, by_name.__getitem__, intake.study, modality, max_new_tokens=32)


def ct_expert():
    box = (slice(20, 24), slice(20, 26), slice(15, 20))
    organs = {1: ("liver", (slice(18, 28), slice(18, 30), slice(12, 24)))}
    boxes = dict.fromkeys((*LESIONS, "organs"), organs)
    boxes["hepatic tumor"] = organs | {26: ("hepatic tumor", box)}
    return BoxSegmenter(boxes, card("VISTA3D", "CT", arguments=(*LESIONS, "organs")))


def test_a_chest_radiograph_becomes_a_draft_that_follows_the_expert(chest):
    intake = gate(chest, CHEST_XRAY)
    expert = FixedClassifier({"Effusion": 0.9, "Mass": 0.1, "Fracture": 0.2})
    content = draft_study(intake, CHEST_XRAY, bench(intake, "CXR", ScriptedVlm(CXR_TRIGGER, reads_feedback), expert))
    assert {f.label: f.is_present for f in content.findings} == {"Effusion": True, "Mass": False, "Fracture": False}
    assert content.sections["findings"].startswith("Pleural effusion.")
    assert "pneumothorax" in content.sections["findings"].split("Not assessed:")[1]
    assert content.marks == []
    assert content.provenance["route"] == "per-finding answers, composed"


@pytest.mark.requirement("REQ-TEXT-3")
def test_a_model_that_ignores_the_expert_is_marked_and_not_repaired(chest):
    intake = gate(chest, CHEST_XRAY)
    expert = FixedClassifier({"Effusion": 0.9, "Mass": 0.1})
    always_no = ScriptedVlm(CXR_TRIGGER, lambda _said, question: "mass" in question)
    content = draft_study(intake, CHEST_XRAY, bench(intake, "CXR", always_no, expert))
    assert {(m.kind, m.finding) for m in content.marks} == {("contradiction", "Effusion"), ("contradiction", "Mass")}
    assert {f.label: f.is_present for f in content.findings} == {"Effusion": False, "Mass": True}


@pytest.mark.parametrize(
    ("said", "lapse"),
    [
        (None, "did not stop"),
        ("Let me trigger <HAL9000()>.", "was not offered"),
        ("Let me trigger <CXR(now)>.", "no argument"),
        ("The lungs are clear.", "asked for no expert"),
    ],
)
def test_a_model_that_asks_for_nothing_usable_is_marked_and_the_expert_runs_by_rule(chest, said, lapse):
    intake = gate(chest, CHEST_XRAY)
    content = draft_study(
        intake, CHEST_XRAY, bench(intake, "CXR", ScriptedVlm(said, reads_feedback), FixedClassifier({"Effusion": 0.9}))
    )
    (mark,) = content.marks
    assert mark.kind == "trigger"
    assert lapse in mark.text
    assert [f.label for f in content.findings if f.is_present] == ["Effusion"]


def test_an_expert_of_another_modality_is_refused(chest):
    intake = gate(chest, CHEST_XRAY)
    vlm = ScriptedVlm("Let me trigger <VISTA3D(organs)>.", reads_feedback)
    content = draft_study(intake, CHEST_XRAY, bench(intake, "CXR", vlm, FixedClassifier({"Mass": 0.7}), ct_expert()))
    assert "does not read CXR" in content.marks[0].text
    assert list(content.results) == [("CXR", "")]


def test_an_expert_that_raises_leaves_no_draft_when_nothing_else_was_assessed(chest):
    intake = gate(chest, CHEST_XRAY)
    broken = BrokenExpert(card("CXR", "CXR"))
    with pytest.raises(OutsideIntendedUseError, match="nothing could be assessed: CXR failed"):
        draft_study(intake, CHEST_XRAY, bench(intake, "CXR", ScriptedVlm(CXR_TRIGGER, reads_feedback), broken))


@pytest.mark.requirement("REQ-FAIL-1")
def test_an_expert_that_fails_for_one_question_is_listed_as_not_assessed(torso):
    intake = gate(torso, CT_TORSO)
    expert = ct_expert()
    expert.card = card("VISTA3D", "CT", arguments=("hepatic tumor", "organs"))
    vlm = ScriptedVlm("Let me trigger <VISTA3D(hepatic tumor)>.", reads_feedback)
    content = draft_study(intake, CT_TORSO, bench(intake, "CT", vlm, expert))
    assert [f.label for f in content.findings] == ["hepatic tumor"]
    assert {item["what"] for item in content.not_assessed} == {"pancreatic tumor", "lung tumor", "bone lesion"}
    assert not any("lung tumor" in line for line in content.sections["impression"].splitlines())


@pytest.mark.requirement("REQ-FAIL-1")
def test_the_model_never_hears_of_an_experts_failure(chest):
    intake = gate(chest, CHEST_XRAY)
    vlm = ScriptedVlm(CXR_TRIGGER, reads_feedback)
    with pytest.raises(OutsideIntendedUseError):
        draft_study(intake, CHEST_XRAY, bench(intake, "CXR", vlm, BrokenExpert(card("CXR", "CXR"))))
    assert not any("failed" in text or "NaN" in text for text in vlm.heard)


def test_a_ct_lesion_is_measured_and_every_object_passes_the_validator(torso, tmp_path):
    intake = gate(torso, CT_TORSO)
    vlm = ScriptedVlm("nothing", reads_feedback)
    content = draft_study(intake, CT_TORSO, bench(intake, "CT", vlm, ct_expert()))
    lesion = next(f for f in content.findings if f.label == "hepatic tumor")
    # 4 x 6 x 5 voxels of 7 x 5 x 5 mm
    assert lesion.measured.volume_ml == pytest.approx(120 * 175 / 1000, rel=1e-3)
    assert f"{120 * 175 / 1000:.1f} ml" in content.sections["findings"]
    made = write_outputs(content, intake, vlm.card, place(tmp_path, intake, content))
    assert {o.kind for o in made.objects} == {"SEG", "FINDINGS_SR", "KEY_IMAGES", "DRAFT_SR"}
    assert_valid(tmp_path, made)
    labels = np.load(tmp_path / made.evidence[0].label_map_path)["labels"]
    assert labels.shape == intake.study.volume.array.shape


@pytest.mark.requirement("REQ-GATE-8")
def test_a_segmentation_larger_than_any_lesion_is_not_believed(torso):
    intake = gate(torso, CT_TORSO)
    expert = ct_expert()
    everywhere = {26: ("hepatic tumor", (slice(None), slice(None), slice(None)))}
    expert.boxes = expert.boxes | {"hepatic tumor": everywhere}
    content = draft_study(intake, CT_TORSO, bench(intake, "CT", ScriptedVlm("nothing", reads_feedback), expert))
    assert "hepatic tumor" not in {f.label for f in content.findings}
    assert any(i["what"] == "hepatic tumor" and "not believed" in i["why"] for i in content.not_assessed)


def test_brain_tumour_regions_become_overlapping_segments(brain, tmp_path):
    intake = gate(brain, BRAIN_MR)
    boxes = {
        "": {
            1: ("non-enhancing tumor core", (slice(12, 15), slice(30, 34), slice(20, 24))),
            2: ("peritumoral edema", (slice(12, 15), slice(34, 40), slice(20, 24))),
            4: ("enhancing tumor", (slice(12, 15), slice(28, 30), slice(20, 24))),
        }
    }
    vlm = ScriptedVlm("Let me first trigger <BRATS()>.", reads_feedback)
    content = draft_study(intake, BRAIN_MR, bench(intake, "MRI", vlm, BoxSegmenter(boxes, card("BRATS", "MRI"))))
    assert [(f.label, f.is_present) for f in content.findings] == [("brain tumor", True)]
    assert content.findings[0].measured.laterality == "right"  # columns 20-24 of 60 lie on the patient's right
    made = write_outputs(content, intake, vlm.card, place(tmp_path, intake, content))
    assert_valid(tmp_path, made)
    seg = pydicom.dcmread(tmp_path / next(o.path for o in made.objects if o.kind == "SEG"))
    assert str(seg.SegmentSequence[0].SegmentLabel) == "whole tumor"
    assert len(seg.SegmentSequence) == 5  # three nested regions, two more disjoint parts


def test_the_same_result_is_the_same_instance(chest, tmp_path):
    intake = gate(chest, CHEST_XRAY)
    uids = []
    for run in ("a", "b"):
        content = draft_study(
            intake,
            CHEST_XRAY,
            bench(intake, "CXR", ScriptedVlm(CXR_TRIGGER, reads_feedback), FixedClassifier({"Effusion": 0.9})),
        )
        made = write_outputs(content, intake, bench_card(), place(tmp_path / run, intake, content))
        uids.append([(o.kind, o.sop_instance_uid, o.sha256) for o in made.objects])
    assert uids[0] == uids[1]


def bench_card():
    return ScriptedVlm("", reads_feedback).card


def place(folder, intake, content):
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return Place(folder, "s/r", identity(str(intake.first.StudyInstanceUID), "r", content, at), Equipment())


def assert_valid(folder, made):
    for made_object in made.objects:
        run = subprocess.run(
            [DCIODVFY, "-new", folder / made_object.path], capture_output=True, text=True, check=False, timeout=120
        )
        errors = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], f"{made_object.kind}: {errors[:5]}"


# --- gates -------------------------------------------------------------------------------------------------


def edit(path, **values):
    ds = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path)


def test_one_slice_is_no_volume(torso):
    with pytest.raises(OutsideIntendedUseError, match="1 slices, at least 16"):
        gate(torso[:1], CT_TORSO)


def test_a_missing_mr_sequence_is_named(brain):
    without_flair = [
        p for p in brain if "FLAIR" not in str(pydicom.dcmread(p, stop_before_pixels=True).SeriesDescription)
    ]
    assert len(without_flair) < len(brain)
    with pytest.raises(OutsideIntendedUseError, match="missing MR sequence: FLAIR"):
        gate(without_flair, BRAIN_MR)


@pytest.mark.requirement("REQ-GATE-3")
def test_mixed_geometry_is_refused(torso):
    edit(torso[10], PixelSpacing=[2.0, 2.0])
    with pytest.raises(OutsideIntendedUseError, match="a slice is missing between images"):
        gate(torso, CT_TORSO)


@pytest.mark.requirement("REQ-GATE-3")
def test_a_missing_slice_is_noticed(torso):
    with pytest.raises(OutsideIntendedUseError, match="a slice is missing"):
        gate([*torso[:20], *torso[21:]], CT_TORSO)


@pytest.mark.requirement("REQ-GATE-6")
def test_pixels_that_cannot_be_decoded_are_a_reason(chest):
    ds = pydicom.dcmread(chest[0])
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]
    ds.save_as(chest[0])
    with pytest.raises(UndecodablePixelsError):
        gate(chest, CHEST_XRAY)


@pytest.mark.requirement("REQ-GATE-1")
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ViewPosition": "LL"}, "view position is LL"),
        ({"ViewPosition": "", "ViewCodeSequence": []}, "view position is unknown"),
        ({"BodyPartExamined": "TIBIA"}, "body part is TIBIA"),
        ({"PatientAge": "004Y"}, "under 18"),
        ({"Modality": "MG"}, "no CR or DX image"),
    ],
)
def test_what_is_outside_the_intended_use_gets_no_draft(chest, values, reason):
    edit(chest[0], **values)
    with pytest.raises(OutsideIntendedUseError, match=reason):
        gate(chest, CHEST_XRAY)


def test_a_film_that_says_its_view_by_code_alone_is_read(chest):
    view = pydicom.dcmread(chest[0]).ViewPosition
    edit(chest[0], ViewPosition="")
    assert gate(chest, CHEST_XRAY).study.radiograph.view_position == view


@pytest.mark.requirement("REQ-BIND-6")
def test_two_patients_in_one_study_are_never_read(torso):
    edit(torso[3], PatientID="SOMEBODY-ELSE")
    with pytest.raises(OutsideIntendedUseError, match="different Patient IDs"):
        gate(torso, CT_TORSO)


@pytest.mark.parametrize(
    ("folder", "error"),
    [
        ("missing_slice", "a slice is missing"),
        ("same_position", "same position"),
    ],
)
def test_real_series_that_are_no_volume_say_why(real_data, folder, error):
    from worker.decoding import read_headers
    from worker.stacking import load_volume

    paths = sorted(p for p in (real_data / "geometry_failures" / folder).iterdir() if p.is_file())
    with pytest.raises(GeometryError, match=error):
        load_volume(read_headers(paths))


def test_real_studies_pass_the_gate_in_the_patients_frame(real_data):
    intake = gate(sorted((real_data / "ct_abdomen").glob("*.dcm")), CT_TORSO)
    truth = np.load(real_data / "ct_abdomen" / "truth_labels.npz")
    files = [os.path.basename(str(h.filename)) for h in next(iter(intake.headers.values()))]  # noqa: PTH119
    order = [list(truth["files"]).index(name) for name in files]
    liver = truth["labels"][order] == 5  # TotalSegmentator's class 5
    assert float(np.median(intake.study.volume.array[liver])) == pytest.approx(89, abs=15)
    glioma = gate(
        [p for s in ("t1", "t1c", "t2", "flair") for p in (real_data / "mr_glioma" / s).glob("*.dcm")], BRAIN_MR
    )
    assert set(glioma.study.brain_mr) == {"T1c", "T1", "T2", "FLAIR"}
    inverted = gate(sorted((real_data / "cxr_05").glob("*.dcm")), CHEST_XRAY)  # MONOCHROME1
    corner = inverted.study.radiograph.pixels[:40, :40].mean()
    assert corner < 128  # air beside the neck is dark once inverted
