"""Weights from a file into a network, without running anything the file contains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from config.errors import ModelPackageError


def read_state(path: Path, *, classes: Sequence[type] = ()) -> Mapping[str, torch.Tensor]:
    """Return the state dict in ``path`` as float32 tensors on the CPU.

    Safetensors are read as they are. A ``.pt`` file is unpickled with ``weights_only``, so it can
    only build tensors and containers, plus instances of ``classes`` for weight files that hold a
    whole module (the published TorchXRayVision DenseNets do).

    Raises:
        ModelPackageError: the file cannot be read, or asks for anything else.
    """
    try:
        content: object = load_file(path) if path.suffix == ".safetensors" else _unpickle(path, classes)
    except (OSError, EOFError, SafetensorError, RuntimeError, ValueError, TypeError) as exc:
        raise ModelPackageError(f"{path.parent.name}: {path.name} holds no readable weights") from exc
    return {name: _full(tensor) for name, tensor in _tensors(content, path).items()}


def load_network(network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Put ``state`` into ``network``, strictly, and switch it to evaluation.

    Raises:
        ModelPackageError: a tensor is missing, surplus or of another shape; ``source`` names the file.
    """
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as exc:
        raise ModelPackageError(f"{source}: weights do not fit the network: {exc}") from exc
    network.eval()
    network.requires_grad_(requires_grad=False)


def _unpickle(path: Path, classes: Sequence[type]) -> object:
    try:
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as exc:
        raise ValueError(str(exc)) from exc


def _tensors(content: object, path: Path) -> Mapping[str, torch.Tensor]:
    if isinstance(content, torch.nn.Module):
        # Modules pickled by an old torch lack attributes that state_dict() of a new one reads.
        for module in content.modules():
            module.__dict__.setdefault("_non_persistent_buffers_set", set())
            module.__dict__.setdefault("_state_dict_pre_hooks", {})
        return content.state_dict()
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(torch.is_tensor(value) for value in content.values()):
        raise ModelPackageError(f"{path.parent.name}: {path.name} holds no state dict")
    return content


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
