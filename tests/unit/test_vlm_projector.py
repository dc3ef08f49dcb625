"""Projector order and mathematics, by hand-worked values."""

import torch

from worker.vlm.projector import Projector, downsample


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


def test_published_grid_follows_the_published_formula_cell_by_cell():
    """Index t = J · 14 + I holds x[2I, 2J], x[2I, 2J+1], x[2I+1, 2J], x[2I+1, 2J+1]; beyond 27 there is zero."""
    tokens = torch.arange(1, 730, dtype=torch.float32).reshape(1, 729, 1)

    def x(row: int, column: int) -> int:
        return row * 27 + column + 1 if row < 27 and column < 27 else 0

    made = downsample(tokens)[0].tolist()
    for i in range(14):
        for j in range(14):
            expected = [x(2 * i, 2 * j), x(2 * i, 2 * j + 1), x(2 * i + 1, 2 * j), x(2 * i + 1, 2 * j + 1)]
            assert made[j * 14 + i] == expected
