"""What must exist before the processes start: folders, secret, database, models, first users."""

import os
import secrets
from pathlib import Path

from config.durable import write_durably
from config.settings import Settings
from db.engine import make_engine, make_sessions, migrate


def prepare(settings: Settings) -> list[tuple[str, str, str]]:
    """Make an empty data folder ready; change nothing that is there.

    Returns:
        (login, role, password) of users made now; empty when there are users already. The passwords are
        kept nowhere else.
    """
    from dashboard.accounts import create_first_users

    for folder in (settings.data_dir, settings.instances_dir, settings.results_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    session_secret_file(settings)
    migrate(settings.database)
    return [
        (login, str(role), password)
        for login, role, password in create_first_users(make_sessions(make_engine(settings.database)))
    ]


def session_secret_file(settings: Settings) -> Path:
    """Return the file with the secret that signs sessions, made once, readable by its owner only."""
    path = settings.data_dir.resolve() / "session.secret"
    if not path.exists():
        previous = os.umask(0o077)
        try:
            write_durably(path, secrets.token_urlsafe(48).encode())
        finally:
            os.umask(previous)
    return path


def needs_demo_model(settings: Settings) -> bool:
    """Return whether the demonstration model is configured and not built yet."""
    return settings.models.vlm is None and not (settings.vlm_dir / "manifest.json").exists()
