"""The drafting pipeline of one worker process: models kept warm, Studies in, drafts out."""

import importlib.metadata
import platform
import threading
import time
from datetime import datetime
from typing import Any

import structlog
import torch
from sqlalchemy.orm import Session, sessionmaker

from config.errors import GpuBusyError, LifecycleError, OutsideIntendedUseError
from config.settings import Settings
from db import queries
from db.lifecycle import Claim, NewDraft
from db.types import Priority
from reports.values import Equipment
from worker.conversation import Bench
from worker.drafting import DraftContent, draft_study
from worker.experts.base import ModelCard
from worker.experts.registry import ExpertRegistry
from worker.intake import Intake, gate
from worker.outputs import Place, identity, models_record, write_outputs
from worker.profiles import profile
from worker.vlm.backends import VisionLanguageModel, VlmCard
from worker.vlm.vila_m3 import VilaM3

log = structlog.get_logger()

PIPELINE_VERSION = "0.1.0"
SUSPECTED_CRITICAL = frozenset({"Pneumothorax"})  # raises priority; only a person communicates it
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StudyPipeline:
    """Callable that turns a Claim into a draft; holds the models of this process."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        """Open nothing yet: models load with the first Study."""
        self._sessions = sessions
        self._settings = settings
        self._lock = threading.Lock()
        self._vlm: VisionLanguageModel | None = None
        self._experts: ExpertRegistry | None = None

    def models(self) -> tuple[VisionLanguageModel, ExpertRegistry]:
        """Return the models, loading and checking them on first use.

        Raises:
            ModelPackageError: a package is missing, altered, or a demonstration where none is allowed.
        """
        with self._lock:
            if self._vlm is None or self._experts is None:
                worker = self._settings.worker
                if worker.torch_threads:
                    torch.set_num_threads(worker.torch_threads)
                device = worker.device
                if device == "auto":
                    device = "cuda" if torch.cuda.is_available() else "cpu"
                self._experts = ExpertRegistry.open(self._settings.models.registry)
                self._vlm = VilaM3.load(self._settings.vlm_dir, device=device, dtype=_DTYPES.get(worker.dtype))
                log.info("model.loaded", model=self._vlm.card.name, version=self._vlm.card.version)
            return self._vlm, self._experts

    def __call__(self, claim: Claim) -> NewDraft:
        """Read one Study: gate, draft, write the objects; the database is only read.

        Raises:
            RefusedInputError: no draft, with the reason.
            ModelError: a model broke its contract.
            TransientError: another attempt may succeed.
        """
        started = time.monotonic()
        chosen = profile(claim.profile)
        with self._sessions() as session:
            held = queries.instance_paths(session, claim.study_id, claim.revision)
            detail = queries.reading_detail(session, claim.reading_id)
        if detail is None or detail.reading.completed_at is None:
            raise LifecycleError("the reading is not complete")
        intake = gate([self._settings.instances_dir / instance.path for instance in held], chosen)
        vlm, experts = self.models()
        self._refuse_demonstration(vlm, experts)
        bench = Bench(
            vlm=vlm,
            cards=experts.cards(),
            expert=experts.get,
            study=intake.study,
            modality=chosen.prompt_modality,
            max_new_tokens=self._settings.worker.max_new_tokens,
        )
        try:
            content = draft_study(intake, chosen, bench)
        except torch.OutOfMemoryError as exc:
            torch.cuda.empty_cache()
            raise GpuBusyError("no memory left on the device") from exc
        return self._new_draft(claim, intake, content, vlm, detail.reading.completed_at, time.monotonic() - started)

    def _refuse_demonstration(self, vlm: VisionLanguageModel, experts: ExpertRegistry) -> None:
        if self._settings.models.allow_demonstration:
            return
        promises: list[VlmCard | ModelCard] = [vlm.card, *experts.cards()]
        named = [card.name for card in promises if card.demonstration]
        if named:
            raise OutsideIntendedUseError(f"demonstration models may not draft here: {', '.join(named)}")

    def _new_draft(
        self,
        claim: Claim,
        intake: Intake,
        content: DraftContent,
        vlm: VisionLanguageModel,
        completed_at: datetime,
        seconds: float,
    ) -> NewDraft:
        settings = self._settings
        study_uid = str(intake.first.StudyInstanceUID)
        place = Place(
            results_dir=settings.results_dir,
            folder=f"{claim.study_id}/{claim.reading_id}",
            identity=identity(study_uid, str(claim.reading_id), content, completed_at),
            equipment=Equipment(institution=settings.organization),
        )
        made = write_outputs(content, intake, vlm.card, place)
        cards: list[VlmCard | ModelCard] = [vlm.card, *(result.card for result in content.results.values())]
        alarming = any(f.is_present and f.label in SUSPECTED_CRITICAL for f in content.findings)
        return NewDraft(
            sections=content.sections,
            image_set_sha256=claim.image_set_sha256,
            pipeline_version=PIPELINE_VERSION,
            findings=made.findings,
            evidence=made.evidence,
            objects=made.objects,
            not_assessed=content.not_assessed,
            marks=[{"kind": m.kind, "finding": m.finding, "text": m.text} for m in content.marks],
            demonstration=any(card.demonstration for card in cards),
            provenance=content.provenance | self._environment(intake, content, vlm, seconds),
            priority=Priority.URGENT if alarming else None,
            destinations=[d.name for d in settings.destinations if d.drafts],
        )

    def _environment(
        self, intake: Intake, content: DraftContent, vlm: VisionLanguageModel, seconds: float
    ) -> dict[str, Any]:
        """Return the part of the provenance record that is about machines (standards section 5.4)."""
        packages = ("torch", "transformers", "monai", "torchxrayvision", "highdicom", "pydicom")
        return {
            "pipeline_version": PIPELINE_VERSION,
            "models": models_record(content, vlm.card),
            "decoding": {"mode": "greedy", "max_new_tokens": self._settings.worker.max_new_tokens},
            "instances_used": {
                uid: [str(ds.SOPInstanceUID) for ds in headers] for uid, headers in intake.headers.items()
            },
            "packages": {name: importlib.metadata.version(name) for name in packages},
            "machine": {"python": platform.python_version(), "device": self._settings.worker.device},
            "seconds": round(seconds, 2),
        }
