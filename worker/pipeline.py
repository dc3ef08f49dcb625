"""The drafting pipeline of one worker process: models kept warm, Studies in, drafts out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session, sessionmaker

from config.errors import GpuBusyError, LifecycleError, OutsideIntendedUseError
from config.settings import Settings
from db import queries
from db.lifecycle import Claim, NewDraft
from db.models import ImagingOrder, Reading
from db.queries import InstancePath
from db.queries.priors import ComparedPrior, compared_prior
from db.types import Use
from publishing.draft import Place
from publishing.identity import corrected_patient, restate_patient
from reports.values import Equipment
from worker.conversation import Bench
from worker.drafting import DraftContent, draft_study, history_section
from worker.experts.base import ModelCard
from worker.experts.registry import ExpertRegistry
from worker.intake import Intake, gate, require_age
from worker.integrity import require_kept, require_unchanged
from worker.intended_use import unsuited
from worker.licensing import require_licence
from worker.models_in_use import Models, ModelsInUse
from worker.outputs import identity, write_outputs
from worker.profiles import Profile, profile
from worker.provenance import PIPELINE_VERSION, job_record, objects_record, provenance_record
from worker.vlm.backends import VisionLanguageModel, VlmCard


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
        self._models = ModelsInUse(sessions, settings)

    def models(self) -> Models:
        """Return the models in force, see `ModelsInUse.current`."""
        return self._models.current()

    def models_of(self, recorded: Sequence[Mapping[str, Any]]) -> Models:
        """Return the models of a provenance record, see `ModelsInUse.recorded`."""
        return self._models.recorded(recorded)

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
            prior = compared_prior(session, claim.study_id)
            order = session.get(ImagingOrder, detail.study.order_id) if detail and detail.study.order_id else None
            patient = corrected_patient(session, detail.study) if detail else None
        if detail is None or detail.reading.completed_at is None:
            raise LifecycleError("the reading is not complete")
        run = self.run(held, profile(claim.profile), use=claim.use, prior=prior)
        # after the models: they read neither the order nor who the patient is
        run.content.sections = history_section(order) | run.content.sections
        restate_patient((ds for used in run.intake.headers.values() for ds in used), patient)
        require_age(run.intake.first, profile(claim.profile))  # the birth date may be another one
        return self._new_draft(claim, run, detail.reading, order)

    def run(
        self,
        held: Sequence[InstancePath],
        chosen: Profile,
        *,
        use: Use | None,
        recorded: Sequence[Mapping[str, Any]] = (),
        prior: ComparedPrior | None = None,
    ) -> Run:
        """Gate and draft kept Instances; nothing is written.

        Args:
            held: the Instances of the Study.
            chosen: the profile to read them with.
            use: what the draft is for; None for a repetition, which nobody will read as a report.
            recorded: models of a provenance record to use instead of the active ones.
            prior: the earlier Study that the draft names for comparison.

        Raises:
            As `__call__`.
        """
        clock = Clock()
        store = self._settings.instances_dir
        require_kept(held)
        intake = gate([store / instance.path for instance in held], chosen)
        require_unchanged(
            {Path(str(ds.filename)) for headers in intake.headers.values() for ds in headers},
            {store / instance.path: instance.sha256 for instance in held},
        )
        clock.lap("intake")
        vlm, experts = self.models_of(recorded) if recorded else self.models()
        if use is not None:
            self._permit(use, chosen, vlm, experts)
        clock.lap("models")
        refused = unsuited(experts, chosen, intake)
        if chosen.expert in refused:
            raise OutsideIntendedUseError(refused[chosen.expert])
        worker = self._settings.worker
        bench = Bench(
            vlm=vlm,
            cards=[card for card in experts.cards() if card.name not in refused],
            expert=experts.get,
            study=intake.study,
            modality=chosen.prompt_modality,
            max_new_tokens=worker.max_new_tokens,
            max_rounds=worker.max_rounds,
            max_triggers=worker.max_triggers,
        )
        try:
            with self._models.reading(vlm):
                content = draft_study(intake, chosen, bench, prior)
        except torch.OutOfMemoryError as exc:
            # the next attempt must not meet the same full device
            experts.unload_idle()
            raise GpuBusyError("no memory left on the device") from exc
        clock.lap("drafting")
        content.provenance = provenance_record(content, intake, held, vlm, self._settings) | {
            "experts_not_offered": [*refused.values(), *(f"{x.entry.name}: {x.why}" for x in experts.unavailable())]
        }
        return Run(intake, content, vlm, clock)

    def _permit(self, use: Use, chosen: Profile, vlm: VisionLanguageModel, experts: ExpertRegistry) -> None:
        """Refuse models that may not draft this Study: by their licence, or because they demonstrate.

        Raises:
            OutsideIntendedUseError: the message names them.
        """
        experts_asked = [card for card in experts.cards() if card.modality == chosen.prompt_modality]
        promises: list[VlmCard | ModelCard] = [vlm.card, *experts_asked]
        require_licence(use, promises)
        named = [card.name for card in promises if card.demonstration]
        if named and not self._settings.models.allow_demonstration:
            raise OutsideIntendedUseError(f"demonstration models may not draft here: {', '.join(named)}")

    def _new_draft(self, claim: Claim, run: Run, reading: Reading, order: ImagingOrder | None) -> NewDraft:
        settings, content = self._settings, run.content
        assert reading.completed_at is not None
        study_uid = str(run.intake.first.StudyInstanceUID)
        place = Place(
            results_dir=settings.results_dir,
            folder=f"{claim.study_id}/{claim.reading_id}",
            identity=identity(study_uid, str(claim.reading_id), content, reading.completed_at),
            equipment=Equipment(institution=settings.organization),
            destinations=settings.destinations,
            order=order,
            hl7=settings.hl7,
        )
        made = write_outputs(content, run.intake, run.vlm.card, place)
        run.clock.lap("objects")
        cards: list[VlmCard | ModelCard] = [run.vlm.card, *(result.card for result in content.results.values())]
        return NewDraft(
            sections=content.sections,
            image_set_sha256=claim.image_set_sha256,
            pipeline_version=PIPELINE_VERSION,
            findings=made.findings,
            evidence=made.evidence,
            objects=made.objects,
            not_assessed=content.not_assessed,
            marks=[{"kind": m.kind, "finding": m.finding, "text": m.text} for m in [*content.marks, *made.marks]],
            demonstration=any(card.demonstration for card in cards),
            provenance=content.provenance
            | {"job": job_record(claim, reading, run.clock.laps), "objects": objects_record(made.objects)},
            critical=settings.critical.labels,
        )
