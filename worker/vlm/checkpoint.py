"""Reading a VILA-M3 checkpoint folder into stock transformers classes, refusing what does not fit by name.

The root's ``config.json`` is of no model type transformers knows, and its nested paths lead to the trainer's
disk: the three sub-folders are loaded each by itself.
"""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM, SiglipVisionModel

from config.errors import ConfigurationError, ModelPackageError
from worker.vlm.projector import Projector

Quantization = Literal["none", "8bit", "4bit"]

_DEFAULT_CONTEXT: Final = 4096
_INDEX: Final = "model.safetensors.index.json"
_TOKENIZER_FILES: Final = ("tokenizer.model", "tokenizer.json")
_FRONT_END: Final[Mapping[str, object]] = {
    "image_aspect_ratio": "resize",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "cls_patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "s2": False,
}
"""The front end all published sizes were trained with, and the only one built here."""


def load_parts(
    folder: Path,
    *,
    device: str,
    dtype: torch.dtype | None,
    quantization: Quantization = "none",
    device_map: str = "",
) -> tuple[tuple[Any, Any, Any, Projector], dict[str, Any]]:
    """Return (tokenizer, decoder, tower, projector) and the settings `VilaM3` takes beside them.

    Raises:
        ModelPackageError: a file cannot be read, or tensors are missing, surplus or of another shape.
        ConfigurationError: quantization is asked for and bitsandbytes cannot work here.
    """
    dtype = dtype or natural_dtype(device)
    placing = place(device, dtype, quantization, device_map)
    try:
        settings = _settings(folder)
        _check_tokenizer_files(folder / "llm")
        tokenizer = AutoTokenizer.from_pretrained(folder / "llm", local_files_only=True)
        check_shards(folder / "llm")
        llm = load_strictly(LlamaForCausalLM, folder / "llm", dtype, placing)
        tower = load_strictly(SiglipVisionModel, folder / "vision_tower", dtype, {})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as exc:
        raise ModelPackageError(f"{folder.name}: checkpoint cannot be read: {exc}") from exc
    _check_vocabulary(tokenizer, llm)
    projector = load_projector(folder / "mm_projector", tower.config.hidden_size, llm.config.hidden_size)
    settings["context_tokens"] = min(settings["context_tokens"], int(llm.config.max_position_embeddings))
    settings["runtime"] = libraries(quantization, device_map)
    parts = (tokenizer, llm if placing else llm.to(device), tower.to(device), projector.to(device, dtype))
    return parts, settings


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


def check_shards(folder: Path) -> None:
    """Compare sharded weights with their index; folders with one weights file have none.

    transformers reads whatever the shards hold: a tensor that only the index names would go unnoticed.

    Raises:
        ModelPackageError: a shard is missing, or a tensor is not in the shard where the index says it is.
    """
    if not (folder / _INDEX).exists():
        return
    listed = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    if not isinstance(listed, dict):
        raise ModelPackageError(f"{folder.name}: {_INDEX} is no index")
    present: dict[str, str] = {}
    for shard in sorted(set(listed.values())):
        if not (folder / shard).is_file():
            raise ModelPackageError(f"{folder.name}: shard {shard} is missing")
        with safe_open(folder / shard, framework="pt") as tensors:
            present |= dict.fromkeys(tensors.keys(), shard)
    for name in sorted(listed.keys() | present.keys()):
        if listed.get(name) != present.get(name):
            raise ModelPackageError(
                f"{folder.name}: tensor {name} is in {present.get(name, 'no shard')}, "
                f"the index says {listed.get(name, 'nothing of it')}"
            )


def place(device: str, dtype: torch.dtype, quantization: Quantization, device_map: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told about places and quantisation; empty when the caller moves the model.

    Raises:
        ConfigurationError: quantization is asked for and bitsandbytes cannot work here.
    """
    placing: dict[str, Any] = {}
    if device_map:
        placing["device_map"] = device_map
    if quantization != "none":
        try:
            metadata.version("bitsandbytes")
        except metadata.PackageNotFoundError as exc:
            raise ConfigurationError(
                f"worker.quantization is {quantization}: that needs the package bitsandbytes, which is not installed"
            ) from exc
        placing.setdefault("device_map", {"": device})
        placing["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "8bit",
            load_in_4bit=quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    return placing


def load_strictly(kind: Any, folder: Path, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """Load a model of class ``kind`` from safetensors, in evaluation mode, without its gradients.

    Args:
        kind: class with ``from_pretrained``.
        folder: of this model alone.
        dtype: of the weights.
        options: what else ``from_pretrained`` is told, see `place`.

    Raises:
        ModelPackageError: tensors are missing, surplus or of another shape.
    """
    model, report = kind.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # so that they are reported by name, and refused below
        output_loading_info=True,
        **options,
    )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(key if isinstance(key, str) else _shapes(*key) for key in report.get(fault) or ())
        if names:
            raise ModelPackageError(f"{folder.name}: {fault.replace('_', ' ')}: {', '.join(names[:5])}")
    model.requires_grad_(False)
    return model.eval()


def _shapes(name: str, found: torch.Size, wanted: torch.Size) -> str:
    return f"{name} is {tuple(found)} instead of {tuple(wanted)}"


def _check_tokenizer_files(folder: Path) -> None:
    # without either, transformers makes a tokenizer of three tokens and says nothing
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelPackageError(f"{folder.name}: neither {' nor '.join(_TOKENIZER_FILES)} is there")


def _check_vocabulary(tokenizer: Any, llm: Any) -> None:
    rows = int(llm.config.vocab_size)
    if len(tokenizer) > rows:
        raise ModelPackageError(f"llm: the tokenizer has {len(tokenizer)} tokens, the decoder {rows} rows for them")


def _settings(folder: Path) -> dict[str, Any]:
    processor = json.loads((folder / "vision_tower" / "preprocessor_config.json").read_text(encoding="utf-8"))
    top = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    llm = json.loads((folder / "llm" / "config.json").read_text(encoding="utf-8"))
    for key, wanted in _FRONT_END.items():
        if key in top and top[key] != wanted:
            raise ModelPackageError(f"{folder.name}: config.json: {key} is {top[key]!r}, only {wanted!r} is supported")
    trained = next(
        (
            part[key]
            for part in (top, llm)
            for key in ("tokenizer_model_max_length", "model_max_length")
            if part.get(key)
        ),
        _DEFAULT_CONTEXT,
    )
    return {
        "context_tokens": int(trained),
        "image_mean": tuple(processor["image_mean"]),
        "image_std": tuple(processor["image_std"]),
    }


def libraries(quantization: Quantization, device_map: str) -> dict[str, str]:
    """Return quantisation and library versions, for the provenance record."""
    made = {"quantization": quantization, "torch": torch.__version__, "transformers": metadata.version("transformers")}
    if device_map:
        made["device_map"] = device_map
    if quantization != "none":
        made["bitsandbytes"] = metadata.version("bitsandbytes")
    if torch.version.cuda:
        made["cuda"] = torch.version.cuda
    return made


def weights_mb(*parts: torch.nn.Module) -> float:
    """Return the memory the weights of ``parts`` take, in MB, as they are stored."""
    tensors = (tensor for part in parts for tensor in (*part.parameters(), *part.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
