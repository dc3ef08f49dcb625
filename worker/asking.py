"""A reader's question, answered by the model of the Study's drafts: gates, one conversation, the record of it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from config.errors import OutsideIntendedUseError
from config.settings import Settings
from db import queries
from db.asking_models import Question as QuestionRow
from db.lifecycle import asking
from db.lifecycle.asking import NewAnswer, QuestionClaim
from worker.conversation import Bench, Question
from worker.errands import Duty, Runner
from worker.experts.base import Classification, ExpertInput, ExpertResult, ModelCard
from worker.outputs import volumes_ml
from worker.pictures import Picture, first_pictures, shown_picture
from worker.pipeline import StudyPipeline
from worker.profiles import profile
from worker.provenance import models_record, result_sha256
from worker.rounds import converse
from worker.vlm.backends import VlmCard


class Answering:
    """Callable that turns a claimed question into an answer; uses the models of a pipeline."""

    def __init__(self, pipeline: StudyPipeline, sessions: sessionmaker[Session]) -> None:
        """Open nothing yet."""
        self._pipeline = pipeline
        self._sessions = sessions

    def __call__(self, claim: QuestionClaim) -> NewAnswer:
        """Answer one question; the database is only read.

        Raises:
            RefusedInputError: the gates of drafting refuse the Study or the models, or the image is none of those
                the model reads.
            ModelError: the model broke its contract.
            TransientError: another attempt may succeed.
        """
        started = time.monotonic()
        held = claim.held
        with self._sessions() as session:
            kept = queries.instance_paths(session, held.study_id, held.revision)
        ready = self._pipeline.prepare(kept, profile(held.profile), use=held.use)
        asked = claim.asked
        bench = ready.bench if asked.with_experts else replace(ready.bench, cards=[])
        pictures = _pictures(ready.intake.study, asked.sop_instance_uid, asked.frame_number)
        with self._pipeline.working(ready):
            text = converse(bench, Question(asked.text, pictures, "", ""))
        return _answer(text, bench, round(time.monotonic() - started, 3))


def answer_questions(
    pipeline: StudyPipeline, sessions: sessionmaker[Session], settings: Settings
) -> Runner[QuestionClaim, NewAnswer]:
    """Return what answers questions in this process."""
    duty = Duty(
        kind=QuestionRow,
        take=lambda uow, key, owner, lease_s: asking.claim_question(uow, key, owner=owner, lease_s=lease_s),
        held=lambda claim: claim.held,
        work=Answering(pipeline, sessions),
        keep=asking.answered,
    )
    return Runner(sessions, settings, duty)


def _pictures(study: ExpertInput, sop_instance_uid: str, frame_number: int) -> tuple[Picture, ...]:
    if not sop_instance_uid:
        return first_pictures(study, "body")
    shown = shown_picture(study, sop_instance_uid, frame_number)
    if shown is None:
        raise OutsideIntendedUseError("the image on screen is none of those that the model reads in this study")
    return (shown,)


def _answer(text: str, bench: Bench, seconds: float) -> NewAnswer:
    (record,) = bench.transcript
    cards: list[VlmCard | ModelCard] = [bench.vlm.card, *(result.card for result in bench.results.values())]
    return NewAnswer(
        text=text,
        models=models_record(bench.results.values(), bench.vlm.card),
        prompt=record["written"][-1]["prompt"] or record["prompt"],
        pictures=record["pictures"],
        experts=[_expert(result) for result in bench.results.values()],
        marks=[asdict(mark) for mark in bench.marks],
        conversation=[record],
        seconds=seconds,
        demonstration=any(card.demonstration for card in cards),
    )


def _expert(result: ExpertResult) -> Mapping[str, Any]:
    if isinstance(result, Classification):
        output: Mapping[str, Any] = {"probabilities": dict(result.probabilities), "threshold": result.threshold}
    else:
        output = {"volumes_ml": volumes_ml(result)}
    return {
        "expert": result.card.name,
        "argument": result.argument,
        "version": result.card.version,
        "seconds": round(result.seconds, 3),
        "output": output,
        "sha256": result_sha256(result),
    }
