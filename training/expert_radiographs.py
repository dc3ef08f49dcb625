"""Chest phantoms as the CXR Expert sees them, kept in a cache folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from phantoms.chest_xray import ChestXray, make_chest_xray
from training.expert_volumes import save
from worker.experts.cxr import LABELS, fit, scaled
from worker.radiograph import Radiograph

log = structlog.get_logger()

FULL_SCALE = 4095.0  # 12 bits
SIZES_PX = (256, 256, 256, 384, 256, 256, 256, 256, 512, 256)  # detectors differ; the network sees its own size


def as_radiograph(phantom: ChestXray) -> Radiograph:
    """Wrap a phantom as a Radiograph: 12 bits to 0…255, bone bright."""
    return Radiograph(
        pixels=(phantom.pixels / FULL_SCALE * 255.0).astype(np.float32),
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.1000",
        view_position=phantom.view,
        modality="DX",
        pixel_spacing_mm=(phantom.pixel_spacing_mm, phantom.pixel_spacing_mm),
    )


def finding_vector(findings: Iterable[str]) -> NDArray[np.uint8]:
    """Return ``(18,)`` 0 or 1 in library order."""
    present = frozenset(findings)
    return np.array([label in present for label in LABELS], dtype=np.uint8)


def radiograph_cache(folder: Path, seeds: Sequence[int], input_px: int) -> list[Path]:
    """Return one file per seed: ``image`` ``(side, side)`` uint8 as the network's input, ``labels`` ``(18,)``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in seeds:
        path = folder / f"cxr_{seed:07d}.npz"
        paths.append(path)
        if path.exists():
            continue
        phantom = make_chest_xray(seed, size=SIZES_PX[seed % len(SIZES_PX)])
        fitted = fit(scaled(as_radiograph(phantom).pixels), input_px, antialias=True)[0, 0].numpy()
        grey = np.clip(np.rint((fitted / 1024.0 + 1.0) * 127.5), 0, 255).astype(np.uint8)
        save(path, image=grey, labels=finding_vector(phantom.findings))
    log.info("phantoms.cached", count=len(paths))
    return paths
