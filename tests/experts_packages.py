"""Small model packages with random weights, made for tests."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from worker.experts.brats import NAMES as BRATS_NAMES
from worker.experts.brats import BratsConfig, build_brats
from worker.experts.packages import ModelPackage, seal_package
from worker.experts.vista3d import Vista3dConfig, build_vista3d
from worker.experts.vista3d_labels import NAMES as VISTA3D_NAMES

BRATS = BratsConfig(
    weights="model.safetensors", init_filters=8, blocks_down=(1, 1), blocks_up=(1,), spacing_mm=4.0,
    roi=(32, 32, 32), bfloat16=False, brain_mask="foreground",
)  # fmt: skip
VISTA3D = Vista3dConfig(
    weights="model.safetensors", init_filters=4, feature_size=8, blocks_down=(1, 1, 1), spacing_mm=8.0,
    patch=(32, 32, 32), crop_above_hu=-300.0, bfloat16=False, antialias=True, trained_labels=(1, 3, 26, 115),
)  # fmt: skip


def brats_package(folder: Path) -> ModelPackage:
    """Write a BRATS package with random weights."""
    return _seal(folder, build_brats, BRATS, name="BRATS", kind="brats", modality="MR", labels=dict(BRATS_NAMES))


def vista3d_package(folder: Path) -> ModelPackage:
    """Write a VISTA3D package with random weights that knows four labels."""
    labels = {label: VISTA3D_NAMES[label] for label in VISTA3D.trained_labels or ()}
    arguments = ["everything", "hepatic tumor"]
    return _seal(
        folder,
        build_vista3d,
        VISTA3D,
        name="VISTA3D",
        kind="vista3d",
        modality="CT",
        labels=labels,
        arguments=arguments,
    )


def _seal(folder, build, config, *, name, kind, modality, labels, arguments=()) -> ModelPackage:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(build(config).state_dict(), folder / config.weights)
    promise = {
        "name": name, "kind": kind, "version": "0", "licence": "Apache-2.0", "demonstration": True,
        "task": "segmentation", "modality": modality, "overview": "random", "accuracy": "none",
        "intended_use": {"modalities": [modality], "body_parts": ["BRAIN", "CHEST"], "age_years": {"minimum": 18},
                         "statement": "Tests."},
        "arguments": list(arguments), "labels": labels, "budget": {"memory_mb": 1000, "seconds": 10},
        "network": config.model_dump(mode="json"),
    }  # fmt: skip
    return seal_package(folder, promise)
