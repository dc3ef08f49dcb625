"""Fine-tuning on a tiny decoder: packed training equals plain forward passes; runs resume; exports merge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from config.errors import ModelPackageError
from tests.unit.test_training_conversations import OFFER, patient
from tests.vlm_checkpoint import write_checkpoint
from training.conversations import feedback_conversation, trigger_conversation
from training.export import export_student
from training.finetune import BOS_RULE, ROWS_PER_IMAGE, TEMPLATE, Run, Student, batch_logits, finetune, new_course
from training.lora import LoraLinear, add_adapters
from training.packing import Packer, collate
from training.tower import TOWER, augmented, new_tower
from worker.vlm.demo_build import ADAPTER, merge_adapter
from worker.vlm.package import verify_vlm_package
from worker.vlm.projector import Projector
from worker.vlm.templates import Message, render, template
from worker.vlm.vila_m3 import IMAGE_ID, VilaM3, picture_tensor, tokenise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny") / "vlm"
    write_checkpoint(made)
    return made


@pytest.fixture
def student(folder: Path) -> Student:
    torch.manual_seed(3)
    llm: Any = LlamaForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32)
    add_adapters(llm)
    for module in llm.modules():
        if isinstance(module, LoraLinear):
            torch.nn.init.normal_(module.lora_B, std=0.05)
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    return Student(tokenizer, llm, new_tower(1), Projector(TOWER.hidden_size, 32))


def pixels_of(pictures: Any) -> torch.Tensor:
    return torch.stack([picture_tensor(p, TOWER.image_size, (0.5,) * 3, (0.5,) * 3) for p in pictures])


def test_packed_logits_equal_one_plain_pass_per_question(student):
    """Shared prefix, pictures, branches and padding change nothing: each answer is as if asked alone."""
    rng = np.random.default_rng(2)
    talks = [
        trigger_conversation(rng, patient("CT", rng), OFFER, held_out=False),
        feedback_conversation(rng, patient("CXR", rng), OFFER, held_out=False),
        feedback_conversation(rng, patient("MRI", rng), OFFER, held_out=False),
    ]
    packer = Packer(student.tokenizer, template(TEMPLATE), bos_rule=BOS_RULE)
    packed = [packer.pack(talk) for talk in talks]
    batch = collate(packed, ROWS_PER_IMAGE)
    embed = student.llm.get_input_embeddings()
    stop = template(TEMPLATE).stop_tokens[0]
    with torch.no_grad():
        together = batch_logits(student, batch, pixels_of([p for talk in talks for p in talk.images]))
        groups, keys = batch.groups
        row = 0
        for talk in talks:
            with torch.autocast("cpu", torch.bfloat16):
                states = student.tower(pixel_values=pixels_of(talk.images), output_hidden_states=True).hidden_states
                rows = student.projector(states[-2]).float()
            assert keys[row] == "trunk"
            for number, branch in enumerate(talk.branches, start=1):
                turns = [*talk.turns[:-1], Message("user", talk.turns[-1].text + branch.question)]
                ids = tokenise(render(template(TEMPLATE), turns), student.tokenizer, bos_rule=BOS_RULE)
                answer = list(student.tokenizer(branch.answer + stop, add_special_tokens=False).input_ids)
                picture = iter(rows)
                parts = [next(picture) if token == IMAGE_ID else embed(torch.tensor([token])) for token in ids + answer]
                alone = student.llm(inputs_embeds=torch.cat(parts)[None]).logits[0, -len(answer) - 1 : -1]
                mine = together[groups == row + number]
                assert mine.shape == alone.shape
                assert torch.allclose(mine, alone, atol=2e-3)
            row += 1 + len(talk.branches)


def test_the_loss_is_on_what_the_assistant_says_and_nothing_else(student):
    rng = np.random.default_rng(4)
    talk = feedback_conversation(rng, patient("CT", rng), OFFER, held_out=False)
    packed = Packer(student.tokenizer, template(TEMPLATE), bos_rule=BOS_RULE).pack(talk)
    batch = collate([packed], ROWS_PER_IMAGE)
    groups, _ = batch.groups
    tokens = batch.ids[batch.targets[:, 0], batch.targets[:, 1]]
    said = [student.tokenizer.decode(tokens[groups == group]) for group in sorted(set(groups.tolist()))]
    assert said == [talk.turns[1].text + "<|im_end|>", *(f"{b.answer}<|im_end|>" for b in talk.branches)]


def test_training_moves_adapters_only_keeps_progress_and_resumes(student, tmp_path):
    rng = np.random.default_rng(5)
    patients = [patient(modality, rng) for modality in ("CXR", "CT", "MRI") for _ in range(2)]
    frozen = {name: p.clone() for name, p in student.llm.named_parameters() if "lora_" not in name}
    before = {name: p.clone() for name, p in student.llm.named_parameters() if "lora_" in name}
    finetune(student, new_course(student, patients, seed=1), Run(tmp_path, seconds=4.0))
    after = dict(student.llm.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["step"] > 0
    finetune(student, new_course(student, patients, seed=1), Run(tmp_path, seconds=kept["spent"] + 2.0))
    resumed = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert resumed["step"] > kept["step"]


def test_an_export_merges_into_the_same_decoder(student, folder, tmp_path):
    manifest = export_student(student, tmp_path / "out", version="9")
    assert verify_vlm_package(tmp_path / "out") == manifest
    assert manifest.demonstration
    assert "DEMONSTRATION" in manifest.intended_use
    plain: Any = LlamaForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32)
    merge_adapter(plain, tmp_path / "out" / ADAPTER)
    ids = torch.tensor([[5, 9, 200, 17]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, student.llm(ids).logits, atol=5e-3)


def test_an_adapter_for_another_decoder_is_refused(student, folder, tmp_path):
    export_student(student, tmp_path / "out", version="9")
    tensors = load_file(tmp_path / "out" / ADAPTER)
    tensors["model.layers.7.self_attn.q_proj.lora_A"] = torch.zeros(16, 32)
    save_file(tensors, tmp_path / "adapter.safetensors")
    plain: Any = LlamaForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32)
    with pytest.raises(ModelPackageError, match=r"layers\.7"):
        merge_adapter(plain, tmp_path / "adapter.safetensors")


def test_what_would_be_written_is_what_generation_writes(folder):
    """A tiny decoder is taught one answer; both ways of asking agree on it."""
    model = VilaM3.load(folder, dtype=torch.float32)
    prompt = [Message("user", "Say it. ")]
    ids = tokenise(render(template(TEMPLATE), prompt), model.tokenizer)
    answer = model.tokenizer("no yes<|im_end|>", add_special_tokens=False).input_ids
    whole = torch.tensor([[*ids, *answer]])
    model.llm.requires_grad_(True)
    optimiser = torch.optim.Adam(model.llm.parameters(), lr=1e-2)
    for _ in range(40):
        logits = model.llm(whole).logits[0, len(ids) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert model.generate(prompt, [], max_new_tokens=8).text == "no yes"
    pairs = [("", "no yes"), ("", "no"), ("", "yes no")]
    assert model.would_write(prompt, [], pairs) == [True, False, False]


def test_augmentation_keeps_a_picture_a_picture():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (50, 60, 3)).astype(np.uint8)
    made = [augmented(rng, picture) for _ in range(20)]
    assert all(m.dtype == np.uint8 and m.shape[0] >= 46 and m.shape[1] >= 55 for m in made)
    assert len({m.shape for m in made}) > 3
