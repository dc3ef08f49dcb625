"""HL7 messages that were received, and Studies whose patient they corrected.

Safe while the previous release runs: all tables are new, and it writes to none of them.

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hl7_message",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sender", sa.String(length=200), nullable=False),
        sa.Column("control_id", sa.String(length=200), nullable=False),
        sa.Column("message_type", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=400), nullable=False),
        sa.Column("acknowledgement", sa.String(length=2), nullable=False),
        sa.Column("error", sa.String(length=200), nullable=False),
        sa.Column("is_reuse", sa.Boolean(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hl7_message")),
        sa.UniqueConstraint("sender", "control_id", "sha256", name=op.f("uq_hl7_message_sender")),
    )
    op.create_index(op.f("ix_hl7_message_received_at"), "hl7_message", ["received_at"])
    op.create_table(
        "identity_correction",
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("as_received", sa.JSON(), nullable=False),
        sa.Column("after_signing", sa.Boolean(), nullable=False),
        sa.Column("corrected_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["message_id"], ["hl7_message.id"], name=op.f("fk_identity_correction_message_id_hl7_message")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_identity_correction_study_id_study")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_identity_correction")),
    )


def downgrade() -> None:
    op.drop_table("identity_correction")
    op.drop_table("hl7_message")
