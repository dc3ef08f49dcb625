"""Instances by the association they came on: its end is recorded with a digest of each Study's.

Safe while the previous release runs: it asks for less, and finds it as before. Writes to ``instance`` wait while the
index is built (about a second for each million of Instances).

Revision: 0029, after 0028
"""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_instance_association_id", "instance", ["association_id"])


def downgrade() -> None:
    op.drop_index("ix_instance_association_id", table_name="instance")
