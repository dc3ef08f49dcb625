"""From a package folder to a model that answers, whatever runs it."""

from pathlib import Path

import torch

from worker.vlm.backends import VisionLanguageModel
from worker.vlm.checkpoint import Quantization
from worker.vlm.hf import TransformersVlm
from worker.vlm.openai_server import ServedVlm
from worker.vlm.package import open_vlm_package
from worker.vlm.prompts import Style
from worker.vlm.vila_m3 import VilaM3


def open_vlm(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
    device_map: str = "",
    style: Style | None = None,
    kv_cache_mb: float = 2048.0,
) -> VisionLanguageModel:
    """Load the vision-language model of a package folder by the backend its manifest names.

    Every file's SHA-256 is compared with the manifest before anything is loaded. A server decides on device,
    arithmetic and cache itself.

    Args:
        folder: the package.
        device: torch device.
        dtype: None takes bfloat16 where the hardware multiplies in it, else float32.
        quantization: how bitsandbytes stores the weights.
        device_map: ``"auto"`` spreads the model over all devices; ``""`` keeps it on ``device``.
        style: wording of prompts; None takes the package's.
        kv_cache_mb: keys and values kept for later rounds, in MiB; only backend ``vila_m3`` keeps any.

    Raises:
        ModelPackageError: files or tensors are missing, altered or surplus.
        ConfigurationError: a server that would be sent pictures unencrypted, or whose key is not set; or quantization
            without bitsandbytes.
    """
    backend = open_vlm_package(folder).backend
    if backend == "openai":
        return ServedVlm.load(folder, style=style)
    if backend == "hf":
        return TransformersVlm.load(
            folder, device=device, dtype=dtype, quantization=quantization, device_map=device_map, style=style
        )
    return VilaM3.load(
        folder,
        device=device,
        dtype=dtype,
        quantization=quantization,
        device_map=device_map,
        style=style,
        kv_cache_mb=kv_cache_mb,
    )
