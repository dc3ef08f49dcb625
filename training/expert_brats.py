"""Train the demonstration BRATS Expert on brain phantoms."""

from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from training.expert_volumes import brain_cache, read_case
from training.experts import VALIDATION_SEEDS, Schedule, begin_from, demonstration, dice, fit, pack
from worker.experts.brats import NAMES, BratsConfig, build_brats
from worker.experts.packages import ModelPackage

log = structlog.get_logger()

VERSION = "0.1.0"
CONFIG = BratsConfig(
    weights="model.safetensors",
    init_filters=8,
    dropout=0.0,
    spacing_mm=2.0,
    roi=(64, 80, 64),
    overlap=0.5,
    brain_mask="foreground",
    antialias=True,
    minimum_ml=3.0,  # white matter spots of age are smaller, gliomas of the phantoms larger
)


def train_brats(
    folder: Path, cache: Path, *, heads: int = 260, schedule: Schedule | None = None, start: Path | None = None
) -> ModelPackage:
    """Train on ``heads`` phantoms, one in four healthy, and write the package to ``folder``.

    Args:
        folder: the package.
        cache: prepared phantoms, reused when present.
        heads: number of phantoms (seeds 0 …).
        schedule: length and rate.
        start: package to train on from; None begins at random.
    """
    plan = schedule or Schedule(steps=1500, learning_rate=2e-3)
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    cases = [read_case(path) for path in brain_cache(cache, range(heads), CONFIG)]
    network = build_brats(CONFIG)
    begin_from(network, start, CONFIG.weights)

    def loss_at(_: int) -> torch.Tensor:
        image, labels = cases[int(rng.integers(len(cases)))]
        patch, target = _patch(rng, image, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(torch.from_numpy(patch)[None])
        return region_loss(logits.float(), torch.from_numpy(regions(target))[None])

    averaged = fit(network, plan, loss_at)
    held = [read_case(path) for path in brain_cache(cache, list(VALIDATION_SEEDS)[:12], CONFIG)]
    log.info("training.validated", score=validate(averaged, held))
    return pack(folder, {CONFIG.weights: averaged}, promise())


def promise() -> dict[str, object]:
    """Return the demonstration package's manifest, without files."""
    return demonstration(
        "BRATS",
        "brats",
        VERSION,
        task="segmentation",
        modality="MRI",
        overview="DEMONSTRATION MODEL: volumetric (3D) segmentation of brain tumor subregions from multimodal "
        "MRIs, trained on synthetic heads only",
        accuracy="Measured on synthetic heads only, see docs/demo_models.md",
        intended_use={
            "modalities": ["MR"],
            "body_parts": ["BRAIN", "HEAD"],
            "age_years": {"minimum": 18},
            "statement": "Demonstration on synthetic brain MR with T1c, T1, T2 and FLAIR. Not for patients.",
        },
        arguments=[],
        labels=dict(NAMES),
        budget={"memory_mb": 700, "seconds": 60},
        network=CONFIG.model_dump(mode="json"),
    )


def regions(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``(3, …)`` masks of core (1, 4), whole (1, 2, 4) and enhancing tumour (4)."""
    return np.stack([np.isin(labels, (1, 4)), labels > 0, labels == 4]).astype(np.float32)


def region_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return soft Dice loss plus cross-entropy over ``(1, 3, x, y, z)``."""
    axes = (2, 3, 4)
    probabilities = torch.sigmoid(logits)
    overlap = 2 * (probabilities * target).sum(axes) + 20.0
    dice = overlap / (probabilities.sum(axes) + target.sum(axes) + 20.0)
    return (1 - dice).mean() + torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


def validate(network: torch.nn.Module, cases: list[tuple[NDArray[np.float16], NDArray[np.uint8]]]) -> float:
    """Return the mean Dice of whole tumour over cases that have one, windows as in use."""
    from monai.inferers import sliding_window_inference

    scores = []
    for image, labels in cases:
        batch = torch.from_numpy(image.astype(np.float32))[None]
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = sliding_window_inference(batch, CONFIG.roi, 1, network, overlap=CONFIG.overlap)
        if (labels > 0).any():
            scores.append(dice(logits[0, 1].float().numpy() > 0, labels > 0))
    return round(float(np.mean(scores)), 4)


def _patch(
    rng: np.random.Generator, image: NDArray[np.float16], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Crop one window, three in four around a tumour voxel where there is one, and vary it."""
    size = CONFIG.roi
    centre = rng.integers(0, labels.shape)
    if rng.random() < 0.75 and (labels > 0).any():
        centre = rng.choice(np.argwhere(labels > 0)) + rng.integers(-20, 21, 3)
    padded, target = _padded(image, labels, size)
    room = np.array(target.shape) - size
    starts = np.clip(centre - np.array(size) // 2, 0, room)
    window = tuple(slice(int(start), int(start) + side) for start, side in zip(starts, size, strict=True))
    return _varied(rng, padded[(slice(None), *window)].astype(np.float32), target[window])


def _padded(
    image: NDArray[np.float16], labels: NDArray[np.uint8], size: tuple[int, int, int]
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    lacking = [(0, max(0, side - have)) for side, have in zip(size, labels.shape, strict=True)]
    if not any(after for _, after in lacking):
        return image, labels
    return np.pad(image, [(0, 0), *lacking]), np.pad(labels, lacking)


def _varied(
    rng: np.random.Generator, patch: NDArray[np.float32], target: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Mirror left-right, change contrast, blur along one axis as thick slices do, add noise."""
    if rng.random() < 0.5:
        patch, target = patch[:, ::-1], target[::-1]
    head = patch != 0
    gain = rng.uniform(0.85, 1.15, (4, 1, 1, 1)).astype(np.float32)
    shift = rng.uniform(-0.15, 0.15, (4, 1, 1, 1)).astype(np.float32)
    patch = patch * gain + shift
    if rng.random() < 0.4:
        axis = int(rng.integers(1, 4))
        patch = (np.roll(patch, 1, axis) + patch + np.roll(patch, -1, axis)) / np.float32(3)
    noise = rng.standard_normal(patch.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.12))
    varied = np.where(head, patch + noise, 0)
    return np.ascontiguousarray(varied, dtype=np.float32), np.ascontiguousarray(target)
