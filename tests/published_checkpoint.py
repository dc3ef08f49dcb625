"""Checkpoint folders exactly as VILA-M3 is published in 3B, 8B and 13B, with small random weights.

File names, configuration keys, tensor names, dtypes and tokenizer files are those of the published folders;
widths, depths and vocabularies are small. Image size and patch are the real ones: 27 × 27 patches, 196 rows.
"""

import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from worker.vlm.package import VlmManifest, seal_vlm_package

CORPUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.",
    "USER: Here is a list of available expert models: This is a CT image. This is a CXR image. Does it show a tumor?",
    "ASSISTANT: This looks like a CT image. Let me trigger it. This looks like an chest x-ray. yes no Yes No",
    "The resulting predictions are: The results are. The colors in this image describe red: liver, blue: tumor.",
)
LLAMA_3_SPECIAL = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>",
                   9: "<|eot_id|>"}  # fmt: skip
"""Offset of each named special token from the first: 128000 as published."""

_TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
_LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Published:
    """What differs between the published sizes, scaled down.

    Attributes:
        name: size as published.
        template: its conversation template.
        heads, kv_heads, hidden, intermediate: of the decoder; 3B and 13B without grouped queries, 8B four to one.
        rope_theta, max_positions: as published.
        generation: ``generation_config.json`` beside bos, eos and pad.
    """

    name: str
    template: str
    heads: int
    kv_heads: int
    hidden: int
    intermediate: int
    rope_theta: float
    max_positions: int
    generation: dict[str, Any] = field(default_factory=dict)

    @property
    def bpe(self) -> bool:
        """Whether the tokenizer is Llama-3's, else SentencePiece."""
        return self.template == "llama_3"


SIZES = {
    "3B": Published("3B", "vicuna_v1", 20, 20, 80, 216, 1e4, 4096),
    "8B": Published("8B", "llama_3", 8, 2, 128, 448, 5e5, 8192),
    "13B": Published(
        "13B", "vicuna_v1", 10, 10, 80, 216, 1e4, 4096,
        {"do_sample": True, "temperature": 0.9, "top_p": 0.6, "max_length": 4096},
    ),
}  # fmt: skip


def write_published(
    folder: Path, size: str, *, adds_bos: bool = False, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> VlmManifest:
    """Write the folder of one size and its manifest.

    Args:
        folder: made here.
        size: key of `SIZES`.
        adds_bos: 8B only: the tokenizer puts BOS first by itself, as Meta's corrected file does.
        dtype: of the weights; published is bfloat16.
        seed: of the weights.
    """
    shape = SIZES[size]
    torch.manual_seed(seed)
    llm = folder / "llm"
    llm.mkdir(parents=True)
    vocabulary = _write_bpe(llm, adds_bos=adds_bos) if shape.bpe else _write_sentencepiece(llm)
    ids = (vocabulary - 257, vocabulary - 256, None) if shape.bpe else (1, 2, 0)
    _write_decoder(llm, shape, vocabulary, ids, dtype)
    _write_tower(folder / "vision_tower", dtype)
    _write_projector(folder / "mm_projector", shape.hidden, dtype)
    _write_top(folder, shape)
    return seal_published(folder, size)


def seal_published(folder: Path, size: str) -> VlmManifest:
    """Write the manifest an import of the folder would write."""
    return seal_vlm_package(
        folder,
        {
            "name": f"Llama3-VILA-M3-{size}", "version": "2024-10-30", "licence": "nvidia-oneway-noncommercial-license",
            "base": "random", "demonstration": False, "research_only": True, "intended_use": "Research",
            "modalities": ["CXR", "CT", "MRI"], "template": SIZES[size].template, "published_cards": True,
        },
    )  # fmt: skip


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_sentencepiece(llm: Path) -> int:
    made = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=made, model_type="bpe", vocab_size=460, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        minloglevel=2,
    )  # fmt: skip
    (llm / "tokenizer.model").write_bytes(made.getvalue())
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    config = {
        "add_bos_token": True, "add_eos_token": False, "add_prefix_space": True,
        "added_tokens_decoder": {id_: {"content": text, **plain, "special": True} for id_, text in special.items()},
        "bos_token": "<s>", "clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": False,
        "model_max_length": 4096, "pad_token": "<unk>", "padding_side": "right", "sp_model_kwargs": {},
        "spaces_between_special_tokens": False, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }  # fmt: skip
    _json(llm / "tokenizer_config.json", config)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    _json(llm / "special_tokens_map.json", {key: {"content": text, **plain} for key, text in named.items()})
    return 460


