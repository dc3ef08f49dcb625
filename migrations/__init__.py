"""Alembic migrations: each is safe while the release before it still runs, and says why."""
