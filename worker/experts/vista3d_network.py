"""The VISTA3D network: its configuration, MONAI's layers, and the class head split so that memory stays bounded."""

from collections.abc import Mapping

import numpy as np
import torch
from monai.networks.nets import SegResNetDS2
from monai.networks.nets.vista3d import VISTA3D, ClassMappingClassify, PointMappingSAM
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from worker.experts.vista3d_labels import SUPPORTED

# The range the published network was trained on (bundle vista3d 0.5.4, ScaleIntensityRange).
PUBLISHED_HU_RANGE = (-963.8247715525971, 1053.678477684517)
_SLAB_VOXELS = 1 << 21  # logits of one chunk of prompts never exceed chunk × this many floats


class Vista3dConfig(BaseModel):
    """Network and input of a VISTA3D package; the defaults are the published bundle's.

    Attributes:
        weights: the weight file.
        init_filters, feature_size, blocks_down, classes, last_supported: of the network.
        spacing_mm: isotropic grid the network sees.
        patch: sliding window, voxels; overlap: of neighbouring windows.
        hu_range: mapped to 0…1, clipped.
        crop_above_hu, crop_margin: the Volume is cropped to voxels above, with a margin in voxels.
        antialias: average when resampling to a coarser grid (the published network: no).
        bfloat16: run the network under autocast.
        cuda_float16: autocast in float16 on CUDA, as the published bundle does.
        trained_labels: ids the weights were trained on; None means the published 127.
        minimum_ml: label → smaller components are given to their neighbours.
        margins: label → how far its logit must exceed background and every other label (an operating
            point, chosen on validation patients; the published network has none).
        prompts_per_chunk: class prompts whose logits exist at one time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    init_filters: int = 48
    feature_size: int = 48
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4)
    classes: int = 512
    last_supported: int = 132
    spacing_mm: float = Field(default=1.5, gt=0)
    patch: tuple[int, int, int] = (128, 128, 128)
    overlap: float = Field(default=0.25, ge=0, lt=1)
    hu_range: tuple[float, float] = PUBLISHED_HU_RANGE
    crop_above_hu: float = 0.0
    crop_margin: int = 10
    antialias: bool = False
    bfloat16: bool = True
    cuda_float16: bool = False
    trained_labels: tuple[int, ...] | None = None
    minimum_ml: Mapping[int, float] = {}
    margins: Mapping[int, float] = {}
    prompts_per_chunk: int = Field(default=16, gt=0)

    @property
    def labels(self) -> frozenset[int]:
        """Label ids the weights can answer for."""
        return SUPPORTED if self.trained_labels is None else frozenset(self.trained_labels)


def build_vista3d(config: Vista3dConfig) -> VISTA3D:
    """Build the network without weights; with the defaults this is ``vista3d132``, layer for layer."""
    encoder = SegResNetDS2(
        in_channels=1,
        blocks_down=config.blocks_down,
        norm="instance",
        out_channels=config.feature_size,
        init_filters=config.init_filters,
        dsdepth=1,
    )
    points = PointMappingSAM(
        feature_size=config.feature_size, n_classes=config.classes, last_supported=config.last_supported
    )
    classes = ClassMappingClassify(n_classes=config.classes, feature_size=config.feature_size, use_mlp=True)
    return VISTA3D(image_encoder=encoder, class_head=classes, point_head=points)


def window_features(
    network: VISTA3D, window: torch.Tensor, *, bfloat16: bool, cuda_float16: bool = False
) -> torch.Tensor:
    """Return ``(1, feature, x, y, z)``: what the class head multiplies with a class vector."""
    half = torch.float16 if cuda_float16 and window.device.type == "cuda" else torch.bfloat16
    with torch.autocast(window.device.type, dtype=half, enabled=bfloat16):
        _, encoded = network.image_encoder(window, with_point=False, with_label=True)
        features: torch.Tensor = network.class_head.image_post_mapping(encoded)
    return features.float()


def autocast_name(config: Vista3dConfig, device_type: str) -> str:
    """Return the type the network computes in under autocast on a kind of device, or ``"off"``."""
    if not config.bfloat16:
        return "off"
    return "float16" if config.cuda_float16 and device_type == "cuda" else "bfloat16"


def class_vectors(network: VISTA3D, prompts: tuple[int, ...]) -> torch.Tensor:
    """Return ``(prompts, feature)``: the class head's vector of each label id."""
    head = network.class_head
    ids = torch.tensor(prompts, device=head.class_embeddings.weight.device)[:, None]
    vectors: torch.Tensor = head.mlp(head.class_embeddings(ids))
    return vectors[:, 0]


def running_argmax(
    features: torch.Tensor,
    vectors: torch.Tensor,
    prompts: tuple[int, ...],
    *,
    chunk: int,
    margins: Mapping[int, float] | None = None,
) -> NDArray[np.uint8]:
    """Return the label of the largest positive logit per voxel, 0 where none is positive.

    Prompts are taken ``chunk`` at a time and voxels slab by slab: only the best logit and its
    label are kept. The first of equal prompts wins, as with one argmax over all of them.

    Args:
        features: ``(feature, x, y, z)``.
        vectors: ``(prompts, feature)``.
        prompts: label ids, ≤ 255.
        chunk: prompts at a time.
        margins: label id → taken off its logit.
    """
    handicap = torch.tensor([(margins or {}).get(label, 0.0) for label in prompts], device=features.device)[:, None]
    flat = features.reshape(features.shape[0], -1)
    ids = torch.tensor((0, *prompts), dtype=torch.uint8, device=flat.device)
    labels = torch.zeros(flat.shape[1], dtype=torch.uint8, device=flat.device)
    for start in range(0, flat.shape[1], _SLAB_VOXELS):
        slab = flat[:, start : start + _SLAB_VOXELS]
        best = torch.zeros(slab.shape[1], device=flat.device)
        winner = torch.zeros(slab.shape[1], dtype=torch.long, device=flat.device)
        for first in range(0, len(prompts), chunk):
            some = slice(first, first + chunk)
            logits, place = (vectors[some] @ slab - handicap[some]).max(dim=0)
            better = logits > best
            best = torch.where(better, logits, best)
            winner = torch.where(better, place + first + 1, winner)
        labels[start : start + _SLAB_VOXELS] = ids[winner]
    return labels.reshape(features.shape[1:]).cpu().numpy()
