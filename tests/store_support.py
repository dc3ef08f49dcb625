"""What the model store's tests share: small folders in the published layouts, and a store for one test."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from sqlalchemy.orm import Session, sessionmaker

from db.uow import Actor
from worker.store.acquire import Acquisition
from worker.store.folders import Licence, ModelStore
from worker.store.published import CATALOGUE

OPERATOR = Actor("cli:jdoe", "person")
COMMIT = "c0ffee" + "0" * 34
LICENSE = "NVIDIA OneWay Noncommercial License\nResearch and evaluation only.\n"
LLAMA = "META LLAMA 3 COMMUNITY LICENSE AGREEMENT\n"


def vila_folder(folder: Path, *, hidden_size: int = 4096, seed: int = 0) -> Path:
    """Files of the published VILA-M3 layout; the weights are a few numbers, the decoder's width is the real one."""
    numbers = np.random.default_rng(seed)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    _json(folder / "config.json", {"model_type": "llava_llama", "hidden_size": hidden_size})
    _json(folder / "trainer_state.json", {"epoch": 2.0})
    _json(folder / "llm" / "config.json", {"model_type": "llama", "hidden_size": hidden_size})
    _json(folder / "llm" / "generation_config.json", {"bos_token_id": 128000, "eos_token_id": 128001})
    _json(folder / "llm" / "tokenizer_config.json", {"model_max_length": 4096})
    _json(folder / "llm" / "tokenizer.json", {"version": "1.0"})
    _json(folder / "llm" / "special_tokens_map.json", {"pad_token": "[PAD]"})
    _json(folder / "llm" / "model.safetensors.index.json", {"weight_map": {"a": shards[0], "b": shards[1]}})
    for name in (
        *(f"llm/{shard}" for shard in shards),
        "mm_projector/model.safetensors",
        "vision_tower/model.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({"w": numbers.normal(size=20_000).astype(np.float32)}, folder / name)
    _json(folder / "mm_projector" / "config.json", {"mm_projector_type": "mlp_downsample"})
    _json(folder / "vision_tower" / "config.json", {"model_type": "siglip_vision_model"})
    _json(folder / "vision_tower" / "preprocessor_config.json", {"size": {"height": 384, "width": 384}})
    (folder / "README.md").write_text("# VILA-M3\n")
    (folder / "LICENSE").write_text(LICENSE)
    (folder / "LLAMA3-LICENSE").write_text(LLAMA)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return folder


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


class Person:
    """Who is asked about licences; remembers what was shown."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.accepts = accepts
        self.shown: list[Licence] = []

    def __call__(self, licence: Licence) -> bool:
        self.shown.append(licence)
        return self.accepts


def acquisition(
    root: Path, sessions: sessionmaker[Session], person: Person | None = None, catalogue: Path = CATALOGUE
) -> Acquisition:
    """What brings packages into the store at ``root``."""
    return Acquisition(ModelStore(root), sessions, OPERATOR, person or Person(), catalogue=catalogue)


def sha256(content: bytes | str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
