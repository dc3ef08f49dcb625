"""The drafting pipeline of one worker process: models kept warm, Studies in, drafts out."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from sqlalchemy.orm import Session, sessionmaker

from config.errors import GpuBusyError, LifecycleError, OutsideIntendedUseError
from config.settings import Settings
from db import queries
from db.audit import AuditTag
from db.lifecycle import Claim, NewDraft
from db.models import Reading
from db.queries import InstancePath
from db.types import Priority
from db.uow import Actor, unit_of_work
from reports.values import Equipment
from worker.conversation import Bench
from worker.drafting import DraftContent, draft_study
from worker.experts.base import ModelCard
from worker.experts.registry import ExpertRegistry
from worker.intake import Intake, gate
from worker.integrity import require_unchanged
from worker.outputs import Place, identity, write_outputs
from worker.profiles import Profile, profile
from worker.provenance import PIPELINE_VERSION, job_record, objects_record, provenance_record
from worker.vlm.backends import VisionLanguageModel, VlmCard
from worker.vlm.gathering import GatheringVlm
from worker.vlm.vila_m3 import VilaM3

log = structlog.get_logger()

SUSPECTED_CRITICAL = frozenset({"Pneumothorax"})  # raises priority; only a person communicates it
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Clock:
    """Seconds of the steps of one run."""

    laps: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, step: str) -> None:
        """Note how long ``step`` took: since the last lap."""
        now = time.monotonic()
        self.laps[step] = now - self._last
        self._last = now


@dataclass(frozen=True)
class Run:
    """One run of the pipeline before anything is written: what was read, what was found, by which model."""

    intake: Intake
    content: DraftContent
    vlm: VisionLanguageModel
    clock: Clock


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
                self.record_loaded(self._vlm, self._experts)
            return self._vlm, self._experts

    def record_loaded(self, vlm: VisionLanguageModel, experts: ExpertRegistry) -> None:
        """Say in the audit log which models this process works with from now on."""
        card = vlm.card
        log.info("model.loaded", model=card.name, version=card.version)
        with unit_of_work(self._sessions, Actor("worker", "process")) as uow:
            uow.audit(
                AuditTag.MODEL_LOADED,
                object_type="model",
                object_id=card.name[:64],
                detail={
                    "version": card.version,
                    "weights_sha256": dict(card.weights_sha256),
                    "experts": [f"{one.name} {one.version}" for one in experts.cards()],
                },
            )

    def models_of(self, recorded: Sequence[Mapping[str, Any]]) -> tuple[VisionLanguageModel, ExpertRegistry]:
        """Return the models of a provenance record; today's when those weights are not installed any more.

        Whoever compares sees other weights by their hashes.

        Args:
            recorded: ``models`` of the record.
        """
        del recorded
        return self.models()

    def __call__(self, claim: Claim) -> NewDraft:
        """Read one Study: gate, draft, write the objects; the database is only read.

        Raises:
            RefusedInputError: no draft, with the reason.
            ModelError: a model broke its contract.
            TransientError: another attempt may succeed.
        """
        with self._sessions() as session:
            held = queries.instance_paths(session, claim.study_id, claim.revision)
            detail = queries.reading_detail(session, claim.reading_id)
        if detail is None or detail.reading.completed_at is None:
            raise LifecycleError("the reading is not complete")
        run = self.run(held, profile(claim.profile))
        return self._new_draft(claim, run, detail.reading)

    def run(
        self, held: Sequence[InstancePath], chosen: Profile, *, recorded: Sequence[Mapping[str, Any]] = ()
    ) -> Run:
        """Gate and draft kept Instances; nothing is written.

        Args:
            held: the Instances of the Study.
            chosen: the profile to read them with.
            recorded: models of a provenance record to use instead of the active ones.

        Raises:
            As `__call__`.
        """
        clock = Clock()
        store = self._settings.instances_dir
        intake = gate([store / instance.path for instance in held], chosen)
        require_unchanged(
            {Path(str(ds.filename)) for headers in intake.headers.values() for ds in headers},
            {store / instance.path: instance.sha256 for instance in held},
        )
        clock.lap("intake")
        vlm, experts = self.models_of(recorded) if recorded else self.models()
        self._refuse_demonstration(vlm, experts)
        clock.lap("models")
        worker = self._settings.worker
        bench = Bench(
            vlm=vlm,
            cards=experts.cards(),
            expert=experts.get,
            study=intake.study,
            modality=chosen.prompt_modality,
            max_new_tokens=worker.max_new_tokens,
        )
        try:
            with vlm.reading() if isinstance(vlm, GatheringVlm) else nullcontext():
                content = draft_study(intake, chosen, bench)
        except torch.OutOfMemoryError as exc:
            torch.cuda.empty_cache()
            raise GpuBusyError("no memory left on the device") from exc
        clock.lap("drafting")
        content.provenance = provenance_record(content, intake, held, vlm, self._settings)
        return Run(intake, content, vlm, clock)

    def _refuse_demonstration(self, vlm: VisionLanguageModel, experts: ExpertRegistry) -> None:
        if self._settings.models.allow_demonstration:
            return
        promises: list[VlmCard | ModelCard] = [vlm.card, *experts.cards()]
        named = [card.name for card in promises if card.demonstration]
        if named:
            raise OutsideIntendedUseError(f"demonstration models may not draft here: {', '.join(named)}")

    def _new_draft(self, claim: Claim, run: Run, reading: Reading) -> NewDraft:
        settings, content = self._settings, run.content
        assert reading.completed_at is not None
        study_uid = str(run.intake.first.StudyInstanceUID)
        place = Place(
            results_dir=settings.results_dir,
            folder=f"{claim.study_id}/{claim.reading_id}",
            identity=identity(study_uid, str(claim.reading_id), content, reading.completed_at),
            equipment=Equipment(institution=settings.organization),
        )
        made = write_outputs(content, run.intake, run.vlm.card, place)
        run.clock.lap("objects")
        cards: list[VlmCard | ModelCard] = [run.vlm.card, *(result.card for result in content.results.values())]
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
            provenance=content.provenance
            | {"job": job_record(claim, reading, run.clock.laps), "objects": objects_record(made.objects)},
            priority=Priority.URGENT if alarming else None,
            destinations=[d.name for d in settings.destinations if d.drafts],
        )
