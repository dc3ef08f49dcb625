"""The drafting pipeline of one worker process: models kept warm, Studies in, drafts out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from sqlalchemy.orm import Session, sessionmaker

from config.errors import GpuBusyError, LifecycleError, OutsideIntendedUseError
from config.settings import Settings
from db import queries
from db.lifecycle import Claim, NewDraft
from db.models import ImagingOrder, Reading
from db.queries import InstancePath
from db.queries.priors import ComparedPrior, compared_prior
from db.types import Use, utcnow
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
from worker.rewording import AS_WRITTEN, Rewording
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


@dataclass(frozen=True)
class Ready:
    """A Study that passed the gates, and the models that may read it.

    Attributes:
        intake: what is read.
        bench: the models, as a conversation uses them.
        loaded: the language model itself, whatever the wording of its prompts.
        experts: the registry behind the bench.
        refused: Experts that are not offered, with the reason.
        clock: seconds so far.
    """

    intake: Intake
    bench: Bench
    loaded: VisionLanguageModel
    experts: ExpertRegistry
    refused: Mapping[str, str]
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

    def warm(self) -> frozenset[str]:
        """Return the names of the loaded models, see `ModelsInUse.warm`."""
        return self._models.warm()

    def models_of(self, recorded: Sequence[Mapping[str, Any]]) -> Models:
        """Return the models of a provenance record, see `ModelsInUse.recorded`."""
        return self._models.recorded(recorded)

    def models_with(self, folder: str) -> Models:
        """Return the models in force with another language model, see `ModelsInUse.with_vlm`."""
        return self._models.with_vlm(folder)

    def __call__(self, claim: Claim) -> NewDraft:
        """Read one Study: gate, draft, write the objects; the database is only read.

        Raises:
            RefusedInputError: no draft, with the reason.
            ModelError: a model broke its contract.
            TransientError: another attempt may succeed.
        """
        return self._draft(claim, claim.reading_id)

    def redraft(
        self, claim: Claim, *, of: UUID, asked_at: datetime, reworded: Rewording, note: Mapping[str, Any]
    ) -> NewDraft:
        """Read one Study again, otherwise than the rules say; what is written is the new draft's own.

        Args:
            claim: of the redraft, whose id is that of the Reading it may become.
            of: the Reading whose draft is under review.
            asked_at: when the reader asked; the objects carry it.
            reworded: what is different.
            note: what the provenance says of it, as ``redraft``.

        Raises:
            As `__call__`.
        """
        return self._draft(claim, of, asked_at=asked_at, reworded=reworded, note=note)

    def _draft(
        self,
        claim: Claim,
        reading_id: UUID,
        *,
        asked_at: datetime | None = None,
        reworded: Rewording = AS_WRITTEN,
        note: Mapping[str, Any] | None = None,
    ) -> NewDraft:
        with self._sessions() as session:
            held = queries.instance_paths(session, claim.study_id, claim.revision)
            detail = queries.reading_detail(session, reading_id)
            prior = compared_prior(session, claim.study_id)
            order = session.get(ImagingOrder, detail.study.order_id) if detail and detail.study.order_id else None
            patient = corrected_patient(session, detail.study) if detail else None
        if detail is None or detail.reading.completed_at is None:
            raise LifecycleError("the reading is not complete")
        reading = detail.reading
        if asked_at is not None:
            reading = Reading(rule=reading.rule, completed_at=asked_at, started_at=utcnow())
        run = self.run(held, profile(claim.profile), use=claim.use, prior=prior, reworded=reworded)
        if note is not None:
            run.content.provenance["redraft"] = dict(note)
        # after the models: they read neither the order nor who the patient is
        run.content.sections = history_section(order) | run.content.sections
        restate_patient((ds for used in run.intake.headers.values() for ds in used), patient)
        require_age(run.intake.first, profile(claim.profile))  # the birth date may be another one
        return self._new_draft(claim, run, reading, order)

    def run(
        self,
        held: Sequence[InstancePath],
        chosen: Profile,
        *,
        use: Use | None,
        recorded: Sequence[Mapping[str, Any]] = (),
        prior: ComparedPrior | None = None,
        reworded: Rewording = AS_WRITTEN,
    ) -> Run:
        """Gate and draft kept Instances; nothing is written.

        Args:
            held: the Instances of the Study.
            chosen: the profile to read them with.
            use: what the draft is for; None for a repetition, which nobody will read as a report.
            recorded: models of a provenance record to use instead of the active ones.
            prior: the earlier Study that the draft names for comparison.
            reworded: what a reader wants to be different.

        Raises:
            As `__call__`.
        """
        ready = self.prepare(held, chosen, use=use, recorded=recorded, reworded=reworded)
        if chosen.expert in ready.refused:
            raise OutsideIntendedUseError(ready.refused[chosen.expert])
        with self.working(ready):
            content = draft_study(ready.intake, reworded.profile(chosen), ready.bench, prior)
        ready.clock.lap("drafting")
        vlm = ready.bench.vlm
        content.provenance = provenance_record(content, ready.intake, held, vlm, self._settings) | {
            "experts_not_offered": [
                *ready.refused.values(), *(f"{x.entry.name}: {x.why}" for x in ready.experts.unavailable())
            ]
        }  # fmt: skip
        return Run(ready.intake, content, vlm, ready.clock)

    def prepare(
        self,
        held: Sequence[InstancePath],
        chosen: Profile,
        *,
        use: Use | None,
        recorded: Sequence[Mapping[str, Any]] = (),
        reworded: Rewording = AS_WRITTEN,
    ) -> Ready:
        """Gate kept Instances and put the models that may read them on a bench.

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
        vlm, experts = self._models_for(recorded, reworded)
        if use is not None:
            self._permit(use, chosen, vlm, experts)
        clock.lap("models")
        refused = unsuited(experts, chosen, intake)
        worker = self._settings.worker
        bench = Bench(
            vlm=reworded.model(vlm),
            cards=[card for card in experts.cards() if card.name not in refused],
            expert=experts.get,
            study=intake.study,
            modality=chosen.prompt_modality,
            max_new_tokens=worker.max_new_tokens,
            max_rounds=worker.max_rounds,
            max_triggers=worker.max_triggers,
        )
        return Ready(intake, bench, vlm, experts, refused, clock)

    @contextmanager
    def working(self, ready: Ready) -> Iterator[None]:
        """Use the models of a bench.

        Raises:
            GpuBusyError: no memory left on the device.
        """
        try:
            with self._models.reading(ready.loaded):
                yield
        except torch.OutOfMemoryError as exc:
            # the next attempt must not meet the same full device
            ready.experts.unload_idle()
            raise GpuBusyError("no memory left on the device") from exc

    def _models_for(self, recorded: Sequence[Mapping[str, Any]], reworded: Rewording) -> Models:
        if recorded:
            return self.models_of(recorded)
        return self.models_with(reworded.folder) if reworded.folder else self.models()

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
