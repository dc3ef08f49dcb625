"""What the demonstration Experts' trainings share: the loop, seeds, and packing weights with their manifest."""

import math
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

from config.errors import ModelPackageError
from worker.experts.packages import ModelPackage, open_package, seal_package
from worker.experts.weights import load_network, read_state

log = structlog.get_logger()

TRAINING_SEEDS = range(100_000)  # evaluation uses seeds from 2,000,000 on; see evaluate_experts
VALIDATION_SEEDS = range(90_000, 100_000)  # inside the training range: operating points are chosen here
LICENCE = "Apache-2.0"
_LOG_EVERY = 50


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimiser steps at most.
        learning_rate: the peak of one cosine cycle with a short warm-up.
        minutes: wall-clock limit or None; the cycle follows whichever of steps and minutes is further on.
        weight_decay: of AdamW.
        averaging: decay of the exponential average of weights that is kept.
        seed: of crops, augmentation and initial weights.
    """

    steps: int
    learning_rate: float
    minutes: float | None = None
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
    keep = schedule.averaging
    average = AveragedModel(network, avg_fn=lambda mean, new, _: keep * mean + (1 - keep) * new, use_buffers=True)
    started, recent = time.perf_counter(), 0.0
    for step in range(schedule.steps):
        done = progress(schedule, step, time.perf_counter() - started)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * cycle(done)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_at(step)
        torch.autograd.backward([loss])
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimiser.step()
        average.update_parameters(network)
        recent = loss.item() if step == 0 else 0.97 * recent + 0.03 * loss.item()
        if step % _LOG_EVERY == 0:
            seconds = round(time.perf_counter() - started)
            log.info("training.stepped", step=step, loss=round(recent, 4), seconds=seconds)
    return average.module.eval()


def begin_from(network: torch.nn.Module, package: Path | None, file: str) -> None:
    """Give ``network`` the weights of an earlier package, to train on; None leaves it as it is.

    Raises:
        ModelPackageError: the package does not hold them, or they are of another network.
    """
    if package is None:
        return
    load_network(network, read_state(open_package(package).path(file)), source=file)
    network.requires_grad_(requires_grad=True)


def progress(schedule: Schedule, step: int, seconds: float) -> float:
    """Return how much of the schedule is over, 0…1."""
    by_time = seconds / (schedule.minutes * 60) if schedule.minutes else 0.0
    return min(1.0, max(step / schedule.steps, by_time))


def cycle(done: float) -> float:
    """Return the share of the peak rate: up from a tenth over the first 8 %, then down along a cosine."""
    warm_up = 0.08
    if done < warm_up:
        return 0.1 + 0.9 * done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) + 1e-3


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
        save_file(_stored(network), folder / name)
        (folder / name).chmod(0o644)  # safetensors creates files for their owner only
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


def _stored(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state with parameters in half precision; running statistics exceed its range and stay whole."""
    halved = {name for name, _ in network.named_parameters()}
    state = {
        name: (tensor.half() if name in halved else tensor).contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelPackageError(f"{name} holds values that are no numbers: not packed")
    return state
