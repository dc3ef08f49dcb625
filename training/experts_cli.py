"""``firstread train experts …``: train, seal and measure the Experts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

if TYPE_CHECKING:
    from training.experts import Schedule

experts_app = typer.Typer(no_args_is_help=True, help="Train, seal and measure the Experts.")

_MODELS = Path(__file__).resolve().parent.parent / "worker" / "models"
_Cache = Annotated[Path, typer.Option(help="Where prepared phantoms are kept between runs.")]
_Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps at most.")]
_Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
_Minutes = Annotated[float | None, typer.Option(help="Wall-clock limit of one network.")]
_Start = Annotated[Path | None, typer.Option(help="Package to train on from.")]
_Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@experts_app.command()
def cxr(
    cache: _Cache,
    folder: Annotated[Path, typer.Option(help="The package that is written.")] = _MODELS / "demo-cxr",
    films: Annotated[int, typer.Option(min=8, help="Training phantoms.")] = 1000,
    steps: _Steps = 1500,
    rate: _Rate = 3e-3,
    minutes: _Minutes = None,
    start: _Start = None,
    threads: _Threads = 1,
) -> None:
    """Train the two networks of the demonstration CXR Expert and choose their operating points."""
    from training.expert_cxr import train_cxr

    _start(threads)
    train_cxr(folder, cache / "cxr", films=films, schedule=_schedule(steps, rate, minutes), start=start)


@experts_app.command()
def vista3d(
    cache: _Cache,
    folder: Annotated[Path, typer.Option(help="The package that is written.")] = _MODELS / "demo-vista3d",
    patients: Annotated[int, typer.Option(min=4, help="Training phantoms.")] = 200,
    steps: _Steps = 1500,
    rate: _Rate = 3e-3,
    minutes: _Minutes = None,
    start: _Start = None,
    threads: _Threads = 1,
) -> None:
    """Train the demonstration VISTA3D Expert."""
    from training.expert_vista3d import train_vista3d

    _start(threads)
    train_vista3d(folder, cache / "ct", patients=patients, schedule=_schedule(steps, rate, minutes), start=start)


@experts_app.command()
def brats(
    cache: _Cache,
    folder: Annotated[Path, typer.Option(help="The package that is written.")] = _MODELS / "demo-brats",
    heads: Annotated[int, typer.Option(min=4, help="Training phantoms.")] = 260,
    steps: _Steps = 1500,
    rate: _Rate = 3e-3,
    minutes: _Minutes = None,
    start: _Start = None,
    threads: _Threads = 1,
) -> None:
    """Train the demonstration BRATS Expert."""
    from training.expert_brats import train_brats

    _start(threads)
    train_brats(folder, cache / "brain", heads=heads, schedule=_schedule(steps, rate, minutes), start=start)


@experts_app.command()
def seal(
    manifest: Annotated[Path, typer.Argument(help="Manifest without hashes, as in worker/models/published.")],
    folder: Annotated[Path, typer.Argument(help="Folder that holds the weight files.")],
) -> None:
    """Write FOLDER/manifest.yaml: the manifest with the SHA-256 of every file found there."""
    from worker.experts.packages import seal_package

    package = seal_package(folder, yaml.safe_load(manifest.read_text(encoding="utf-8")))
    typer.echo(f"{package.manifest.name} {package.manifest.version}: {len(package.manifest.files)} files")


@experts_app.command()
def evaluate(
    registry: Annotated[Path, typer.Option(help="Models file.")] = _MODELS.parent.parent / "config" / "models.yaml",
    films: Annotated[int, typer.Option(min=1, help="Held-out chest radiographs.")] = 200,
    patients: Annotated[int, typer.Option(min=1, help="Held-out CT.")] = 30,
    heads: Annotated[int, typer.Option(min=1, help="Held-out brain MR.")] = 30,
    threads: _Threads = 1,
) -> None:
    """Measure the Experts on held-out phantoms and print the figures as JSON."""
    from training.evaluate_experts import evaluate_experts
    from worker.experts.registry import ExpertRegistry

    _start(threads)
    figures = evaluate_experts(ExpertRegistry.open(registry), films=films, patients=patients, heads=heads)
    typer.echo(json.dumps(figures, indent=1))


def _schedule(steps: int, rate: float, minutes: float | None) -> "Schedule":
    from training.experts import Schedule

    return Schedule(steps=steps, learning_rate=rate, minutes=minutes)


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
