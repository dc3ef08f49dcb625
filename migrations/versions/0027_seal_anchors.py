"""The audit trail: what the seal needs beside its own tables.

Safe while the previous release runs: it changes nothing yet.

Revision: 0027
"""

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
