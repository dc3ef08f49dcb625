"""The audit trail: what complete recording needs.

Safe while the previous release runs: it changes nothing yet.

Revision: 0029
"""

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
