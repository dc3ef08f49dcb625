"""The registry refuses what it cannot trust, by name, and keeps no more loaded than the budget holds."""

import shutil
import weakref
from pathlib import Path

import pytest
import yaml

from config.errors import ConfigurationError, ExpertError, ModelPackageError
from tests.experts_packages import brats_package, vista3d_package
from worker.experts.base import ExpertInput
from worker.experts.memory import MemoryBudget
from worker.experts.packages import open_package
from worker.experts.registry import ExpertRegistry, package_sources
from worker.experts.sources import PackageSource


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    brats_package(folder / "brats")
    vista3d_package(folder / "vista3d")
    return folder


@pytest.fixture
def site(sealed, tmp_path) -> Path:
    shutil.copytree(sealed, tmp_path, dirs_exist_ok=True)
    return write_models(tmp_path)


def write_models(folder, **changes) -> Path:
    content = {"experts": ["brats", "vista3d"], "accepted_licences": ["Apache-2.0"], "memory_mb": 1500} | changes
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_cards_are_those_of_the_packages_in_order(site):
    cards = ExpertRegistry.open(site, plugins=False).cards()
    assert [card.name for card in cards] == ["BRATS", "VISTA3D"]
    assert cards[1].arguments == ("everything", "hepatic tumor")
    assert cards[0].labels == {1: "non-enhancing tumor core", 2: "peritumoral edema", 4: "enhancing tumor"}
    assert set(cards[0].weights_sha256) == {"model.safetensors"}


def test_a_missing_file_is_named(site):
    (site.parent / "brats" / "model.safetensors").unlink()
    with pytest.raises(ModelPackageError, match=r"brats: model\.safetensors is missing"):
        ExpertRegistry.open(site)


@pytest.mark.requirement("REQ-MODEL-1")
def test_an_altered_file_is_named(site):
    path = site.parent / "brats" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelPackageError, match=r"brats: model\.safetensors is altered"):
        ExpertRegistry.open(site)


def test_a_surplus_file_is_named(site):
    (site.parent / "vista3d" / "payload.pt").write_bytes(b"x")
    with pytest.raises(ModelPackageError, match=r"vista3d: payload\.pt is surplus"):
        ExpertRegistry.open(site)


@pytest.mark.requirement("REQ-MODEL-1")
def test_a_file_altered_after_opening_is_refused_when_loaded(site):
    registry = ExpertRegistry.open(site)
    (site.parent / "vista3d" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelPackageError, match=r"model\.safetensors is altered"):
        registry.get("VISTA3D").run(ExpertInput(), "")


@pytest.mark.parametrize(
    "damage", [b"", b"- not a mapping", b"name: [", b"\xff\xfe", b"name: BRATS\nkind: brats\n"], ids=repr
)
def test_a_manifest_that_is_none_is_refused(site, damage):
    (site.parent / "brats" / "manifest.yaml").write_bytes(damage)
    with pytest.raises(ModelPackageError, match=r"brats: manifest\.yaml"):
        ExpertRegistry.open(site)


def test_a_manifest_may_not_point_outside_its_folder(site):
    path = site.parent / "brats" / "manifest.yaml"
    content = yaml.safe_load(path.read_text())
    content["files"][0]["path"] = "../vista3d/model.safetensors"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelPackageError, match="brats"):
        ExpertRegistry.open(site)


def test_a_folder_without_manifest_is_refused(site):
    with pytest.raises(ModelPackageError, match=r"nothing: manifest\.yaml is missing"):
        ExpertRegistry.open(write_models(site.parent, experts=["nothing"]))


def test_weights_of_another_shape_are_refused(site):
    path = site.parent / "brats" / "manifest.yaml"
    content = yaml.safe_load(path.read_text())
    content["network"]["init_filters"] = 16
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelPackageError, match=r"model\.safetensors: weights do not fit"):
        ExpertRegistry.open(site).get("BRATS").run(ExpertInput(), "")


def test_a_licence_nobody_accepted_is_refused(site):
    with pytest.raises(ModelPackageError, match=r"BRATS: licence Apache-2\.0"):
        ExpertRegistry.open(write_models(site.parent, accepted_licences=["MIT"]))


def test_one_name_twice_is_refused(site):
    with pytest.raises(ConfigurationError, match="BRATS is configured twice"):
        ExpertRegistry.open(write_models(site.parent, experts=["brats", "brats"]))


