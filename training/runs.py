"""The two long runs behind the command line: training the vision-language model, and measuring everything."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import torch

from config.errors import ConfigurationError, ModelPackageError
from phantoms.chest_xray import make_chest_xray
from training.demo_report import write_report
from training.evaluate import Classifier, Sizes, against_truth, evaluate_vlm, held_out_patients, stand_in_cards
from training.evaluate_experts import evaluate_experts
from training.expert_radiographs import as_radiograph
from training.export import export_student
from training.finetune import Run, finetune, new_course, new_student
from training.patients import MODALITIES, Patient, read_patients, write_patients
from training.tower import new_tower, pretrain
from worker.experts.base import Classification, Expert, ExpertInput
from worker.experts.registry import ExpertRegistry
from worker.vlm.base_wheel import convert_base
from worker.vlm.cards import print_cards
from worker.vlm.demo_build import build_demo
from worker.vlm.vila_m3 import VilaM3

log = structlog.get_logger()

CURVE: Final = "demo_vlm_training.jsonl"
_SEED: Final = 20261122


@dataclass(frozen=True)
class VlmPlan:
    """What `train_vlm` shall do; see the command's options."""

    work: Path
    target: Path
    seconds: float
    tower_seconds: float
    patients: int
    version: str
    threads: int


def train_vlm(plan: VlmPlan) -> None:
    """Train and export; every part that is already in ``plan.work`` is kept, an unfinished run goes on."""
    torch.set_num_threads(plan.threads)
    folder = plan.work / "patients"
    for modality in MODALITIES:
        write_patients(folder, modality, range(plan.patients))
    patients = [p for modality in MODALITIES for p in read_patients(folder, modality, limit=plan.patients)]
    student = new_student(convert_base(plan.work / "base"), seed=_SEED)
    tower = plan.work / "tower.pt"
    if not tower.exists():
        pretrain(new_tower(_SEED), patients, seconds=plan.tower_seconds, seed=_SEED, keep=tower)
    student.tower.load_state_dict(torch.load(tower, weights_only=True))
    finetune(student, new_course(student, patients, seed=_SEED), Run(plan.work / "run", plan.seconds, _SEED))
    export_student(student, plan.target, version=plan.version)
    shutil.copyfile(plan.work / "run" / "log.jsonl", plan.target.parent / CURVE)


@dataclass(frozen=True)
class EvaluationPlan:
    """What `evaluate_all` shall do; see the command's options."""

    work: Path
    model: Path | None
    registry: Path
    docs: Path
    scale: float
    with_experts: bool
    experts_only: bool
    threads: int


def evaluate_all(plan: EvaluationPlan) -> dict[str, Any]:
    """Measure the model and the Experts, write the report, return the figures."""
    torch.set_num_threads(plan.threads)
    model = VilaM3.load(plan.model or build_demo(plan.work / "demo-vlm"))
    full = Sizes()
    sizes = Sizes(*(max(1, round(plan.scale * n)) for n in (full.chest, full.body, full.brain, full.free_text)))
    registry = _registry(plan.registry)
    cards = registry.cards() if registry and len(registry.cards()) == len(MODALITIES) else stand_in_cards()
    patients = held_out_patients(plan.work / "patients", sizes)
    classifier = _classifier(registry)
    if plan.experts_only:
        figures: dict[str, Any] = json.loads((plan.docs / "demo_models.json").read_text(encoding="utf-8"))
        figures["vlm"]["against_truth"] = against_truth(model, patients, print_cards(cards), classifier)
    else:
        vlm = evaluate_vlm(model, patients, cards, sizes=sizes, classifier=classifier)
        figures = {"vlm": vlm, "training": _curve(), "experts": {}}
    figures["vlm"]["experts"] = {card.name: card.version for card in cards}
    if registry and plan.with_experts:
        films, bodies, heads = (max(1, round(plan.scale * n)) for n in (100, 12, 20))
        figures["experts"] = evaluate_experts(registry, films=films, patients=bodies, heads=heads)
    write_report(plan.docs, figures)
    return figures


def _registry(models_file: Path) -> ExpertRegistry | None:
    try:
        return ExpertRegistry.open(models_file)
    except (ModelPackageError, ConfigurationError) as exc:
        log.warning("experts.missing", reason=type(exc).__name__)
        return None


def _classifier(registry: ExpertRegistry | None) -> Classifier | None:
    if registry is None or "CXR" not in {card.name for card in registry.cards()}:
        return None
    expert: Expert = registry.get("CXR")

    def classify(patient: Patient) -> Classification:
        result = expert.run(ExpertInput(radiograph=as_radiograph(make_chest_xray(patient.seed))), "")
        assert isinstance(result, Classification)
        return result

    return classify


def _curve() -> list[dict[str, Any]]:
    kept = Path(__file__).resolve().parent.parent / "worker" / "models" / CURVE
    if not kept.exists():
        return []
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
