"""The rounds of one conversation: Experts run, their answers are fed back, the model answers or asks for more."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from config.errors import GenerationBudgetError, ModelError, ModelOutputError, TriggerSyntaxError
from worker.checks import Mark
from worker.conversation import Bench, Dialogue, Key, Question, Run, hear
from worker.experts.base import Classification, ExpertResult, SegmentationResult
from worker.pictures import Picture, overlay_picture
from worker.rendering import axial, axial_axes
from worker.selection import widest_slices
from worker.vlm.backends import Answer, Generation
from worker.vlm.cards import print_cards
from worker.vlm.prompts import feedback, first_message
from worker.vlm.templates import IMAGE, Message, plain_text

_TRIGGER_TEXT = re.compile(r"<(\w+)\([^()<>]*\)>")

_TRIGGER_TOKENS = 64
"""Budget of a text after feedback: only Triggers are looked for in it, and a longer text is an answer."""


def settle(bench: Bench, dialogue: Dialogue, branches: Sequence[str], *, prompt: str) -> list[Answer]:
    """Run and feed back Experts until the model has answered each branch with yes or no.

    A model whose most probable word is yes or no has answered. One that would rather write something else is let
    write it: a Trigger not heeded yet starts another round; anything else leaves the choice between yes and no.

    Args:
        bench: the models.
        dialogue: as `open_dialogues` returned it.
        branches: questions that continue the feedback; ``""`` where ``prompt`` is the question.
        prompt: the question inside the feedback; ``""`` where branches hold it.

    Raises:
        ExpertError: the Expert the profile demands failed.
        ModelOutputError: the model gives no numbers.
        GenerationBudgetError: the conversation does not fit.
    """
    ran = _run_triggers(bench, dialogue)
    for number in range(1, bench.max_rounds + 1):
        _feed_back(bench, dialogue, ran, prompt)
        answers = bench.vlm.answer_each(dialogue.messages, dialogue.images, branches)
        dialogue.record["rounds"][-1]["answers"] = [asdict(answer) for answer in answers]
        undecided = next((i for i, answer in enumerate(answers) if not answer.is_free_choice), None)
        if dialogue.is_done or undecided is None:
            break
        ran = _next_round(bench, dialogue, branches[undecided], is_last=number == bench.max_rounds)
        if not ran:
            break
    return answers


def answer_on_slice(bench: Bench, dialogue: Dialogue, index: int, *, prompt: str) -> Answer:
    """Ask the question of a settled conversation again, with the demanded Expert's overlay on another slice.

    Nothing said after the first feedback is part of it.

    Raises:
        ModelOutputError: the model gives no numbers.
        GenerationBudgetError: the conversation does not fit.
    """
    turn = [_shown(run.key, run.result, index) if run.key == dialogue.key else run for run in dialogue.first_feedback]
    message = _message(bench, turn, prompt)
    pictures = [*dialogue.question.pictures, *_visible(bench, turn)]
    answer = bench.vlm.answer_each([*dialogue.messages[:2], message], [picture.pixels for picture in pictures], [""])[0]
    own = next(run.picture for run in turn if run.key == dialogue.key)
    dialogue.record["pictures"] += [dict(picture.record) for picture in pictures if picture is own]
    dialogue.record.setdefault("slices", []).append({"feedback": message.text, "answer": asdict(answer)})
    return answer


def explore(bench: Bench, dialogue: Dialogue) -> None:
    """Run what the model asks for, without a question to decide.

    An intermediate Trigger is fed back and the model goes on; a terminal one, or one it did not ask for, ends it.

    Raises:
        ExpertError: the Expert the profile demands failed.
        ModelOutputError: the model gives no numbers.
        GenerationBudgetError: the conversation does not fit.
    """
    ran = _run_triggers(bench, dialogue)
    for number in range(1, bench.max_rounds + 1):
        if dialogue.is_done or dialogue.record["demanded_by_rule"] or not ran:
            return
        _feed_back(bench, dialogue, ran, dialogue.question.text)
        ran = _next_round(bench, dialogue, "", is_last=number == bench.max_rounds)


def converse(bench: Bench, question: Question) -> str:
    """Let the model answer a person's question in its own words, calling the Experts of the bench; return the words.

    Only what the model writes starts an Expert. One that fails is marked, and the model answers without it. A terminal
    Trigger says that the model is done: the Expert runs, and the text around it is the answer.

    Args:
        bench: the models; without cards no Expert is offered.
        question: what is asked and shown; it demands no Expert.

    Raises:
        ModelOutputError: no words, or no end of Triggers.
        TriggerSyntaxError: a Trigger that is none, or of an Expert that was not offered.
        GenerationBudgetError: the conversation does not fit, or the model does not stop.
    """
    card = bench.vlm.card
    cards = print_cards(bench.cards, published_wording=card.published_cards)
    opening = first_message(
        question.text, cards=cards, modality=bench.modality, images=len(question.pictures), style=card.style
    )
    record: dict[str, Any] = {"question": question.text, "prompt": opening.text, "rounds": [], "written": []}
    record["pictures"] = [dict(picture.record) for picture in question.pictures]
    bench.transcript.append(record)
    dialogue = Dialogue(question, [opening], list(question.pictures), record)
    for _ in range(bench.max_rounds + 1):
        text = _write(bench, dialogue)
        ran = _run_triggers(bench, dialogue)
        if dialogue.is_done:
            return plain_text(_TRIGGER_TEXT.sub(r"\1", text)).strip()
        if not ran:
            raise ModelOutputError("the model asked for experts that failed, and answered nothing")
        dialogue.messages.append(Message("assistant", plain_text(text)))
        _feed_back(bench, dialogue, ran, question.text)
    raise ModelOutputError(f"after {bench.max_rounds} rounds the model still asked for experts instead of answering")


def _write(bench: Bench, dialogue: Dialogue) -> str:
    """Let the model write the next turn of a free conversation, and note what it asks for."""
    answer = bench.vlm.generate(dialogue.messages, dialogue.images, max_new_tokens=bench.max_new_tokens)
    text = answer.text.strip()
    if not text:
        raise ModelOutputError("the model wrote nothing")
    dialogue.record["written"].append(
        {"text": text, "prompt": answer.prompt, "token_ids": list(answer.token_ids), "tokens": answer.token_count}
    )
    heard = hear(bench, answer)
    if heard.tried and not heard.triggers:
        raise TriggerSyntaxError("; ".join(heard.lapses))
    if heard.triggers:
        _mark(bench, dialogue, heard.lapses)
    spoke = [tuple(key) for turn in dialogue.record["rounds"] for key in turn["experts"]]
    new = tuple(trigger for trigger in heard.triggers if (trigger.expert, trigger.argument) not in spoke)
    if heard.triggers and not new:
        raise ModelOutputError("the model asked for the same expert again instead of answering")
    dialogue.triggers = new
    return text


def overlay_slices(result: SegmentationResult, wanted: frozenset[int]) -> list[int]:
    """Return the axial slices an overlay of ``wanted`` is shown on, the widest first; empty wants any label."""
    order, _ = axial_axes(result.volume.affine)
    return widest_slices(
        axial(result.labels, result.volume.affine).astype(np.uint8, copy=False),
        wanted or frozenset(result.names),
        spacing_mm=result.volume.spacing_mm[order[0]],
    )


# --- rounds ------------------------------------------------------------------------------------------------


def _run_triggers(bench: Bench, dialogue: Dialogue) -> list[Run]:
    """Run what the last answer asked for.

    Raises:
        ModelError: the Expert the profile demands failed; another one that fails, or that is no sound package, is
            marked and left out.
        ModelOutputError: there was no answer.
    """
    if dialogue.failure:
        raise ModelOutputError(dialogue.failure)
    ran: list[Run] = []
    for trigger in dialogue.triggers:
        key = (trigger.expert, trigger.argument)
        try:
            result = bench.run(*key)
        except ModelError as exc:
            if key == dialogue.key:
                raise
            lapse = f"{trigger.expert}({trigger.argument}), which the model asked for, failed: {exc}"
            _mark(bench, dialogue, [lapse])
            continue
        wanted = dialogue.question.wanted if key == dialogue.key else frozenset()
        index = overlay_slices(result, wanted)[0] if isinstance(result, SegmentationResult) else 0
        ran.append(_shown(key, result, index))
    return ran


def _shown(key: Key, result: ExpertResult, index: int) -> Run:
    """Return a run as a turn presents it; ``index`` is the axial slice of a label map."""
    if isinstance(result, Classification):
        return Run(key, result, result, None)
    picture, overlaid = overlay_picture(result, index)
    return Run(key, result, overlaid, picture)


def _message(bench: Bench, turn: Sequence[Run], prompt: str) -> Message:
    card = bench.vlm.card
    return feedback([run.block for run in turn], prompt, style=card.style, placeholder=card.overlay_placeholder)


def _visible(bench: Bench, turn: Sequence[Run]) -> list[Picture]:
    """Return the overlays that take the place of an ``<image>``."""
    if bench.vlm.card.overlay_placeholder != IMAGE:
        return []
    return [run.picture for run in turn if run.picture is not None]


def _feed_back(bench: Bench, dialogue: Dialogue, turn: Sequence[Run], prompt: str) -> None:
    """Add one user turn that says and shows what the Experts found."""
    message = _message(bench, turn, prompt)
    visible = _visible(bench, turn)
    dialogue.messages.append(message)
    dialogue.pictures += visible
    dialogue.record["pictures"] += [dict(picture.record) for picture in visible]
    dialogue.record["rounds"].append({"experts": [list(run.key) for run in turn], "feedback": message.text})
    dialogue.first_feedback = dialogue.first_feedback or tuple(turn)


def _next_round(bench: Bench, dialogue: Dialogue, branch: str, *, is_last: bool) -> list[Run]:
    """Let the model write on; return what the Experts it triggers now found, empty when it asks for no new one."""
    last = dialogue.messages[-1]
    messages = [*dialogue.messages[:-1], Message("user", last.text + branch)]
    try:
        answer: Generation | ModelError = bench.vlm.generate(
            messages, dialogue.images, max_new_tokens=min(bench.max_new_tokens, _TRIGGER_TOKENS)
        )
    except GenerationBudgetError as exc:
        answer = exc
    heard = hear(bench, answer)
    spoke = [tuple(key) for turn in dialogue.record["rounds"] for key in turn["experts"]]
    dialogue.triggers = tuple(t for t in heard.triggers if (t.expert, t.argument) not in spoke)
    dialogue.record["rounds"][-1] |= {"wrote": heard.text, "lapse": "; ".join(heard.lapses)}
    if isinstance(answer, Generation):
        dialogue.record["rounds"][-1] |= {
            "prompt": answer.prompt,
            "token_ids": list(answer.token_ids),
            "dropped_exchanges": answer.dropped_exchanges,
        }
    if heard.tried:
        _mark(bench, dialogue, heard.lapses)
    if dialogue.triggers and is_last:
        asked = ", ".join(f"{t.expert}({t.argument})" for t in dialogue.triggers)
        lapse = f"after {bench.max_rounds} rounds the model still asked for {asked}; not run"
        _mark(bench, dialogue, [lapse])
        return []
    ran = _run_triggers(bench, dialogue)
    if ran:
        dialogue.messages = [*messages, Message("assistant", plain_text(heard.text))]
    return ran


def _mark(bench: Bench, dialogue: Dialogue, lapses: Sequence[str]) -> None:
    bench.marks += [Mark("trigger", "", f"{dialogue.question.text} — {lapse}.") for lapse in lapses]
