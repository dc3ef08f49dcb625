"""Train the demonstration CXR Expert on chest phantoms: two small DenseNets and their operating points."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from phantoms.chest_xray import NOT_SIMULATED
from training.expert_radiographs import radiograph_cache
from training.experts import VALIDATION_SEEDS, Schedule, begin_from, demonstration, fit, pack
from worker.experts.cxr import LABELS, THRESHOLD, EnsembleConfig, MemberConfig, average, build_member, op_norm
from worker.experts.packages import ModelPackage

log = structlog.get_logger()

VERSION = "0.1.0"
INPUT_PX = 224
MEMBERS = ("densenet-a", "densenet-b")
_NO_POINTS = (None,) * len(LABELS)
LEAST_F1 = 0.5  # a label read worse than this on validation films is not assessed: a guess is no reading
_BATCH = 24
# Lesions and fractures are small on the film; the prior odds of every label are kept out of the loss.
_POSITIVE_WEIGHT = 3.0


def member(name: str, op_thresholds: tuple[float | None, ...] = _NO_POINTS) -> MemberConfig:
    """Return the configuration of one demonstration member."""
    return MemberConfig(
        name=name,
        file=f"{name}.safetensors",
        architecture="densenet",
        input_px=INPUT_PX,
        growth_rate=12,
        block_config=(2, 4, 8, 6),
        num_init_features=24,
        op_thresholds=op_thresholds,
    )


def train_cxr(
    folder: Path,
    cache: Path,
    *,
    films: int = 1800,
    validation: int = 200,
    schedule: Schedule | None = None,
    start: Path | None = None,
) -> ModelPackage:
    """Train both members on ``films`` phantoms, choose operating points, and write the package.

    Args:
        folder: the package.
        cache: prepared phantoms, reused when present.
        films: number of phantoms (seeds 0 …).
        validation: phantoms on which the operating points are chosen.
        schedule: length and rate of one member.
        start: package to train on from; None begins at random.
    """
    plan = schedule or Schedule(steps=2200, learning_rate=3e-3)
    images, labels = _read(radiograph_cache(cache, range(films), INPUT_PX))
    networks = {
        name: train_member(member(name), images, labels, replace(plan, seed=plan.seed + number), start)
        for number, name in enumerate(MEMBERS)
    }
    held = _read(radiograph_cache(cache, list(VALIDATION_SEEDS)[:validation], INPUT_PX))
    members = tuple(
        member(name, operating_points(_probabilities(network, held[0]), held[1])) for name, network in networks.items()
    )
    scores = scored(networks, EnsembleConfig(members=members), held)
    log.info("training.validated", score=round(float(np.mean(list(scores.values()))), 4))
    weak = {label for label, score in scores.items() if score < LEAST_F1}
    config = EnsembleConfig(members=members, not_assessed=tuple(sorted(weak | NOT_SIMULATED)))
    return pack(folder, {f"{name}.safetensors": net for name, net in networks.items()}, promise(config))


def train_member(
    config: MemberConfig,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    plan: Schedule,
    start: Path | None = None,
) -> torch.nn.Module:
    """Train one member and return the running average of its weights."""
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    network = build_member(config)
    begin_from(network, start, config.file)
    order: list[int] = []
    weight = torch.full((len(LABELS),), _POSITIVE_WEIGHT)

    def loss_at(_: int) -> torch.Tensor:
        if len(order) < _BATCH:
            order.extend(rng.permutation(len(images)).tolist())
        chosen = [order.pop() for _ in range(_BATCH)]
        batch = varied(rng, torch.from_numpy(images[chosen]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch)
        wanted = torch.from_numpy(labels[chosen]).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted, pos_weight=weight)

    return fit(network, plan, loss_at)


def varied(rng: np.random.Generator, images: torch.Tensor) -> torch.Tensor:
    """Return ``(n, 1, side, side)`` in −1024…1024: turned, scaled and shifted a little, other contrast, noise.

    Never mirrored: the heart's side matters.

    Args:
        rng: source of the variation.
        images: ``(n, side, side)`` uint8.
    """
    count = len(images)
    angle = rng.uniform(-0.09, 0.09, count)
    zoom = rng.uniform(0.9, 1.06, count)
    shift = rng.uniform(-0.06, 0.06, (count, 2))
    turn = np.zeros((count, 2, 3), dtype=np.float32)
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle) * zoom
    turn[:, 0, 1], turn[:, 1, 0] = -np.sin(angle) * zoom, np.sin(angle) * zoom
    turn[:, :, 2] = shift
    unit = images[:, None].float() / 255.0
    places = torch.nn.functional.affine_grid(torch.from_numpy(turn), list(unit.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(unit, places, padding_mode="border", align_corners=False)
    gamma = torch.from_numpy(rng.uniform(0.85, 1.18, (count, 1, 1, 1)).astype(np.float32))
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(moved.shape, dtype=np.float32))
    toned = moved.clamp(min=0) ** gamma * gain + noise * float(rng.uniform(0, 0.012))
    return (toned.clamp(0, 1) * 2.0 - 1.0) * 1024.0


def operating_points(probabilities: NDArray[np.float64], truth: NDArray[np.uint8]) -> tuple[float | None, ...]:
    """Return, per label, the threshold with the best F1; None for a label without examples.

    Args:
        probabilities: ``(films, 18)``.
        truth: ``(films, 18)`` 0 or 1.
    """
    points: list[float | None] = []
    for index in range(len(LABELS)):
        scores, wanted = probabilities[:, index], truth[:, index] > 0
        if not wanted.any():
            points.append(None)
            continue
        candidates = np.unique(np.round(np.quantile(scores, np.linspace(0.02, 0.995, 120)), 5))
        rated = np.array([f1(scores >= point, wanted) for point in candidates])
        # A plateau of equally good points: its middle is the least fitted to these films.
        best = candidates[rated >= rated.max() - 0.005]
        points.append(float(np.clip(np.median(best), 0.005, 0.995)))
    return tuple(points)


def f1(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Return the F1 score of a binary decision; 0 when nothing was wanted or found."""
    hits = int(np.logical_and(found, wanted).sum())
    total = int(found.sum()) + int(wanted.sum())
    return 2.0 * hits / total if total else 0.0


