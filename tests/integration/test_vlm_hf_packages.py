"""Packages of backend ``hf``: what is altered, incomplete, blind or brings code is refused by name."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from config.errors import ModelPackageError
from tests.tiny_vlms import edit_json, reseal, write_llava
from tests.vlm_checkpoint import write_checkpoint
from worker.vlm.opening import open_vlm


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava") / "vlm"
    write_llava(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A LLaVA a test may change."""
    return shutil.copytree(made, tmp_path / "vlm")


def test_an_altered_file_is_refused_before_anything_is_loaded(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(ModelPackageError, match=r"model\.safetensors is altered"):
        open_vlm(folder)


def test_missing_and_surplus_tensors_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("q_proj.weight"))
    save_file(
        {key: value for key, value in weights.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    reseal(folder)
    with pytest.raises(ModelPackageError, match=r"missing keys: .*q_proj\.weight"):
        open_vlm(folder)
    save_file(weights | {"extra.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    reseal(folder)
    with pytest.raises(ModelPackageError, match=r"unexpected keys: .*extra"):
        open_vlm(folder)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ("", "no chat template"),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "no place for images"),
        ("{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}", "no place for images"),
        ("{% for m in messages %}{{ raise_exception('tools only') }}{% endfor %}", "refused the conversation"),
    ],
)
def test_a_template_without_a_place_for_images_is_refused(folder, layout, reason):
    (folder / "chat_template.jinja").write_text(layout)
    if not layout:
        (folder / "chat_template.jinja").unlink()
    reseal(folder)
    with pytest.raises(ModelPackageError, match=reason):
        open_vlm(folder)


@pytest.mark.requirement("REQ-MODEL-10")
def test_code_in_a_package_is_never_run(folder, tmp_path):
    trace = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Evil: pass\n")
    edit_json(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "modeling_evil.Evil", "AutoModelForImageTextToText": "modeling_evil.Evil"},
    )
    reseal(folder)
    with pytest.raises(ModelPackageError, match="cannot be loaded"):
        open_vlm(folder)
    assert not trace.exists()


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    reseal(folder)
    with pytest.raises(ModelPackageError, match="cannot be loaded"):
        open_vlm(folder)


def test_a_processor_that_shows_no_pictures_is_refused(folder):
    (folder / "processor_config.json").unlink()
    reseal(folder)
    with pytest.raises(ModelPackageError, match="the processor cannot be loaded"):
        open_vlm(folder)


def test_a_language_model_without_eyes_is_refused(tmp_path):
    write_checkpoint(tmp_path / "vila")
    folder = tmp_path / "vila" / "llm"
    reseal(folder)
    with pytest.raises(ModelPackageError, match="does not prepare text and images"):
        open_vlm(folder)


def test_the_style_of_prompts_can_be_chosen_and_the_card_says_what_runs(folder):
    vlm = open_vlm(folder, dtype=torch.float32, style="demo")
    assert (vlm.card.style, vlm.card.backend) == ("demo", "hf")
    assert vlm.runtime["architecture"] == "LlavaForConditionalGeneration"
    assert vlm.runtime["device"] == "cpu"
    assert set(vlm.card.weights_sha256) >= {"model.safetensors", "tokenizer.json", "chat_template.jinja"}
