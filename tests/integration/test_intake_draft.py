"""One lesion, scanned in every way: the draft says the same of it and the Segmentation lies on it."""

from dataclasses import dataclass

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread
from scipy.spatial.transform import Rotation

from tests.fakes import ScriptedVlm, card, reads_feedback
from tests.intake_sources import CORONAL, SAGITTAL, classic, multi_frame, positions
from tests.integration.test_worker_drafting import LESIONS, assert_valid, bench, place
from worker.drafting import draft_study
from worker.experts.base import ExpertInput, ModelCard, SegmentationResult
from worker.intake import gate
from worker.outputs import write_outputs
from worker.profiles import CT_TORSO

LOW, HIGH = np.array([-30.0, -20.0, 30.0]), np.array([-10.0, 4.0, 62.0])  # mm, LPS: on the patient's right
TRUE_ML = float(np.prod(HIGH - LOW)) / 1000


@dataclass
class LesionAtAPlace:
    """Marks the voxels whose centres lie in a box of the patient; told of perpendicular grids only."""

    card: ModelCard

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        volume = study.volume
        assert volume is not None
        index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.array.shape), indexing="ij"), axis=-1)
        points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        labels = ((points >= LOW) & (points < HIGH)).all(axis=-1).astype(np.uint8)
        names = {1: "liver"}
        if argument == "hepatic tumor":
            labels, names = labels * np.uint8(26), names | {26: "hepatic tumor"}
        return SegmentationResult(self.card, argument, 0.01, labels, names, volume)


def axial_scan(folder):
    return classic(folder, positions((-39, -39, 0), (0, 0, 4), 24), matrix=(40, 40), pixel_mm=(2.0, 2.0))


def sagittal_scan(folder):
    where = positions((39, -39, 92), (-2, 0, 0), 40)
    return classic(folder, where, axes=SAGITTAL, matrix=(24, 40), pixel_mm=(4.0, 2.0))


def coronal_scan(folder):
    where = positions((-39, -39, 92), (0, 2, 0), 40)
    return classic(folder, where, axes=CORONAL, matrix=(24, 40), pixel_mm=(4.0, 2.0))


def oblique_scan(folder):
    turned = Rotation.from_euler("xyz", [8, 12, 10], degrees=True).as_matrix()
    origin = np.array([0, 0, 46]) - turned.T @ [60, 60, 60]
    return classic(folder, positions(origin, turned[2] * 3, 41), axes=turned[:2], matrix=(61, 61), pixel_mm=(2.0, 2.0))


def tilted_scan(folder):
    angle = np.radians(14.0)
    axes = np.array([[1.0, 0, 0], [0, np.cos(angle), -np.sin(angle)]])
    return classic(folder, positions((-39, -39, -8), (0, 0, 3), 40), axes=axes, matrix=(40, 60), pixel_mm=(2.0, 1.5))


def enhanced_scan(folder):
    where = positions((-39, -39, 0), (0, 0, 4), 24)
    frames = [{"position": list(p), "time": 1} for p in where[:20]] + [
        {"position": list(p), "time": 2} for p in where[::-1]
    ]
    return [multi_frame(folder, frames, modality="CT", matrix=(40, 40), pixel_mm=(2.0, 2.0))]


def marked_points(path, sources):
    """LPS places of the one segment's voxels by the SEG alone; each frame must lie where its source image does."""
    seg = pydicom.dcmread(path)
    planes = segread(path).pixel_array.reshape(-1, seg.Rows, seg.Columns)
    assert [str(item.SegmentLabel) for item in seg.SegmentSequence] == ["hepatic tumor"]
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    down, across = (float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    for plane, frame in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        here = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        number = int(source.get("ReferencedFrameNumber", 1))
        assert sources[str(source.ReferencedSOPInstanceUID), number] == pytest.approx(here, abs=1e-3)
        rows, columns = np.nonzero(plane)
        found.append(here + columns[:, None] * across * cosines[:3] + rows[:, None] * down * cosines[3:])
    return np.concatenate(found)


def normal_of(path):
    """The unit normal of a file's slices, from its header alone."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    if "PerFrameFunctionalGroupsSequence" in ds:
        groups = (ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0])
        ds = next(one for one in groups if "PlaneOrientationSequence" in one).PlaneOrientationSequence[0]
    cosines = np.array(ds.ImageOrientationPatient, dtype=float)
    return np.cross(cosines[:3], cosines[3:])


def source_places(paths):
    places = {}
    for path in paths:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        holders = ds.get("PerFrameFunctionalGroupsSequence") or [None]
        for number, group in enumerate(holders, 1):
            holder = ds if group is None else group.PlanePositionSequence[0]
            places[str(ds.SOPInstanceUID), number] = np.array(holder.ImagePositionPatient, dtype=float)
    return places


@pytest.mark.parametrize(
    ("scan", "exact"),
    [
        (axial_scan, True),
        (sagittal_scan, True),
        (coronal_scan, True),
        (oblique_scan, False),
        (tilted_scan, False),
        (enhanced_scan, True),
    ],
)
def test_one_lesion_scanned_in_every_way(tmp_path, scan, exact):
    paths = scan(tmp_path / "scan")
    intake = gate(paths, CT_TORSO)
    expert = LesionAtAPlace(card("VISTA3D", "CT", arguments=(*LESIONS, "organs")))
    vlm = ScriptedVlm("nothing", reads_feedback)
    content = draft_study(intake, CT_TORSO, bench(intake, "CT", vlm, expert))
    lesion = next(f for f in content.findings if f.label == "hepatic tumor")
    assert lesion.is_present
    # voxel centres lie at odd millimetres, so the box holds whole voxels where the grid is the patient's
    assert lesion.measured.volume_ml == pytest.approx(TRUE_ML, rel=1e-6 if exact else 0.06)
    assert lesion.measured.laterality == "right"
    made = write_outputs(content, intake, vlm.card, place(tmp_path, intake, content))
    assert_valid(tmp_path, made)
    (seg,) = (tmp_path / one.path for one in made.objects if one.kind == "SEG")
    places = source_places(paths)
    points = marked_points(seg, places)
    assert points.mean(axis=0) == pytest.approx((LOW + HIGH) / 2, abs=1e-6 if exact else 0.6)
    assert (points >= LOW - 1.6).all()
    assert (points < HIGH + 1.6).all()
    # the slice a click goes to shows the lesion, and so does every overlay the model was asked about
    (row,) = [row for row in made.findings if row.label == "hepatic tumor"]
    (talk,) = [one for one in content.provenance["conversations"] if "hepatic" in one["question"]]
    shown = [one for one in talk["pictures"] if one["kind"] == "overlay"]
    assert shown
    # an overlay cut across the slices of a Series that is not axial has no Instance of its own
    for one in (row.key_slice, *(one for one in shown if one["sop_instance_uid"])):
        here = places[one["sop_instance_uid"], one["frame_number"]]
        assert min(abs((points - here) @ normal_of(paths[0]))) < 0.1
