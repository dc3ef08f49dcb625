"""Sliding windows over a Volume: features blended with equal weight, kept whole or handed on slab by slab.

The windows are those of ``monai.inferers.sliding_window_inference`` (constant blending, zero padding). It
keeps the output of the whole Volume; here the slices no later window touches can be handed on and forgotten.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of one image lie.

    Attributes:
        image: ``(x, y, z)`` of the image.
        padded: of the image padded with zeros to at least one window.
        before: voxels padded in front, per axis.
        patch: of one window.
        starts: first voxels of the windows per axis, in the padded image.
    """

    image: tuple[int, int, int]
    padded: tuple[int, int, int]
    before: tuple[int, int, int]
    patch: tuple[int, int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, image: tuple[int, int, int], patch: tuple[int, int, int], overlap: float) -> Self:
        """Lay windows of ``patch`` over an image of ``image`` voxels, neighbours sharing ``overlap``."""
        a, b, c = (max(have, side) for have, side in zip(image, patch, strict=True))
        before = [(whole - have) // 2 for whole, have in zip((a, b, c), image, strict=True)]
        x, y, z = (_starts(whole, side, overlap) for whole, side in zip((a, b, c), patch, strict=True))
        return cls(image, (a, b, c), (before[0], before[1], before[2]), patch, (x, y, z))

    @property
    def count(self) -> int:
        """Number of windows."""
        x, y, z = self.starts
        return len(x) * len(y) * len(z)

    @property
    def voxels(self) -> int:
        """Voxels of the padded image."""
        x, y, z = self.padded
        return x * y * z

    @property
    def slab_voxels(self) -> int:
        """Voxels of the slab that is alive at one time when slabs are handed on."""
        x, y, _ = self.padded
        return x * y * self.patch[2]

    def inside(self) -> tuple[slice, slice, slice]:
        """Return where the image lies in its padded form."""
        x, y, z = (slice(first, first + have) for first, have in zip(self.before, self.image, strict=True))
        return x, y, z


def blended(
    image: torch.Tensor,
    plan: WindowPlan,
    features_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    whole: bool,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of the padded image with their blended features, along z; all at once when ``whole``.

    A piece is a view that is overwritten when the next one is asked for. Both ways add the same numbers
    in the same order, so their features are equal to the bit.

    Args:
        image: ``(1, 1, x, y, z)``, as planned.
        plan: the windows.
        features_of: window ``(1, 1, *patch)`` → ``(1, feature, *patch)`` float32.
        whole: one piece for the whole image instead of a slab at a time.

    Yields:
        z range, and ``(feature, z, x, y)``.
    """
    padded = torch.nn.functional.pad(image, _padding(plan))
    (across, along, deep), (starts_x, starts_y, starts_z) = plan.patch, plan.starts
    height = plan.padded[2] if whole else deep
    shares_x, shares_y, shares_z = (_shares(plan, axis).to(image.device) for axis in range(3))
    buffer = torch.zeros(0, device=image.device)
    base = 0
    for z, following in itertools.pairwise((*starts_z, plan.padded[2])):
        for x, y in itertools.product(starts_x, starts_y):
            window = padded[:, :, x : x + across, y : y + along, z : z + deep].contiguous()
            features = features_of(window)[0].permute(0, 3, 1, 2)
            if not buffer.numel():
                buffer = torch.zeros(len(features), height, *plan.padded[:2], device=image.device)
            buffer[:, z - base : z - base + deep, x : x + across, y : y + along] += features
        if whole and following < plan.padded[2]:
            continue
        done = following - base
        piece = buffer[:, :done]
        piece /= shares_z[base:following, None, None] * shares_x[:, None] * shares_y
        yield slice(base, following), piece
        if following == plan.padded[2]:
            return
        kept = height - done
        buffer[:, :kept] = buffer[:, done:].clone()
        buffer[:, kept:] = 0
        base = following


def _starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    """Return the first voxels of the windows along one axis; the last window ends with the image."""
    step = patch if patch == size else max(1, int(patch * (1 - overlap)))
    regular = range(0, max(size - patch, 0), step)
    return (*regular, size - patch)


def _padding(plan: WindowPlan) -> list[int]:
    """Return the zeros before and after, last axis first, as ``torch.nn.functional.pad`` wants them."""
    pairs = [
        (first, whole - have - first)
        for first, whole, have in zip(plan.before, plan.padded, plan.image, strict=True)
    ]  # fmt: skip
    return [zeros for pair in reversed(pairs) for zeros in pair]


def _shares(plan: WindowPlan, axis: int) -> torch.Tensor:
    """Return how many windows cover each voxel of an axis; a voxel of the image has the product of three."""
    shares = torch.zeros(plan.padded[axis])
    for start in plan.starts[axis]:
        shares[start : start + plan.patch[axis]] += 1
    return shares
