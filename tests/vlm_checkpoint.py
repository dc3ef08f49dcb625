"""A tiny checkpoint with random weights in VILA-M3's published layout, made in a second for tests."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from worker.vlm.package import VlmManifest, seal_vlm_package
from worker.vlm.projector import Projector

CORPUS = (
    "Here is a list of available expert models: This is a CT image. This looks like an chest x-ray. Let me first "
    "trigger <CXR()>. yes no The resulting predictions are: The results are The colors in this image describe",
)


def write_checkpoint(
    folder: Path, *, seed: int = 0, image_size: int = 42, patch: int = 14, template: str = "hermes-2"
) -> VlmManifest:
    """Write the folder and its manifest; 42 / 14 gives an odd grid of 3 × 3, so 4 tokens an image."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
        )
    )  # fmt: skip
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=image_size, patch_size=patch,
        )
    )  # fmt: skip
    llm.save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    tower.save_pretrained(folder / "vision_tower")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": image_size, "width": image_size}}
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "mm_projector").mkdir()
    state = {key: value.contiguous() for key, value in Projector(24, 32).state_dict().items()}
    save_file(state, folder / "mm_projector" / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama", "model_max_length": 1024}))
    return seal_vlm_package(
        folder,
        {
            "name": "random", "version": "0", "licence": "Apache-2.0", "base": "none", "demonstration": True,
            "intended_use": "Unit tests", "modalities": ["CXR", "CT", "MRI"], "template": template,
        },
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
