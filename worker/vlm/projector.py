"""VILA's ``mlp_downsample`` projector: 2×2 neighbouring image tokens become one text-width token."""

import torch
from torch import nn
from torch.nn import functional


def downsample(tokens: torch.Tensor) -> torch.Tensor:
    """Concatenate 2×2 neighbouring tokens; the result runs down the columns of the half-size grid.

    A grid of odd side gets one zero row at the end and one zero column at the end first.

    Args:
        tokens: ``(images, side × side, channels)``, row-major.

    Returns:
        ``(images, half × half, 4 × channels)``; index ``column × half + row``; channels of the neighbours
        (0,0), (0,1), (1,0), (1,1) in that order.
    """
    images, count, channels = tokens.shape
    side = round(count**0.5)
    grid = tokens.reshape(images, side, side, channels)
    if side % 2:
        grid = functional.pad(grid, (0, 0, 0, 1, 0, 1))
        side += 1
    half = side // 2
    blocks = grid.reshape(images, half, 2, half, 2, channels)
    return blocks.permute(0, 3, 1, 2, 4, 5).reshape(images, half * half, 4 * channels)


class Projector(nn.Module):
    """``mlp_downsample``: keys ``layers.1`` (LayerNorm), ``layers.2`` and ``layers.4`` (Linear)."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        """Build it for a tower and a decoder of these widths."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Identity(),
            nn.LayerNorm(4 * vision_width, eps=1e-5),
            nn.Linear(4 * vision_width, text_width),
            nn.GELU(),
            nn.Linear(text_width, text_width),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return ``(images, half × half, text width)`` for ``(images, side × side, vision width)``."""
        projected: torch.Tensor = self.layers(downsample(tokens))
        return projected