def _write_bpe(llm: Path, *, adds_bos: bool) -> int:
    core = Tokenizer(models.BPE(ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(CORPUS * 20, trainer)
    first = core.get_vocab_size()
    names = [LLAMA_3_SPECIAL.get(i, f"<|reserved_special_token_{i}|>") for i in range(256)]
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    core.add_special_tokens([AddedToken("[PAD]", special=True, normalized=False)])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", first)]
        )
    core.save(str(llm / "tokenizer.json"))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokens = {str(first + i): {"content": name, **plain} for i, name in enumerate([*names, "[PAD]"])}
    config = {
        "added_tokens_decoder": tokens, "bos_token": "<|begin_of_text|>", "clean_up_tokenization_spaces": True,
        "eos_token": "<|end_of_text|>", "legacy": False, "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 4096, "pad_token": "[PAD]", "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    _json(llm / "tokenizer_config.json", config)
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "[PAD]"}
    _json(llm / "special_tokens_map.json", named)
    return first + 257


def _write_decoder(
    llm: Path, shape: Published, vocabulary: int, ids: tuple[int, int, int | None], dtype: torch.dtype
) -> None:
    bos, eos, pad = ids
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=3,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, initializer_range=0.15,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(llm, max_shard_size="300KB")
    published = {
        "_name_or_path": "./llm", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": bos, "eos_token_id": eos, "hidden_act": "silu",
        "hidden_size": shape.hidden, "initializer_range": 0.02, "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions, "model_max_length": 4096, "model_type": "llama",
        "num_attention_heads": shape.heads, "num_hidden_layers": 3, "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": shape.rope_theta,
        "tie_word_embeddings": False, "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right",
        "torch_dtype": str(dtype).removeprefix("torch."), "transformers_version": "4.37.2", "use_cache": True,
        "vocab_size": vocabulary,
    }  # fmt: skip
    generation = {"bos_token_id": bos, "eos_token_id": eos, **shape.generation, "transformers_version": "4.37.2"}
    if pad is not None:
        published["pad_token_id"] = generation["pad_token_id"] = pad
    _json(llm / "config.json", published)
    _json(llm / "generation_config.json", generation)


def _write_tower(folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    tower = SiglipVisionModel(SiglipVisionConfig(**_TOWER, image_size=384, patch_size=14))
    state = {
        f"vision_model.{name.removeprefix('vision_model.')}": value.to(dtype).contiguous()
        for name, value in tower.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "_name_or_path": "./vision_tower", "architectures": ["SiglipVisionModel"], "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh", "image_size": 384, "layer_norm_eps": 1e-6,
        "model_type": "siglip_vision_model", "num_channels": 3, "patch_size": 14,
        "torch_dtype": str(dtype).removeprefix("torch."), "transformers_version": "4.37.2", **_TOWER,
    }  # fmt: skip
    _json(folder / "config.json", config)
    processor = {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5] * 3, "processor_class": "SiglipProcessor",
        "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"height": 384, "width": 384},
    }  # fmt: skip
    _json(folder / "preprocessor_config.json", processor)


def _write_projector(folder: Path, hidden: int, dtype: torch.dtype) -> None:
    folder.mkdir()
    wide = 4 * _TOWER["hidden_size"]
    state = {
        "layers.1.weight": 1 + 0.1 * torch.randn(wide), "layers.1.bias": 0.1 * torch.randn(wide),
        "layers.2.weight": torch.randn(hidden, wide) / wide**0.5, "layers.2.bias": 0.1 * torch.randn(hidden),
        "layers.4.weight": torch.randn(hidden, hidden) / hidden**0.5, "layers.4.bias": 0.1 * torch.randn(hidden),
    }  # fmt: skip
    save_file({k: v.to(dtype) for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "_name_or_path": "./mm_projector", "architectures": ["MultimodalProjector"],
        "mm_projector_type": "mlp_downsample", "model_type": "v2l_projector", "torch_dtype": "bfloat16",
        "transformers_version": "4.37.2",
    }  # fmt: skip
    _json(folder / "config.json", config)


def _write_top(folder: Path, shape: Published) -> None:
    elsewhere = f"/lustre/checkpoints/vila-m3-{shape.name.lower()}"
    config = {
        "_attn_implementation_autoset": True, "_name_or_path": elsewhere, "architectures": ["LlavaLlamaModel"],
        "drop_path_rate": 0.0, "fps": 0.0, "hidden_size": shape.hidden, "image_aspect_ratio": "resize",
        "interpolate_mode": "linear", "llm_cfg": {"_name_or_path": f"{elsewhere}/llm", "model_type": "llama"},
        "mm_hidden_size": _TOWER["hidden_size"], "mm_projector_cfg": {
            "_name_or_path": f"{elsewhere}/mm_projector", "mm_projector_type": "mlp_downsample",
            "model_type": "v2l_projector",
        },
        "mm_projector_lr": None, "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch", "mm_vision_select_layer": -2, "model_dtype": "torch.bfloat16",
        "model_type": "llava_llama", "num_video_frames": 8, "resume_path": elsewhere, "s2": False,
        "s2_max_split_size": 336, "s2_scales": "336,672,1008", "transformers_version": "4.37.2",
        "tune_language_model": True, "tune_mm_projector": True, "tune_vision_tower": True, "vision_resolution": -1,
        "vision_tower_cfg": {"_name_or_path": f"{elsewhere}/vision_tower", "model_type": "siglip_vision_model"},
    }  # fmt: skip
    _json(folder / "config.json", config)
    _json(folder / "trainer_state.json", {"global_step": 1, "log_history": [{"loss": 1.0, "step": 1}]})
    for name in ("README.md", "LICENSE", "LLAMA3-LICENSE"):
        (folder / name).write_text(f"{name} of the published repository\n", encoding="utf-8")
