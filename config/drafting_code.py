"""Which sources can change a draft, and their digest."""

import hashlib
from functools import cache

from config.settings import ROOT

_FOLDERS = ("config", "reports", "worker")


@cache
def drafting_code_sha256() -> str:
    """Return one digest over the sources that can change a draft; a checkout with edits has another one."""
    digest = hashlib.sha256()
    for path in sorted(p for name in _FOLDERS for p in (ROOT / name).rglob("*") if p.suffix in {".py", ".yaml"}):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
