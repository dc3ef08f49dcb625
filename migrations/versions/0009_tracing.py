"""Indexes that answer "what became of this study" on a large database.

Safe while the previous release runs: nothing but indexes is added.

Revision: 0009, after 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_INDEXES = (
    ("association", "opened_at"),
    ("quarantined", "sop_instance_uid"),
    ("quarantined", "study_id"),
    ("quarantined", "received_at"),
)


def upgrade() -> None:
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def downgrade() -> None:
    for table, column in reversed(_INDEXES):
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
