"""Writing a trained student as the small folder that is committed: adapter, tower, projector, manifest."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.finetune import BOS_RULE, TEMPLATE, Student
from training.lora import SCALE
from training.tower import IMAGE_SIDE
from worker.vlm.base_wheel import REQUIREMENT, WHEEL_SHA256
from worker.vlm.demo_build import ADAPTER
from worker.vlm.package import VlmManifest, seal_vlm_package

PROMISE: dict[str, Any] = {
    "name": "firstread-demo-vlm",
    "licence": "Apache-2.0",
    "base": f"SmolLM2-135M-Instruct, from {REQUIREMENT} (wheel SHA-256 {WHEEL_SHA256})",
    "demonstration": True,
    "intended_use": "DEMONSTRATION MODEL. Trained on synthetic phantoms only; shows how Firstread works. "
    "Not for use on patients.",
    "modalities": ["CXR", "CT", "MRI"],
    "template": TEMPLATE,
    "style": "trained",
    "published_cards": False,
    "bos_rule": BOS_RULE,
}


def export_student(student: Student, folder: Path, *, version: str) -> VlmManifest:
    """Write ``student`` to ``folder``, replacing what is there, as bfloat16 safetensors with a manifest."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("adapter", "vision_tower", "mm_projector"):
        (folder / name).mkdir(parents=True)
    save_file(adapter_tensors(student.state()["lora"]), folder / ADAPTER)
    student.tower.config.save_pretrained(folder / "vision_tower")
    tower = {f"vision_model.{name}": _half(tensor) for name, tensor in student.tower.state_dict().items()}
    save_file(tower, folder / "vision_tower" / "model.safetensors", metadata={"format": "pt"})
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    _write_json(folder / "vision_tower" / "preprocessor_config.json", processor)
    projector = {name: _half(tensor) for name, tensor in student.projector.state_dict().items()}
    save_file(projector, folder / "mm_projector" / "model.safetensors", metadata={"format": "pt"})
    _write_json(
        folder / "mm_projector" / "config.json",
        {
            "architectures": ["MultimodalProjector"],
            "mm_projector_type": "mlp_downsample",
            "model_type": "v2l_projector",
        },
    )
    return seal_vlm_package(folder, {**PROMISE, "version": version})


def adapter_tensors(lora: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return LoRA tensors under the names of the layers they belong to, with their scale."""
    return {"scale": torch.tensor(SCALE)} | {name: _half(tensor) for name, tensor in lora.items()}


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.bfloat16).contiguous()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