def scored(
    networks: dict[str, torch.nn.Module],
    config: EnsembleConfig,
    held: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> dict[str, float]:
    """Return label → F1 of the ensemble on the films its operating points were chosen on."""
    images, labels = held
    raw = {name: _probabilities(network, images) for name, network in networks.items()}
    found = np.zeros(labels.shape, dtype=bool)
    for film in range(len(images)):
        outputs = {one.name: op_norm(raw[one.name][film], one.op_thresholds) for one in config.members}
        answers = average(outputs, config)
        found[film] = [(answers[label] or 0.0) >= THRESHOLD for label in LABELS]
    return {label: round(f1(found[:, index], labels[:, index] > 0), 3) for index, label in enumerate(LABELS)}


def promise(config: EnsembleConfig) -> dict[str, object]:
    """Return the demonstration package's manifest, without files."""
    return demonstration(
        "CXR",
        "torchxrayvision",
        VERSION,
        task="classification",
        modality="CXR",
        overview="DEMONSTRATION MODEL: classification of 18 findings, trained on synthetic radiographs only",
        accuracy="Measured on synthetic radiographs only, see docs/demo_models.md",
        intended_use={
            "modalities": ["CR", "DX"],
            "body_parts": ["CHEST", "THORAX"],
            "views": ["PA", "AP"],
            "age_years": {"minimum": 18},
            "statement": "Demonstration on synthetic frontal chest radiographs. Not for patients.",
        },
        arguments=[],
        labels=dict(enumerate(LABELS)),
        budget={"memory_mb": 300, "seconds": 20},
        network=config.model_dump(mode="json"),
    )


def _probabilities(network: torch.nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(images), 32):
            batch = torch.from_numpy(images[start : start + 32])[:, None].float() / 255.0
            outputs.append(torch.sigmoid(network((batch * 2.0 - 1.0) * 1024.0)).double().numpy())
    return np.concatenate(outputs)


def _read(paths: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as stored:
            images.append(stored["image"])
            labels.append(stored["labels"])
    return np.stack(images), np.stack(labels)
