"""The audit trail: archives of the audit log, and holds.

Safe while the previous release runs: it changes nothing yet.

Revision: 0033
"""

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
