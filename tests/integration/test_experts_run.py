"""Experts on Volumes of any grid: results lie on the source grid; what does not fit is refused."""

import dataclasses
import json

import numpy as np
import pytest

from config.errors import ExpertError, InputTooLargeError, ModelPackageError
from tests.experts_packages import brats_package, vista3d_package
from worker.experts.base import ExpertInput
from worker.experts.brats import CHANNELS, BratsExpert
from worker.experts.vista3d import Vista3dExpert
from worker.volume import Volume


@pytest.fixture(scope="module")
def vista3d(tmp_path_factory):
    return Vista3dExpert.load(vista3d_package(tmp_path_factory.mktemp("a") / "vista3d"))


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    return BratsExpert.load(brats_package(tmp_path_factory.mktemp("b") / "brats"))


def turned(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


# (slice, row, column) → LPS mm: axial feet-to-head and head-to-feet, sagittal, coronal, oblique
GRIDS = {
    "axial": np.array([[0, 0, 2.0], [0, 2.0, 0], [5.0, 0, 0]]),
    "axial, head first": np.array([[0, 0, 2.0], [0, 2.0, 0], [-5.0, 0, 0]]),
    "axial, mirrored": np.array([[0, 0, -2.0], [0, -2.0, 0], [5.0, 0, 0]]),
    "sagittal": np.array([[5.0, 0, 0], [0, 0, 2.0], [0, -2.0, 0]]),
    "coronal": np.array([[0, 0, 2.0], [5.0, 0, 0], [0, -2.0, 0]]),
    "oblique": turned(0.3) @ np.array([[0, 0, 2.0], [0, 2.0, 0], [5.0, 0, 0]]),
}


def body(matrix, modality="CT", counts=(14, 40, 36)):
    """A body with one bright organ at a fixed place of the patient, sampled on the given grid."""
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ (np.array(counts) - 1) / 2  # the patient's origin is the grid's centre
    index = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
    place = index @ matrix.T + affine[:3, 3]
    array = np.where(np.abs(place).max(axis=-1) < 30, 40.0, -1000.0)
    array[np.linalg.norm(place - [14, -8, 6], axis=-1) < 11] = 300
    count = counts[0]
    return Volume(array.astype(np.float32), affine, ("1.2",) * count, (1,) * count, "1.3", "1.4", modality)


@pytest.mark.parametrize("name", GRIDS)
def test_a_ct_label_map_has_the_grid_of_its_volume(vista3d, name):
    volume = body(GRIDS[name])
    result = vista3d.run(ExpertInput(volume=volume), "everything")
    assert result.labels.shape == volume.array.shape
    assert result.labels.dtype == np.uint8
    assert set(np.unique(result.labels)) <= {0, 1, 3, 115}
    assert result.names == {1: "liver", 3: "spleen", 115: "heart"}
    assert result.volume is volume


@pytest.mark.parametrize("name", [name for name in GRIDS if name != "oblique"])
def test_the_same_patient_on_another_grid_gets_the_same_labels_at_the_same_place(vista3d, name):
    """The network sees one patient whatever the storage order, so labels agree where the grids meet."""
    cube, side = (25, 25, 25), 8 / 3  # 64 mm: whole steps of the 8 mm grid from either end, and no voxel halfway
    reference = body(np.array([[0, 0, side], [0, side, 0], [side, 0, 0]]), counts=cube)
    steps = GRIDS[name] / np.linalg.norm(GRIDS[name], axis=0) * side
    other = body(steps, counts=cube)
    expected, got = (vista3d.segment(one, (1, 3, 26, 115)) for one in (reference, other))
    place = np.argwhere(np.ones(cube, bool)) @ other.affine[:3, :3].T + other.affine[:3, 3]
    back = np.linalg.inv(reference.affine)
    index = np.rint(place @ back[:3, :3].T + back[:3, 3]).astype(int)
    agreement = (got.ravel() == expected[tuple(index.T)]).mean()
    assert expected.any()
    assert agreement > 0.99


def test_only_what_the_package_was_trained_on_is_prompted(vista3d):
    result = vista3d.run(ExpertInput(volume=body(GRIDS["axial"])), "hepatic tumor")
    assert result.names == {1: "liver", 26: "hepatic tumor"}
    assert set(np.unique(result.labels)) <= {0, 1, 26}


def test_an_empty_argument_means_everything(vista3d):
    assert vista3d.run(ExpertInput(volume=body(GRIDS["axial"])), "").argument == "everything"


@pytest.mark.parametrize("argument", ["lung tumor", "hepatoma", "liver", "EVERYTHING", " everything"])
def test_an_argument_that_is_not_on_the_card_is_refused(vista3d, argument):
    with pytest.raises(ExpertError, match="is no argument; valid: everything, hepatic tumor"):
        vista3d.run(ExpertInput(volume=body(GRIDS["axial"])), argument)


def test_a_study_without_ct_is_refused(vista3d):
    with pytest.raises(ExpertError, match="reads a CT Volume"):
        vista3d.run(ExpertInput(), "everything")


@pytest.mark.parametrize("spoil", [lambda a: a[:, :, 0], lambda a: a[:0], lambda a: np.full_like(a, np.nan)])
def test_an_array_that_is_no_volume_is_refused(vista3d, spoil):
    volume = body(GRIDS["axial"])
    with pytest.raises(ExpertError):
        vista3d.segment(dataclasses.replace(volume, array=spoil(volume.array)), (1,))


def test_weights_that_give_no_number_are_an_error_not_an_empty_result(tmp_path):
    expert = Vista3dExpert.load(vista3d_package(tmp_path / "vista3d"))
    expert.network.class_head.image_post_mapping[0].layer.conv1.conv.weight.fill_(float("nan"))
    volume = body(GRIDS["axial"])
    for _ in range(2):  # nothing is kept of a failed run
        with pytest.raises(ExpertError, match="no number"):
            expert.run(ExpertInput(volume=volume), "everything")


def test_a_volume_of_air_and_one_of_two_slices_give_a_label_map(vista3d):
    air = dataclasses.replace(body(GRIDS["axial"]), array=np.full((14, 40, 36), -1000, np.float32))
    assert vista3d.segment(air, (1, 26)).shape == (14, 40, 36)
    thin = body(GRIDS["axial"], counts=(2, 40, 36))
    assert vista3d.segment(thin, (1, 26)).shape == (2, 40, 36)


def test_an_argument_without_a_trained_label_may_not_be_promised(tmp_path):
    package = vista3d_package(tmp_path / "vista3d")
    promise = package.manifest.model_copy(update={"arguments": ("everything", "muscles")})
    with pytest.raises(ModelPackageError, match="'muscles' has no label"):
        Vista3dExpert.load(dataclasses.replace(package, manifest=promise))


def tissue(counts):
    """A Volume without air, so that nothing of it is cropped."""
    volume = body(GRIDS["axial"], counts=counts)
    noise = np.random.default_rng(6).normal(40, 200, counts).clip(-200, 900)
    return dataclasses.replace(volume, array=noise.astype(np.float32))


@pytest.fixture
def counted(tmp_path):
    """An Expert of its own, and the list its network's encoder adds one entry to per window."""
    expert = Vista3dExpert.load(vista3d_package(tmp_path / "vista3d"))
    calls = []
    expert.network.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    return expert, calls


def test_several_arguments_of_one_volume_run_the_windows_once(counted, vista3d):
    expert, calls = counted
    volume = tissue((14, 200, 180))
    first = expert.run(ExpertInput(volume=volume), "everything")
    windows = len(calls)
    second = expert.run(ExpertInput(volume=volume), "hepatic tumor")
    assert windows == first.details["windows"] > 1
    assert len(calls) == windows
    assert (second.details["windows"], second.details["features_reused"]) == (0, True)
    assert not first.details["features_reused"]
    vista3d.kept.clear()
    fresh = vista3d.run(ExpertInput(volume=volume), "hepatic tumor")
    assert (second.labels == fresh.labels).all()
    assert fresh.labels.any()


def test_another_volume_or_another_grid_is_read_anew(counted):
    expert, calls = counted
    volume = body(GRIDS["axial"])
    shifted = dataclasses.replace(volume, affine=volume.affine @ np.diag([1, 2, 2, 1.0]))
    for count, one in enumerate((volume, body(GRIDS["axial"]), shifted, volume), start=1):
        before = len(calls)
        result = expert.run(ExpertInput(volume=one), "everything")
        assert len(calls) > before, count
        assert not result.details["features_reused"]


def test_a_volume_above_the_budget_is_read_in_slabs_with_the_same_labels_and_says_so(vista3d):
    volume = tissue((200, 30, 30))
    whole = vista3d.run(ExpertInput(volume=volume), "everything")
    vista3d.kept.clear()
    tight = dataclasses.replace(vista3d, memory_mb=whole.details["estimated_mb"] - 0.5, kept=type(vista3d.kept)())
    slabs = tight.run(ExpertInput(volume=volume), "everything")
    assert (whole.notes, whole.details["read"]) == ((), "whole")
    assert slabs.details["read"] == "slabs"
    assert "so it was read in slabs" in slabs.notes[0]
    assert slabs.details["estimated_mb"] < whole.details["estimated_mb"]
    assert (slabs.labels == whole.labels).all()
    assert len(np.unique(whole.labels)) > 1
    assert not tight.run(ExpertInput(volume=volume), "everything").details["features_reused"]


def test_a_volume_that_does_not_fit_in_slabs_is_refused_before_the_network_runs(counted):
    expert, calls = counted
    small = dataclasses.replace(expert, memory_mb=8.0)
    with pytest.raises(InputTooLargeError, match=r"needs \d+ MB even when read in slabs, the budget is 8 MB"):
        small.run(ExpertInput(volume=body(GRIDS["axial"])), "everything")
    tiny = dataclasses.replace(expert, memory_mb=0.0005)
    with pytest.raises(InputTooLargeError, match="for resampling it"):
        tiny.run(ExpertInput(volume=body(GRIDS["axial"])), "everything")
    assert not calls


def test_a_result_says_what_was_done(vista3d):
    vista3d.kept.clear()
    result = vista3d.run(ExpertInput(volume=body(GRIDS["axial"])), "hepatic tumor")
    expected = {
        "spacing_mm": [8.0, 8.0, 8.0], "resampled_shape": [9, 11, 10], "patch": [32, 32, 32], "overlap": 0.25,
        "windows": 1, "prompts": 2, "dtype": "float32", "autocast": "off", "device": "cpu", "read": "whole",
    }  # fmt: skip
    assert {key: result.details[key] for key in expected} == expected
    assert json.loads(json.dumps(result.details)) == result.details
    assert set(result.details["versions"]) == {"monai", "torch"}
    assert result.seconds > 0


@pytest.mark.parametrize("name", GRIDS)
def test_a_tumour_label_map_has_the_grid_of_t1c(brats, name):
    t1c = body(GRIDS[name], "MR")
    t1c = dataclasses.replace(t1c, array=np.maximum(t1c.array + 100, 0))
    study = dict.fromkeys(CHANNELS, t1c) | {"FLAIR": dataclasses.replace(t1c, array=t1c.array[:, ::-1, ::-1] + 0)}
    result = brats.run(ExpertInput(brain_mr=study), "")
    assert result.labels.shape == t1c.array.shape
    assert set(np.unique(result.labels)) <= {0, 1, 2, 4}
    assert result.volume is t1c
    assert result.names[4] == "enhancing tumor"


def test_an_empty_head_is_refused(brats):
    dark = dataclasses.replace(body(GRIDS["axial"], "MR"), array=np.zeros((14, 40, 36), np.float32))
    with pytest.raises(ExpertError, match="T1c is empty"):
        brats.run(ExpertInput(brain_mr=dict.fromkeys(CHANNELS, dark)), "")
