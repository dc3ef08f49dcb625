"""The shipped packages: complete, small, and able to read real images without falling over. No claim of accuracy."""

from pathlib import Path

import numpy as np
import pytest

from worker.decoding import load_radiograph, read_headers
from worker.experts.base import ExpertInput
from worker.experts.cxr import LABELS
from worker.experts.registry import ExpertRegistry
from worker.mr_roles import assign_roles
from worker.stacking import load_volume

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def registry():
    return ExpertRegistry.open(ROOT / "config" / "models.yaml", plugins=False)


def test_the_shipped_packages_say_what_they_are(registry):
    cards = {card.name: card for card in registry.cards()}
    assert set(cards) == {"CXR", "VISTA3D", "BRATS"}
    for card in cards.values():
        assert card.demonstration
        assert card.overview.startswith("DEMONSTRATION MODEL")
        assert card.licence == "Apache-2.0"
    assert cards["CXR"].labels == dict(enumerate(LABELS))


def test_the_shipped_weights_stay_below_eight_megabytes():
    weights = [path for path in (ROOT / "worker" / "models").glob("demo-*/*") if path.suffix != ".yaml"]
    experts = [path for path in weights if path.parent.name in {"demo-cxr", "demo-vista3d", "demo-brats"}]
    assert len(experts) >= 4
    assert sum(path.stat().st_size for path in experts) < 8_000_000


@pytest.mark.parametrize("folder", ["cxr_01", "cxr_05", "cxr_10"])
def test_a_real_radiograph_gets_eighteen_answers(registry, real_data, folder):
    path = next((real_data / folder).glob("*.dcm"))
    result = registry.get("CXR").run(ExpertInput(radiograph=load_radiograph(path)), "")
    assert list(result.probabilities) == list(LABELS)
    assert all(p is None or 0 <= p <= 1 for p in result.probabilities.values())


def test_a_real_abdomen_gets_a_label_map_on_its_grid(registry, real_data):
    volume = load_volume(read_headers(sorted((real_data / "ct_abdomen").glob("*.dcm"))))
    result = registry.get("VISTA3D").run(ExpertInput(volume=volume), "hepatic tumor")
    assert result.labels.shape == volume.array.shape == (20, 512, 512)
    assert set(np.unique(result.labels)) <= {0, 1, 26}


def test_a_real_glioma_study_gets_a_label_map_on_the_t1c_grid(registry, real_data):
    series: dict[str, list] = {}
    for header in read_headers(sorted((real_data / "mr_glioma").rglob("*.dcm"))):
        series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    study = {role: load_volume(series[uid]) for role, uid in assign_roles(series).chosen.items()}
    result = registry.get("BRATS").run(ExpertInput(brain_mr=study), "")
    assert result.labels.shape == study["T1c"].array.shape
    assert set(np.unique(result.labels)) <= {0, 1, 2, 4}
    assert result.volume is study["T1c"]
    # by the outline of the head alone: this package does not take the skull away
    assert result.details["brain_mask"] == "foreground"
    assert 11 < result.details["registration"]["FLAIR"]["rotation_deg"] < 16
