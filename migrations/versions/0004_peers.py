"""Peers that people added.

Safe while the previous release runs: what it adds is new.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "peer",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("certificate_subject", sa.String(length=400), nullable=False),
        sa.Column("called_ae", sa.JSON(), nullable=False),
        sa.Column("max_associations", sa.Integer(), nullable=True),
        sa.Column("tls", sa.Boolean(), nullable=False),
        sa.Column("added_by", sa.String(length=64), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_by", sa.String(length=64), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_peer")),
    )
    present = sa.text("removed_at IS NULL")
    op.create_index(
        "uq_peer_in_force",
        "peer",
        ["ae_title", "host", "certificate_subject"],
        unique=True,
        sqlite_where=present,
        postgresql_where=present,
    )


def downgrade() -> None:
    op.drop_index("uq_peer_in_force", table_name="peer")
    op.drop_table("peer")
