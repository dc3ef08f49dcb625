"""``python -m firstread``."""

from firstread.cli import app

if __name__ == "__main__":  # receiver processes import this module again
    app()
