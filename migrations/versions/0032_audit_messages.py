"""The audit trail: forwarding of audit messages.

Safe while the previous release runs: it changes nothing yet.

Revision: 0032
"""

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
