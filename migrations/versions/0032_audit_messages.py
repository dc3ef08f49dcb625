"""The audit trail: how far each audit record repository was told.

Safe while the previous release runs: the table is new to it.

Revision: 0032
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit_forwarding",
        sa.Column("sink", sa.String(length=200), nullable=False),
        sa.Column("position", _BIG, nullable=False),
        sa.Column("sent", _BIG, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_error", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("sink", name=op.f("pk_audit_forwarding")),
    )


def downgrade() -> None:
    op.drop_table("audit_forwarding")
