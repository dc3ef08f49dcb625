"""The brain mask: plausible volumes only, nothing found is an error, altered weights are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from config.errors import ExpertError, ModelPackageError
from worker.experts.brain_mask import BrainExtractor, brain_ml
from worker.volume import Volume


def volume(array, spacing_mm=1.0):
    count = len(array)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])[:, [2, 1, 0, 3]]
    return Volume(np.asarray(array, np.float32), affine, ("1.2",) * count, (1,) * count, "1.3", "1.4", "MR")


@pytest.fixture(scope="module")
def extractor():
    return BrainExtractor.load()


@pytest.mark.requirement("REQ-GATE-8")
@pytest.mark.parametrize(("voxels", "is_brain"), [(87, False), (88, True), (275, True), (276, False)])
def test_only_the_volume_of_an_adult_brain_passes(voxels, is_brain):
    """Voxels of 20 mm hold 8 ml: 88 of them are 704 ml, 275 are 2200 ml."""
    mask = np.zeros((10, 10, 10), bool)
    mask.ravel()[:voxels] = True
    if is_brain:
        assert brain_ml(mask, volume(mask, 20.0)) == pytest.approx(voxels * 8.0)
    else:
        with pytest.raises(ExpertError, match=rf"has {voxels * 8} ml, 700 to 2200 ml is plausible"):
            brain_ml(mask, volume(mask, 20.0))


def test_an_empty_image_has_no_brain(extractor):
    with pytest.raises(ExpertError, match="no brain is found: the image is empty"):
        extractor.mask(volume(np.full((8, 9, 10), 5.0)))


def test_an_image_without_a_head_has_no_brain(extractor):
    """A bright corner in air: the network finds nothing, and that is an error, not an empty mask."""
    corner = np.zeros((40, 40, 40))
    corner[:3, :3, :3] = 900.0
    with pytest.raises(ExpertError, match="no brain is found"):
        extractor.mask(volume(corner, 5.0))


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    import deepbet.utils

    folder = tmp_path / "models"
    shutil.copytree(Path(deepbet.utils.DATA_PATH) / "models", folder)
    with (folder / "model.pt").open("r+b") as stream:
        stream.seek(4000)
        stream.write(b"\xff\x00")
    monkeypatch.setattr(deepbet.utils, "DATA_PATH", str(tmp_path))
    with pytest.raises(ModelPackageError, match=r"model\.pt is altered"):
        BrainExtractor.load()


def test_missing_weights_are_refused(tmp_path, monkeypatch):
    import deepbet.utils

    monkeypatch.setattr(deepbet.utils, "DATA_PATH", str(tmp_path))
    with pytest.raises(ModelPackageError, match=r"bbox_model\.pt cannot be read"):
        BrainExtractor.load()
