"""Every voxel keeps its place in the patient: sagittal, coronal, oblique and tilted series, through to the SEG."""

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from config.errors import GeometryError, OutsideIntendedUseError
from reports.segmentation import build_segmentation
from tests.intake_sources import AXIAL, CORONAL, SAGITTAL, classic, positions, value_at
from tests.reports_sources import EQUIPMENT, dciodvfy, identity_of, spec, written
from worker.conversation import Bench
from worker.ct_stacks import obliquity_degrees
from worker.decoding import read_headers
from worker.experts.base import ExpertInput, ModelCard, SegmentationResult
from worker.intake import gate
from worker.profiles import CT_TORSO
from worker.rendering import axial
from worker.stacking import load_volume, read_stack
from worker.upright import tilt_degrees, upright
from worker.volume import Volume

DEGREES = st.floats(-180, 180, allow_nan=False)
MATRIX, PIXEL_MM = (6, 7), (0.5, 0.75)


def centres(volume: Volume) -> np.ndarray:
    """``(slices, rows, columns, 3)`` voxel centres by the volume's own affine."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.array.shape), indexing="ij"), axis=-1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def shuffled(paths: list[Path], seed: int) -> list[Path]:
    return random.Random(seed).sample(paths, len(paths))


def tilted_positions(degrees: float, slices: int, step_mm: float, *, origin=(-10.0, -20.0, 30.0)) -> tuple:
    """A gantry tilted about the patient's left-right axis: turned slices, table along z (as in the real series)."""
    angle = np.radians(degrees)
    axes = np.array([[1.0, 0, 0], [0, np.cos(angle), -np.sin(angle)]])
    return axes, positions(origin, (0, 0, step_mm), slices)


@pytest.mark.requirement("REQ-VIEW-2")
@given(a=DEGREES, b=DEGREES, c=DEGREES, step=st.floats(0.5, 8), reverse=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_voxel_keeps_its_place_however_the_slices_are_turned(a, b, c, step, reverse, seed):
    axes = Rotation.from_euler("xyz", [a, b, c], degrees=True).as_matrix()[:2]
    normal = np.cross(axes[0], axes[1]) * (-1 if reverse else 1)
    with tempfile.TemporaryDirectory() as folder:
        where = positions((-20.0, 15.0, 40.0), normal * step, 5)
        volume = load_volume(read_headers(shuffled(classic(Path(folder), where, axes=axes, modality="MR"), seed)))
    assert np.abs(volume.array - value_at(centres(volume))).max() < 0.51  # stored values are rounded
    assert volume.spacing_mm == pytest.approx((step, *PIXEL_MM), abs=1e-4)


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, CORONAL], ids=["axial", "sagittal", "coronal"])
def test_pictures_are_axial_with_anterior_up_and_the_patients_right_on_the_left(tmp_path, axes):
    normal = np.cross(axes[0], axes[1])
    where = positions((-5.0, 5.0, 10.0), normal * 2.0, 4)
    volume = load_volume(read_headers(classic(tmp_path, where, axes=axes, modality="MR")))
    x, y, z = (axial(centres(volume)[..., axis], volume.affine) for axis in range(3))
    assert (np.diff(z, axis=0) > 0).all()  # foot to head
    assert (np.diff(y, axis=1) > 0).all()  # front to back (LPS: +y is posterior)
    assert (np.diff(x, axis=2) > 0).all()  # the patient's right first (LPS: +x is left)


