"""The audit trail: private parts, roles and partitions.

Safe while the previous release runs: it changes nothing yet.

Revision: 0028
"""

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
