"""Registration of two contrasts: a known movement is found, what agrees is left alone, what cannot be is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from config.errors import ExpertError
from phantoms.brain_mr import make_brain_mr
from worker.experts.registration import Contrast, register
from worker.volume import Volume


def volume(array, affine, frame="1.2.3"):
    count = len(array)
    return Volume(np.asarray(array, np.float32), affine, ("1.2",) * count, (1,) * count, "1.2.4", frame, "MR")


@pytest.fixture(scope="module")
def head():
    """T1c and FLAIR of one synthetic head with a glioma, 4 x 3 x 3 mm."""
    phantom = make_brain_mr(13, tumour=True, voxel_mm=(4.0, 3.0, 3.0))
    return {name: volume(phantom.channels[name], phantom.affine) for name in ("t1c", "flair")} | {
        "brain": phantom.brain_mask
    }


def movement(degrees, shift_mm, centre=(0.0, 15.0, 0.0)):
    """A turn about a point and a shift, as one matrix of LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = np.array(centre) + shift_mm - matrix[:3, :3] @ centre
    return matrix


def moved(one, matrix, frame="1.2.3"):
    """The same head after it moved: its voxels lie elsewhere in the patient's frame."""
    return replace(one, affine=matrix @ one.affine, frame_of_reference_uid=frame)


def error_of(found, matrix, head):
    """Mean distance in mm over the brain, and the angle in degrees, between found and true movement."""
    points = np.argwhere(head["brain"]) @ head["t1c"].affine[:3, :3].T + head["t1c"].affine[:3, 3]
    apart = [points @ m[:3, :3].T + m[:3, 3] for m in (found.to_moving, matrix)]
    turn = Rotation.from_matrix(found.to_moving[:3, :3] @ matrix[:3, :3].T)
    return np.linalg.norm(apart[0] - apart[1], axis=1).mean(), np.degrees(turn.magnitude())


@pytest.mark.parametrize(
    ("mask", "degrees", "shift_mm", "frame", "start"),
    [
        ("brain", (5, -7, -10), (-5.0, -3.0, -13.0), "1.2.3", "geometry"),
        ("head", (-6, 12, 15), (6.0, 10.0, 8.0), "1.2.3", "geometry"),
        ("brain", (3, -4, 8), (150.0, -220.0, 300.0), "9.9.9", "centres"),
    ],
)
def test_a_known_movement_is_found(head, mask, degrees, shift_mm, frame, start):
    brain = head["brain"] if mask == "brain" else None
    matrix = movement(degrees, shift_mm)
    other = moved(head["flair"], matrix, frame)
    found = register(Contrast.of(head["t1c"], brain), Contrast.of(other, brain))
    distance, angle = error_of(found, matrix, head)
    assert distance < 1.0
    assert angle < 1.0
    assert found.applied
    assert found.start == start
    assert found.rotation_deg == pytest.approx(np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude()), abs=1.0)
    assert found.information[1] > found.information[0]
    assert found.overlap[1] > 0.95
    back = found.moved(other, head["t1c"])
    assert back.array is other.array
    assert back.frame_of_reference_uid == "1.2.3"
    assert np.abs(back.affine - head["flair"].affine).max() < 3.0


def test_a_movement_that_was_imaged_again_is_found(head):
    """The moved head sampled on the grid of the scanner, as a second acquisition would be."""
    matrix = movement((4, -5, 9), (3.0, -4.0, 6.0))
    own = head["flair"].affine
    to_old = np.linalg.inv(own) @ np.linalg.inv(matrix) @ own
    again = ndimage.affine_transform(head["flair"].array, to_old, order=1)
    found = register(Contrast.of(head["t1c"], None), Contrast.of(volume(again, own), None))
    distance, angle = error_of(found, matrix, head)
    assert distance < 1.0
    assert angle < 1.0


def test_contrasts_that_agree_are_left_bit_identical(head):
    found = register(Contrast.of(head["t1c"], None), Contrast.of(head["flair"], None))
    assert not found.applied
    assert (found.to_moving == np.eye(4)).all()
    assert found.displacement_mm < 0.5
    same = found.moved(head["flair"], head["t1c"])
    assert same.array is head["flair"].array
    assert same.affine is head["flair"].affine


def test_the_same_input_gives_the_same_transform(head):
    other = moved(head["flair"], movement((2, -3, 5), (2.0, -3.0, 4.0)))
    first, second = (register(Contrast.of(head["t1c"], None), Contrast.of(other, None)) for _ in range(2))
    assert (first.to_moving == second.to_moving).all()
    assert first.record() == second.record()


def refusal(reference, other, brain=None, other_brain=None):
    with pytest.raises(ExpertError, match=r"^not registered: ") as refused:
        register(Contrast.of(reference, brain), Contrast.of(other, brain if other_brain is None else other_brain))
    return str(refused.value)


def test_noise_is_no_head(head):
    noise = np.random.default_rng(0).uniform(0, 1000, head["flair"].array.shape)
    assert "no information" in refusal(head["t1c"], volume(noise, head["flair"].affine), head["brain"])


def test_a_movement_no_patient_makes_within_one_frame_of_reference_is_refused(head):
    far = moved(head["flair"], movement((0, 0, 0), (0.0, 0.0, 250.0)))
    assert "moved by 250 mm is implausible" in refusal(head["t1c"], far, head["brain"])


def test_half_a_head_is_refused(head):
    half = slice(0, 26)
    part = replace(head["flair"], array=head["flair"].array[half])
    reason = refusal(head["t1c"], part, head["brain"], head["brain"][half])
    assert "of the head in T1c" in reason


def test_outlines_of_different_organs_are_refused(head):
    wrong = np.zeros_like(head["brain"])
    wrong[20:24, 30:40, 20:30] = True
    assert "outlines agree" in refusal(head["t1c"], head["flair"], head["brain"], wrong)


def test_an_empty_mask_is_refused(head):
    assert "no head" in refusal(head["t1c"], head["flair"], np.zeros_like(head["brain"]))