@given(degrees=st.floats(1, 30), sign=st.sampled_from([-1, 1]), step=st.floats(0.8, 6), slices=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_a_tilted_volume_is_straightened_to_half_a_pixel_and_comes_back_exactly(degrees, sign, step, slices):
    axes, where = tilted_positions(degrees * sign, slices, step)
    with tempfile.TemporaryDirectory() as folder:
        volume = load_volume(read_headers(classic(Path(folder), where, axes=axes)))
    assert np.abs(volume.array - (value_at(centres(volume)))).max() < 0.51  # the sheared affine is exact
    assert tilt_degrees(volume.affine) == pytest.approx(degrees, abs=0.01)
    straight = upright(volume)
    steps = straight.volume.affine[:3, :3]
    cosines = steps.T @ steps / np.outer(*[np.linalg.norm(steps, axis=0)] * 2)
    assert np.allclose(cosines, np.eye(3), atol=1e-6)  # perpendicular axes
    assert straight.volume.spacing_mm[0] == pytest.approx(step * np.cos(np.radians(degrees)), abs=1e-4)
    labels = np.arange(volume.array.size, dtype=np.int64).reshape(volume.array.shape) % 251 + 1
    carried = np.zeros(straight.volume.array.shape, np.uint8)
    truth, place = centres(volume), centres(straight.volume)
    for k, (r, c) in enumerate(straight.corners):
        inside = (k, slice(r, r + MATRIX[0]), slice(c, c + MATRIX[1]))
        assert np.array_equal(straight.volume.array[inside], volume.array[k])  # nothing is interpolated
        off = np.abs((place[inside] - truth[k]) @ np.stack([axes[0], axes[1]]).T).max(axis=(0, 1))
        assert (off <= np.array([PIXEL_MM[1], PIXEL_MM[0]]) / 2 + 1e-6).all()
        carried[inside] = labels[k]
    assert np.array_equal(straight.back(carried), labels)


CARD = ModelCard("VISTA3D", "1", "segmentation", "CT", "", "", (), {1: "liver"}, {}, "none", demonstration=True)


@dataclass
class Threshold:
    """An Expert that only reads perpendicular grids, as the published ones do."""

    card: ModelCard = CARD
    seen: Volume | None = None

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        assert study.volume is not None
        self.seen = study.volume
        assert tilt_degrees(study.volume.affine) < 1e-6
        labels = (study.volume.array > 1100).astype(np.uint8)
        return SegmentationResult(self.card, argument, 0.0, labels, {1: "liver"}, study.volume, notes=("slow",))


@pytest.mark.requirement("REQ-VIEW-2")
def test_experts_see_an_upright_patient_and_results_lie_on_the_tilted_slices(tmp_path):
    axes, where = tilted_positions(14.0, 20, 5.0)
    headers = read_headers(classic(tmp_path, where, axes=axes))
    volume, expert = load_volume(headers), Threshold()
    bench = Bench(vlm=None, cards=(CARD,), expert=lambda _: expert, study=ExpertInput(volume=volume), modality="CT",
                  max_new_tokens=1)  # fmt: skip
    result = bench.run("VISTA3D", "liver")
    assert np.array_equal(result.labels, volume.array > 1100)
    assert result.labels.any()
    assert result.volume is volume
    assert result.notes == ("slow", "a gantry tilt of 14.0 degrees was corrected")

    source = read_stack(headers).headers
    seg = build_segmentation(
        source, result.labels, segments=[spec(1, "ct.liver")], identity=identity_of(source[0]), equipment=EQUIPMENT
    )
    assert dciodvfy(seg, tmp_path) == []
    (tmp_path / "seg.bin").write_bytes(written(seg))
    uids = [str(ds.SOPInstanceUID) for ds in source]
    read = segread(tmp_path / "seg.bin").get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(read[..., 0], result.labels)


def test_an_upright_volume_is_given_as_it_is(tmp_path):
    volume = load_volume(read_headers(classic(tmp_path, positions((0, 0, 0), (0, 0, 2), 4))))
    expert = Threshold()
    bench = Bench(vlm=None, cards=(CARD,), expert=lambda _: expert, study=ExpertInput(volume=volume), modality="CT",
                  max_new_tokens=1)  # fmt: skip
    assert bench.run("VISTA3D", "liver").notes == ("slow",)
    assert expert.seen is volume


def test_the_real_tilted_series_is_read_with_its_tilt(real_data):
    volume = load_volume(read_headers(sorted((real_data / "geometry_failures" / "gantry_tilt").glob("*.dcm"))))
    assert tilt_degrees(volume.affine) == pytest.approx(14.0, abs=0.05)  # as its README says
    assert upright(volume).volume.array.shape[0] == 4
    # 5 mm along the table at 14 degrees: each slice moves by 5 sin 14 = 1.21 mm, 2.9 pixels of 0.418 mm
    assert upright(volume).volume.array.shape[1] - 512 == round(3 * 5 * np.sin(np.radians(14.0)) / 0.418)


@pytest.mark.requirement("REQ-GATE-3")
@pytest.mark.parametrize(
    ("degrees", "modality", "reason"),
    [(32.0, "CT", "tilt of 32.0 degrees, at most 30"), (14.0, "MR", "shift sideways from one to the next by 14.0")],
)
def test_a_shear_that_is_no_gantry_tilt_is_refused(tmp_path, degrees, modality, reason):
    axes, where = tilted_positions(degrees, 6, 2.0)
    with pytest.raises(GeometryError, match=reason):
        load_volume(read_headers(classic(tmp_path, where, axes=axes, modality=modality)))


@pytest.mark.requirement("REQ-GATE-3")
def test_slices_beside_the_line_are_refused(tmp_path):
    where = positions((0, 0, 0), (0, 0, 2), 6)
    where[3, 0] += 4.0
    with pytest.raises(GeometryError, match="beside one straight line"):
        load_volume(read_headers(classic(tmp_path, where)))


@pytest.mark.parametrize(("degrees", "read"), [(25.0, True), (40.0, False)])
def test_an_oblique_ct_is_read_as_far_as_a_gantry_tilts(tmp_path, degrees, read):
    axes = Rotation.from_euler("x", degrees, degrees=True).as_matrix()[:2]
    paths = classic(tmp_path, positions((0, 0, 0), np.cross(*axes) * 2.0, 20), axes=axes)
    assert obliquity_degrees(read_stack(read_headers(paths))) == pytest.approx(degrees, abs=0.01)
    if read:
        assert gate(paths, CT_TORSO).study.volume is not None
    else:
        with pytest.raises(
            OutsideIntendedUseError, match="turned by 40 degrees against the patient's axes, at most 30"
        ):
            gate(paths, CT_TORSO)


def test_a_coronal_ct_is_read_and_an_axial_one_before_it(tmp_path):
    coronal = classic(tmp_path, positions((0, 0, 50), (0, 2, 0), 30), axes=CORONAL)
    assert gate(coronal, CT_TORSO).study.volume.array.shape[0] == 30
    axial_ct = classic(tmp_path, positions((0, 0, 0), (0, 0, 2), 18))
    intake = gate([*coronal, *axial_ct], CT_TORSO)
    assert intake.study.volume.array.shape[0] == 18
    assert [reason for _, reason in intake.excluded] == ["a series better suited was read"]
