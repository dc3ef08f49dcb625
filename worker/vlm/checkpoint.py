"""Reading a VILA-M3 checkpoint folder into stock transformers classes, refusing what does not fit by name."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM, SiglipVisionModel

from config.errors import ModelPackageError
from worker.vlm.projector import Projector

_DEFAULT_CONTEXT = 4096


def load_parts(
    folder: Path, *, device: str, dtype: torch.dtype | None
) -> tuple[tuple[Any, Any, Any, Projector], dict[str, Any]]:
    """Return (tokenizer, decoder, tower, projector) and the settings `VilaM3` takes beside them.

    Raises:
        ModelPackageError: a file cannot be read, or tensors are missing, surplus or of another shape.
    """
    dtype = dtype or natural_dtype(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "llm", local_files_only=True)
        llm = _load_model(LlamaForCausalLM, folder / "llm", dtype)
        tower = _load_model(SiglipVisionModel, folder / "vision_tower", dtype)
        settings = _settings(folder, llm)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
        raise ModelPackageError(f"{folder.name}: checkpoint cannot be read: {exc}") from exc
    projector = load_projector(folder / "mm_projector", tower.config.hidden_size, llm.config.hidden_size)
    return (tokenizer, llm.to(device), tower.to(device), projector.to(device, dtype)), settings


def natural_dtype(device: str) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies in it, else float32."""
    if device.startswith("cuda") or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def load_projector(folder: Path, vision_width: int, text_width: int) -> Projector:
    """Load ``mlp_downsample`` weights, strictly.

    Raises:
        ModelPackageError: the file cannot be read, or tensors are missing, surplus or of another shape.
    """
    projector = Projector(vision_width, text_width)
    try:
        projector.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (OSError, RuntimeError, SafetensorError) as exc:
        raise ModelPackageError(f"mm_projector: weights do not fit: {exc}") from exc
    projector.requires_grad_(requires_grad=False)
    return projector.eval()


def _load_model(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    model, report = kind.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report.get(fault) or ())
        if names:
            raise ModelPackageError(f"{folder.name}: {fault.replace('_', ' ')}: {', '.join(names[:5])}")
    model.requires_grad_(False)
    return model.eval()


def _settings(folder: Path, llm: Any) -> dict[str, Any]:
    processor = json.loads((folder / "vision_tower" / "preprocessor_config.json").read_text(encoding="utf-8"))
    top = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    trained = top.get("tokenizer_model_max_length") or top.get("model_max_length") or _DEFAULT_CONTEXT
    return {
        "context_tokens": min(int(trained), int(llm.config.max_position_embeddings)),
        "image_mean": tuple(processor["image_mean"]),
        "image_std": tuple(processor["image_std"]),
    }
