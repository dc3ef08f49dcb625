"""What the demonstration Experts' trainings share: the loop, seeds, and packing weights with their manifest."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from worker.experts.packages import ModelPackage, seal_package

log = structlog.get_logger()

TRAINING_SEEDS = range(100_000)  # evaluation uses seeds from 2,000,000 on; see evaluate_experts
VALIDATION_SEEDS = range(90_000, 100_000)  # inside the training range: operating points are chosen here
LICENCE = "Apache-2.0"
_LOG_EVERY = 50


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        learning_rate: the peak of one cosine cycle with a short warm-up.
        weight_decay: of AdamW.
        averaging: decay of the exponential average of weights that is kept.
        seed: of crops, augmentation and initial weights.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 1e-4
    averaging: float = 0.99
    seed: int = 20261122


def fit(network: torch.nn.Module, schedule: Schedule, loss_at: Callable[[int], torch.Tensor]) -> torch.nn.Module:
    """Train ``network`` in place and return the running average of its weights, in evaluation mode.

    Args:
        network: parameters that require gradients are trained.
        schedule: steps and rates.
        loss_at: step → scalar loss, drawing its own batch.
    """
    network.train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, total_steps=schedule.steps, pct_start=0.08, div_factor=10
    )
    keep = schedule.averaging
    average = AveragedModel(network, avg_fn=lambda mean, new, _: keep * mean + (1 - keep) * new, use_buffers=True)
    started, recent = time.perf_counter(), 0.0
    for step in range(schedule.steps):
        optimiser.zero_grad(set_to_none=True)
        loss = loss_at(step)
        torch.autograd.backward([loss])
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimiser.step()
        cycle.step()
        average.update_parameters(network)
        recent = loss.item() if step == 0 else 0.97 * recent + 0.03 * loss.item()
        if step % _LOG_EVERY == 0 or step == schedule.steps - 1:
            seconds = round(time.perf_counter() - started)
            log.info("training.stepped", step=step, loss=round(recent, 4), seconds=seconds)
    return average.module.eval()


def pack(folder: Path, weights: Mapping[str, torch.nn.Module], promise: Mapping[str, Any]) -> ModelPackage:
    """Write a model package: each network as float16 safetensors, and the manifest that seals them.

    Args:
        folder: created if absent; files of an earlier package in it are replaced.
        weights: file name → network.
        promise: the manifest without ``files``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    for name, network in weights.items():
        save_file({key: _stored(value) for key, value in network.state_dict().items()}, folder / name)
    return seal_package(folder, promise)


def demonstration(name: str, kind: str, version: str, **promise: Any) -> dict[str, Any]:
    """Return the part of a manifest that every demonstration package shares, completed by ``promise``."""
    return {
        "name": name,
        "kind": kind,
        "version": version,
        "licence": LICENCE,
        "demonstration": True,
        **promise,
    }


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of two masks; 1 when both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else float(2.0 * np.logical_and(found, truth).sum() / total)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    stored = tensor.half() if tensor.is_floating_point() else tensor
    return stored.contiguous().clone()
