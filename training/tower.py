"""Pretraining of the demonstration vision tower: what is in the picture, from its projector-sized tokens.

The small SigLIP starts from nothing, so it first learns to name findings, lesions and sequences; the language
model then receives tokens that already mean something.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel

from training.conversations import only, random_lesion
from training.patients import BRAIN_TUMOUR, MODALITIES, Patient
from worker.rendering import overlay, rgb
from worker.vlm.projector import downsample
from worker.vlm.prompts import LESION_ARGUMENTS, MR_ROLES, TRAINED_ORDER
from worker.vlm.vila_m3 import picture_tensor

log = structlog.get_logger()

IMAGE_SIDE: Final = 160
TOWER: Final = SiglipVisionConfig(
    hidden_size=160,
    intermediate_size=640,
    num_hidden_layers=6,
    num_attention_heads=4,
    image_size=IMAGE_SIDE,
    patch_size=16,
    vision_use_head=False,
)
"""1.9 M parameters; 10 × 10 patches, so 25 tokens an image. Without the pooling head that is never used."""

_LESION_VALUES: Final = {"hepatic tumor": 26, "pancreatic tumor": 24, "lung tumor": 23, "bone lesion": 128}
LABELS: Final = (*TRAINED_ORDER, *LESION_ARGUMENTS, BRAIN_TUMOUR, *MR_ROLES, *MODALITIES, "overlay")


def new_tower(seed: int) -> SiglipVisionModel:
    """Return a tower with random weights."""
    torch.manual_seed(seed)
    return SiglipVisionModel(TOWER)


def augmented(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture cropped by up to 8 % a side's length, with other brightness and contrast."""
    rows, columns = picture.shape[:2]
    height, width = (int(size * rng.uniform(0.92, 1.0)) for size in (rows, columns))
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    crop = picture[top : top + height, left : left + width].astype(np.float32)
    changed = (crop - 110.0) * float(rng.uniform(0.8, 1.2)) + 110.0 + float(rng.uniform(-18, 18))
    made: NDArray[np.uint8] = np.clip(changed, 0, 255).astype(np.uint8)
    return made


def example(rng: np.random.Generator, patient: Patient) -> tuple[NDArray[np.uint8], dict[str, bool]]:
    """Return one picture of a patient and what is known about it; labels left out are not judged."""
    scene = patient.scenes[int(rng.integers(len(patient.scenes)))]
    known: dict[str, bool] = {modality: modality == patient.modality for modality in MODALITIES}
    known["overlay"] = False
    if patient.modality == "CXR":
        known |= {label: label in patient.findings for label in TRAINED_ORDER}
        return rgb(scene.greys[0]), known
    if patient.modality == "CT":
        known |= {lesion: bool((scene.labels == value).any()) for lesion, value in _LESION_VALUES.items()}
        if rng.random() < 0.3:
            lesion = tuple(LESION_ARGUMENTS)[int(rng.integers(4))]
            labels = random_lesion(rng, only(scene.labels, lesion), _LESION_VALUES[lesion])
            return overlay(scene.greys[0], labels), {"CT": True, "overlay": bool(labels.any())}
        return rgb(scene.greys[0]), known
    which = int(rng.integers(4))
    known |= {role: index == which for index, role in enumerate(MR_ROLES)}
    known[BRAIN_TUMOUR] = bool(scene.labels.any())
    return rgb(scene.greys[which]), known


class PresenceHead(nn.Module):
    """Judges each label on every projector-sized token and pools by soft maximum."""

    def __init__(self, width: int) -> None:
        """Build it for a tower of this width."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.judge = nn.Linear(4 * width, len(LABELS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return ``(images, labels)`` logits for ``(images, patches, width)`` tower tokens."""
        local = self.judge(self.norm(downsample(tokens)))
        return torch.logsumexp(local, dim=1) - float(np.log(local.shape[1]))


def pretrain(tower: SiglipVisionModel, patients: Sequence[Patient], *, seconds: float, seed: int, keep: Path) -> float:
    """Train the tower in place for about ``seconds`` and save it to ``keep``; returns the last mean loss."""
    rng = np.random.default_rng(seed)
    head = PresenceHead(TOWER.hidden_size)
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    by_modality: dict[str, list[Patient]] = {m: [p for p in patients if p.modality == m] for m in MODALITIES}
    started, losses, step = time.monotonic(), [0.0], 0
    while (spent := time.monotonic() - started) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * float(np.cos(np.pi * spent / seconds)))
        loss = _loss(rng, tower, head, by_modality)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        step += 1
        if step % 50 == 0:
            log.info("tower.trained", step=step, loss=round(float(np.mean(losses[-50:])), 4))
    torch.save(tower.state_dict(), keep)
    return float(np.mean(losses[-50:]))


def _loss(
    rng: np.random.Generator, tower: SiglipVisionModel, head: PresenceHead, patients: dict[str, list[Patient]]
) -> torch.Tensor:
    shares = {"CXR": 32, "CT": 10, "MRI": 6}
    drawn = [
        example(rng, patients[modality][int(rng.integers(len(patients[modality])))])
        for modality, count in shares.items()
        if patients[modality]
        for _ in range(count)
    ]
    pixels = torch.stack(
        [picture_tensor(augmented(rng, picture), IMAGE_SIDE, (0.5,) * 3, (0.5,) * 3) for picture, _ in drawn]
    )
    target = torch.tensor([[float(known.get(label, False)) for label in LABELS] for _, known in drawn])
    judged = torch.tensor([[float(label in known) for label in LABELS] for _, known in drawn])
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        logits = head(tokens).float()
    loss = functional.binary_cross_entropy_with_logits(logits, target, weight=judged, reduction="sum")
    return loss / judged.sum()
