"""Storage commitment: what peers asked of us, and what we asked of destinations.

Safe while the previous release runs: the tables are new, and the previous release neither asks nor answers.

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATES = ("WAITING", "REPORTED", "FAILED")


def upgrade() -> None:
    op.create_table(
        "commitment_request",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("association_id", sa.Uuid(), nullable=True),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("instances_sha256", sa.String(length=64), nullable=False),
        sa.Column("is_reuse", sa.Boolean(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*_STATES, name="requeststate", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("failures", sa.JSON(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(length=200), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_request")),
        sa.UniqueConstraint(
            "calling_ae", "transaction_uid", "instances_sha256", name=op.f("uq_commitment_request_calling_ae")
        ),
    )
    op.create_table(
        "commitment_order",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("deliveries", sa.JSON(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitment_order")),
    )
    op.create_index("ix_commitment_request_due", "commitment_request", ["state", "next_attempt_at"])


def downgrade() -> None:
    op.drop_table("commitment_order")
    op.drop_index("ix_commitment_request_due", "commitment_request")
    op.drop_table("commitment_request")
