"""The audit trail: indexes of the other audit questions.

Safe while the previous release runs: it changes nothing yet.

Revision: 0031
"""

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
