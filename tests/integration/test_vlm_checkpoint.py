"""A checkpoint folder in the published layout: loaded strictly, answering reproducibly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from config.errors import GenerationBudgetError, ModelError, ModelPackageError
from tests.vlm_checkpoint import write_checkpoint
from worker.vlm.package import MANIFEST, files_of, open_vlm_package, seal_vlm_package
from worker.vlm.prompts import first_message
from worker.vlm.templates import Message
from worker.vlm.vila_m3 import VilaM3

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
QUESTIONS = ["Is it yes?", "What no", "This looks like an image of which the model may say something"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint") / "vlm"
    write_checkpoint(made)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> VilaM3:
    return VilaM3.load(folder, dtype=torch.float32)


@pytest.fixture
def own(tmp_path: Path, folder: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "vlm")


def reseal(folder: Path) -> None:
    seal_vlm_package(folder, open_vlm_package(folder).model_dump(exclude={"files", "kind"}))


def test_asking_together_equals_asking_one_by_one(model):
    opening = first_message("", cards="", modality="CT")
    together = model.answer_each([opening], [PICTURE], QUESTIONS)
    alone = [model.answer_each([Message("user", opening.text + q)], [PICTURE], [""])[0] for q in QUESTIONS]
    assert [a.text for a in together] == [a.text for a in alone]
    assert np.allclose([a.margin for a in together], [a.margin for a in alone], atol=1e-4)


def test_the_order_of_questions_does_not_matter(model):
    opening = first_message("", cards="", modality="CT")
    forward = model.answer_each([opening], [PICTURE], QUESTIONS)
    backward = model.answer_each([opening], [PICTURE], QUESTIONS[::-1])
    assert np.allclose([a.margin for a in forward], [a.margin for a in backward[::-1]], atol=1e-4)


def test_the_picture_reaches_the_answer(model):
    opening = first_message("Is it?", cards="", modality="CT")
    one = model.answer_each([opening], [PICTURE], [""])[0]
    other = model.answer_each([opening], [255 - PICTURE], [""])[0]
    assert abs(one.margin - other.margin) > 1e-6


def test_no_question_no_answer(model):
    assert model.answer_each([first_message("", cards="", modality="CT")], [PICTURE], []) == []


def test_logits_equal_a_plain_forward_pass_over_hand_spliced_embeddings(model):
    """Independent of our splicing code: ids, rows and positions are put together here, in the published order."""
    prompt_head, prompt_tail = (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n",
        (
            "This is a CT image.\nIs it?<|im_end|><|im_start|>assistant\n"  # its newline was dropped: the BOS rule
        ),
    )
    pixels = np.asarray(PICTURE, dtype=np.uint8)
    squashed = np.asarray(Image.fromarray(pixels).resize((42, 42), Image.Resampling.BICUBIC), np.float32)
    tensor = torch.from_numpy(squashed.transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.inference_mode():
        states = model.tower(pixel_values=tensor, output_hidden_states=True).hidden_states
        assert len(states) == 3
        rows = model.projector(states[1])
        embed = model.llm.get_input_embeddings()
        pieces = [embed(torch.tensor([model.tokenizer(text).input_ids])) for text in (prompt_head, prompt_tail)]
        logits = model.llm(inputs_embeds=torch.cat([pieces[0], rows, pieces[1]], 1)).logits[0, -1]
    expected = logits.log_softmax(-1)
    answer = model.answer_each([first_message("Is it?", cards="", modality="CT")], [PICTURE], [""])[0]
    forms = {}
    for word in ("yes", "no"):
        spellings = [word, word.title(), f" {word}", f" {word.title()}"]
        single = {tuple(model.tokenizer(s, add_special_tokens=False).input_ids) for s in spellings}
        forms[word] = sum(expected[ids[0]].exp() for ids in single if len(ids) == 1).log()
    assert answer.margin == pytest.approx(abs(float(forms["yes"] - forms["no"])), abs=1e-4)


def test_a_model_that_never_stops_is_an_error(model):
    with pytest.raises(GenerationBudgetError, match="did not stop within 6"):
        model.generate([first_message("Is it?", cards="", modality="CT")], [PICTURE], max_new_tokens=6)


def test_stop_tokens_of_the_template_and_of_the_generation_settings_end_an_answer(folder, model):
    loaded = VilaM3.load(folder, dtype=torch.float32)
    with torch.no_grad():
        loaded.llm.lm_head.weight.zero_()  # all logits equal: greedy takes id 0
    loaded.llm.generation_config.eos_token_id = [0]
    parts = (loaded.tokenizer, loaded.llm, loaded.tower, loaded.projector)
    stopping = VilaM3(loaded.manifest, parts, context_tokens=1024)
    made = stopping.generate([first_message("Is it?", cards="", modality="CT")], [PICTURE], max_new_tokens=6)
    assert (made.text, made.token_count, made.stopped) == ("", 1, True)
    assert model.tokenizer.convert_tokens_to_ids("<|im_end|>") in stopping._stop_ids


def test_a_prompt_that_does_not_fit_is_refused_not_cut(model):
    with pytest.raises(GenerationBudgetError, match="do not fit"):
        model.generate([first_message("long " * 2000, cards="", modality="CT")], [PICTURE], max_new_tokens=5)


@pytest.mark.parametrize("pictures", [[], [PICTURE, PICTURE]])
def test_pictures_and_places_must_match(model, pictures):
    with pytest.raises(ModelError, match="pictures for 1 places"):
        model.generate([first_message("Is it?", cards="", modality="CT")], pictures, max_new_tokens=5)


@pytest.mark.requirement("REQ-AUDIT-9")
def test_the_card_carries_every_hash(model, folder):
    assert set(model.card.weights_sha256) == files_of(folder)
    assert model.card.demonstration


@pytest.mark.requirement("REQ-MODEL-1")
@pytest.mark.parametrize("name", ["llm/model.safetensors", "vision_tower/model.safetensors", "config.json"])
def test_an_altered_file_is_refused_by_name(own, name):
    content = bytearray((own / name).read_bytes())
    content[-1] ^= 1
    (own / name).write_bytes(content)
    with pytest.raises(ModelPackageError, match=f"{name} is altered"):
        VilaM3.load(own)


def test_a_missing_and_a_surplus_file_are_refused_by_name(own):
    (own / "llm" / "evil.py").write_text("x")
    with pytest.raises(ModelPackageError, match=r"llm/evil\.py is surplus"):
        VilaM3.load(own)
    (own / "llm" / "evil.py").unlink()
    (own / "mm_projector" / "model.safetensors").unlink()
    with pytest.raises(ModelPackageError, match=r"mm_projector/model\.safetensors is missing"):
        VilaM3.load(own)


@pytest.mark.parametrize(
    ("part", "tensor"), [("llm", "model.norm.weight"), ("mm_projector", "layers.2.bias"), ("vision_tower", None)]
)
def test_a_missing_tensor_is_refused_by_name(own, part, tensor):
    path = own / part / "model.safetensors"
    state = load_file(path)
    name = tensor or next(key for key in state if key.endswith("patch_embedding.weight"))
    del state[name]
    save_file(state, path, metadata={"format": "pt"})
    reseal(own)
    with pytest.raises(ModelPackageError, match=name.removeprefix("vision_model.").replace(".", r"\.")):
        VilaM3.load(own)


@pytest.mark.parametrize("part", ["llm", "mm_projector", "vision_tower"])
def test_a_surplus_tensor_is_refused_by_name(own, part):
    path = own / part / "model.safetensors"
    save_file(load_file(path) | {"surplus.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    reseal(own)
    with pytest.raises(ModelPackageError, match=r"surplus\.weight"):
        VilaM3.load(own)


def test_a_tensor_of_another_shape_is_refused(own):
    path = own / "mm_projector" / "model.safetensors"
    save_file(load_file(path) | {"layers.4.bias": torch.zeros(5)}, path)
    reseal(own)
    with pytest.raises(ModelPackageError, match=r"layers\.4\.bias"):
        VilaM3.load(own)


@pytest.mark.parametrize(
    "change", [{"kind": "expert"}, {"template": "unknown"}, {"files": None}, {"surprise": 1}, {"licence": ""}]
)
def test_a_manifest_that_is_none_is_refused(own, change):
    content = json.loads((own / MANIFEST).read_text())
    (own / MANIFEST).write_text(json.dumps(content | change))
    with pytest.raises(ModelPackageError):
        open_vlm_package(own)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ModelPackageError, match="missing"):
        VilaM3.load(tmp_path)


def test_the_tower_stops_where_the_features_are_taken(model):
    """The shortcut past the last layer gives ``hidden_states[-2]`` of the whole tower, to the bit."""
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        states = model.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        assert torch.equal(model.encode(pixels), model.projector(states[-2]))
