"""Prompt splitting, shortening and picture identity, by hand-worked values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from config.errors import GenerationBudgetError, ModelError
from worker.vlm.front_end import (
    IMAGE_ID,
    PromptWriter,
    common_prefix,
    name_pictures,
    picture_digest,
    picture_tensor,
    positions,
    shorten,
    tokenise,
)
from worker.vlm.templates import TEMPLATES, Message


class ToyTokenizer:
    """One id per letter; BOS is 1, put first when the tokenizer adds it, and read from the letter ``^``."""

    def __init__(self, *, adds_bos: bool) -> None:
        self.bos_token_id = 1
        self.adds_bos = adds_bos

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> SimpleNamespace:
        ids = [1 if letter == "^" else ord(letter) for letter in text]
        return SimpleNamespace(input_ids=[1, *ids] if self.adds_bos and add_special_tokens else ids)


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_llama_2_tokenizers_add_bos_to_each_piece_and_it_is_kept_once():
    made = tokenise("ab<image>\ncd", ToyTokenizer(adds_bos=True))
    assert made == [1, *ids("ab"), IMAGE_ID, *ids("\ncd")]


def test_llama_3_quirk_drops_the_first_token_after_an_image():
    """The template begins with BOS itself, so the published rule drops one real token: in training a newline."""
    prompt = "^ab<image>\ncd<image>ef"
    assert tokenise(prompt, ToyTokenizer(adds_bos=False)) == [1, *ids("ab"), IMAGE_ID, *ids("cd"), IMAGE_ID, *ids("f")]
    assert tokenise(prompt, ToyTokenizer(adds_bos=False), bos_rule="lossless") == [
        1, *ids("ab"), IMAGE_ID, *ids("\ncd"), IMAGE_ID, *ids("ef"),
    ]  # fmt: skip


def test_llama_3_that_adds_bos_keeps_two_of_them_at_the_start_and_every_real_token():
    """The corrected tokenizer adds one BOS before the template's own; each later piece loses only the added one."""
    assert tokenise("^ab<image>\ncd", ToyTokenizer(adds_bos=True)) == [1, 1, *ids("ab"), IMAGE_ID, *ids("\ncd")]


def test_without_bos_nothing_is_dropped():
    assert tokenise("ab<image>cd", ToyTokenizer(adds_bos=False)) == [*ids("ab"), IMAGE_ID, *ids("cd")]


def test_an_image_may_stand_first_last_and_beside_another():
    prompt = "<image><image>a<image>"
    assert tokenise(prompt, ToyTokenizer(adds_bos=False)) == [IMAGE_ID, IMAGE_ID, *ids("a"), IMAGE_ID]
    assert tokenise(prompt, ToyTokenizer(adds_bos=True)) == [1, IMAGE_ID, IMAGE_ID, *ids("a"), IMAGE_ID]


@pytest.mark.parametrize(
    ("prompts", "shared"), [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 3]], 1), ([[5], [6]], 0), ([[1, 2, 3]], 2)]
)
def test_every_prompt_keeps_at_least_one_token_of_its_own(prompts, shared):
    assert common_prefix(prompts) == shared


def test_pictures_are_squashed_without_regard_to_aspect_and_normalised():
    picture = np.zeros((10, 40, 3), np.uint8)
    picture[:, 20:] = 255
    tensor = picture_tensor(picture, 8, (0.5,) * 3, (0.5,) * 3)
    assert tensor.shape == (3, 8, 8)
    assert tensor[0, 0, 0] == -1.0
    assert tensor[2, 7, 7] == 1.0


def test_resampling_is_pils_bicubic_not_torchs():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    ours = picture_tensor(picture, 12, (0.5,) * 3, (0.5,) * 3)
    pil = np.asarray(Image.fromarray(picture).resize((12, 12), Image.BICUBIC), np.float64)
    assert np.allclose(ours.permute(1, 2, 0).numpy(), pil / 127.5 - 1, atol=1e-6)
    plain = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    aliased = functional.interpolate(plain, (12, 12), mode="bicubic")[0]
    assert (ours - aliased).abs().max() > 0.1


def test_a_picture_is_known_by_its_content_and_shape():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert picture_digest(picture) == picture_digest(np.asfortranarray(picture))
    assert picture_digest(picture) != picture_digest(picture.reshape(4, 2, 3))
    changed = picture.copy()
    changed[1, 3, 2] ^= 1
    assert picture_digest(picture) != picture_digest(changed)


def test_each_place_takes_the_next_picture():
    assert name_pictures([5, IMAGE_ID, 6, IMAGE_ID], [b"x", b"y"]) == [5, b"x", 6, b"y"]
    assert positions([5, b"x", 6, IMAGE_ID], 196) == 2 + 2 * 196


@pytest.mark.parametrize("digests", [[], [b"x", b"y"]])
def test_pictures_and_places_must_match(digests):
    with pytest.raises(ModelError, match=f"{len(digests)} pictures for 1 places"):
        name_pictures([5, IMAGE_ID], digests)


def _pictures(count: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), number, np.uint8) for number in range(count)]


DIALOGUE = [
    Message("user", "cards <image> <image> question"),
    Message("assistant", "trigger one"),
    Message("user", "feedback one <image>"),
    Message("assistant", "trigger two"),
    Message("user", "feedback two <image>"),
    Message("assistant", "trigger three"),
    Message("user", "feedback three <image>"),
]


@pytest.mark.parametrize(
    ("room", "turns", "pictures", "dropped"),
    [
        (7, [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4], 0),
        (6, [0, 3, 4, 5, 6], [0, 1, 3, 4], 1),
        (4, [0, 5, 6], [0, 1, 4], 2),
        (2, [0, 5, 6], [0, 1, 4], 2),
    ],
)
def test_a_trigger_leaves_with_its_feedback_and_picture_oldest_first(room, turns, pictures, dropped):
    left, shown, gone = shorten(DIALOGUE, _pictures(5), lambda messages: len(messages) <= room)
    assert left == [DIALOGUE[number] for number in turns]
    assert [int(picture[0, 0, 0]) for picture in shown] == pictures
    assert gone == dropped


def _writer(context: int) -> PromptWriter:
    return PromptWriter(
        ToyTokenizer(adds_bos=False), TEMPLATES["hermes-2"], bos_rule="published", context_tokens=context,
        rows_per_image=196,
    )  # fmt: skip


def test_the_budget_counts_the_answer_and_never_cuts_the_opening_of_the_answer():
    whole = _writer(9999).prompts(DIALOGUE, _pictures(5), [("", 10)])[0]
    length = positions(whole.elements, 196) + 10
    assert _writer(length).prompts(DIALOGUE, _pictures(5), [("", 10)])[0].dropped == 0
    tight = _writer(length - 1).prompts(DIALOGUE, _pictures(5), [("", 10)])[0]
    assert tight.dropped == 1
    assert tight.text.endswith("feedback three <image><|im_end|><|im_start|>assistant\n")
    assert "cards" in tight.text
    assert "trigger one" not in tight.text
    assert "feedback one" not in tight.text
    assert "trigger two" in tight.text
    assert [element for element in tight.elements if isinstance(element, bytes)] == [
        picture_digest(_pictures(5)[number]) for number in (0, 1, 3, 4)
    ]


def test_what_cannot_be_shortened_is_refused():
    with pytest.raises(GenerationBudgetError, match="do not fit the context of 300"):
        _writer(300).prompts(DIALOGUE, _pictures(5), [("", 10)])
