"""The audit trail: indexes of the first audit questions.

Safe while the previous release runs: it changes nothing yet.

Revision: 0030
"""

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
