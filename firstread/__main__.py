"""``python -m firstread``."""

import gc

if __name__ == "__main__":  # receiver processes import this module again
    gc.disable()  # nothing of what is imported is garbage; looking for it takes a third of the time (start: on again)
    from firstread.cli import app

    app()