def test_an_expert_larger_than_the_budget_is_refused(site):
    with pytest.raises(ConfigurationError, match="BRATS needs 1000 MB, the budget is 900 MB"):
        ExpertRegistry.open(write_models(site.parent, memory_mb=900))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "experts: 3",
        "surprise: 1",
        "experts: [",
        "remotes: [{name: CXR, url: 'http://gpu.example.org:8043'}]",  # studies leave this machine over https only
        "remotes: [{name: CXR, url: 'ftp://127.0.0.1'}]",
        "remotes: [{name: CXR, url: 'https://user:secret@gpu.example.org'}]",
        "remotes: [{name: cxr, url: 'https://gpu.example.org'}]",
        "remotes: [{name: CXR, url: 'https://gpu.example.org:99999'}]",
        "remotes: [{name: CXR, url: 'https://[gpu'}]",
        "remotes: [{name: CXR, url: 'https://'}]",
        "remotes: [{name: CXR, url: 'https://gpu.example.org', timeout_s: 0}]",
        "remotes: [{name: CXR, url: 'https://gpu.example.org', client_certificate: cert.pem}]",
    ],
)
def test_a_models_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "models.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"models\.yaml"):
        ExpertRegistry.open(tmp_path / "models.yaml")


def test_an_unknown_expert_is_refused_with_what_there_is(site):
    with pytest.raises(ModelPackageError, match="no expert VISTA2D; available: BRATS, VISTA3D"):
        ExpertRegistry.open(site, plugins=False).get("VISTA2D")


def use(registry, name) -> None:
    """Load an Expert; a Study without images is refused by the Expert itself."""
    with pytest.raises(ExpertError, match=rf"{name} reads"):
        registry.get(name).run(ExpertInput(), "")


def test_the_least_recently_used_expert_makes_room(site):
    registry = ExpertRegistry.open(site)
    use(registry, "BRATS")
    assert registry.warm() == ("BRATS",)
    use(registry, "VISTA3D")  # 1000 + 1000 MB do not fit into 1500
    assert registry.warm() == ("VISTA3D",)


def test_an_unloaded_network_gives_its_memory_back(site):
    packages = (open_package(site.parent / name) for name in ("brats", "vista3d"))
    brats, vista3d = (PackageSource(package) for package in packages)
    budget = MemoryBudget("cpu", 1500)
    with budget.lease(brats) as expert:
        weights = weakref.ref(next(expert.network.parameters()))
    del expert
    assert weights() is not None
    with budget.lease(vista3d):
        assert weights() is None


def test_experts_that_fit_stay_warm_in_order_of_use(site):
    registry = ExpertRegistry.open(write_models(site.parent, memory_mb=2000))
    for name in ("BRATS", "VISTA3D", "BRATS"):
        use(registry, name)
    assert registry.warm() == ("VISTA3D", "BRATS")


def test_an_activated_package_takes_the_place_of_the_other_and_what_did_not_change_stays_warm(site):
    registry = ExpertRegistry.open(write_models(site.parent, memory_mb=2000))
    use(registry, "BRATS")
    use(registry, "VISTA3D")
    newer = site.parent / "brats-2"
    shutil.copytree(site.parent / "brats", newer)
    content = yaml.safe_load((newer / "manifest.yaml").read_text())
    (newer / "manifest.yaml").write_text(yaml.safe_dump(content | {"version": "2"}))
    registry.replace(package_sources([newer, site.parent / "vista3d"], plugins=False))
    assert registry.warm() == ("VISTA3D",)
    assert [(card.name, card.version) for card in registry.cards()] == [("BRATS", "2"), ("VISTA3D", "0")]
    use(registry, "BRATS")
    assert registry.warm() == ("VISTA3D", "BRATS")


def test_a_package_source_knows_its_intended_use(site):
    use = PackageSource(open_package(site.parent / "brats")).intended_use
    assert use.refusal(modality="MR", body_part="brain", age_years=40) is None
    assert "modality CT" in str(use.refusal(modality="CT"))
    assert "body part KNEE" in str(use.refusal(modality="MR", body_part="KNEE"))
    assert "below 18" in str(use.refusal(modality="MR", age_years=3))
    assert use.refusal(modality="MR", age_years=None) is None
