"""Which program this is: version, lock file, and one digest over its sources. A checkout with edits has another one."""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from config.settings import ROOT

FOLDERS = (
    "audit", "config", "dashboard", "db", "dicom_node", "firstread", "instances", "migrations", "publishing", "reports",
    "ris", "safety", "worker",
)  # fmt: skip
_KINDS = frozenset({".py", ".yaml", ".html"})
_NOT_OURS = frozenset({"node_modules", "__pycache__", "static"})


@cache
def build() -> Mapping[str, str]:
    """Return ``version``, ``code_sha256`` and ``lock_sha256`` of the program that runs; the files are read once."""
    return {
        "version": version("firstread"),
        "code_sha256": code_sha256(),
        "lock_sha256": file_sha256(ROOT / "requirements.lock"),
    }


def code_sha256(root: Path = ROOT) -> str:
    """Return one digest over the sources and templates below ``root`` that make this program, with their names."""
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(f"{path.relative_to(root).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sources(root: Path) -> list[Path]:
    found = []
    for name in FOLDERS:
        for folder, folders, files in os.walk(root / name):
            folders[:] = [one for one in folders if one not in _NOT_OURS]
            found += [Path(folder, file) for file in files if Path(file).suffix in _KINDS]
    return sorted(found)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex; "" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
