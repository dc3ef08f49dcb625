"""Packages of the published weights: our networks have the published layout, and weight files stay data."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from config.errors import ModelPackageError
from worker.experts.brats import BratsConfig, build_brats
from worker.experts.cxr import LABELS, MemberConfig, build_member, ensemble_config, pickled_classes
from worker.experts.packages import Manifest, ModelPackage
from worker.experts.vista3d import Vista3dConfig, build_vista3d
from worker.experts.weights import load_network, read_state

PUBLISHED = Path(__file__).resolve().parents[2] / "worker" / "models" / "published"


def _content(name):
    return yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text())


def manifest(name):
    return Manifest.model_validate({**_content(name), "files": []})


def layout(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_the_published_vista3d_has_the_layout_of_the_library():
    from monai.networks.nets import vista3d132

    with torch.device("meta"):
        ours = layout(build_vista3d(Vista3dConfig.model_validate(manifest("vista3d").network)))
        assert ours == layout(vista3d132(in_channels=1))
    assert ours["class_head.class_embeddings.weight"] == (512, 48)
    assert ours["image_encoder.encoder.conv_init.weight"] == (48, 1, 3, 3, 3)


def test_the_published_vista3d_reads_with_the_settings_of_the_bundle():
    """Bundle vista3d 0.5.4: inference.json, and what the class-prompt path of its inferer leaves at the default."""
    config = Vista3dConfig.model_validate(manifest("vista3d").network)
    expected = {
        "spacing_mm": 1.5, "patch": (128, 128, 128), "overlap": 0.25, "crop_above_hu": 0.0, "crop_margin": 10,
        "hu_range": (-963.8247715525971, 1053.678477684517), "antialias": False, "bfloat16": True,
        "cuda_float16": True, "margins": {}, "minimum_ml": {}, "trained_labels": None, "last_supported": 132,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert len(config.labels) == 127
    assert set(manifest("vista3d").labels) == config.labels


def test_the_published_brats_has_the_layout_of_the_bundle():
    from monai.networks.nets import SegResNet

    with torch.device("meta"):
        ours = layout(build_brats(BratsConfig.model_validate(manifest("brats").network)))
        bundle = SegResNet(
            blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1], init_filters=16, in_channels=4, out_channels=3,
            dropout_prob=0.2,
        )  # fmt: skip
        assert ours == layout(bundle)
    assert ours["conv_final.2.conv.weight"] == (3, 16, 1, 1, 1)


def test_the_published_ensemble_has_eight_members_of_the_library_s_layout():
    from torchxrayvision.models import DenseNet

    config = ensemble_config(manifest("cxr").network, source="published")
    assert [member.architecture for member in config.members] == ["densenet"] * 7 + ["resnet50"]
    with torch.device("meta"):
        assert layout(build_member(config.members[0])) == layout(DenseNet())
        residual = layout(build_member(config.members[-1]))
    assert residual["conv1.weight"] == (64, 1, 7, 7)
    assert residual["fc.weight"] == (18, 2048)
    assert config.members[-1].input_px == 512


def test_the_published_label_sets_and_operating_points_are_those_of_the_reference():
    config = ensemble_config(manifest("cxr").network, source="published")
    assert config.label_members["Pneumothorax"] == ("resnet50",)
    assert config.label_members["Fracture"] == ("all", "nih", "chex", "resnet50")
    assert config.label_members["Effusion"] == ("all", "chex", "pc", "resnet50")
    assert "Lung Opacity" not in config.label_members
    points = {member.name: dict(zip(LABELS, member.op_thresholds, strict=True)) for member in config.members}
    assert points["all"]["Atelectasis"] == pytest.approx(0.07422872)
    assert points["resnet50"]["Pneumothorax"] == pytest.approx(0.50723547)
    assert points["nih"]["Fracture"] is None
    assert sum(point is not None for point in points["rsna"].values()) == 2


def test_library_file_names_are_the_ones_the_manifest_lists():
    config = ensemble_config(manifest("cxr").network, source="published")
    names = {member.name: member.file for member in config.members}
    assert names["rsna"] == "kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
    assert names["resnet50"] == "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt"


def small_densenet():
    return build_member(
        MemberConfig(name="a", file="a.pt", architecture="densenet", input_px=64, growth_rate=4, block_config=(1, 1),
                     num_init_features=8, op_thresholds=(None,) * 18)
    )  # fmt: skip


def test_a_densenet_saved_as_a_whole_module_gives_its_weights(tmp_path):
    source = small_densenet()
    torch.save(source, tmp_path / "a.pt")
    state = read_state(tmp_path / "a.pt", classes=pickled_classes())
    copy = small_densenet()
    load_network(copy, state, source="a.pt")
    assert all(torch.equal(a, b) for a, b in zip(copy.state_dict().values(), source.state_dict().values(), strict=True))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_is_read_bare_or_under_model(tmp_path, wrapped):
    state = small_densenet().state_dict()
    torch.save({"model": state} if wrapped else state, tmp_path / "a.pt")
    assert read_state(tmp_path / "a.pt").keys() == state.keys()


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/firstread-was-here",)


@pytest.mark.requirement("REQ-MODEL-10")
def test_a_weight_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    mark = Path("/tmp/firstread-was-here")
    mark.unlink(missing_ok=True)
    torch.save({"model": Payload()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ModelPackageError, match="no readable weights"):
            read_state(tmp_path / name, classes=pickled_classes())
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pt", b""), ("a.pt", b"PK\x03\x04 cut"), ("a.safetensors", b""), ("a.safetensors", b"\xff" * 40)],
)
def test_a_damaged_weight_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelPackageError, match=name):
        read_state(tmp_path / name)


def test_a_file_with_something_else_than_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ModelPackageError, match="holds no state dict"):
        read_state(tmp_path / "a.pt")


def test_what_authorities_call_a_version_is_promised_and_recorded():
    named = {"udi": "(01)00844588003288(10)A1", "change": "PCCP-3"}
    card = ModelPackage(Path(), Manifest.model_validate({**_content("brats"), "files": [], "regulatory": named})).card
    assert card.regulatory == named
    with pytest.raises(ValidationError):
        Manifest.model_validate({**_content("brats"), "files": [], "regulatory": {"fda": "K1"}})
