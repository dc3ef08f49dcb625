"""Reading a folder of processor and model as transformers saves them, refusing what does not fit by name.

No code from the folder is run, nothing is fetched, and weights are safetensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from config.errors import ModelPackageError
from worker.vlm.checkpoint import check_shards, load_strictly


def load_processor(folder: Path) -> Any:
    """Load what prepares pictures and text.

    Raises:
        ModelPackageError: it cannot be read, or it prepares no pictures.
    """
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as exc:
        raise ModelPackageError(f"{folder.name}: the processor cannot be loaded: {exc}") from exc
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ModelPackageError(f"{folder.name}: {type(processor).__name__} does not prepare text and images")
    return processor


def load_model(folder: Path, dtype: torch.dtype, placing: Mapping[str, Any]) -> Any:
    """Load a decoder-only image-text-to-text model, in evaluation mode.

    Args:
        folder: the package.
        dtype: of the weights.
        placing: see `worker.vlm.checkpoint.place`.

    Raises:
        ModelPackageError: it cannot be read, needs code of its own, or tensors are missing or surplus.
    """
    try:
        check_shards(folder)
        model = load_strictly(AutoModelForImageTextToText, folder, dtype, {**placing, "trust_remote_code": False})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as exc:
        raise ModelPackageError(f"{folder.name}: the model cannot be loaded: {exc}") from exc
    if model.config.is_encoder_decoder:
        raise ModelPackageError(f"{folder.name}: {type(model).__name__} does not continue a conversation")
    return model


def chat_template(processor: Any, name: str) -> str:
    """Return the chat template of a processor or of its tokenizer.

    Raises:
        ModelPackageError: there is none, or there are several and none is the default.
    """
    for holder in (processor, processor.tokenizer):
        found = getattr(holder, "chat_template", None)
        if isinstance(found, dict):
            found = found.get("default")
        if found:
            return str(found)
    raise ModelPackageError(f"{name}: there is no chat template")


def context_tokens(model: Any, tokenizer: Any) -> int:
    """Return the longest prompt plus answer."""
    limits = [getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)]
    limits.append(tokenizer.model_max_length)
    return min(int(limit) for limit in limits if limit)


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the package's generation config's, and the tokenizer's.

    Raises:
        ModelPackageError: there is none.
    """
    named = [model.generation_config.eos_token_id, model.config.get_text_config(decoder=True).eos_token_id]
    ids = {tokenizer.eos_token_id}
    for found in named:
        ids |= set(found) if isinstance(found, list) else {found}
    if not (known := frozenset(int(token) for token in ids if token is not None)):
        raise ModelPackageError("no token ends an answer: eos_token_id is not set")
    return known
