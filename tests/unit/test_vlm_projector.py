"""Projector order, prompt splitting and packed attention, by hand-worked values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from worker.vlm.projector import Projector, downsample
from worker.vlm.vila_m3 import IMAGE_ID, common_prefix, packed_attention, picture_tensor, tokenise


def test_even_grid_runs_down_the_columns():
    tokens = torch.arange(16, dtype=torch.float32).reshape(1, 16, 1)  # 4 × 4, cell (row, column) = 4 · row + column
    assert downsample(tokens)[0].tolist() == [[0, 1, 4, 5], [8, 9, 12, 13], [2, 3, 6, 7], [10, 11, 14, 15]]


def test_odd_grid_gets_one_zero_row_and_column_at_the_end():
    tokens = torch.arange(1, 10, dtype=torch.float32).reshape(1, 9, 1)  # 3 × 3
    assert downsample(tokens)[0].tolist() == [[1, 2, 4, 5], [7, 8, 0, 0], [3, 0, 6, 0], [9, 0, 0, 0]]


def test_channels_of_a_neighbour_stay_together():
    tokens = torch.arange(8, dtype=torch.float32).reshape(1, 4, 2)
    assert downsample(tokens)[0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_published_grid_gives_196_tokens():
    assert downsample(torch.zeros(2, 729, 3)).shape == (2, 196, 12)


def test_projector_has_the_published_keys_and_mathematics():
    torch.manual_seed(0)
    projector = Projector(2, 3).double()
    state = projector.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "layers.1.weight": (8,), "layers.1.bias": (8,), "layers.2.weight": (3, 8), "layers.2.bias": (3,),
        "layers.4.weight": (3, 3), "layers.4.bias": (3,),
    }  # fmt: skip
    tokens = torch.randn(1, 4, 2, dtype=torch.float64)
    flat = tokens.reshape(8)
    normed = (flat - flat.mean()) / torch.sqrt(flat.var(correction=0) + 1e-5)
    hidden = state["layers.2.weight"] @ normed + state["layers.2.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    expected = state["layers.4.weight"] @ hidden + state["layers.4.bias"]
    assert torch.allclose(projector(tokens)[0, 0], expected)


class ToyTokenizer:
    """One id per letter; BOS is 1, put first when the tokenizer adds it, and read from the letter ``^``."""

    def __init__(self, *, adds_bos: bool) -> None:
        self.bos_token_id = 1
        self.adds_bos = adds_bos

    def __call__(self, text: str) -> SimpleNamespace:
        ids = [1 if letter == "^" else ord(letter) for letter in text]
        return SimpleNamespace(input_ids=[1, *ids] if self.adds_bos else ids)


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


def test_without_bos_nothing_is_dropped():
    assert tokenise("ab<image>cd", ToyTokenizer(adds_bos=False)) == [*ids("ab"), IMAGE_ID, *ids("cd")]


def test_branches_see_the_trunk_and_themselves_only():
    mask, positions = packed_attention(2, [1, 2], dtype=torch.float32)
    assert (mask[0, 0] == 0).tolist() == [
        [True, True, True, False, False],
        [True, True, False, True, False],
        [True, True, False, True, True],
    ]
    assert positions.tolist() == [[2, 2, 3]]


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
    plain = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    aliased = functional.interpolate(plain, (12, 12), mode="bicubic")[0]
    assert (ours - aliased).abs().max() > 0.1
