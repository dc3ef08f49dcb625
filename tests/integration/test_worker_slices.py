"""Which slices are asked about, how answers combine, and that every picture is recorded."""

import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from dashboard.stacks import build_stack
from tests.conversation_support import (
    LIVER,
    asks,
    bench,
    conversation,
    torso_intake,
    vista,
)
from tests.fakes import VLM_CARD, ScriptedVlm, reads_feedback
from worker.drafting import draft_study
from worker.intake import gate
from worker.outputs import write_outputs
from worker.pictures import first_pictures
from worker.profiles import BRAIN_MR, CT_TORSO

from .test_worker_drafting import assert_valid, place


@pytest.fixture(scope="module")
def torso(tmp_path_factory):
    return torso_intake(tmp_path_factory.mktemp("ct"))


LONG = {26: ("hepatic tumor", (slice(12, 30), slice(20, 26), slice(15, 20)))}  # 18 slices of 7 mm


def test_a_long_lesion_is_asked_about_on_three_slices_and_every_picture_is_recorded(torso):
    vlm = ScriptedVlm(asks(), reads_feedback)
    expert = vista(**{"hepatic tumor": LIVER | LONG})
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, expert))
    talk = conversation(content, "hepatic")
    pictures = talk["pictures"]
    assert [one["kind"] for one in pictures] == ["plain", "overlay", "overlay", "overlay"]
    shown = [one["slice_index"] for one in pictures[1:]]
    assert all(12 <= index < 30 for index in shown)
    assert min(abs(a - b) * 7.0 for a in shown for b in shown if a != b) >= 10.0
    headers = next(iter(torso.headers.values()))
    ordered = sorted(headers, key=lambda ds: float(ds.ImagePositionPatient[2]))
    for one in pictures:
        assert one["sop_instance_uid"] == ordered[one["slice_index"]].SOPInstanceUID
        assert one["series_instance_uid"] == headers[0].SeriesInstanceUID
        assert one["frame_number"] == 1
        assert one["slice_number"] == len(headers) - one["slice_index"]  # read from the head
        assert one["window"] == {"level": 50.0, "width": 400.0}
    assert pictures[1]["labels"] == [
        {"colour": "red", "value": 1, "name": "liver"},
        {"colour": "blue", "value": 26, "name": "hepatic tumor"},
    ]
    assert len(vlm.seen[-1]) == 2  # each further slice is a conversation of its own: first picture and overlay
    assert len(talk["slices"]) == 2


def test_one_yes_on_any_slice_reports_the_lesion_and_the_difference_is_marked(torso):
    said = iter(["no", "yes", "no"])

    class Fickle(ScriptedVlm):
        def answer_each(self, messages, images, questions):
            answers = super().answer_each(messages, images, questions)
            return [replace(a, text=next(said), margin=m) for a, m in zip(answers, [0.5], strict=True)]

    expert = vista(("hepatic tumor",), **{"hepatic tumor": LIVER | LONG})
    content = draft_study(torso, CT_TORSO, bench(torso, Fickle(asks(), reads_feedback), expert))
    (finding,) = content.findings
    assert (finding.is_present, finding.margin) == (True, 0.5)
    (mark,) = content.marks
    assert (mark.kind, mark.finding) == ("contradiction", "hepatic tumor")
    assert "differ between slices, the widest first: no, yes, no" in mark.text


def test_a_lesion_the_expert_does_not_see_is_asked_about_once(torso):
    vlm = ScriptedVlm(asks(), reads_feedback)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista(("pancreatic tumor",))))
    talk = conversation(content, "pancreatic")
    assert "slices" not in talk
    assert [one["kind"] for one in talk["pictures"]] == ["plain", "overlay"]


def test_measurements_are_a_sentence_of_their_own_and_no_number_is_marked(torso):
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), vista()))
    count = torso.study.volume.array.shape[0]
    # 4 x 6 x 5 voxels of 7 x 5 x 5 mm, slices 20 to 23 from the feet; corners 25 and 20 mm apart, one pixel on top
    apart = np.hypot(25, 20)
    sentence = (
        f"21.0 ml in total, longest axial diameter {apart + (25 + 20) / apart * 5:.0f} mm, "
        f"on slices {count - 23} to {count - 20} (28 mm along the slice normal)."
    )
    assert sentence in content.sections["findings"]
    assert content.marks == []


