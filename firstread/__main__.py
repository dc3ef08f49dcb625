"""``python -m firstread``."""

from firstread.cli import app

app()
