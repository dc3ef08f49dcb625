"""Where a classifier looked: class activation maps by Grad-CAM, on the radiograph's own pixel grid.

The gradient of a label's output with respect to the last feature maps says how much each of them speaks for the label
(Selvaraju et al. 2017, equations 1 and 2). What comes out is a picture of the network, not of the patient: it is not
calibrated, outlines nothing and measures nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional


@contextmanager
def last_features(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the last feature maps, ``(1, channels, h, w)``, of every image that passes through a DenseNet or ResNet.

    Nothing else about the pass changes: the network's answer stays the same to the last bit.
    """
    seen: list[torch.Tensor] = []
    layer = getattr(network, "features", None) or network.get_submodule("layer4")
    handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def grad_cam(network: nn.Module, features: torch.Tensor, index: int) -> NDArray[np.float32]:
    """Return ``(h, w)`` >= 0: which cells of the last feature maps speak for output ``index``; all 0 when none does."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        maps = functional.relu(features.detach().clone()).requires_grad_()
        pooled = functional.adaptive_avg_pool2d(maps, 1).flatten(1)
        head: nn.Module = getattr(network, "classifier", None) or network.get_submodule("fc")
        (gradient,) = torch.autograd.grad(head(pooled)[0, index], maps)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        cells = functional.relu((weights * maps).sum(dim=1))[0]
    return cells.detach().float().cpu().numpy()


def central_square(shape: tuple[int, int]) -> tuple[int, int, int]:
    """Return (top, left, side) of the largest central square of a ``(rows, columns)`` image."""
    side = min(shape)
    return shape[0] // 2 - side // 2, shape[1] // 2 - side // 2, side


@dataclass(frozen=True)
class AttentionMaps(Mapping[str, NDArray[np.float32]]):
    """Label → heat map of a radiograph, drawn when it is asked for: on a film one takes megabytes.

    A map is the mean over the networks that speak for the label, each relative to its own maximum, spread over the
    central square they saw; the rest of the film is 0, for no network saw it.

    Attributes:
        cells: label → what `grad_cam` said, one per network; at least one cell of them is not 0.
        shape: (rows, columns) of the radiograph.
    """

    cells: Mapping[str, Sequence[NDArray[np.float32]]]
    shape: tuple[int, int]

    def __getitem__(self, label: str) -> NDArray[np.float32]:
        """Return the map of ``label``: ``(rows, columns)`` float32, largest value 1."""
        top, left, side = central_square(self.shape)
        square = np.mean([_spread(one / one.max(), side) for one in self.cells[label] if one.max() > 0], axis=0)
        film = np.zeros(self.shape, np.float32)
        film[top : top + side, left : left + side] = square / square.max()
        return film

    def __iter__(self) -> Iterator[str]:
        """Return the labels."""
        return iter(self.cells)

    def __len__(self) -> int:
        """Return how many maps there are."""
        return len(self.cells)


def _spread(cells: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    # the inverse of the resize: cells and pixels divide the same square evenly
    spread = functional.interpolate(
        torch.from_numpy(cells)[None, None], size=(side, side), mode="bilinear", align_corners=False
    )
    result: NDArray[np.float32] = spread[0, 0].numpy()
    return result
