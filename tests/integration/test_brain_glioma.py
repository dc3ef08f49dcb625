"""BRATS on a real four-sequence glioma study whose sequences do not lie on each other: from DICOM to the T1c grid.

No claim of accuracy of the tumour network: its weights are random here. What is shown is everything around it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import normalized_mutual_information

from config.errors import InputTooLargeError
from worker.decoding import read_header
from worker.experts.base import ExpertInput
from worker.experts.brain_mask import BrainExtractor, brain_ml
from worker.experts.brats import NAMES, BratsConfig, BratsExpert, build_brats
from worker.experts.packages import seal_package
from worker.intake import gate
from worker.profiles import BRAIN_MR

pytestmark = pytest.mark.models


def published(folder: Path):
    """A package of the published layout and file name with random weights of half the width."""
    config = BratsConfig(weights="model_brats_mri_segmentation.pt", init_filters=8)
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(build_brats(config).state_dict(), folder / config.weights)
    promise = {
        "name": "BRATS", "kind": "brats", "version": "0.5.2", "licence": "Apache-2.0", "demonstration": False,
        "task": "segmentation", "modality": "MRI", "overview": "random", "accuracy": "none",
        "intended_use": {"modalities": ["MR"], "statement": "Tests."}, "arguments": [], "labels": dict(NAMES),
        "budget": {"memory_mb": 8000, "seconds": 120},
        "network": {"weights": config.weights, "init_filters": 8},
    }  # fmt: skip
    return seal_package(folder, promise)


@pytest.fixture(scope="module")
def paths(real_data):
    return [path for name in ("t1", "t1c", "t2", "flair") for path in sorted((real_data / "mr_glioma" / name).glob("*"))
            if path.suffix == ".dcm"]  # fmt: skip


@pytest.fixture(scope="module")
def intake(paths):
    return gate(paths, BRAIN_MR)


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    return BratsExpert.load(published(tmp_path_factory.mktemp("published") / "brats"))


@pytest.fixture(scope="module")
def result(intake, expert):
    return expert.run(intake.study, "")


@pytest.fixture(scope="module")
def brains(intake):
    """The brain in T1c and FLAIR, on their own grids."""
    extractor = BrainExtractor.load()
    return {role: extractor.mask(intake.study.brain_mr[role]) for role in ("T1c", "FLAIR")}


def truth(real_data):
    return np.load(real_data / "mr_glioma" / "truth_brain_t1c.npz")["labels"] > 0


def dice(one, two):
    return 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))


def on_t1c(array, own, t1c, to_moving):
    """Sample an array of one contrast at the voxels of T1c, by scipy alone."""
    index = np.linalg.inv(own.affine) @ to_moving @ t1c.affine
    return ndimage.affine_transform(np.asarray(array, np.float32), index, output_shape=t1c.array.shape, order=1)


def test_the_roles_are_found_without_any_name(intake, paths):
    folders = {path.parent.name: path for path in paths}
    uids = {role: volume.series_instance_uid for role, volume in intake.study.brain_mr.items()}
    expected = {role: str(read_header(folders[role.lower()]).SeriesInstanceUID) for role in uids}
    assert uids == expected
    assert set(uids) == {"T1c", "T1", "T2", "FLAIR"}
    assert not [note for note in intake.unchecked if "frame of reference" in note or "name of the series" in note]


def test_the_brain_agrees_with_the_published_mask(brains, intake, real_data):
    """deepbet against HD-BET on T1c; 1598 ml is the volume of the published mask."""
    mask = truth(real_data)
    assert dice(brains["T1c"], mask) >= 0.95
    assert brain_ml(brains["T1c"], intake.study.brain_mr["T1c"]) == pytest.approx(1598, rel=0.05)


def test_the_head_that_turned_is_turned_back(result, brains, intake, real_data):
    """FLAIR lies 14 degrees against T1c; information and outlines are measured here, not by the registration."""
    t1c, flair = (intake.study.brain_mr[role] for role in ("T1c", "FLAIR"))
    found = np.array(result.details["registration"]["FLAIR"]["to_moving"])
    inside = truth(real_data)
    shared, outlines = [], []
    for matrix in (np.eye(4), found):
        image = on_t1c(flair.array, flair, t1c, matrix)
        shared.append(normalized_mutual_information(t1c.array[inside], image[inside], bins=64))
        outlines.append(dice(on_t1c(brains["FLAIR"], flair, t1c, matrix) >= 0.5, inside))
    assert shared[1] > shared[0] + 0.02
    assert outlines[0] < 0.87
    assert outlines[1] > 0.94
    assert 11 < result.details["registration"]["FLAIR"]["rotation_deg"] < 16


@pytest.mark.parametrize(("role", "least"), [("T1", 0.95), ("T2", 0.9), ("FLAIR", 0.95)])
def test_every_contrast_is_registered_and_recorded(result, role, least):
    record = result.details["registration"][role]
    assert record["applied"]
    assert record["mask_dice"][1] > least
    assert record["mask_dice"][1] > record["mask_dice"][0]
    assert record["mutual_information"][1] > 2 * record["mutual_information"][0]
    assert any(note.startswith(f"{role} was registered to T1c: turned by") for note in result.notes)


def test_the_label_map_lies_on_the_voxels_of_t1c_and_inside_the_brain(result, brains, intake):
    assert result.volume is intake.study.brain_mr["T1c"]
    assert result.labels.shape == (26, 224, 256)
    assert result.labels.dtype == np.uint8
    assert set(np.unique(result.labels)) <= {0, 1, 2, 4}
    assert result.labels.any()
    assert not result.labels[~brains["T1c"]].any()


def test_what_was_done_is_on_record(result):
    details = result.details
    assert details["brain_mask"] == "deepbet"
    assert details["brain_ml"] == pytest.approx(1598, rel=0.05)
    assert details["versions"]["deepbet"] == "1.0.2"
    assert details["versions"]["SimpleITK"].startswith("2.")
    assert result.seconds == pytest.approx(sum(details["seconds"].values()), abs=0.01)


def test_a_study_for_which_the_memory_is_too_small_is_refused_before_it_is_read(expert, intake):
    with pytest.raises(InputTooLargeError, match=r"would need [0-9]+ MB for this study, 900 MB is its budget"):
        replace(expert, memory_mb=900.0).run(ExpertInput(brain_mr=intake.study.brain_mr), "")
