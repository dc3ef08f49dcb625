"""What modalities and archives said a Study should hold.

Safe while the previous release runs: what it adds is new.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SOURCES = ("c-find", "mpps", "ian")
_STATES = ("ASKED", "IN_PROGRESS", "COMPLETED", "DISCONTINUED")


def upgrade() -> None:
    op.create_table(
        "expectation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "source",
            sa.Enum(*_SOURCES, name="expectationsource", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("object_uid", sa.String(length=64), nullable=False),
        sa.Column("said_by", sa.String(length=32), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*_STATES, name="expectationstate", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("instances", sa.Integer(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_expectation")),
        sa.UniqueConstraint("source", "object_uid", "study_instance_uid", name=op.f("uq_expectation_source")),
    )
    op.create_index(op.f("ix_expectation_study_instance_uid"), "expectation", ["study_instance_uid"])
    op.create_index(op.f("ix_expectation_updated_at"), "expectation", ["updated_at"])
    op.create_table(
        "expected_instance",
        sa.Column("expectation_id", sa.Uuid(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["expectation_id"],
            ["expectation.id"],
            name=op.f("fk_expected_instance_expectation_id_expectation"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("expectation_id", "sop_instance_uid", name=op.f("pk_expected_instance")),
    )


def downgrade() -> None:
    op.drop_table("expected_instance")
    op.drop_index(op.f("ix_expectation_updated_at"), table_name="expectation")
    op.drop_index(op.f("ix_expectation_study_instance_uid"), table_name="expectation")
    op.drop_table("expectation")
