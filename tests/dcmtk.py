"""DCMTK's command-line tools as independent peers."""

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Return where a tool is; the test is skipped without it, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (apt-get install dcmtk)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
