"""Yes or no from numbers and from words; text without any model's control tokens."""

import math

import pytest
import torch

from config.errors import ModelError, ModelOutputError
from tests.fakes import card
from worker.vlm.answers import choice, choice_among, first_word, word_ids
from worker.vlm.cards import print_cards
from worker.vlm.chat import content_parts, control_pattern, spoken, unknown_control_pattern, with_question, written
from worker.vlm.templates import Message

UNKNOWN = unknown_control_pattern()


class Words:
    """A tokenizer with a fixed vocabulary."""

    def __init__(self, **ids):
        self._ids = ids

    def __call__(self, text, *, add_special_tokens):
        assert not add_special_tokens
        return type("Encoding", (), {"input_ids": self._ids.get(text.replace(" ", "_"), [7, 8])})


def test_a_word_has_the_ids_of_all_its_one_token_forms():
    assert word_ids(Words(yes=[3], Yes=[4], _yes=[3]), "yes") == [3, 4]
    with pytest.raises(ModelError, match="no single token for 'no'"):
        word_ids(Words(yes=[3]), "no")


def test_the_choice_adds_the_forms_of_each_word():
    # probabilities 0.1, 0.2 (yes), 0.25 (no), 0.45 of another word
    said = choice(torch.tensor([0.1, 0.2, 0.25, 0.45]).log(), [0, 1], [2])
    assert (said.text, said.is_free_choice) == ("yes", False)
    assert said.margin == pytest.approx(math.log(0.3 / 0.25), abs=1e-6)
    assert choice(torch.tensor([0.1, 0.1, 0.5, 0.3]).log(), [0, 1], [2]).is_free_choice
    with pytest.raises(ModelOutputError):
        choice(torch.tensor([0.1, float("nan"), 0.2]), [0], [2])
    with pytest.raises(ModelOutputError):
        choice(torch.tensor([0.1, float("inf"), 0.2]), [0], [2])


def test_among_the_most_probable_a_missing_word_is_no_more_probable_than_the_last():
    said = choice_among({"No": -0.5, " film": -2.0, "The": -4.0})
    assert (said.text, said.margin, said.is_free_choice) == ("no", 3.5, True)
    assert choice_among({"The": -0.1, "A": -1.0}) is None
    assert choice_among({}) is None
    assert choice_among({"yes": -math.inf, "no": -math.inf}) is None


@pytest.mark.parametrize(
    ("text", "word"), [("Yes", "yes"), (" no.", "no"), ('"No," it', "no"), ("**Yes**", "yes"), ("NO\nwhy", "no")]
)
def test_an_answer_begins_with_its_word(text, word):
    assert first_word(text).text == word
    assert first_word(text).margin == 0.0


@pytest.mark.parametrize("text", ["", "I see no effusion", "no doubt", "yes and no", "nothing", "Not seen."])
def test_anything_else_is_no_answer(text):
    with pytest.raises(ModelOutputError):
        first_word(text)


@pytest.mark.parametrize(
    "token",
    ["<|im_end|>", "<|eot_id|>", "<｜User｜>", "<s>", "</s>", "<bos>", "<start_of_turn>", "<image_soft_token>",
     "</think>", "<|start_header_id|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[IMG_BREAK]", "<unused99>",
     "<tool_call>"],
)  # fmt: skip
def test_forms_of_control_tokens_are_taken_out_of_text_for_an_unknown_model(token):
    assert spoken(f"a{token}b", UNKNOWN) == "ab"
    assert spoken(f"{token[:2]}{token}{token[2:]}", UNKNOWN) == ""


@pytest.mark.parametrize(
    "text",
    [
        print_cards([card("CXR", "CXR"), card("VISTA3D", "CT", arguments=("organs", "lung tumor"))]),
        "Let me first trigger <CXR()>. Then <VISTA3D(lung tumor)>.",
        "lesion < 3 cm, > 5 HU; <3cm,>2cm; a<b>c d; [12 mm] [L] (R)",
        "blue: liver, red: hepatic tumor. \n",
    ],
)
def test_cards_triggers_and_measures_are_no_control_tokens(text):
    wanted = text.replace("<b>", "")
    assert spoken(text, UNKNOWN) == wanted


def test_an_answer_loses_end_marks_and_keeps_what_may_be_a_trigger_gone_wrong():
    assert written(" Let me trigger <CXR>.<|im_end|>\n</s>") == "Let me trigger <CXR>."
    assert written("<VISTA3D(organs)> <think>") == "<VISTA3D(organs)> <think>"


def test_a_message_is_texts_and_images_in_order():
    control = control_pattern(["<end>"])
    assert content_parts(Message("user", "a <image><image>\nb<end>"), control) == ["a ", None, None, "\nb"]
    assert content_parts(Message("user", "<image>"), control) == [None]
    assert content_parts(Message("assistant", "a<end> <im<image>age>b"), control) == ["a b"]
    assert spoken("unchanged", control_pattern([])) == "unchanged"


def test_a_question_goes_on_with_the_last_message():
    talk = [Message("user", "a"), Message("assistant", "b"), Message("user", "c\n")]
    assert with_question(talk, "Q?") == (*talk[:2], Message("user", "c\nQ?"))