def _lowest(intake):
    return min(float(ds.ImagePositionPatient[2]) for ds in next(iter(intake.headers.values())))


def test_the_findings_sr_carries_volume_and_long_axis(torso, tmp_path):
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), vista()))
    made = write_outputs(content, torso, VLM_CARD, place(tmp_path, torso, content))
    assert_valid(tmp_path, made)
    text = str(pydicom.dcmread(tmp_path / next(o.path for o in made.objects if o.kind == "FINDINGS_SR")))
    numbers = re.findall(r"Numeric Value\s+DS: '?([0-9.]+)'?", text)
    apart = np.hypot(25, 20)
    assert [float(number) for number in numbers] == [21.0, round(apart + (25 + 20) / apart * 5, 1)]
    assert "103339001" in text  # Long Axis, SNOMED CT


def test_a_finding_names_its_slice_its_range_and_where_they_lie(torso, tmp_path):
    volume = torso.study.volume
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), vista()))
    made = write_outputs(content, torso, VLM_CARD, place(tmp_path, torso, content))
    (row,) = [row for row in made.findings if row.label == "hepatic tumor"]
    assert (row.key_slice["index"], row.key_slice["frame_number"]) == (20, 1)
    assert row.key_slice["slice_range"] == [20, 23]
    lowest = float(_lowest(torso))
    assert row.key_slice["normal_mm"] == pytest.approx([lowest + 20 * 7.0, lowest + 23 * 7.0])
    assert row.key_slice["sop_instance_uid"] == volume.sop_instance_uids[20]


def plane(ds):
    """Return the unit normal of a slice and the place of its centre, from its header alone."""
    cosines = np.array(ds.ImageOrientationPatient, float)
    across, down = cosines[:3] * float(ds.PixelSpacing[1]), cosines[3:] * float(ds.PixelSpacing[0])
    centre = np.array(ds.ImagePositionPatient, float) + across * (ds.Columns - 1) / 2 + down * (ds.Rows - 1) / 2
    return np.cross(cosines[:3], cosines[3:]), centre


def test_four_real_sequences_open_at_one_level_of_the_head_and_the_viewer_finds_them(real_data):
    folders = {role: real_data / "mr_glioma" / role.lower() for role in ("T1c", "T1", "T2", "FLAIR")}
    intake = gate([path for folder in folders.values() for path in folder.glob("*.dcm")], BRAIN_MR)
    pictures = first_pictures(intake.study, "body")
    assert [one.record["role"] for one in pictures] == ["T1c", "T1", "T2", "FLAIR"]
    shown = {}
    for one in pictures:
        paths = sorted(folders[one.record["role"]].glob("*.dcm"))
        headers = {ds.SOPInstanceUID: ds for ds in (pydicom.dcmread(p, stop_before_pixels=True) for p in paths)}
        shown[one.record["role"]] = headers[one.record["sop_instance_uid"]]
        number = one.record["slice_number"]
        assert build_stack(paths).slices[number - 1].sop_instance_uid == one.record["sop_instance_uid"]
    _, level = plane(shown["T1c"])
    for role, ds in shown.items():
        normal, centre = plane(ds)
        # no slice of the sequence is nearer to the centre of the T1c slice
        assert abs(float((level - centre) @ normal)) <= float(ds.SpacingBetweenSlices) / 2 + 0.01, role


def test_with_the_older_placeholder_the_overlay_is_described_and_not_shown(torso):
    vlm = ScriptedVlm(asks(), reads_feedback, card=replace(VLM_CARD, overlay_placeholder="<segmentation>"))
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista()))
    talk = conversation(content, "hepatic")
    assert "The results are <segmentation>. The colors" in talk["rounds"][0]["feedback"]
    assert [one["kind"] for one in talk["pictures"]] == ["plain"]
    assert [(f.label, f.is_present) for f in content.findings] == [("hepatic tumor", True)]
