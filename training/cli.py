"""``firstread train …`` and ``firstread evaluate``. Heavy libraries load with the verb that needs them."""

from pathlib import Path
from typing import Annotated

import typer

from training.experts_cli import experts_app

train_app = typer.Typer(no_args_is_help=True, help="Train the demonstration models on phantoms.")
evaluate_app = typer.Typer(invoke_without_command=True, help="Measure the demonstration models on held-out phantoms.")
train_app.add_typer(experts_app, name="experts")

_ROOT = Path(__file__).resolve().parent.parent
_CACHE = Path("data") / "training"
_Work = Annotated[Path, typer.Option(help="Rendered phantoms, base model and checkpoints are kept here.")]
_Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@train_app.command()
def vlm(
    work: _Work = _CACHE,
    target: Annotated[Path, typer.Option(help="Folder for adapter, tower and projector.")] = _ROOT
    / "worker"
    / "models"
    / "demo-vlm",
    seconds: Annotated[
        float, typer.Option(min=1, help="Wall time of the joint training; a started run resumes.")
    ] = 5400,
    tower_seconds: Annotated[float, typer.Option(min=0, help="Wall time of the tower's pretraining.")] = 1200,
    patients: Annotated[int, typer.Option(min=3, help="Training patients per modality.")] = 800,
    version: Annotated[str, typer.Option(help="Version of what is written.")] = "0.1.0",
    threads: _Threads = 2,
) -> None:
    """Train the demonstration vision-language model: render, pretrain the tower, fine-tune, export."""
    from training.runs import VlmPlan, train_vlm

    train_vlm(VlmPlan(work, target, seconds, tower_seconds, patients, version, threads))


@evaluate_app.callback()
def evaluate(
    work: _Work = _CACHE,
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder; the demonstration model by default.")] = None,
    registry: Annotated[Path, typer.Option(help="Models file of the Experts.")] = _ROOT / "config" / "models.yaml",
    docs: Annotated[Path, typer.Option(help="Folder of demo_models.md and demo_models.json.")] = _ROOT / "docs",
    scale: Annotated[float, typer.Option(min=0.01, help="Share of the full number of held-out patients.")] = 1.0,
    with_experts: Annotated[bool, typer.Option(help="Measure the Experts by themselves, too.")] = True,
    experts_only: Annotated[bool, typer.Option(help="Measure again only what depends on the Experts.")] = False,
    threads: _Threads = 2,
) -> None:
    """Measure everything on held-out phantoms and write docs/demo_models.md and its JSON."""
    from training.runs import EvaluationPlan, evaluate_all

    evaluate_all(EvaluationPlan(work, model, registry, docs, scale, with_experts, experts_only, threads))
