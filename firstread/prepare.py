"""What must exist before the processes start: folders, database, models, first users."""

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
    migrate(settings.database)
    return [
        (login, str(role), password)
        for login, role, password in create_first_users(make_sessions(make_engine(settings.database)))
    ]


def needs_demo_model(settings: Settings) -> bool:
    """Return whether the demonstration model is the one that drafts, and is not built yet."""
    from worker.store.active import drafting_of

    if settings.models.vlm is not None or (settings.vlm_dir / "manifest.json").exists():
        return False
    return drafting_of(settings).vlm is None
