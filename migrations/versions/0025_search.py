"""The worklist's search on PostgreSQL: an index of three-letter groups over names, Patient IDs and Accession Numbers.

Safe while the previous release runs: it asks the same questions, and they are answered sooner. Writes to ``study`` wait
while the index is built (about two seconds for each 100 000 Studies).

``pg_trgm`` comes with PostgreSQL and whoever owns the database may create it (PostgreSQL 13 and newer). Where that is
not so the index is left out and a search reads the whole table, as on SQLite; ``docs/operations.md`` says how to add it.

Revision: 0025, after 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_SEARCHED = ("patient_name", "patient_id", "accession_number")


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql" or not _has_groups():
        return
    columns = ", ".join(f"lower({name}) gin_trgm_ops" for name in _SEARCHED)
    op.execute(f"CREATE INDEX ix_study_search ON study USING gin ({columns})")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_study_search")  # the extension may serve others


def _has_groups() -> bool:
    connection = op.get_bind()
    if not connection.scalar(sa.text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")):
        return False
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except sa.exc.ProgrammingError:  # not allowed to
        return False
    return True
